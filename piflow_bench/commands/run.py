"""`run`: experiments, or what they would do."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_bench.commands.arguments import SETTINGS
from piflow_bench.errors import FAILED_CELLS, OK, UserError
from piflow_bench.garbage import kept

if TYPE_CHECKING:
    from piflow_bench.config.schema import ExperimentConfig
    from piflow_bench.machine.findings import Finding


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("--plan", action="store_true", help="print the stages; compute nothing")
    parser.add_argument(
        "--detach", action="store_true", help="with launcher=slurm: submit the jobs and return"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="make anew what another source of an installed method made",
    )
    parser.add_argument("settings", nargs="*", help=SETTINGS)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.pipeline import repeated

    usual = not (options.plan or options.detach or options.force)
    again = repeated.unchanged(options.settings) if usual else None
    if again is not None:
        _show_again(*again)
        return OK
    with kept():
        if options.plan:
            _print_plans(options.settings)
            return OK
        from piflow_bench.config.compose import expand
        from piflow_bench.pipeline.plan import make_plan
        from piflow_bench.pipeline.runner import run_experiment

        found = expand(options.settings)
    code = OK
    configs = [config for _, config in found]
    refuse_gaps(configs)
    for config in configs if len(configs) > 1 else []:
        make_plan(config)  # A mistake in any of them is refused before the first runs.
    watch = repeated.Watch(options.settings, configs[0]) if usual and len(found) == 1 else None
    for settings, config in found:
        command = shlex.join(["python", "-m", "piflow_bench", "run", *settings])
        failed = run_experiment(config, command, options.detach, options.force, watch)
        code = max(code, FAILED_CELLS if failed else OK)
    return code


def _print_plans(settings: Sequence[str]) -> None:
    from piflow_bench.config.compose import compose
    from piflow_bench.pipeline.forecast import print_plan
    from piflow_bench.pipeline.plan import make_plan
    from piflow_bench.pipeline.runner import store_of

    for plan in [make_plan(config) for config in compose(settings)]:  # All are valid, or none is.
        print_plan(plan, store_of(plan.config))


def _show_again(folder: Path, stages: int) -> None:
    """What a run prints at its end when nothing was to be done."""
    from piflow_reports.terminal import print_results
    from rich.console import Console

    from piflow_bench.pipeline.repeated import tally

    console = Console()
    print_results(console, folder)
    console.print(tally(0, stages, 0, 0.0), highlight=False)
    print(folder / "report.html")


def refuse_gaps(configs: Sequence[ExperimentConfig]) -> None:
    """UserError with the doctor's table if this machine cannot run one of the experiments."""
    from piflow_bench.machine.findings import gaps
    from piflow_bench.machine.tables import print_table

    for config in configs:
        lacking = gaps(config)
        if lacking:
            print_table(config.name, lacking)
            words = ", ".join(dict.fromkeys(f.what for f in lacking))
            raise UserError(
                f"{config.name}: this machine lacks {words}; {_advice(config, lacking)}"
            )


def _advice(config: ExperimentConfig, lacking: Sequence[Finding]) -> str:
    """What to do: the smoke profile, but where files lack for which it has no stand-ins."""
    from piflow_bench.machine.findings import requirements
    from piflow_bench.preparation.given import is_stand_in

    files = {r.name for r in requirements(config)}
    mends = [f.mend for f in lacking if f.what in files]
    if mends and not any(map(is_stand_in, config.smoke.values())):
        return f"give {'; '.join(mends)}"
    table = "see the table above or `piflow_bench doctor`"
    return table if config.is_smoke else f"{table}, or try profile=smoke"
