"""Training stages in several processes, started by torchrun: each runs the same stage (rank.py).

What they need lies in a folder of the stage's work folder. The first process reports and writes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_bench.files.atomic import write_json
from piflow_bench.pipeline.runtime import plain
from piflow_bench.pipeline.store.store import PROCESSES

if TYPE_CHECKING:
    from piflow_bench.pipeline.runtime import Runtime
    from piflow_bench.pipeline.stage import Inputs, Task

JOB, ERROR = "job.json", "error.txt"


class ProcessFailed(RuntimeError):
    """One of a stage's processes failed."""


def in_processes(task: Task, inputs: Inputs, folder: Path, runtime: Runtime, threads: int) -> None:
    """Run a training in ``runtime.scale.processes`` processes of one machine.

    Raises:
        ProcessFailed: with the first error of any of them.
    """
    job = {
        "kind": task.kind,
        "task": task.content,
        "inputs": {name: [str(p) for p in paths] for name, paths in inputs.items()},
        "runtime": plain(runtime),
        "owner": os.getpid(),
    }
    talk = folder / PROCESSES
    shutil.rmtree(talk, ignore_errors=True)
    talk.mkdir()
    write_json(talk / JOB, job)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={runtime.scale.processes}",
        "--log-dir",
        str(talk / "logs"),
        "--redirects=3",
        "-m",
        "piflow_bench.pipeline.launchers.rank",
        str(talk),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    agent = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        code = agent.wait()
    except BaseException:
        agent.send_signal(signal.SIGTERM)
        agent.wait()
        raise
    if code:
        told = talk / ERROR
        words = told.read_text() if told.is_file() else _last_words(talk / "logs")
        raise ProcessFailed(words.strip() or f"torchrun ended with exit code {code}")
    shutil.rmtree(talk)


def _last_words(logs: Path) -> str:
    for path in sorted(logs.rglob("stderr.log")):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return ""
