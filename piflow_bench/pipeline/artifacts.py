"""What artifacts hold, a reader and a writer for each: samples, features, scores, facts.

What trainings write has its own (``training/output.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pictures.stored import SAMPLES

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_bench.evaluation.uncertainty import Interval

FEATURES, SCORES, FACTS = "features.npz", "metrics.json", "facts.json"


# ------------------------------------------------------------------ samples


class NotFinite(RuntimeError):
    """Samples with a NaN or an infinity: what made them is broken, and so would be all scores."""


def write_samples(folder: Path, x: Tensor, first: int = 0) -> None:
    """Write samples ``(n, *shape)``, from index ``first`` on; errors as of :func:`finite`."""
    np.save(folder / SAMPLES, finite(x, first).numpy())


def sample_file(folder: Path, shape: tuple[int, ...]) -> np.memmap:
    """The file of samples ``(n, *shape)`` float32, mapped, to be written piece by piece."""
    found: np.memmap = np.lib.format.open_memmap(folder / SAMPLES, "w+", np.float32, shape)
    return found


def finite(x: Tensor, first: int = 0) -> Tensor:
    """The same samples ``(n, *shape)``, of which ``first`` is the index of the first.

    Raises:
        NotFinite: naming how many are not, and the first of them.
    """
    bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise NotFinite(
            f"{len(bad)} of {len(x)} samples are not finite; the first is sample {first + bad[0]}"
        )
    return x


def samples(folders: Iterable[Path], most: int | None = None) -> np.ndarray:
    """Samples ``(n, *shape)`` of all folders; the first ``most`` of them, where it is given.

    Those of one folder are mapped to be read.
    """
    found: list[np.ndarray] = []
    for folder in folders:
        if most is not None and sum(map(len, found)) >= most:
            break
        found.append(np.load(folder / SAMPLES, mmap_mode="r", allow_pickle=False))
    return (found[0] if len(found) == 1 else np.concatenate(found))[:most]


# ------------------------------------------------------------------ features


def array_name(extractor: str, output: str) -> str:
    """The name of an extractor's output in an artifact."""
    return extractor if output == "features" else f"{extractor}/{output}"


def write_features(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what extractors gave, by :func:`array_name`."""
    np.savez(folder / FEATURES, **arrays)  # type: ignore[arg-type]


def features(folders: Iterable[Path], name: str) -> np.ndarray:
    """Features ``(n, d)`` under an extractor, or another output that is there."""
    found = output(folders, name)
    assert found is not None
    return found


def output(folders: Iterable[Path], name: str) -> np.ndarray | None:
    """Rows of one output of all folders; None where it was not written."""
    parts = []
    for folder in folders:
        with np.load(folder / FEATURES, allow_pickle=False) as arrays:
            if name not in arrays:
                return None
            parts.append(arrays[name])
    return np.concatenate(parts)


def moments_of(folders: Sequence[Path], name: str) -> Moments | None:
    """Moments that a reference's file states, where it does."""
    count, mean, scatter = (output(folders, f"{name}/{k}") for k in ("count", "mean", "scatter"))
    if count is None or mean is None or scatter is None:
        return None
    return Moments(int(count[0]), mean, scatter)


# ------------------------------------------------------------------ scores


@dataclass(frozen=True)
class Score:
    """The value of a metric with its interval: one row of the results."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    """Samples it is of."""
    replicates: list[float]
    """Values without one block of samples each."""
    interval: str
    """How the interval was made."""
    estimand: str
    estimator: str


def score(
    metric: str,
    interval: Interval,
    n: int,
    replicates: Sequence[float] | np.ndarray,
    estimator: str,
) -> Score:
    """A score of an interval."""
    return Score(
        metric,
        float(interval.value),
        float(interval.low),
        float(interval.high),
        int(n),
        [float(r) for r in replicates],
        interval.how,
        interval.estimand,
        estimator,
    )


def mean_score(metric: str, scores: np.ndarray, blocks: np.ndarray) -> Score:
    """Mean of per-sample scores: bootstrap interval, and delete-block replicates for pairing."""
    from piflow_bench.evaluation.uncertainty import bootstrap_mean_interval, mean_with_replicates

    interval = bootstrap_mean_interval(scores, seed=0)
    left = mean_with_replicates(scores, blocks).replicates
    return score(metric, interval, len(scores), left, "mean")


def write_scores(folder: Path, scores: Iterable[Score]) -> None:
    """Write what a stage measured."""
    (folder / SCORES).write_text(json.dumps([asdict(each) for each in scores]))


def scores(folder: Path) -> list[Score]:
    """What a stage measured."""
    return [Score(**each) for each in json.loads((folder / SCORES).read_text())]


# ------------------------------------------------------------------ facts


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known of samples beside them: their number, NFE, costs."""
    (folder / FACTS).write_text(json.dumps(facts))


def facts(folder: Path) -> dict[str, Any]:
    """What :func:`write_facts` wrote."""
    found: dict[str, Any] = json.loads((folder / FACTS).read_text())
    return found
