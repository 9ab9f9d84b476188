"""What weakens a score: told beside it, on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from piflow_bench.contracts.extractor import FEATURES, LOGITS
from piflow_bench.evaluation.cache import Arrays
from piflow_bench.evaluation.extraction import DIGESTS
from piflow_bench.evaluation.metrics.logits import sorted_warning
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.references.statistics import Statistics
from piflow_bench.evaluation.settings import Settings
from piflow_bench.evaluation.sources import Sources

FEW = 5
"""A reference of less than a fifth of the samples is small beside them."""
SAME_MEAN = 1e-4
"""Means of features that differ by less, in units of their spread, are of the same images."""
LOOKED_AT = 64
"""Images whose pixels are looked at for repetition."""


def cautions(
    metrics: Sequence[str],
    sources: Sources,
    ours: Arrays,
    theirs: Arrays | None,
    settings: Settings,
    precision: str = "float32",
    teachers: int = 0,
) -> list[str]:
    """Sentences on the inputs of a score; none where all is well.

    Args:
        metrics: those asked for.
        sources: the inputs.
        ours: the samples' outputs.
        theirs: the reference's, where it is images.
        settings: those of the metrics.
        precision: of the samples' features.
        teachers: how many samples equal the teacher's image.
    """
    reference = sources.reference.images if sources.reference else None
    statistics = sources.reference.statistics if sources.reference else None
    several = (sources.samples, reference, sources.teacher)
    found = [text for images in several if images for text in images.warnings]
    if statistics is not None:
        found += _of_statistics(metrics, statistics, ours[FEATURES], reference, precision)
    found += _of_counts(metrics, sources, ours[FEATURES].shape[1])
    found += of_copies(ours[DIGESTS], "samples equal")
    found += _of_shared(ours[DIGESTS], None if theirs is None else theirs[DIGESTS])
    found += _of_sizes(sources.samples, reference, statistics)
    found += _of_teacher(metrics, sources, teachers)
    if "authpct" in metrics:
        found.append(
            "authpct tells of memorising only where the reference is the training set of the "
            "samples' model"
        )
    if "is" in metrics and not settings.is_shuffle:
        hidden = sorted_warning(ours[LOGITS], settings.is_splits, settings.is_seed)
        found += [hidden] if hidden else []
    return found


def _of_statistics(
    metrics: Sequence[str],
    statistics: Statistics,
    ours: np.ndarray,
    images: Images | None,
    precision: str,
) -> Iterator[str]:
    """What a file of statistics says of itself, and what cannot be seen for want of it."""
    named = f"reference={statistics.path}"
    yield from (f"{named}: {text}" for text in statistics.warnings)
    unseen = []
    if statistics.extractor is None:
        unseen.append("of which network, weights and resizing they are")
    if statistics.count is None:
        unseen.append("of how many images")
    if images is None:
        if statistics.size is None:
            unseen.append("of images of which size")
        unseen.append("whether samples are among these")
    if unseen:
        listed = ", ".join(unseen[:-1]) + " and " * (len(unseen) > 1) + unseen[-1]
        yield f"{named}: statistics, which do not tell {listed}: nothing here checks that"
    if statistics.precision not in (None, precision):
        yield (
            f"{named}: statistics of features in {statistics.precision}, the samples' are in "
            f"{precision}"
        )
    if images is not None and statistics.spatial is None and "sfd" in metrics:
        yield (
            f"{named}: the statistics hold none of sFD's features, so sfd is against the file's "
            f"{len(images)} images and fd against its statistics"
        )
    apart = np.abs(ours.mean(axis=0, dtype=np.float64) - statistics.pooled.mean).max()
    spread = np.sqrt(np.trace(statistics.pooled.covariance) / ours.shape[1])
    # Means of two draws of n differ by some 1 / sqrt(n) of the spread.
    if images is None and apart <= SAME_MEAN * spread:
        yield (
            "the samples' mean features are those of the reference: it seems to be scored against "
            "itself"
        )


def _of_counts(metrics: Sequence[str], sources: Sources, dimensions: int) -> Iterator[str]:
    frechet = bool({"fd", "fd_infinity"} & set(metrics))
    if sources.count <= dimensions and frechet:
        yield (
            f"n = {sources.count} samples span less than the {dimensions} dimensions of their "
            "features: a Fréchet distance is mostly bias, and only equal n compare"
        )
    target = sources.reference
    if target is None:
        return
    shown = None if target.images is None else len(target.images)
    # Fréchet distances look at the statistics, where there are some.
    count = shown if target.statistics is None else target.statistics.count
    if count is not None and count <= dimensions and frechet:
        yield few_for_dimensions(count, dimensions)
    count = min((each for each in (shown, count) if each is not None), default=sources.count)
    if FEW * count < sources.count:
        yield (
            f"{count} reference images for {sources.count} samples: what the reference lacks by "
            "chance counts against the samples"
        )


def few_for_dimensions(count: int, dimensions: int) -> str:
    """What few reference images do to Fréchet distances."""
    return (
        f"{count} reference images span less than the {dimensions} dimensions of their features: a "
        "Fréchet distance is mostly bias, and only this reference compares"
    )


def of_copies(digests: np.ndarray, what: str) -> Iterator[str]:
    """Images of one set that are another one's copy; ``what`` says which do."""
    n = len(digests)
    repeated = n - len(np.unique(digests))
    if repeated:
        yield f"{repeated} of {n} {what} another one pixel for pixel"


def _of_shared(ours: np.ndarray, theirs: np.ndarray | None) -> Iterator[str]:
    if theirs is None:
        return
    n = len(ours)
    if len(theirs) == n and np.array_equal(np.sort(ours), np.sort(theirs)):
        yield "the samples are the reference's images, pixel for pixel: it is scored against itself"
        return
    yield from of_copies(theirs, "reference images equal")
    shared = int(np.isin(ours, theirs).sum())
    if shared:
        yield f"{shared} of {n} samples equal an image of the reference pixel for pixel"


def _of_teacher(metrics: Sequence[str], sources: Sources, copies: int) -> Iterator[str]:
    if sources.teacher is None:
        return
    agreement = [m.name for m in all_metrics().values() if "teacher" in m.needs and m.compute]
    if not set(agreement) & set(metrics):
        yield f"teacher= is given, but none of its metrics is asked for ({', '.join(agreement)})"
    elif copies == sources.count:
        yield "the samples are the teacher's images, pixel for pixel: it is scored against itself"
    elif copies:
        yield f"{copies} of {sources.count} samples equal the teacher's image pixel for pixel"


def _of_sizes(
    samples: Images, reference: Images | None, statistics: Statistics | None
) -> Iterator[str]:
    theirs = None if statistics is None else statistics.size
    theirs = (reference.width, reference.height) if reference is not None else theirs
    if theirs not in (None, (samples.width, samples.height)):
        yield (
            f"the samples have {samples.width}x{samples.height} pixels, the reference "
            f"{theirs[0]}x{theirs[1]}: what resizing does to sharpness is scored as well"
        )
    factor = enlargement(samples)
    if factor > 1 and (reference is None or enlargement(reference) < factor):
        other = "" if reference is None else ", the reference was not"
        times = f"{factor}x{factor} times"
        yield f"every pixel of the samples is there {times}: they were enlarged{other}"


def enlargement(images: Images) -> int:
    """The largest factor by which all of the first images look enlarged by repeating pixels."""
    x = images.read(0, min(LOOKED_AT, len(images)))
    for factor in range(min(x.shape[1:3]) // 4, 1, -1):
        if x.shape[1] % factor or x.shape[2] % factor:
            continue
        small = x[:, ::factor, ::factor]
        flat = small.min((1, 2)) == small.max((1, 2))
        whole = small.repeat(factor, axis=1).repeat(factor, axis=2)
        # Images of one colour may be of any size.
        if not flat.all() and np.array_equal(whole, x):
            return factor
    return 1
