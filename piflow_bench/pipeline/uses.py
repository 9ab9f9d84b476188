"""Which runs use which artifacts: a record of every run in the store, for `store ls` and `gc`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.files import read_json, write_json
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
    write_json(path, content)


def uses(store: Store) -> list[Use]:
    """All recorded runs, without those whose records are damaged."""
    found = (_read(path) for path in (store.root / FOLDER).glob("*.json"))
    return sorted((u for u in found if u is not None), key=lambda u: str(u.run))


def damaged(store: Store) -> list[Path]:
    """Records of runs that cannot be read: nobody knows what these runs use."""
    return [p for p in sorted((store.root / FOLDER).glob("*.json")) if _read(p) is None]


def _read(record: Path) -> Use | None:
    try:
        content = read_json(record)
        names = frozenset(str(name) for name in content["artifacts"])
        return Use(Path(content["run"]), float(content["began"]), names, record)
    except (KeyError, TypeError, ValueError):
        return None
