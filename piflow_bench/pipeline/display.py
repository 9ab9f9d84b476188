"""What `run` says while it goes on: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from piflow_bench.pipeline.launchers.schedule import Failure
from piflow_bench.pipeline.live import Note
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.store.store import Store
from piflow_bench.progress_bar import EVERY, bars, duration, time_left

NAMED = 2
"""Running stages that such a line names."""


def say(console: Console, words: str) -> None:
    """A line as it is: no markup, no colours of its own, wrapped by nobody."""
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def beginning(name: str, stages: Sequence[Stage], store: Store, workers: str) -> str:
    """What is about to be done: trainings and their budgets, what is cached, by whom."""
    to_do = [s for s in stages if not store.has(s)]
    trainings = [s.task for s in to_do if isinstance(s.task, Distill)]
    amounts: dict[str, float] = {}
    for task in trainings:
        budget = task.budget
        amounts[budget["unit"]] = amounts.get(budget["unit"], 0.0) + budget["amount"]
    words = f"{name}: {len(to_do)} of {len(stages)} stages to do"
    if trainings:
        budget_words = " and ".join(f"{amount:,g} {unit}" for unit, amount in amounts.items())
        count = f"{len(trainings)} training{'s' if len(trainings) != 1 else ''}"
        words += f", {count} of {budget_words.replace('tfe', 'TFE')} in all among them"
    found = len(stages) - len(to_do)
    return f"{words}; {found} found in the store; {workers}"


class Display:
    """Progress on a terminal: one bar for all stages, one for each that runs; lines elsewhere."""

    def __init__(self, stages: Sequence[Stage], store: Store, console: Console, note: Note) -> None:
        self.store, self.console, self.note = store, console, note
        self.progress = bars(console)
        self.total = sum(s.weight for s in stages)
        self.all = self.progress.add_task(f"{len(stages)} stages", total=self.total, words="")
        self.tasks: dict[str, tuple[Stage, Any]] = {}
        self.told: set[tuple[str, int]] = set()
        self.over: set[str] = set()
        self.finished = self.cached = 0.0
        self.began = self.spoke = time.monotonic()

    def notice(self, event: str, stage: Stage, words: str) -> None:
        """An event of the launcher."""
        if event == "start":
            task = self.progress.add_task(stage.label, total=1.0, words="")
            self.tasks[stage.key] = (stage, task)
            return
        if event == "cached" and stage.key in self.over:  # Made before all others, or checked.
            return
        if event == "cached":
            self.cached += stage.weight
        else:
            self._tell_of_beginnings(stage)
        self.over.add(stage.key)
        self.finished += stage.weight
        if stage.key in self.tasks:
            self.progress.remove_task(self.tasks.pop(stage.key)[1])
        if event == "failed":
            _print_failure(self.console, stage.label, words)
            self.note(stage, words)
        elif event == "done" and not self.console.is_terminal and isinstance(stage.task, Distill):
            self.console.print(f"done {stage.label}", highlight=False)
        self.tick()

    def _tell_of_beginnings(self, stage: Stage) -> None:
        """Say once why a stage did not go on from what it had."""
        starts = self.store.starts(stage)
        words = starts[-1].anew if starts else ""
        if words and (stage.key, len(starts)) not in self.told:
            self.told.add((stage.key, len(starts)))
            say(self.console, f"begun anew {stage.label}: {words}")

    def tick(self) -> None:
        """Refresh shares from the running stages' progress files."""
        running, lines = 0.0, []
        for stage, task in self.tasks.values():
            self._tell_of_beginnings(stage)
            word = self.store.progress(stage)
            if word is not None:
                running += word.share * stage.weight
                lines.append(f"{stage.label} {word.share:.0%} ({word.text})")
                self.progress.update(task, completed=word.share, words=word.text)
        self.progress.update(self.all, completed=self.finished + running)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoke >= EVERY:
            self.spoke = now
            say(self.console, self._line(self.finished + running, lines, now - self.began))

    def _line(self, done: float, running: Sequence[str], seconds: float) -> str:
        """How far all is, what runs, and the time that is left by the pace so far."""
        words = [f"{done / max(self.total, 1e-9):.0%} after {duration(seconds)}"]
        if left := time_left(done - self.cached, self.total - done, seconds):
            words.append(left)
        words += running[:NAMED]
        if len(running) > NAMED:
            words.append(f"{len(running) - NAMED} more")
        return "; ".join(words)


def print_causes(console: Console, failures: Iterable[Failure]) -> None:
    """What failed and why, once per cause."""
    causes: dict[str, list[str]] = {}
    for failure in failures:
        if failure.root is None:
            causes.setdefault(failure.reason, []).append(failure.stage.label)
    for reason, labels in causes.items():
        others = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        _print_failure(console, f"{labels[0]}{others}", reason)


def _print_failure(console: Console, label: str, reason: str) -> None:
    # Reasons are a plugin's words: they may hold brackets, which are no markup.
    text = escape(f"{label}: {reason}")
    console.print(f"[red]failed[/] {text}", highlight=False, soft_wrap=True)
