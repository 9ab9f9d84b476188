"""`cancel`: an experiment's Slurm jobs, and no others."""

from __future__ import annotations

import argparse

from piflow_bench.commands.arguments import SETTINGS
from piflow_bench.errors import OK


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("settings", nargs="*", help=SETTINGS)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.commands.tune import composed
    from piflow_bench.pipeline.runner import cancel_jobs

    for config in composed(options.settings):
        cancel_jobs(config)
    return OK
