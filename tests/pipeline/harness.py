"""Running the command line on a small experiment, in this process or in another."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest

from piflow_bench.cli import main
from piflow_bench.pipeline import runtime
from piflow_bench.pipeline.results.schema import COST_AND_PROVENANCE
from tests.pipeline.forked import Forked

FEW_STAGES = ("profile=smoke", "nfes=[1]", "budget.checkpoints=[1.0]")
SMALL = (*FEW_STAGES, "only=[piflow-gm8,teacher-euler]")
STUDENTS = (*FEW_STAGES, "only=[piflow-gm8,dmd2,kd]")


def forget() -> None:
    """Whatever was loaded is loaded anew, as in another process."""
    for loaded in (runtime._dataset, runtime._teacher, runtime._extractor, runtime._reward,
                   runtime._scorer):  # fmt: skip
        loaded.cache_clear()


def places(folder: Path) -> tuple[str, str]:
    """Where a run writes, below ``folder``."""
    return f"runs={folder / 'runs'}", f"store={folder / 'store'}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "piflow_bench", "run", *arguments]


def run(
    *arguments: str, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end in a process of its own."""
    given = ["run", *arguments]
    with TemporaryDirectory() as folder:
        out, error = Path(folder, "out"), Path(folder, "error")
        process = Forked(given, cwd, out, error, **environment)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(given, code, out.read_text(), error.read_text())


def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A verb with its settings in this process, which has all libraries at hand."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.chdir(cwd)
        for name, value in environment.items():
            patch.setenv(name, value)
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), error.getvalue())


def results(folder: Path) -> pd.DataFrame:
    """The results below ``folder``."""
    return pd.read_parquet(folder / "runs" / "digits-smoke" / "results.parquet")


def bits(table: pd.DataFrame) -> dict[str, object]:
    """All columns that two runs must share, in a form that is equal only bit for bit."""
    found: dict[str, object] = {}
    for name in table.columns:
        if name in COST_AND_PROVENANCE:
            continue
        column = table[name]
        if name == "replicates":
            found[name] = [np.asarray(r, dtype=np.float64).tobytes() for r in column]
        elif column.dtype == np.float64:
            found[name] = column.to_numpy().tobytes()
        else:
            found[name] = [None if pd.isna(v) else v for v in column]
    assert {"value", "ci_low", "ci_high", "replicates", "artifact", "train_tfe"} <= set(found)
    return found


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether something came true within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
