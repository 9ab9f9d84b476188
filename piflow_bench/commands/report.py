"""`report`: pages and exports of finished runs and of scores, and what two runs differ in."""

from __future__ import annotations

import argparse
from pathlib import Path

from piflow_bench.errors import CHECK_FAILED, OK, UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument(
        "--diff",
        action="store_true",
        help="of two runs, OLD NEW: what changed beyond noise; exit code 4 if something is worse",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="of a run that goes on: a page that refreshes itself, until the run ends",
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also write every figure as SVG and PNG, by kaleido and an installed Chromium",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of runs or scores; out=PATH; elsewhere=FILE.csv of numbers of one run's "
        "samples that other programs measured (variant,nfe,metric,value[,scorer,note])",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if options.watch:
        from piflow_reports import build

        from piflow_bench.pipeline.live import watch

        if len(options.runs) != 1:
            raise UserError("report --watch: takes the folder of one run")
        print(watch(Path(options.runs[0]), build))
        return OK
    out: Path | None = None
    elsewhere: list[Path] = []
    folders = []
    for argument in options.runs:
        if argument.startswith("out="):
            out = Path(argument.removeprefix("out="))
            continue
        if argument.startswith("elsewhere="):
            elsewhere.append(Path(argument.removeprefix("elsewhere=")))
            continue
        folder = Path(argument)
        if not any((folder / name).is_file() for name in ("results.parquet", "scores.parquet")):
            raise UserError(
                f"{argument}: no folder of a run (results.parquet) or of scores (scores.parquet)"
            )
        folders.append(folder)
    if not folders:
        raise UserError("report: needs at least one folder of a run or of scores")
    if options.diff:
        if len(folders) != 2 or out is not None:
            raise UserError("report --diff: takes the folders of two runs, OLD NEW")
        from piflow_reports.diff import print_changes

        return OK if print_changes(*folders) else CHECK_FAILED
    if elsewhere:
        _take(elsewhere, folders)
    scored = [folder for folder in folders if (folder / "scores.parquet").is_file()]
    if scored:
        if len(scored) < len(folders):
            raise UserError("report: runs and scores do not share a page; name one kind")
        if options.figures:
            raise UserError("report --figures: takes folders of runs; a page of scores has none")
        from piflow_reports.scores.page import build_scores

        print(build_scores(scored, out))
        return OK
    from piflow_reports import build, build_many

    if len(folders) == 1:
        print(build(folders[0], out, options.figures))
    else:
        print(build_many(folders, out, options.figures))
    return OK


def _take(files: list[Path], folders: list[Path]) -> None:
    """Keep numbers that were measured elsewhere in the folder of the run that they are of."""
    import pandas as pd

    from piflow_bench.pipeline.results.elsewhere import take

    if len(folders) != 1 or not (folders[0] / "results.parquet").is_file():
        raise UserError("report elsewhere=: takes the folder of the one run that they are of")
    results = pd.read_parquet(folders[0] / "results.parquet", columns=["variant", "nfe"])
    cells = results.dropna().drop_duplicates()
    sampled = [(str(v), int(n)) for v, n in zip(cells["variant"], cells["nfe"], strict=True)]
    take(files, folders[0], sampled)
