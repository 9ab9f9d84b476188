"""`doctor`: what this machine lacks for an experiment, and what that would cost."""

from __future__ import annotations

import argparse

from piflow_bench.commands.arguments import SETTINGS
from piflow_bench.errors import CHECK_FAILED, OK, UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument(
        "settings", nargs="*", help=f"{SETTINGS}; price=X for the cost at X per GPU-hour"
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.config.compose import compose
    from piflow_bench.machine.tables import print_findings

    prices = [s for s in options.settings if s.startswith("price=")]
    settings = [s for s in options.settings if s not in prices]
    try:
        price = float(prices[-1].removeprefix("price=")) if prices else None
    except ValueError as error:
        raise UserError(f"{prices[-1]}: must be a number, per GPU-hour") from error
    whole = [print_findings(config, price) for config in compose(settings)]
    return OK if all(whole) else CHECK_FAILED
