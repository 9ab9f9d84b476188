"""Which runs use which artifacts: a record of every run in the store, for `store ls` and `gc`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.config import ExperimentConfig, to_plain
from piflow_bench.files import read_json, write_json
from piflow_bench.pipeline.graph import Stage
from piflow_bench.pipeline.store import Store

FOLDER = "uses"
OF_THE_CALL = ("launcher", "scale", "sample_batch", "save_seconds", "store", "runs")
"""Settings that name no stage."""
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
    settings: str = ""
    """Digest of the settings of its last call."""

    @property
    def is_there(self) -> bool:
        """Whether its results still exist."""
        return self.run.is_dir()

    def counts(self, days: float) -> bool:
        """Whether its artifacts are kept: its results exist, or it was called of late."""
        return self.is_there or time.time() - self.began < days * DAY


def settings_digest(config: ExperimentConfig) -> str:
    """Digest of the settings that name a run's stages: not of those of where and how they run."""
    plain = {k: v for k, v in to_plain(config).items() if k not in OF_THE_CALL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def record_use(store: Store, run: Path, stages: Iterable[Stage], settings: str) -> None:
    """Remember that a run of these settings uses these stages' artifacts; before they are made."""
    path = _place(store, run)
    path.parent.mkdir(exist_ok=True)
    content = {
        "run": str(run.absolute()),
        "began": time.time(),
        "settings": settings,
        "artifacts": [s.name for s in stages],
    }
    write_json(path, content)


def stages_of_run(store: Store, run: Path, settings: str) -> frozenset[str] | None:
    """The names of a run's stages, as its last call had them; None of one of other settings."""
    found = _read(_place(store, run))
    return found.artifacts if found is not None and found.settings == settings else None


def _place(store: Store, run: Path) -> Path:
    name = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:20]
    return store.root / FOLDER / f"{name}.json"


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
        run, began = Path(content["run"]), float(content["began"])
        return Use(run, began, names, record, str(content.get("settings", "")))
    except (KeyError, TypeError, ValueError):
        return None
