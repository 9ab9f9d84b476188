"""How many cores there are for this process, and how many threads it computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "OPENBLAS_NUM_THREADS"


def cores() -> int:
    """Cores that this process may use: Slurm and taskset give it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux has it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_threads(torch_threads: int, workers: int) -> None:
    """Compute with so many threads from now on, one of ``workers`` processes of this machine.

    The BLAS of numpy and scipy gets this process's share of the cores. Left to itself it takes a
    thread a core in every process: two workers then wait for each other's threads in turn, and
    each takes more than twice the time of one alone. OPENBLAS_NUM_THREADS, where it is set, stands.
    """
    import torch  # Brings numpy, whose BLAS is then there to be told.
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(torch_threads)
    if VARIABLE in os.environ:
        return
    share = max(cores() // workers, torch_threads)
    threadpool_limits(share, user_api="blas")
    os.environ[VARIABLE] = str(share)  # For what is loaded later.


@contextmanager
def threads_of_its_own() -> Iterator[None]:
    """What runs inside it may compute with other threads; torch has as many after it as before."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
