"""Reading the next steps' data in a thread, while the present one is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class ReadAhead:
    """``read(step)``, made up to ``depth`` steps ahead; with depth 0, when it is asked for.

    An error of ``read`` is raised where its step is asked for.
    """

    def __init__(self, read: Callable[[int], Any], depth: int = 2) -> None:
        self.read, self.depth = read, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if depth else None
        self._waiting: dict[int, Future[Any]] = {}

    def get(self, step: int) -> Any:
        """What ``read(step)`` gives."""
        if self._pool is None:
            return self.read(step)
        for ahead in range(step, step + self.depth + 1):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self.read, ahead)
        for old in [s for s in self._waiting if s < step]:
            self._waiting.pop(old).cancel()
        return self._waiting.pop(step).result()

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
