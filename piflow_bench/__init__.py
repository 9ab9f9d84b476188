"""An honest benchmark of few-step image generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
