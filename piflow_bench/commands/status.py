"""`status`: what is done, running and missing of an experiment."""

from __future__ import annotations

import argparse

from piflow_bench.commands.arguments import SETTINGS
from piflow_bench.errors import OK


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("--watch", action="store_true", help="refresh until all is done")
    parser.add_argument("settings", nargs="*", help=SETTINGS)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.commands.tune import composed
    from piflow_bench.pipeline.runner import show_status

    for config in composed(options.settings):
        show_status(config, watch=options.watch)
    return OK
