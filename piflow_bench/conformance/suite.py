"""`check`: the contract's tests, run on one method plugin with tiny stand-in teachers.

What a test raises is its own failure, and the next goes on. A test whose ground another test found
missing is skipped and says so.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from piflow_bench import registry
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.method import Failure, Skip, Suite, check_config, check_facts, require
from piflow_bench.contracts.method import Method
from piflow_bench.errors import UserError, nearest
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass, nested

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one test: ``status`` is ok, failed or skipped."""

    test: str
    status: str
    reason: str = ""


def _explain(error: BaseException, source: str) -> str:
    """One line: the error, and the last line of the plugin that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == source] or list(frames)
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ") + where


def _attempt(test: str, function: Callable[[], str | None], source: str = "") -> CheckResult:
    """A test's result, whatever it raises."""
    try:
        return CheckResult(test, OK, function() or "")
    except Skip as skip:
        return CheckResult(test, SKIPPED, str(skip))
    except Failure as failure:
        return CheckResult(test, FAILED, str(failure))
    except registry.PluginError as error:
        return CheckResult(test, FAILED, str(error))
    except (Exception, SystemExit) as error:
        return CheckResult(test, FAILED, _explain(error, source))


def _run_suite(label: str, suite: Suite, source: str) -> list[CheckResult]:
    results: list[CheckResult] = []
    passed: dict[str, bool] = {}
    for test, function, needs in suite.tests():
        name = f"{label}: {test}"
        missing = next((n for n in needs if not passed[n]), None)
        if missing is None:
            results.append(_attempt(name, function, source))
        else:
            results.append(CheckResult(name, SKIPPED, f"needs '{missing}'"))
        passed[test] = results[-1].status == OK
    return results


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
            results = [_attempt_loading(load)]
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


def _attempt_loading(load: Callable[[], None]) -> CheckResult:
    """Loading; mistakes in the user's settings stay UserErrors."""
    user_error: list[UserError] = []

    def attempt() -> None:
        try:
            load()
        except registry.PluginError:
            raise
        except UserError as error:
            user_error.append(error)

    result = _attempt("loads", attempt)
    if user_error:
        raise user_error[0]
    return result


def _attempt_suite(
    cls: type[Method], config: Any, stand_in: standins.StandIn, label: str, source: str
) -> list[CheckResult]:
    suites: list[Suite] = []

    def make() -> None:
        suites.append(Suite(cls, config, stand_in))

    made = _attempt(f"{label}: serves()", make, source)
    return _run_suite(label, suites[0], source) if suites else [made]


def print_checks(name: str, results: list[CheckResult]) -> bool:
    """Print a table of the results; True if no test failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {OK: "green", FAILED: "bold red", SKIPPED: "yellow"}
    table = Table(title=Text(f"check {name}"), title_justify="left")
    table.add_column("test", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for r in results:
        table.add_row(Text(r.test), Text(r.status, style=colours[r.status]), Text(r.reason))
    console = Console()
    console.print(table)
    counts = {s: sum(r.status == s for r in results) for s in (OK, FAILED, SKIPPED)}
    console.print(", ".join(f"{n} {s}" for s, n in counts.items()))
    return counts[FAILED] == 0
