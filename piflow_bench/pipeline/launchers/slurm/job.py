"""What a job does: makes its stages, keeps what it has when it must stop, goes back to the queue.

A training of several processes is one job in which srun starts one process for each GPU of every
node. The first holds the artifact's lock and writes; the others hear from it whether there is
something to do.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from piflow_bench import interruption
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.launchers.slurm.records import outcome_of, write_outcome
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store

WHOLE_JOB = timedelta(days=30)
"""How long processes wait for the first one, which may wait for another job's lock."""
CAUSE_SECONDS = 5.0
"""How long the first process waits for another's word on why the training failed."""


@dataclass
class Task:
    """Stages, as one job makes them."""

    root: str
    stages: tuple[Stage, ...]
    runtime: Runtime
    threads: int

    def __call__(self) -> str:
        """Make the artifacts; what became of each is in the store."""
        import torch

        from piflow_bench.training.distributed import leave_group

        torch.set_num_threads(self.threads)
        store = Store(Path(self.root))
        rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
        for stage in self.stages:
            requeue: Any = signal.getsignal(signal.SIGUSR2)
            with _stopping(stage) as asked_by:
                try:
                    if rank:
                        _follow(store, stage, self.runtime, rank, world)
                    else:
                        _lead(store, stage, self.runtime, world)
                except interruption.Stopped:
                    # A time limit or a preemption asks for the queue. What ends a job (scancel, or
                    # Slurm's own requeue) does not.
                    if asked_by() == signal.SIGUSR2:
                        if rank:
                            signal.pause()  # Leaving could end the job before the first has asked.
                        requeue(signal.SIGUSR2, None)
                    return "stopped"
        leave_group()
        return "over"

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue when the job is preempted or out of time."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextmanager
def _stopping(stage: Stage) -> Iterator[Callable[[], int]]:
    """USR2 and TERM let a stage keep what it has; yields which of them came.

    Stages that could not go on are left to Slurm: USR2 puts them back into the queue at once.
    """
    number = 0

    def ask(given: int, frame: Any) -> None:
        nonlocal number
        number = given
        interruption.ask()

    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM)}
    if stage.task.resumable:
        for s in before:
            signal.signal(s, ask)
    try:
        yield lambda: number
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _lead(store: Store, stage: Stage, runtime: Runtime, world: int) -> None:
    """Make one artifact, alone or before others."""
    lacking = [p for p in stage.parents() if not store.has(p)]
    others = _Others(0, world) if world > 1 else None
    if lacking:
        write_outcome(store, stage, "waiting", f"needs {lacking[0].label}")
        if others:
            others.tell("over")
        return

    def join() -> None:
        if others:
            others.tell("go")
            others.join(runtime)

    status, reason, trace = execute(store, stage, runtime, before=join)
    if status != "done":
        if not (others and others.joined and _told_by_another(store, stage)):
            write_outcome(store, stage, status, reason, trace)
        if others and others.joined:
            os._exit(1)  # The others may wait in a collective call; srun ends them.
    if others and not others.joined:
        others.tell("over")


def _follow(store: Store, stage: Stage, runtime: Runtime, rank: int, world: int) -> None:
    """Train with the first process, if it says so."""
    others = _Others(rank, world)
    if others.hear() != "go":
        return
    others.join(runtime)
    inputs = {n: [store.path(s) for s in stages] for n, stages in stage.inputs.items()}
    try:
        stage.task.run(inputs, store.work(stage), runtime, lambda share, text: None)
    except Exception as error:
        words = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {words[0] if words else ''} (process {rank})"
        if outcome_of(store, stage) is None:  # The first to fail is the cause.
            write_outcome(store, stage, "failed", reason, traceback.format_exc())
        os._exit(1)


def _told_by_another(store: Store, stage: Stage) -> bool:
    """Whether another process says why: this one may only have lost its connection to it."""
    until = time.monotonic() + CAUSE_SECONDS
    while outcome_of(store, stage) is None and time.monotonic() < until:
        time.sleep(0.2)
    return outcome_of(store, stage) is not None


class _Others:
    """The processes of one training: a store of torch's to talk by, then a process group."""

    def __init__(self, rank: int, world: int) -> None:
        from submitit.helpers import TorchDistributedEnvironment
        from torch.distributed import TCPStore

        self.rank, self.world, self.joined = rank, world, False
        where = TorchDistributedEnvironment()
        address = os.environ.get("MASTER_ADDR", where.master_addr)
        self.local_rank = where.local_rank
        self.store = TCPStore(address, where.master_port, world, rank == 0, WHOLE_JOB, False)

    def tell(self, word: str) -> None:
        """Say to the others: go, or over."""
        self.store.set("word", word)

    def hear(self) -> str:
        """What the first process says."""
        self.store.wait(["word"], WHOLE_JOB)
        return self.store.get("word").decode()

    def join(self, runtime: Runtime) -> None:
        """Form torch's process group."""
        from piflow_bench.training.distributed import form_group

        form_group(
            runtime.scale.device,
            self.local_rank,
            store=self.store,
            rank=self.rank,
            world_size=self.world,
        )
        self.joined = True
