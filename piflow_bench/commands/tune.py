"""`tune`: choose the settings of an experiment's variants, by as many trials for each."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_bench.errors import FAILED_CELLS, OK

if TYPE_CHECKING:
    from piflow_bench.config.schema import ExperimentConfig

HELP = (
    "trials=8 (of every variant, the published recipe among them) share=0.5 (of the budget, for "
    "each) per_nfe=false, and the settings of `run`"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("--plan", action="store_true", help="print the stages; compute nothing")
    parser.add_argument(
        "--detach", action="store_true", help="with launcher=slurm: submit the jobs and return"
    )
    parser.add_argument("settings", nargs="*", help=HELP)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.commands.run import refuse_gaps
    from piflow_bench.garbage import kept
    from piflow_bench.pipeline.forecast import print_plan
    from piflow_bench.pipeline.plan import make_plan
    from piflow_bench.pipeline.runner import store_of
    from piflow_bench.tuning.compose import compose_trials

    with kept():
        found = compose_trials(options.settings)
        plans = [make_plan(config) for config in found]
    if options.plan:
        for plan in plans:
            print_plan(plan, store_of(plan.config))
        return OK
    refuse_gaps(found)
    command = shlex.join(["python", "-m", "piflow_bench", "tune", *options.settings])
    return max(_tuned(config, command, options.detach) for config in found)


def _tuned(config: ExperimentConfig, command: str, detach: bool) -> int:
    """Run the trials of one experiment and write what they chose."""
    from piflow_bench.config.tuned import NAME, write_tuned
    from piflow_bench.pipeline.runner import run_experiment
    from piflow_bench.tuning.results import chosen, read_trials

    failed = run_experiment(config, command, detach)
    folder = Path(config.runs) / config.name
    if not (folder / "results.parquet").is_file():  # Submitted, and nothing collected yet.
        return OK
    trials = read_trials(folder)
    if any(not t.values for own in trials.trials.values() for t in own):
        return FAILED_CELLS if failed else OK
    write_tuned(folder / NAME, command, chosen(config, trials))
    print(folder / NAME)
    return FAILED_CELLS if failed else OK


def composed(settings: Sequence[str]) -> list[ExperimentConfig]:
    """Experiments, or with ``trials=N`` the trials of them: what `status` and `cancel` speak of."""
    from piflow_bench.config.compose import compose
    from piflow_bench.tuning.compose import compose_trials, speaks_of_trials

    return compose_trials(settings) if speaks_of_trials(settings) else compose(settings)
