"""The contract's tests on one method plugin, with tiny stand-in teachers."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from piflow_bench import registry
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.method import Suite, check_config, check_facts
from piflow_bench.conformance.results import (
    OK,
    SKIPPED,
    CheckResult,
    Failure,
    attempt,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.method import Method
from piflow_bench.errors import UserError, nearest
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass, nested


def check_method(name: str, overrides: list[str], plugins: str | None) -> list[CheckResult]:
    """Run the contract's tests on a method.

    Args:
        name: the method's registered name.
        overrides: ``key=value`` settings of its Config.
        plugins: a plugin file, a folder of them, or several: ``a,b``.

    Raises:
        UserError: for an unknown method or setting, or a missing folder; what is wrong with the
            plugin itself is a failed test.
    """
    found = registry.find("method", places(plugins))
    if name not in found:
        raise UserError(f"no method is called '{name}'; {nearest(name, list(found))}")
    settings = nested(overrides)
    loaded: list[Any] = []

    def load() -> None:
        cls = found[name].load()
        require(
            inspect.isclass(cls) and issubclass(cls, Method),
            f"{found[name].source}: '{name}' is not a subclass of Method",
        )
        loaded.append(cls)
        check_config(cls)
        try:
            config = build_dataclass(cls.Config, settings, name)
        except UserError as error:
            if settings:
                raise  # The settings are the user's, not the plugin's.
            raise Failure(f"Config's defaults: {error}") from error
        loaded.append(config)
        check_facts(getattr(cls, "facts", None))
        check_facts(cls(config).facts_for())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            results = [attempt_given("loads", load)]
            for label, stand_in in (("images", standins.images), ("points", standins.points)):
                if results[0].status != OK:
                    results.append(CheckResult(f"{label}: all", SKIPPED, "needs 'loads'"))
                    continue
                cls, config = loaded
                source = inspect.getsourcefile(cls) or ""
                suite = _attempt_suite(cls, config, stand_in(), label, source)
                results += suite
    finally:
        torch.set_num_threads(threads)
    return results


def _attempt_suite(
    cls: type[Method], config: Any, stand_in: standins.StandIn, label: str, source: str
) -> list[CheckResult]:
    suites: list[Suite] = []

    def make() -> None:
        suites.append(Suite(cls, config, stand_in))

    made = attempt(f"{label}: serves()", make, source)
    return run_tests(suites[0].tests(), label, source) if suites else [made]
