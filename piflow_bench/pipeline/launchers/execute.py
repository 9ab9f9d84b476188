"""Making one stage's artifact, whoever launches it."""

from __future__ import annotations

import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from piflow_bench import interruption
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.pipeline.plugin_sources import unchanged_source
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.attempts import begin
from piflow_bench.pipeline.store.progress import progress_writer
from piflow_bench.pipeline.store.store import Store, environment_error


def execute(
    store: Store, stage: Stage, runtime: Runtime, before: Callable[[], None] = lambda: None
) -> tuple[str, str, str]:
    """Make one artifact unless it exists: ("done" | "failed" | "environment", reason, traceback).

    Holds the artifact's lock; whoever waits for it finds the work done. ``before`` is called where
    there is work to do.
    """
    from piflow_bench.costs.memory import keep_freed

    keep_freed()
    resumable = stage.task.resumable
    try:
        use_plugins(runtime.folders)
        with store.lock(stage):
            if store.has(stage) or store.finish(stage):
                return "done", "", ""
            source = unchanged_source(stage, runtime)
            work = store.work(stage)
            work.mkdir(parents=True, exist_ok=True)
            begin(work, source, resumable)
            inputs = {n: [store.path(s) for s in stages] for n, stages in stage.inputs.items()}
            started = time.time()
            before()
            stage.task.run(inputs, work, runtime, progress_writer(work))
            store.commit(stage, _provenance(started))
        return "done", "", ""
    except (KeyboardInterrupt, interruption.Stopped):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception; nor is exit().
        reason = environment_error(error) or store.full()
        if reason:
            # A half-written artifact would fill the disk that is full already; a resumable stage
            # keeps its last whole state.
            if not resumable:
                shutil.rmtree(store.work(stage), ignore_errors=True)
            return "environment", reason, traceback.format_exc()
        words = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {words[0] if words else ''}"
        return "failed", text, traceback.format_exc()


def _provenance(started: float) -> dict[str, Any]:
    from piflow_bench.provenance import git_commit, hardware, versions

    return {
        "git_commit": git_commit(),
        "hardware": hardware(),
        "node": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "duration": round(time.time() - started, 3),
        "versions": versions(),
        "pid": os.getpid(),
    }
