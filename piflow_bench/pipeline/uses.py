"""Which runs use which artifacts: a record of every run in the store, for `store ls` and `gc`."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.pipeline.graph import Stage
from piflow_bench.pipeline.store import Store

FOLDER = "uses"
DAY = 86400.0


@dataclass(frozen=True)
class Use:
    """A run and the names of the artifacts that it is made of."""

    run: Path
    """Its folder of results."""
    began: float
    """Seconds since 1970, of the last call."""
    artifacts: frozenset[str]
    record: Path
    """The file that says so."""

    @property
    def is_there(self) -> bool:
        """Whether its results still exist."""
        return self.run.is_dir()

    def counts(self, days: float) -> bool:
        """Whether its artifacts are kept: its results exist, or it was called of late."""
        return self.is_there or time.time() - self.began < days * DAY


def record_use(store: Store, run: Path, stages: Iterable[Stage]) -> None:
    """Remember that a run uses these stages' artifacts; before they are made."""
    run = run.absolute()
    path = store.root / FOLDER / f"{hashlib.sha256(str(run).encode()).hexdigest()[:20]}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"run": str(run), "began": time.time(), "artifacts": [s.name for s in stages]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def uses(store: Store) -> list[Use]:
    """All recorded runs."""
    found = []
    for path in sorted((store.root / FOLDER).glob("*.json")):
        content = json.loads(path.read_text())
        names = frozenset(content["artifacts"])
        found.append(Use(Path(content["run"]), content["began"], names, path))
    return sorted(found, key=lambda u: str(u.run))
