"""An honest benchmark of few-step image generators."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# numpy's OpenBLAS reads this when it is loaded. By default its threads spin for some 25 ms after
# every product, and torch's threads, which read the product, wait for the cores.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

if TYPE_CHECKING:
    from piflow_bench.evaluation.features import evaluate_features
    from piflow_bench.evaluation.score import evaluate

__all__ = ["evaluate", "evaluate_features"]


def __getattr__(name: str) -> Any:
    if name == "evaluate_features":
        from piflow_bench.evaluation.features import evaluate_features

        return evaluate_features
    if name == "evaluate":
        from piflow_bench.evaluation.score import evaluate

        return evaluate
    raise AttributeError(f"module 'piflow_bench' has no attribute '{name}'")
