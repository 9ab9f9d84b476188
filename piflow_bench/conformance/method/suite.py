"""The contract's tests on one method plugin, with tiny stand-in teachers."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch

from piflow_bench import registry
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.method import sampling, training
from piflow_bench.conformance.method.declarations import check_config, check_facts
from piflow_bench.conformance.method.trial import Trial
from piflow_bench.conformance.results import (
    OK,
    SKIPPED,
    CheckResult,
    Failure,
    Test,
    attempt,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.method import Method
from piflow_bench.errors import UserError, nearest
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass, nested

SAMPLING = [
    ("build", sampling.build, ()),
    ("teacher untouched by build", sampling.untouched, ("build",)),
    ("samples", sampling.samples, ("build",)),
    ("honest NFE", sampling.honest, ("samples",)),
    ("reproducible samples", sampling.reproducible, ("samples",)),
    ("bfloat16 samples", sampling.rounded_samples, ("samples",)),
]
"""Name, function, and the tests that must have passed before, in order."""
TRAINING = [
    ("training step", training.training_step, ("build",)),
    ("gradients", training.gradients, ("training step",)),
    ("determinism", training.determinism, ("training step",)),
    ("save, load, resume", training.resume, ("training step", "determinism")),
    ("division of a batch", training.division, ("training step", "determinism")),
    ("declared needs", training.needs, ("training step", "determinism")),
    ("bfloat16 training", training.rounded_training, ("training step",)),
]
"""The same, of methods that train."""


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
        facts = cls(config).facts_for()
        check_facts(facts)
        rewards = registry.find("reward", places(plugins))
        if facts.reward and facts.reward not in rewards:
            words = nearest(facts.reward, list(rewards))
            raise UserError(f"no reward is called '{facts.reward}'; {words}")

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
    trials: list[Trial] = []

    def make() -> None:
        trials.append(Trial(cls, config, stand_in))

    made = attempt(f"{label}: serves()", make, source)
    if not trials:
        return [made]
    (trial,) = trials
    listed = [*SAMPLING, *(TRAINING if trial.facts.trained_here else ())]
    tests: list[Test] = [(name, partial(test, trial), needs) for name, test, needs in listed]
    return run_tests(tests, label, source)
