"""`check` by kind of plugin: a table, and which kind a name is of."""

from __future__ import annotations

from collections.abc import Callable

import torch

from piflow_bench.config.paths import split_paths
from piflow_bench.conformance.dataset_suite import check_dataset
from piflow_bench.conformance.extractor import check_extractor
from piflow_bench.conformance.method.suite import check_method
from piflow_bench.conformance.metric import check_metric
from piflow_bench.conformance.results import CheckResult
from piflow_bench.conformance.reward import check_reward
from piflow_bench.conformance.space_suite import check_space
from piflow_bench.conformance.teacher_suite import check_teacher


def _check_method(name: str, arguments: list[str]) -> list[CheckResult]:
    overrides, paths = split_paths(arguments)
    return check_method(name, overrides, paths.get("plugins"))


CHECKS: dict[str, Callable[[str, list[str]], list[CheckResult]]] = {
    "method": _check_method,
    "dataset": check_dataset,
    "space": check_space,
    "teacher": check_teacher,
    "extractor": check_extractor,
    "reward": check_reward,
    "metric": check_metric,
}
"""What tests a plugin of a kind, called with its name and the ``key=value`` arguments."""


def check(kind: str, name: str, arguments: list[str]) -> list[CheckResult]:
    """Run the contract's tests on a plugin, in one thread; draws of the caller stay as they are.

    Raises:
        UserError: for unknown names and settings, and files that are missing; what is wrong with
            the plugin itself is a failed test.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return CHECKS[kind](name, arguments)
    finally:
        torch.set_num_threads(threads)
