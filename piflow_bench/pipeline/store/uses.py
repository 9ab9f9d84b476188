"""Which runs use which artifacts: records in the store, for `store ls` and `gc`.

A record is of a run's folder and a configuration: what an earlier one of the same folder used is
not forgotten before its results are replaced.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store

FOLDER = "uses"
OF_THE_CALL = (
    "name", "launcher", "scale", "sample_batch", "save_seconds", "store", "runs", "logger",
)  # fmt: skip
"""Settings that name no stage."""
RUN = "run.json"
"""What a folder of results says of itself; ``settings`` in it is the digest of its settings."""
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
        """Whether its results still exist, and none of other settings have replaced them."""
        return self.run.is_dir() and not self.is_replaced

    @property
    def is_replaced(self) -> bool:
        """Whether the folder holds results of other settings, written after its last call."""
        held = read_json(self.run / RUN)
        if not isinstance(held, dict) or held.get("settings", self.settings) == self.settings:
            return False
        return (self.run / RUN).stat().st_mtime > self.began

    def counts(self, days: float) -> bool:
        """Whether its artifacts are kept: its results exist, or it was called of late."""
        return self.is_there or time.time() - self.began < days * DAY


def settings_digest(config: ExperimentConfig) -> str:
    """Digest of the settings that name a run's stages: not of those of where and how they run."""
    plain = {k: v for k, v in to_plain(config).items() if k not in OF_THE_CALL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def record_use(store: Store, run: Path, stages: Iterable[Stage], settings: str) -> None:
    """Remember that a run of these settings uses these stages' artifacts; before they are made."""
    path = _place(store, run, settings)
    path.parent.mkdir(exist_ok=True)
    content: dict[str, Any] = {
        "run": str(run.absolute()),
        "began": time.time(),
        "settings": settings,
        "artifacts": [s.name for s in stages],
    }
    write_json(path, content)
    grown = frozenset(content["artifacts"])
    for use in uses(store):  # Of what has grown one record says all.
        if use.run == run.absolute() and use.settings != settings and use.artifacts <= grown:
            use.record.unlink(missing_ok=True)


def stages_of(store: Store, settings: str) -> frozenset[str] | None:
    """The names of the stages that the last call with these settings had; None without one."""
    found = [use for use in uses(store) if use.settings == settings]
    return max(found, key=lambda use: use.began).artifacts if found else None


def _place(store: Store, run: Path, settings: str) -> Path:
    content = f"{run.absolute()}\0{settings}"
    return store.root / FOLDER / f"{hashlib.sha256(content.encode()).hexdigest()[:20]}.json"


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
