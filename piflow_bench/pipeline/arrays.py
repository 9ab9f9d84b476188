"""Arrays of artifacts: samples, and what extractors gave of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from piflow_bench.evaluation.moments import Moments


def array_name(extractor: str, output: str) -> str:
    """The name of an extractor's output in an artifact."""
    return extractor if output == "features" else f"{extractor}/{output}"


def samples(folders: list[Path]) -> np.ndarray:
    """Samples ``(n, *shape)`` of all folders."""
    return np.concatenate([np.load(f / "samples.npy", allow_pickle=False) for f in folders])


def features(folders: list[Path], name: str) -> np.ndarray:
    """Features ``(n, d)`` under an extractor, or another output that is there."""
    found = output(folders, name)
    assert found is not None
    return found


def output(folders: list[Path], name: str) -> np.ndarray | None:
    """Rows of one output of all folders; None where it was not written."""
    parts = []
    for folder in folders:
        with np.load(folder / "features.npz", allow_pickle=False) as arrays:
            if name not in arrays:
                return None
            parts.append(arrays[name])
    return np.concatenate(parts)


def moments_of(folders: list[Path], name: str) -> Moments | None:
    """Moments that a reference's file states, where it does."""
    count, mean, scatter = (output(folders, f"{name}/{k}") for k in ("count", "mean", "scatter"))
    if count is None or mean is None or scatter is None:
        return None
    return Moments(int(count[0]), mean, scatter)
