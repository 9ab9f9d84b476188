"""How long work looks: bars on a terminal, a line now and then elsewhere, alike for all verbs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


def bars(console: Console, transient: bool = False) -> Progress:
    """Bars with time left; tasks have a field ``words``. Nothing is drawn off a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )


def duration(seconds: float) -> str:
    """Words for a length of time."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_left(made: float, left: float, seconds: float) -> str:
    """Words for the time that is left by the pace so far; empty in the first hundredth of it."""
    told = left > 0 and made >= 0.01 * (made + left)
    return f"about {duration(left * seconds / made)} left" if told else ""


def now_and_then(say: Callable[[str], None], every: float) -> Callable[[str], None]:
    """``say``, but silent until so many seconds have passed since its last word, or since now."""
    last = time.monotonic()

    def report(words: str) -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            say(words)

    return report


@dataclass
class _Work:
    """One kind of work: how much of it is done, and since when."""

    what: str
    done: int
    total: int
    began: float
    first: int
    """How much was done when it began, by an earlier call."""

    def line(self, now: float) -> str:
        """How far it is, and the time that is left by the pace so far."""
        seconds = now - self.began
        words = f"{self.what}: {self.done:,} of {self.total:,} after {duration(seconds)}"
        left = time_left(self.done - self.first, self.total - self.done, seconds)
        return f"{words}; {left}" if left else words


@contextmanager
def told(console: Console, every: float | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """``report(what, done, total)`` for work of several kinds, one after the other.

    On a terminal each has a bar; elsewhere a line says how far the last one is, every so many
    seconds, also while nothing is reported.
    """
    if console.is_terminal:
        with _as_bars(console) as drawn:
            yield drawn
        return
    # What nobody reports is the time before the first work.
    last = [_Work("opening and checking the inputs", 0, 0, time.monotonic(), 0)]
    over = threading.Event()

    def report(what: str, done: int, total: int) -> None:
        if last[0].what != what:
            last[0] = _Work(what, done, total, time.monotonic(), done)
        last[0].done, last[0].total = done, total

    def speak() -> None:
        while not over.wait(EVERY if every is None else every):
            work, now = last[0], time.monotonic()
            words = work.line(now) if work.total else f"{work.what}: {duration(now - work.began)}"
            console.print(words, highlight=False, markup=False, soft_wrap=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield report
    finally:
        over.set()
        speaker.join()


@contextmanager
def _as_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work, from when there is some; they are gone when all is done."""
    progress = bars(console, transient=True)
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            progress.start()
            tasks[what] = progress.add_task(what, total=total, words="")
        progress.update(tasks[what], completed=done, total=total, words=f"{done:,} of {total:,}")

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()
