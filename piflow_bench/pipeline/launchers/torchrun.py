"""Training stages in several processes: started by torchrun, each runs the same stage.

``torchrun ... -m piflow_bench.pipeline.launchers.torchrun JOB`` is what every process is; JOB is a
folder with the stage's inputs, in its work folder. The first process reports and writes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.files.atomic import write_json
from piflow_bench.pipeline.store.store import PROCESSES

if TYPE_CHECKING:
    from piflow_bench.pipeline.runtime import Runtime

JOB, ERROR = "job.json", "error.txt"


class ProcessFailed(RuntimeError):
    """One of a stage's processes failed."""


def in_processes(
    config: Mapping[str, Any], inputs: Mapping[str, list[Path]], folder: Path, runtime: Runtime
) -> None:
    """Run the training stage in ``runtime.scale.processes`` processes of one machine.

    Raises:
        ProcessFailed: with the first error of any of them.
    """
    job = {
        "config": dict(config),
        "inputs": {name: [str(p) for p in paths] for name, paths in inputs.items()},
        "runtime": asdict(runtime),
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
        "piflow_bench.pipeline.launchers.torchrun",
        str(talk),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config["training"]["threads"])}
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


def _end_with(owner: int) -> None:
    """Leave as soon as the process that asked for the work is gone."""

    def watch() -> None:
        while True:
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()


def main(talk: Path) -> None:
    """One of the processes; ``talk`` is the folder of its job."""
    from piflow_bench.pipeline.runtime import Runtime
    from piflow_bench.pipeline.stages import distill
    from piflow_bench.pipeline.store.progress import progress_writer
    from piflow_bench.training.distributed import form_group, leave_group
    from piflow_bench.training.scale import Scale

    job, folder = json.loads((talk / JOB).read_text()), talk.parent
    _end_with(job["owner"])
    settings = job["runtime"]
    runtime = Runtime(**{**settings, "scale": Scale(**settings["scale"])})
    form_group(runtime.scale.device, int(os.environ["LOCAL_RANK"]))
    inputs = {name: [Path(p) for p in paths] for name, paths in job["inputs"].items()}
    try:
        distill(job["config"], inputs, folder, runtime, progress_writer(folder))
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0] if lines else ''}\n"
        (talk / ERROR).write_text(text + traceback.format_exc())
        # The others may wait for this one in a collective call: end without waiting for them.
        os._exit(1)
    leave_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
