"""An honest benchmark of few-step image generators."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# numpy's OpenBLAS reads this when it is loaded. By default its threads spin for some 25 ms after
# every product, and torch's threads, which read the product, wait for the cores.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

if TYPE_CHECKING:
    from piflow_bench.evaluation.evaluator import Evaluator
    from piflow_bench.evaluation.features import evaluate_features
    from piflow_bench.evaluation.score import evaluate
    from piflow_bench.runs.run import Run
    from piflow_bench.runs.run import open_run as open
    from piflow_bench.runs.start import run

__all__ = ["Evaluator", "Run", "evaluate", "evaluate_features", "open", "run"]
_LAZY = {
    "evaluate_features": ("piflow_bench.evaluation.features", "evaluate_features"),
    "evaluate": ("piflow_bench.evaluation.score", "evaluate"),
    "Evaluator": ("piflow_bench.evaluation.evaluator", "Evaluator"),
    "run": ("piflow_bench.runs.start", "run"),
    "open": ("piflow_bench.runs.run", "open_run"),
    "Run": ("piflow_bench.runs.run", "Run"),
}
"""Names whose modules are imported when they are asked for: the command line must be quick."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'piflow_bench' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
