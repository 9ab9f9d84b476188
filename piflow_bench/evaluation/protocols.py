"""Named protocols of scoring: everything that decides a number, under one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from piflow_bench.errors import UserError, nearest

PACKAGE = "piflow_experiments.scoring"


@dataclass(frozen=True)
class Protocol:
    """The rules of a score.

    Fixed for all: images are uint8 RGB (floats by ``floor(255 x + 1/2)``, alpha dropped, grey
    repeated), features float32, statistics float64, TF32 and half precision off.
    """

    name: str
    extractor: str
    metrics: tuple[str, ...]
    samples: int | None = None
    """How many samples are scored; None: all that are given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the metrics (see ``evaluation.settings.Settings``)."""
    title: str = ""

    def hashed(self, extractor: str, samples: int) -> str:
        """Hash of what decides a number: the rules, the extractor's identity, the sample count."""
        content = dataclasses.asdict(self) | {"extractor": extractor, "samples": samples}
        del content["title"], content["name"], content["metrics"]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def names() -> list[str]:
    """All named protocols."""
    return sorted(
        p.name.removesuffix(".yaml") for p in files(PACKAGE).iterdir() if p.name.endswith(".yaml")
    )


def load_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: naming the nearest.
    """
    import yaml

    if name not in names():
        raise UserError(f"protocol={name}: no such protocol; {nearest(name, names())}")
    content = yaml.safe_load((files(PACKAGE) / f"{name}.yaml").read_text("utf-8"))
    content["metrics"] = tuple(content["metrics"])
    return Protocol(name=name, **content)
