"""`kill -9` at random moments: the same command again ends with the same bits."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from piflow_bench.cli import main
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.forked import Forked
from tests.pipeline.harness import (
    STUDENTS,
    alive,
    bits,
    children,
    command,
    places,
    results,
    wait_until,
)

KILLS = 20
OF_PROCESS_TREES = 5
SETTINGS = (*STUDENTS, "save_seconds=0.1")


class Runs:
    """Starts the same command again and again, below one folder at a time."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.kills, self.completed = 0, 0

    @property
    def folder(self) -> Path:
        return self.root / f"run {self.completed}"

    def finish(self, expected) -> None:
        """A run came to its end: it must be what an undisturbed one is."""
        assert bits(results(self.folder)) == expected
        assert Store(self.folder / "store").broken() == []
        self.completed += 1

    def forked(self, expected, kill: bool) -> None:
        """The debug launcher in one process, killed after a while or left to its end."""
        process = Forked(["run", *SETTINGS, "launcher=debug", *places(self.folder)], self.root)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.random.uniform(0.3, 4) if kill else 300)
        if process.poll() is None:
            process.kill()
            self.kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        if process.poll() == 0:
            self.finish(expected)

    def tree(self, expected, worker_too: bool) -> None:
        """The local launcher with its workers; after the kill no process may be left."""
        arguments = ["run", *SETTINGS, "launcher.workers=2", *places(self.folder)]
        process = Forked(arguments, self.root)
        work = self.folder / "store" / "work"
        before = set(work.glob("*")) if work.exists() else set()
        # Workers take seconds to start, in which nothing is written: count from the first stage on.
        wait_until(lambda: process.poll() is not None or set(work.glob("*")) - before, 60)
        time.sleep(self.random.uniform(0, 3))
        family = children(process.pid)
        if worker_too and family and process.poll() is None:
            victim = self.random.choice(family)
            os.kill(victim, signal.SIGKILL)
            time.sleep(self.random.uniform(0, 1))
            family = list({*family, *children(process.pid)})
        if process.poll() is None:
            process.kill()
            self.kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        assert wait_until(lambda: not any(alive(p) for p in family), 60), "orphans stay"
        if process.poll() == 0:
            self.finish(expected)


def test_kill_minus_9_at_random_moments(tmp_path):
    assert main(["run", *SETTINGS, "launcher=debug", *places(tmp_path / "whole")]) == 0
    expected = bits(results(tmp_path / "whole"))
    runs = Runs(tmp_path, seed=20)
    for i in range(OF_PROCESS_TREES):
        runs.tree(expected, worker_too=i % 2 == 1)
    while runs.kills < KILLS:
        runs.forked(expected, kill=True)
    before = runs.completed
    while runs.completed == before:
        runs.forked(expected, kill=False)


def test_an_interrupt_keeps_the_state(tmp_path):
    arguments = command(*SETTINGS, "launcher.workers=2", *places(tmp_path))
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in a shell's background ignores interrupts, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = tmp_path / "store" / "work"
    assert wait_until(lambda: list(work.glob("distill-*/state/facts.json")), 120)
    family = children(process.pid)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.count("\n") == 1
    assert "kept" in error
    assert wait_until(lambda: not any(alive(p) for p in family), 30)
    assert list(work.glob("distill-*/state/facts.json"))
    assert Store(tmp_path / "store").broken() == []
