"""What `check` finds: one result a test, each with its reason, and the table of them.

What a test raises is its own failure, and the next goes on. A test whose ground another test found
missing is skipped and says so.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.errors import UserError
from piflow_bench.registry import PluginError

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one test: ``status`` is ok, failed or skipped."""

    test: str
    status: str
    reason: str = ""


class Failure(Exception):
    """A broken rule, in words."""


class Skip(Exception):
    """Why a test does not apply."""


def require(holds: bool, otherwise: str) -> None:
    """Raise a Failure unless something holds."""
    if not holds:
        raise Failure(otherwise)


def explain(error: BaseException, source: str) -> str:
    """One line: the error, and the last line of the plugin that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == source] or list(frames)
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ") + where


def attempt(test: str, function: Callable[[], str | None], source: str = "") -> CheckResult:
    """A test's result, whatever it raises."""
    try:
        return CheckResult(test, OK, function() or "")
    except Skip as skip:
        return CheckResult(test, SKIPPED, str(skip))
    except (Failure, PluginError) as failure:
        return CheckResult(test, FAILED, str(failure))
    except (Exception, SystemExit) as error:
        return CheckResult(test, FAILED, explain(error, source))


def attempt_given(test: str, function: Callable[[], str | None], source: str = "") -> CheckResult:
    """The same of a test that meets what the user gave: a UserError is the user's to mend."""
    mistakes: list[UserError] = []

    def aside() -> str | None:
        try:
            return function()
        except PluginError:
            raise
        except UserError as error:
            mistakes.append(error)
            return None

    result = attempt(test, aside, source)
    if mistakes:
        raise mistakes[0]
    return result


Test = tuple[str, Callable[[], str | None], tuple[str, ...]]
"""Name, function, and the tests that must have passed before."""


def run_tests(tests: Iterable[Test], label: str = "", source: str = "") -> list[CheckResult]:
    """Results of tests, in order; ``label`` stands before the names of all."""
    results: list[CheckResult] = []
    passed: dict[str, bool] = {}
    for test, function, needs in tests:
        name = f"{label}: {test}" if label else test
        missing = next((n for n in needs if not passed[n]), None)
        if missing is None:
            results.append(attempt(name, function, source))
        else:
            results.append(CheckResult(name, SKIPPED, f"needs '{missing}'"))
        passed[test] = results[-1].status == OK
    return results


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
