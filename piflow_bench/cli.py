"""The command line: a table of verbs. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from piflow_bench.errors import INTERRUPTED, OK, USER_ERROR, UserError
from piflow_bench.garbage import leave_at_exit

VERBS = {
    "run": "run an experiment; only what is missing is computed",
    "tune": "choose variants' settings, by as many trials for each, on seeds of their own",
    "status": "what is done, running and missing of an experiment",
    "cancel": "cancel the Slurm jobs of an experiment, and no others",
    "show": "print a plugin's settings and facts, or the composed configuration",
    "store": "what a store holds and who uses it; whether it is whole; what can go",
    "report": "make the HTML report and the exports of finished runs",
    "export": "write a student's weights, or a run's pictures as other scorers read them",
    "evaluate": "score samples you have against a reference",
    "list": "list plugins and experiments",
    "check": "run the contract's tests on a plugin",
    "new": "write a plugin that passes `check`, to start from",
    "prepare": "make what a dataset is read from: latents, or shipped weights",
    "doctor": "what this machine lacks for an experiment, and what that would cost",
}
"""Every verb is a module of ``piflow_bench.commands``, with ``arguments`` and ``call``."""


def _parse(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m piflow_bench",
        description="Which few-step generator gives the best quality and diversity at N network "
        "evaluations, for the same teacher, budget and evaluation?",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name in given[:1]:  # The others' modules need not be imported.
            import_module(f"piflow_bench.commands.{name}").arguments(verb)
    return parser.parse_args(_flags_first(given))


def _flags_first(given: Sequence[str]) -> list[str]:
    """Flags among the settings before all of them: argparse would not take those after."""
    first = next((i for i, a in enumerate(given) if "=" in a), len(given))
    flags = [a for a in given[first:] if a.startswith("-") and "=" not in a]
    rest = [a for a in given[first:] if a not in flags]
    return [*given[:first], *flags, *rest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (0, 1 bug, 2 user, 3 failed cells, 4 check, 130)."""
    # PyTorch warns of its own use of torch.jit at import; users can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
    if arguments is None:
        leave_at_exit()
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return import_module(f"piflow_bench.commands.{options.verb}").call(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        words = f"; {error}" if str(error) else ""
        print(f"interrupted; finished artifacts and states are kept{words}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return OK
