"""Score images by a protocol: open, extract, measure; one set, or several side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from piflow_bench import file_plugins
from piflow_bench.contracts.extractor import Extractor
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation import needs
from piflow_bench.evaluation.cache import Arrays
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor, usual_batch
from piflow_bench.evaluation.measured import Measured, Measuring, Report, measure_set
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.evaluation.options import Options, silent
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.protocols import (
    USUAL,
    Protocol,
    Rules,
    refuse_mixture,
    rules_hash,
)
from piflow_bench.evaluation.sets import several
from piflow_bench.evaluation.sources import Given, Sources, open_given, open_reference
from piflow_bench.evaluation.tables import DIFFERENCES, compared, resolved_rules, rows_of

if TYPE_CHECKING:
    from piflow_bench.evaluation.metrics.lpips import Lpips
    from piflow_bench.evaluation.scorers import Scorer


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    table: pd.DataFrame
    """As `evaluate` returns it."""
    differences: pd.DataFrame
    """Of every two sets, in columns ``DIFFERENCES``; empty where there is one."""
    sources: dict[str, Sources]
    """What was scored, by the sets' names ("samples" where there is one); of several n the last."""


def evaluate(
    samples: Any,
    reference: Any = None,
    protocol: str | Protocol = USUAL,
    *,
    extractor: str | None = None,
    weights: str | None = None,
    metrics: str | Sequence[str] | None = None,
    n: int | Sequence[int] | None = None,
    teacher: Any = None,
    prompts: Any = None,
    labels: Any = None,
    per_class: str | Sequence[str] = (),
    lpips_weights: str | None = None,
    scorers: Mapping[str, str] | None = None,
    device: str = Options.device,
    precision: str | None = None,
    compiled: bool = Options.compiled,
    workers: int = Options.workers,
    processes: int = Options.processes,
    batch: int | None = None,
    cache: str | Path | bool | None = Options.cache,
    plugins: str | Sequence[str] | None = None,
    space: Mapping[str, str] | None = None,
    report: Report = silent,
    **settings: Any,
) -> pd.DataFrame:
    """Scores of ``samples`` against ``reference``, one row a metric, with intervals.

    Args:
        samples: generated images: a folder, a zip or tar file, an ADM-style npz or a folder of
            such, an npy file, an array, a tensor, a torch dataset or what gives batches (see
            ``pictures.opening.open_images``); or several sets: a list of such, a pattern
            (``out/step-*``) or a dictionary by name. Samples of a run's store become pictures as
            the run's own do.
        reference: the same, or an npz of statistics (mu, sigma), which serve Fréchet distances;
            None for metrics that need none.
        protocol: a named protocol, or one of your own.
        extractor: another extractor than the protocol's; the rows then say so.
        weights: the extractor's weights, where they are not in the cache folder.
        metrics: other metrics than the protocol's.
        n: score n samples, a fixed draw that keeps the shares of classes; or a list of several n.
        teacher: the teacher's images for the same noise, one a sample (``teacher_*`` metrics); two
            folders are paired by their images' names.
        prompts: one a sample: a list, a .txt file of lines or a .json list (``clip_score``,
            ``hpsv2``, ``hpsv2_quickgelu``, ``vqascore``); or by the samples' names, a dictionary
            or a .json file of one.
        labels: class or prompt of every sample: an array, a .npy, .csv, .txt or .json file; or by
            name, as prompts; known without it for npz files with ``arr_1``, for folders of folders,
            and from ``prompts``.
        per_class: metrics that are also scored within every class, in rows of their own; a class
            that is too small for one has a row without a value, and a warning says why.
        lpips_weights: LPIPS's weights, where they are not in the cache folder.
        scorers: the same of the metrics of pictures with prompts: ``{"clip_score": PATH}``.
        device: cpu, cuda or cuda:1.
        precision: of the network: float32, tf32 or bfloat16, in place of the protocol's.
        compiled: whether ``torch.compile`` takes the network first.
        workers: threads that decode images.
        processes: how many extract features at once, on a GPU each where there are several.
        batch: images at once in the network; None for what suits the device.
        cache: folder of finished features, from which an interrupted call, or one of another n,
            goes on; False or None to keep nothing on disk.
        plugins: a file or folder of extractors, metrics and spaces of one's own, or several.
        space: files of the space that a run's samples lie in: ``{"autoencoder": PATH}``.
        report: called with what is being done, images done and images in all.
        settings: settings of the metrics that override the protocol's.

    Returns:
        Columns ``COLUMNS``: metric, group ("all", or a class), value, its interval with its
        confidence (0 to 1), what it is an interval of and by which method, sample counts, what
        stands for an expectation, what was scored against what, the extractor, and the protocol
        with its hash and its rules as JSON. Values of one metric compare where ``estimator`` is
        one: means over pairs are weighed by classes where these are known and decided.

        Of several sets the column ``set`` comes first, the best by the first metric before the
        others, and ``OF_SETS`` last: the difference to the first set given, with its interval for
        one comparison, and by what samples are partners (``by name``, ``by place``, ``no``).

    Raises:
        UserError: naming the input and what to do.
    """
    options = Options(
        extractor=extractor,
        weights=weights,
        metrics=metrics,
        n=n,
        teacher=teacher,
        prompts=prompts,
        labels=labels,
        per_class=per_class,
        lpips_weights=lpips_weights,
        scorers=scorers or {},
        device=device,
        precision=precision,
        compiled=compiled,
        workers=workers,
        processes=processes,
        batch=batch,
        cache=cache,
        plugins=plugins,
        space=space or {},
        report=report,
        settings=settings,
    )
    return score(samples, reference, protocol, options).table


def score(samples: Any, reference: Any, protocol: str | Protocol, options: Options) -> Outcome:
    """What `evaluate` does, with all that is found."""
    folders = file_plugins.places(options.plugins)
    use_plugins(folders)
    rules = options.rules(protocol)
    counts: Sequence[int | None] = options.counts() or [rules.scored]
    per_class = [options.per_class] if isinstance(options.per_class, str) else options.per_class
    asked = [*rules.metrics, *per_class]
    needs.check_metrics(asked)
    cache = options.place()
    sets = several(samples)
    named = {"samples": samples} if sets is None else sets.sources
    given = _opened(named, reference, counts, options, sets is not None)
    places = {name: [each.places(n) for n in counts] for name, each in given.items()}
    parts = {name: [each.take(p) for p in places[name]] for name, each in given.items()}
    for sources in (each for of_set in parts.values() for each in of_set):
        needs.check_inputs(asked, sources)
        needs.check_classes(per_class, sources)
    _refuse_unequal(parts)
    network = get_extractor(
        rules.extractor,
        options.weights,
        options.device,
        rules.precision,
        options.compiled,
        folders,
    )
    target = next(iter(given.values())).reference
    needs.check_outputs(asked, network)
    needs.check_statistics(asked, target, network)
    _refuse_unlike(parts, rules, network)
    lpips = _lpips(asked, options)
    batch = options.batch or usual_batch(options.device)

    def features(what: str, images: Images) -> Arrays:
        told = partial(options.report, f"features of {what}")
        return extract(images, network, cache, batch, told, options.processes)

    networks = _scorers(asked, options)
    by = Measuring(rules, per_class, lpips, networks, options.device, batch, cache, options.report)
    theirs: Arrays | None = None
    measured: dict[str, list[Measured]] = {}
    for name, each in given.items():
        whole = reduce(np.union1d, places[name])
        ours = features(name, each.samples.take(whole))
        if theirs is None and target is not None and target.images is not None:
            theirs = features("reference", target.images)
        measured[name] = [
            measure_set(by, sources, _among(ours, whole, taken), theirs, features, name)
            for sources, taken in zip(parts[name], places[name], strict=True)
        ]
    scored = {name: found[-1].sources for name, found in measured.items()}
    if sets is None:
        tables = [rows_of(found, rules, network) for found in measured["samples"]]
        alone = pd.DataFrame(columns=DIFFERENCES)
        return Outcome(pd.concat(tables, ignore_index=True), alone, scored)
    for found in (part for of_set in measured.values() for part in of_set):
        found.warnings.extend(sets.warnings)
    side_by_side = [
        compared({name: found[i] for name, found in measured.items()}, rules, network)
        for i in range(len(counts))
    ]
    return Outcome(
        pd.concat([table for table, _ in side_by_side], ignore_index=True),
        pd.concat([apart for _, apart in side_by_side], ignore_index=True),
        scored,
    )


def _among(arrays: Arrays, whole: np.ndarray, places: np.ndarray) -> Arrays:
    """Outputs of ``places``, of outputs of the ascending places ``whole``."""
    if len(places) == len(whole):
        return arrays
    rows = np.searchsorted(whole, places)
    return {name: outputs[rows] for name, outputs in arrays.items()}


def _opened(
    named: Mapping[str, Any],
    reference: Any,
    counts: Sequence[int | None],
    options: Options,
    several: bool,
) -> dict[str, Given]:
    """All sets with the reference, before any work."""
    found, look = {}, options.look()
    for name, source in named.items():
        with _named(name if several else ""):
            found[name] = open_given(
                source,
                None,
                counts,
                cut=options.n is not None,
                teacher=options.teacher,
                prompts=options.prompts,
                labels=options.labels,
                workers=options.workers,
                look=look,
            )
            for count in counts:
                found[name].places(count)  # Where there are too few, before the others are opened.
    target = None if reference is None else open_reference(reference, options.workers, look)
    return {name: dataclasses.replace(each, reference=target) for name, each in found.items()}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A mistake in one of several sets says in which."""
    try:
        yield
    except UserError as error:
        if not name or name in str(error):
            raise
        raise UserError(f"{name}: {error}") from error


def _refuse_unequal(parts: Mapping[str, Sequence[Sources]]) -> None:
    """UserError for sets of different numbers of samples, which most metrics depend on."""
    sizes = {name: each[0].count for name, each in parts.items()}
    fewest, most = (pick(sizes, key=lambda name: sizes[name]) for pick in (min, max))
    if sizes[fewest] < sizes[most]:
        raise UserError(
            f"samples: {fewest} has {sizes[fewest]} images, {most} {sizes[most]}; scores of "
            f"different numbers of samples do not compare, set n={sizes[fewest]}"
        )


def _refuse_unlike(
    parts: Mapping[str, Sequence[Sources]], rules: Protocol, network: Extractor
) -> None:
    """UserError for sets whose scores would have different rules."""
    found: dict[str, tuple[str, Rules]] = {}
    for name, each in parts.items():
        resolved = resolved_rules(each[0], rules, network)
        found.setdefault(rules_hash(resolved), (name, resolved))
    if len(found) > 1:
        where = " and ".join(name for name, _ in list(found.values())[:2])
        refuse_mixture({key: resolved for key, (_, resolved) in found.items()}, where)


def _lpips(metrics: Sequence[str], options: Options) -> Lpips | None:
    """LPIPS where a metric is of it, before any work: weights may be missing."""
    if not {"teacher_lpips", "lpips_within"} & set(metrics):
        return None
    from piflow_bench.evaluation.metrics.lpips import load

    return load(options.lpips_weights, options.device)


def _scorers(metrics: Sequence[str], options: Options) -> dict[str, Scorer]:
    """The networks of metrics of pictures with prompts, before any work."""
    from piflow_bench.evaluation import scorers

    known = scorers.names()
    for name in options.scorers:
        if name not in known:
            raise UserError(f"scorers.{name}: no such metric; {nearest(name, list(known))}")
    return {
        name: scorers.load(name, options.scorers.get(name), options.device)
        for name in known
        if name in metrics
    }
