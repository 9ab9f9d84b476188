"""What each of a training's processes does: torchrun's ``-m piflow_bench.pipeline.launchers.rank``.

Its one argument is the folder that ``torchrun.py`` made: the stage's task and inputs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers.torchrun import ERROR, JOB
from piflow_bench.pipeline.runtime import from_plain
from piflow_bench.pipeline.store.progress import progress_writer
from piflow_bench.training.distributed import form_group, leave_group


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
    job, folder = json.loads((talk / JOB).read_text()), talk.parent
    _end_with(job["owner"])
    runtime = from_plain(job["runtime"])
    form_group(runtime.scale.device, int(os.environ["LOCAL_RANK"]))
    inputs = {name: [Path(p) for p in paths] for name, paths in job["inputs"].items()}
    try:
        task = KINDS[job["kind"]](**job["task"])
        task.run(inputs, folder, runtime, progress_writer(folder))
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0] if lines else ''}\n"
        (talk / ERROR).write_text(text + traceback.format_exc())
        # The others may wait for this one in a collective call: end without waiting for them.
        os._exit(1)
    leave_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
