"""The verb ``export``: what leaves a run, for other programs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.errors import OK, UserError
from piflow_bench.settings import build_dataclass, read_setting, setting

GRIDS = ("oneig",)


@dataclass(frozen=True)
class Export:
    """What is written, and where."""

    out: str | None = setting(None)  # a folder
    variant: str | None = setting(None)
    nfe: int | None = setting(None, least=1)
    train_seed: int | None = setting(None, least=0)
    grids: str | None = setting(None, choices=GRIDS)  # pictures, as a benchmark's scorers read them
    half: bool = setting(False)  # weights in 16 bits
    published: bool = setting(False)  # the form of pi-Flow's published adapters


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="out=FOLDER and variant=NAME [nfe= train_seed= half=true published=true]: writes "
        "its weights and some samples, or grids=oneig [variant= nfe=]",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from rich.console import Console

    from piflow_bench.config.paths import split_paths
    from piflow_bench.files.atomic import check_writable
    from piflow_bench.progress_bar import told
    from piflow_bench.runs.run import open_run

    overrides, paths = split_paths(options.settings, ("out", "variant"))
    chosen: Export = build_dataclass(Export, dict(map(read_setting, overrides)) | paths, "")
    run = open_run(options.run)
    if chosen.out is None:
        raise UserError("export: needs out=FOLDER")
    out = Path(chosen.out)
    check_writable("out", out)
    if chosen.grids is None:
        if chosen.variant is None:
            raise UserError("export: needs variant=NAME, whose weights are written, or grids=oneig")
        print(
            run.export(
                chosen.variant,
                out,
                nfe=chosen.nfe,
                train_seed=chosen.train_seed,
                half=chosen.half,
                published=chosen.published,
            )
        )
        return OK
    for name in ("train_seed", "half", "published"):
        if getattr(chosen, name):
            raise UserError(f"export: {name}= is of weights, not of grids={chosen.grids}")
    from piflow_bench.runs.oneig import write_grids

    with told(Console(stderr=True)) as report:
        names = write_grids(run, out, chosen.variant, chosen.nfe, report)
    print(f"{out}: {', '.join(names)}")
    return OK
