"""Several processes that encode the shards of one folder."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.job import Job, Report
from piflow_bench.preparation.shards import LATENTS, encode_shards
from piflow_bench.preparation.unfinished import room


def _worker(
    rank: int, job: Job, autoencoder: str, device: str, threads: int, tell: Connection
) -> None:
    """One of several processes; tells of its images, and of what the user can mend."""
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    torch.set_num_threads(threads)
    before: int | None = None  # What was there at the start is the parent's to tell.

    def report(what: str, done: int, total: int) -> None:
        nonlocal before
        tell.send((0 if before is None else done - before, what))
        before = done

    try:
        with room(job.folder):
            encode_shards(replace(job, coder=Autoencoder.load(autoencoder, device)), report)
    except UserError as error:
        tell.send((None, str(error)))
        raise SystemExit(2) from error
    except (KeyboardInterrupt, BrokenPipeError):  # The parent is gone, and with it the call.
        raise SystemExit(130) from None


def in_processes(
    job: Job,
    autoencoder: str,
    device: str,
    processes: int,
    report: Report,
) -> None:
    """Encode all shards in processes of their own; the first one's trouble ends them all."""
    context = multiprocessing.get_context("spawn")  # A GPU does not survive a fork.
    total = len(job.images)
    done = sum(len(rows) for i, rows in enumerate(job.shards()) if job.is_done(i))
    report(LATENTS, done, total)
    threads = max(torch.get_num_threads() // processes, 1)
    bare = replace(job, coder=None)
    running: dict[Any, Any] = {}  # A pipe to hear from, and its process.
    try:
        for rank in range(processes):
            hear, tell = context.Pipe(duplex=False)
            arguments = (rank, bare, autoencoder, device, threads, tell)
            running[hear] = context.Process(target=_worker, args=arguments, daemon=True)
            running[hear].start()
            tell.close()  # So that its end is heard when the process ends.
        while running:
            ready: list[Any] = wait(list(running))
            for end in ready:
                try:
                    images, text = end.recv()
                except EOFError:
                    process = running.pop(end)
                    process.join()
                    if process.exitcode:
                        raise RuntimeError(
                            f"a process ended with code {process.exitcode}; -9 is the kernel's, "
                            "out of memory: fewer processes, or a smaller batch"
                        ) from None
                    continue
                if images is None:
                    raise UserError(text)
                done = min(done + images, total)
                report(text, done, total)
    finally:
        for process in running.values():
            process.terminate()
            process.join()
