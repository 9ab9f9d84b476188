"""Running a plan's stages: in this process (debug), or in worker processes (local)."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.launchers.schedule import Notice, Outcome, Schedule
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store
from piflow_bench.threads import use_threads

PROCESSES = multiprocessing.get_context("spawn")
"""How workers are started: a GPU does not survive a fork."""


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
        self.slot = slot
        self.connection, child = PROCESSES.Pipe()
        handle, name = tempfile.mkstemp(prefix="piflow-worker-")
        os.close(handle)
        self.log = Path(name)
        arguments = (child, str(root), runtime, threads, workers, os.getpid(), slot, name)
        self.process = PROCESSES.Process(target=_worker, args=arguments, daemon=True)
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


def run_debug(stages: Iterable[Stage], store: Store, runtime: Runtime, notice: Notice) -> Outcome:
    """One stage after the other, in this process."""
    started = time.perf_counter()
    schedule = Schedule(stages, store, notice)
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
    schedule = Schedule(stages, store, notice, retries)
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
