"""Statistics of a reference set, made of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench import file_plugins
from piflow_bench.contracts.extractor import FEATURES, SPATIAL
from piflow_bench.errors import UserError
from piflow_bench.evaluation.cautions import of_copies
from piflow_bench.evaluation.extraction import DIGESTS, extract
from piflow_bench.evaluation.extractors.extractor import get_extractor, usual_batch
from piflow_bench.evaluation.measured import Report
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.options import Options, silent
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.references.statistics import Statistics
from piflow_bench.evaluation.subsets import described, subset

if TYPE_CHECKING:
    pass


def reference_statistics(
    source: Any,
    extractor: str = "inception",
    weights: str | None = None,
    *,
    device: str = Options.device,
    precision: str = "float32",
    compiled: bool = Options.compiled,
    n: int | None = None,
    workers: int = Options.workers,
    processes: int = Options.processes,
    batch: int | None = None,
    cache: str | Path | bool | None = Options.cache,
    plugins: str | Sequence[str] | None = None,
    space: Mapping[str, str] | None = None,
    report: Report = silent,
) -> Statistics:
    """Statistics of a reference set, to be written with ``statistics.save_statistics``.

    Arguments as for ``evaluate``.
    """
    folders = file_plugins.places(plugins)
    network = get_extractor(extractor, weights, device, precision, compiled, folders)
    options = Options(device=device, cache=cache, plugins=plugins, space=space or {})
    given = open_images(source, "samples", workers, options.look())
    size = len(given) if n is None else n
    if not 2 <= size <= len(given):
        raise UserError(f"samples: n={size} of {len(given)} images; at least 2 are needed")
    images = given.take(subset(len(given), size, given.labels))
    told = partial(report, "features of samples")
    found = extract(images, network, options.place(), batch or usual_batch(device), told, processes)
    spatial = Moments.from_features(found[SPATIAL]) if SPATIAL in found else None
    pooled = Moments.from_features(found[FEATURES])
    taken = described(len(given), size, given.labels)
    noted = [text.removeprefix("samples=") for text in images.warnings]
    noted += of_copies(found[DIGESTS], "images equal")
    sides = images.width, images.height
    return Statistics(
        images.path, pooled, spatial, network.identity, pooled.n, taken, sides, network.precision,
        tuple(noted),
    )  # fmt: skip
