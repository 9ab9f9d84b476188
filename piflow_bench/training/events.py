"""TensorBoard's event files, made from the logs of trainings: ``logger=tensorboard``.

A log is a training's own record, and is cut where a resumed one goes on. Event files are made from
it from its beginning at every attempt, so that no point is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = Mapping[str, float]
"""A line of a training's log."""
SPENT = ("tfe", "images", "seconds")
PATTERN = "events.out.tfevents.*"


def points(row: Row, before: Row | None) -> dict[str, float]:
    """What is drawn of a line of a log: its scalars, what is spent, and steps and images a second.

    Args:
        row: the line.
        before: the line before it; None of the first.
    """
    found = {f"spent/{name}": row[name] for name in SPENT if name in row}
    found |= {f"training/{k}": v for k, v in row.items() if k not in (*SPENT, "step")}
    start = before or {"step": 0, "images": 0, "seconds": 0.0}
    seconds = row["seconds"] - start["seconds"]
    if seconds > 0:
        for name in ("step", "images"):
            label = "steps" if name == "step" else name
            found[f"throughput/{label}_per_second"] = (row[name] - start[name]) / seconds
    return found


class Events:
    """Event files in ``folder`` that follow a log."""

    def __init__(self, log: Path, folder: Path) -> None:
        self.log, self.folder = log, folder
        self.writer: Any = None
        self.read = 0
        self.before: Row | None = None

    def update(self) -> None:
        """Draw what the log has more than before."""
        if not self.log.is_file():
            return
        text = self.log.read_bytes()[self.read :]
        whole = text[: text.rfind(b"\n") + 1]  # Its last line may be half-written.
        rows = [json.loads(line) for line in whole.splitlines()]
        if not rows:
            return
        if self.writer is None:
            self._begin(rows[-1])
        for row in rows:
            for tag, value in points(row, self.before).items():
                # Time is the training's own: what was stopped for a night has no gap.
                self.writer.add_scalar(tag, value, row["step"], self.start + row["seconds"])
            self.before = row
        self.read += len(whole)

    def _begin(self, last: Row) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.start = self.log.stat().st_mtime - last["seconds"]
        for old in self.folder.glob(PATTERN):
            old.unlink()
        # What an open TensorBoard has read of earlier files it drops.
        self.writer = SummaryWriter(str(self.folder), purge_step=0, flush_secs=10)

    def close(self) -> None:
        """Write what is drawn."""
        if self.writer is not None:
            self.writer.close()


@contextmanager
def followed(
    log: Path, folder: str | None, report: Callable[[float, str], None]
) -> Iterator[Callable[[float, str], None]]:
    """``report`` for a training that writes ``log``, which event files in ``folder`` follow.

    Who never reports, as all but the first process of a training, writes none.
    """
    if folder is None:
        yield report
        return
    events = Events(log, Path(folder))

    def told(share: float, text: str) -> None:
        report(share, text)
        events.update()

    try:
        yield told
    finally:
        events.close()


def convert(log: Path, folder: Path) -> None:
    """Event files of a training that is over, unless there are some."""
    if any(folder.glob(PATTERN)):
        return
    events = Events(log, folder)
    events.update()
    events.close()
