"""The report: a run's results table turned into one offline page and its exports.

Everything heavy (pandas, plotly, jinja2) is imported when a report is built, not before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

__all__ = ["build", "build_many", "sources"]


def sources() -> str:
    """sha256 of this package's files: pages made by other ones may look different."""
    here = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(p for p in here.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def build(run_dir: Path, out: Path | None = None, figures: bool = False) -> Path:
    """Write the page of one run, and ``exports/`` beside it.

    Args:
        run_dir: folder with ``results.parquet`` and, where there are any, ``curves.parquet``,
            ``grids.npz`` and ``run.json``.
        out: the page; ``report.html`` in the run's folder by default.
        figures: also write every figure as SVG and PNG; needs kaleido and a Chromium or Chrome.

    Returns:
        The page's path.
    """
    from piflow_reports.page import write

    return write([Path(run_dir)], Path(out) if out else Path(run_dir) / "report.html", figures)


def build_many(run_dirs: Sequence[Path], out: Path | None = None, figures: bool = False) -> Path:
    """Write one page of several runs.

    Runs evaluated under one protocol share their rankings; others get a section each.

    Args:
        run_dirs: the runs' folders.
        out: the page; ``report.html`` beside the first run's folder by default.
        figures: also write every figure as SVG and PNG.

    Returns:
        The page's path.
    """
    from piflow_reports.page import write

    folders = [Path(folder) for folder in run_dirs]
    page = Path(out) if out else folders[0].resolve().parent / "report.html"
    return write(folders, page, figures)
