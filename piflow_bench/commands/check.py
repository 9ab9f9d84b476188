"""`check`: the contract's tests on a plugin of any kind."""

from __future__ import annotations

import argparse

from piflow_bench.commands.arguments import kind_and_name
from piflow_bench.errors import CHECK_FAILED, OK


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument(
        "what",
        nargs="+",
        metavar="[KIND] NAME",
        help="method, dataset, space, teacher, extractor, reward or metric, and the name of one; "
        "then its settings, plugins=PATH[,PATH]; of a teacher or reward dataset=NAME "
        "dataset.KEY=VALUE as well",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.conformance.kinds import CHECKS, check
    from piflow_bench.conformance.results import print_checks

    kind, name, settings = kind_and_name("check", options.what, list(CHECKS))
    return OK if print_checks(name, check(kind, name, settings)) else CHECK_FAILED
