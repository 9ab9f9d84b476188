"""What weakens a score: told beside it, on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from piflow_bench.evaluation.classes import sorted_warning
from piflow_bench.evaluation.extraction import DIGESTS, Arrays
from piflow_bench.evaluation.extractors.extractor import FEATURES, LOGITS
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.settings import Settings
from piflow_bench.evaluation.sources import Sources

FEW = 5
"""A reference of less than a fifth of the samples is small beside them."""
LOOKED_AT = 64
"""Images whose pixels are looked at for repetition."""


def cautions(
    metrics: Sequence[str],
    sources: Sources,
    ours: Arrays,
    theirs: Arrays | None,
    settings: Settings,
) -> list[str]:
    """Sentences on the inputs of a score, given both sides' outputs; none where all is well."""
    reference = sources.reference.images if sources.reference else None
    several = (sources.samples, reference, sources.teacher)
    found = [text for images in several if images for text in images.warnings]
    found += _of_counts(metrics, sources, ours[FEATURES].shape[1])
    found += _of_copies(ours[DIGESTS], None if theirs is None else theirs[DIGESTS])
    found += _of_sizes(sources.samples, reference)
    if "authpct" in metrics:
        found.append(
            "authpct tells of memorising only where the reference is the training set of the "
            "samples' model"
        )
    if "is" in metrics and not settings.is_shuffle:
        hidden = sorted_warning(ours[LOGITS], settings.is_splits, settings.is_seed)
        found += [hidden] if hidden else []
    return found


def _of_counts(metrics: Sequence[str], sources: Sources, dimensions: int) -> Iterator[str]:
    frechet = bool({"fd", "fd_infinity"} & set(metrics))
    if sources.count <= dimensions and frechet:
        yield (
            f"n = {sources.count} samples span less than the {dimensions} dimensions of their "
            "features: a Fréchet distance is mostly bias, and only equal n compare"
        )
    target = sources.reference
    if target is None or target.images is None or target.statistics is not None:
        return
    count = len(target.images)
    if count <= dimensions and frechet:
        yield (
            f"{count} reference images span less than the {dimensions} dimensions of their "
            "features: a Fréchet distance is mostly bias, and only this reference compares"
        )
    if FEW * count < sources.count:
        yield (
            f"{count} reference images for {sources.count} samples: what the reference lacks by "
            "chance counts against the samples"
        )


def _of_copies(ours: np.ndarray, theirs: np.ndarray | None) -> Iterator[str]:
    n = len(ours)
    repeated = n - len(np.unique(ours))
    if repeated:
        yield f"{repeated} of {n} samples equal another one pixel for pixel"
    if theirs is None:
        return
    if len(theirs) == n and np.array_equal(np.sort(ours), np.sort(theirs)):
        yield "the samples are the reference's images, pixel for pixel: it is scored against itself"
        return
    shared = int(np.isin(ours, theirs).sum())
    if shared:
        yield f"{shared} of {n} samples equal an image of the reference pixel for pixel"


def _of_sizes(samples: Images, reference: Images | None) -> Iterator[str]:
    if reference is not None:
        a, b = (f"{each.width}x{each.height}" for each in (samples, reference))
        if a != b:
            yield (
                f"the samples have {a} pixels, the reference {b}: what resizing does to sharpness "
                "is scored as well"
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
