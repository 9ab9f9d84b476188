"""Named protocols of scoring: everything that decides a number, under one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from piflow_bench.errors import UserError, nearest

PACKAGE = "piflow_experiments.scoring"
IMAGES = "uint8 RGB; floats by floor(255 x + 1/2), alpha dropped, grey repeated"
Rules = Mapping[str, Any]
"""What decides a number, resolved to plain values, by the name a user would set."""


@dataclass(frozen=True)
class Protocol:
    """The rules of a score. Features are float32 and statistics float64 for all."""

    name: str
    extractor: str
    metrics: tuple[str, ...]
    samples: int | None = None
    """How many samples are scored; None: all that are given."""
    precision: str = "float32"
    """Of the feature network: float32, tf32 or bfloat16."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the metrics (see ``evaluation.settings.Settings``)."""
    title: str = ""

    def rules(self, extractor: str, samples: int, reference: str, classes: str) -> Rules:
        """The rules with every default written out.

        Args:
            extractor: the network's identity: name, resizing, digest of its weights.
            samples: how many are scored.
            reference: digest of the reference set.
            classes: how samples spread over classes, in words, where a metric looks at them.
        """
        # `list` shows protocols' names and must not wait for numpy.
        from piflow_bench.evaluation.settings import AFFECT_NO_VALUE, make_settings

        settings = dataclasses.asdict(make_settings(self.settings))
        return {
            "images": IMAGES,
            "extractor": extractor,
            "precision": self.precision,
            "samples": samples,
            "reference": reference,
            "classes": classes,
            **{key: settings[key] for key in settings if key not in AFFECT_NO_VALUE},
        }


def rules_hash(rules: Rules) -> str:
    """Twelve digits that stand for the rules."""
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def differences(a: Rules, b: Rules) -> list[str]:
    """What two sets of rules disagree on: ``key: value of a, value of b``."""
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)!r} and {b.get(key)!r}" for key in keys]


def refuse_mixture(rules: Mapping[str, Rules], where: str) -> None:
    """UserError if rows of more than one protocol meet; ``rules`` by hash, ``where`` in words."""
    if len(rules) < 2:
        return
    (first, a), (second, b) = sorted(rules.items())[:2]
    found = "; ".join(differences(a, b)) or "in what older results do not state"
    raise UserError(
        f"results of different protocols cannot be compared ({where}): {first} and {second} "
        f"differ in {found}; evaluate all under one protocol"
    )


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
