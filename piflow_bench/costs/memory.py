"""The memory that a piece of work takes at its peak, and what it frees."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROUGH = 2**26
"""Bytes by which Linux's counts of what is resident and of its peak may differ by themselves."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
KEPT, MAPPED = 2**28, 2**25
"""Freed bytes that a process keeps, and the size from which a tensor is a mapping of its own."""


def keep_freed() -> None:
    """Freed memory stays with this process, up to ``KEPT`` bytes, for the next tensors.

    By default glibc hands tensors of 128 KiB and more back to the system and takes them anew, a
    page fault for every 4 KiB: a fifth of a small network's forward pass.
    """
    with suppress(AttributeError, OSError):  # glibc alone has it.
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


class PeakMemory:
    """Counts from its beginning on, in this process alone.

    On a GPU the bytes that tensors took. On a CPU under Linux the growth of the process's resident
    set: what it held before does not count. Elsewhere unknown.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._before = float("nan")
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _give_back()
            _forget_peak()
            now, peak = _resident("VmRSS"), _resident("VmHWM")
            # A system may refuse, or take the request and do nothing.
            self._before = now if peak - now < ROUGH else float("nan")

    def read(self) -> float:
        """Bytes at the peak so far; NaN where that cannot be known."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return max(_resident("VmHWM") - self._before, 0.0)


def _give_back() -> None:
    """What earlier work freed goes back to the system: taken again, it would not be growth."""
    with suppress(AttributeError, OSError):  # glibc alone has it.
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    with suppress(OSError):
        CLEAR.write_text("5")  # proc(5): sets the peak to what is resident now.


def _resident(name: str) -> float:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024.0 * int(found[1]) if found else float("nan")
