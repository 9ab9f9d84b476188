"""Running a plan's stages: in this process (debug), or in worker processes (local)."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from piflow_bench import interruption
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.pipeline.plugin_sources import unchanged_source
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.attempts import begin
from piflow_bench.pipeline.store.progress import progress_writer
from piflow_bench.pipeline.store.store import Store, environment_error
from piflow_bench.threads import use_threads


@dataclass(frozen=True)
class Failure:
    """Why a stage failed; ``traceback`` is for the log."""

    stage: Stage
    reason: str
    traceback: str = ""
    root: Stage | None = None
    """The ancestor that failed, for stages that were never tried."""


@dataclass
class Outcome:
    """What became of a plan's stages."""

    done: set[str] = field(default_factory=set)
    cached: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    seconds: float = 0.0


Notice = Callable[[str, Stage, str], None]
"""Told of every event: (start | done | cached | failed, stage, words)."""


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
        source = unchanged_source(stage, runtime)
        with store.lock(stage):
            if store.has(stage) or store.finish(stage):
                return "done", "", ""
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


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; finished artifacts and training states are kept."""


def visible_gpus(slot: int, processes: int, named: str | None) -> str:
    """The GPUs of the ``slot``-th worker: ``processes`` of them, of those ``named`` to this run.

    ``named`` is CUDA_VISIBLE_DEVICES; None: all, by number.
    """
    mine = range(slot * processes, (slot + 1) * processes)
    names = named.split(",") if named else [str(i) for i in range(mine.stop)]
    return ",".join(names[i] for i in mine if i < len(names))


def _worker(
    connection: Connection,
    root: str,
    runtime: Runtime,
    threads: int,
    workers: int,
    parent: int,
    slot: int,
    log: str,
) -> None:
    """A worker process: makes the stages it is sent, until it is told to stop.

    What ends it without a word to its parent is written to the file ``log``.
    """
    with open(log, "w") as file:
        faulthandler.enable(file)
        try:
            _serve(connection, root, runtime, threads, workers, parent, slot)
        except BaseException:
            traceback.print_exc(file=file)
            raise


def _serve(
    connection: Connection,
    root: str,
    runtime: Runtime,
    threads: int,
    workers: int,
    parent: int,
    slot: int,
) -> None:
    if runtime.scale.device == "cuda":  # Before torch looks for GPUs.
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus(slot, runtime.scale.processes, named)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides.

    def watch() -> None:
        # A parent killed without a word must not leave workers behind.
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    use_threads(threads, workers)
    store = Store(Path(root))
    while True:
        try:
            stage = connection.recv()
        except (EOFError, OSError):  # The parent is gone.
            return
        if stage is None:
            return
        connection.send(execute(store, stage, runtime))


@contextlib.contextmanager
def _without_the_script() -> Iterator[None]:
    """Start processes that do not run the calling script again, as spawned ones do.

    A worker needs nothing of it, and a script without a main guard would begin a run of its own.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """One worker process and the stage it is making."""

    def __init__(self, root: Path, runtime: Runtime, threads: int, workers: int, slot: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.slot = slot
        self.connection, child = context.Pipe()
        handle, name = tempfile.mkstemp(prefix="piflow-worker-")
        os.close(handle)
        self.log = Path(name)
        arguments = (child, str(root), runtime, threads, workers, os.getpid(), slot, name)
        self.process = context.Process(target=_worker, args=arguments, daemon=True)
        with _without_the_script():
            self.process.start()
        child.close()
        self.stage: Stage | None = None

    def give(self, stage: Stage) -> None:
        """Send a stage."""
        self.connection.send(stage)
        self.stage = stage

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.log.unlink(missing_ok=True)

    def last_words(self) -> str:
        """What a process that died wrote of its end."""
        return self.log.read_text(errors="replace").strip()


def _ending(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code and exit_code < 0 else f"exit {exit_code}"


class _Schedule:
    """Which stages are ready, and what failed."""

    def __init__(
        self, stages: Iterable[Stage], store: Store, notice: Notice, retries: int = 0
    ) -> None:
        self.stages = list(stages)
        self.store, self.notice, self.retries = store, notice, retries
        self.outcome = Outcome()
        self.waiting: dict[str, Stage] = {}
        self.running: set[str] = set()
        self.deaths: dict[str, int] = {}
        for stage in self.stages:
            if store.has(stage):
                self.outcome.cached.add(stage.key)
                self.outcome.done.add(stage.key)
                notice("cached", stage, "")
            else:
                self.waiting[stage.key] = stage

    def ready(self) -> list[Stage]:
        """Stages whose inputs are there, the longest first."""
        found = [
            s for s in self.waiting.values() if all(p.key in self.outcome.done for p in s.parents())
        ]
        return sorted(found, key=lambda s: -s.weight)

    def start(self, stage: Stage) -> None:
        """A stage is being made."""
        del self.waiting[stage.key]
        self.running.add(stage.key)
        self.notice("start", stage, "")

    def finish(self, stage: Stage, result: tuple[str, str, str]) -> None:
        """A stage is made, or failed."""
        status, reason, trace = result
        self.running.discard(stage.key)
        if status == "done":
            self.outcome.done.add(stage.key)
            self.notice("done", stage, "")
            return
        if status == "environment":
            raise UserError(reason)
        self._fail(Failure(stage, reason, trace))

    def died(self, stage: Stage, exit_code: int | None, log: str = "") -> None:
        """A worker died while it made a stage, and left ``log``: try again, or give up."""
        self.running.discard(stage.key)
        self.deaths[stage.key] = self.deaths.get(stage.key, 0) + 1
        if self.deaths[stage.key] <= self.retries:
            self.waiting[stage.key] = stage
            return
        words = f"the worker process died {self.deaths[stage.key]} times ({_ending(exit_code)})"
        lines = log.splitlines()
        if exit_code == -signal.SIGKILL:
            words += "; out of memory?"
        elif lines:  # Of a crash the first line says what it was, of a traceback the last.
            words += f": {lines[0] if lines[0].startswith('Fatal') else lines[-1]}"
        self._fail(Failure(stage, words, log))

    def _fail(self, failure: Failure) -> None:
        self.outcome.failures[failure.stage.key] = failure
        self.notice("failed", failure.stage, failure.reason)
        root = failure.root or failure.stage
        reason = failure.reason if failure.root else f"needs {root.label}: {failure.reason}"
        for stage in list(self.waiting.values()):
            if stage.key in self.waiting and failure.stage.key in {p.key for p in stage.parents()}:
                del self.waiting[stage.key]
                self._fail(Failure(stage, reason, root=root))


def run_debug(stages: Iterable[Stage], store: Store, runtime: Runtime, notice: Notice) -> Outcome:
    """One stage after the other, in this process."""
    started = time.perf_counter()
    schedule = _Schedule(stages, store, notice)
    while schedule.waiting:
        stage = schedule.ready()[0]
        schedule.start(stage)
        schedule.finish(stage, execute(store, stage, runtime))
    schedule.outcome.seconds = time.perf_counter() - started
    return schedule.outcome


def run_local(
    stages: Iterable[Stage],
    store: Store,
    runtime: Runtime,
    notice: Notice,
    workers: int,
    threads: int,
    tick: Callable[[], None] = lambda: None,
    retries: int = 2,
) -> Outcome:
    """Independent stages in parallel in ``workers`` processes of ``threads`` threads each.

    A stage whose worker died without a word is tried again, ``retries`` times.
    """
    started = time.perf_counter()
    schedule = _Schedule(stages, store, notice, retries)
    pool: list[_Worker] = []
    try:
        while schedule.waiting or schedule.running:
            ready = schedule.ready()
            while len(pool) < min(workers, len(ready) + len(schedule.running)):
                slot = min(set(range(workers)) - {w.slot for w in pool})
                pool.append(_Worker(store.root, runtime, threads, workers, slot))
            idle = [w for w in pool if w.stage is None]
            for worker, following in zip(idle, ready, strict=False):
                try:
                    worker.give(following)
                except OSError:  # It died while it had nothing to do.
                    pool.remove(worker)
                    worker.stop()
                    continue
                schedule.start(following)
            busy = [w for w in pool if w.stage is not None]
            for connection in wait([w.connection for w in busy], timeout=0.5):
                worker = next(w for w in busy if w.connection is connection)
                stage = worker.stage
                assert stage is not None
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    pool.remove(worker)
                    schedule.died(stage, worker.process.exitcode, worker.last_words())
                    worker.stop()
                    continue
                worker.stage = None
                schedule.finish(stage, result)
            tick()
    except KeyboardInterrupt as error:
        raise Interrupted from error
    finally:
        for worker in pool:
            with contextlib.suppress(Exception):
                worker.stop()
    schedule.outcome.seconds = time.perf_counter() - started
    return schedule.outcome


def run(
    stages: Iterable[Stage],
    store: Store,
    runtime: Runtime,
    launcher: str,
    workers: int,
    threads: int,
    notice: Notice = lambda event, stage, words: None,
    tick: Callable[[], None] = lambda: None,
    retries: int = 2,
) -> Outcome:
    """Run stages on a launcher: ``local`` or ``debug``."""
    if launcher == "debug":
        import torch

        torch.set_num_threads(threads)
        return run_debug(stages, store, runtime, notice)
    return run_local(stages, store, runtime, notice, workers, threads, tick, retries)
