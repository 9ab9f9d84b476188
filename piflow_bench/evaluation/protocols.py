"""Protocols: everything that decides a number, for runs and for ``evaluate``, under one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.settings import build_dataclass, setting

PACKAGE = "piflow_experiments.protocol"
IMAGES = "uint8 RGB; floats by floor(255 x + 1/2), alpha dropped, grey repeated"
USUAL = "default"
"""The protocol where none is named."""
WHOLE = ("imitation", "data", "truth")
"""Questions that can be the primary one."""
HALVES = ("first_half", "second_half")
"""Data's question of one half of the samples and of the held-out data: ways of sampling are chosen
by the first, and what came of the choice is read off the second."""
QUESTIONS = (*WHOLE, *HALVES)
OF_DATA = ("data", *HALVES)
"""Questions whose reference is held-out data."""
Rules = Mapping[str, Any]
"""What decides a number, resolved to plain values, by the name a user would set."""
GUIDANCE = ("guidance", "guidance_low", "guidance_high")
"""The teacher's settings that decide how it is sampled, and nothing of what it is."""


@dataclass
class Protocol:
    """The rules of an evaluation. Features are float32 and statistics float64 for all.

    ``evaluate`` scores images by the first extractor; what is below ``curve_samples`` is of runs,
    which make samples and references themselves.
    """

    name: str = setting("???")
    title: str = setting("")
    extractors: list[str] = setting(factory=list)  # the first one's numbers are the primary ones
    metrics: list[str] = setting(factory=list, choices=all_metrics)
    settings: dict[str, Any] = setting(factory=dict)  # of the metrics
    # of the extractors' networks
    precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    samples: int = setting(2000, least=20)  # that a run scores
    fixed: bool = False  # whether `evaluate` scores that many too; else all that are given
    curve_samples: int = setting(1000, least=20)  # at earlier checkpoints of the budget
    curve_metrics: list[str] = setting(factory=lambda: ["fd", "recall"], choices=all_metrics)
    curve_extractors: list[str] | None = setting(None)  # None: the first one
    data_samples: int = setting(1400, least=20)  # of the samples, those compared with held-out data
    reference_samples: int = setting(20000, least=20)
    reference_seed: int = setting(1_000_003, least=0)
    # of sampling; bf16: autocast
    sampling_precision: str = setting("fp32", choices=("fp32", "bf16"))
    questions: list[str] = setting(factory=lambda: ["imitation", "data"], choices=QUESTIONS)
    # the same-noise distance to the teacher
    agreement: str | None = setting("teacher_mse", choices=("teacher_mse", "flow_map_error"))
    primary_question: str = setting("imitation", choices=WHOLE)
    primary_quality: str = setting("fd", choices=all_metrics)
    primary_diversity: str = setting("recall", choices=all_metrics)

    @property
    def extractor(self) -> str:
        """The first extractor."""
        return self.extractors[0]

    @property
    def scored(self) -> int | None:
        """How many images ``evaluate`` scores; None: all that are given."""
        return self.samples if self.fixed else None

    @property
    def measuring(self) -> dict[str, Any]:
        """Every setting that decides a metric's value, defaults written out."""
        # `list` shows protocols' names and must not wait for numpy.
        from piflow_bench.evaluation.settings import AFFECT_NO_VALUE, make_settings

        found = dataclasses.asdict(make_settings(self.settings, "protocol.settings"))
        for name, own in found.pop("of_metrics").items():
            found |= {f"{name}.{key}": value for key, value in own.items()}
        return {key: value for key, value in found.items() if key not in AFFECT_NO_VALUE}

    def rules(self, extractor: str, samples: int, reference: str, classes: str) -> Rules:
        """The rules of one set's scores, with every default written out.

        Args:
            extractor: the network's identity: name, resizing, digest of its weights.
            samples: how many are scored.
            reference: digest of the reference set.
            classes: how samples spread over classes, in words, where a metric looks at them.
        """
        return {
            "images": IMAGES,
            "extractor": extractor,
            "precision": self.precision,
            "samples": samples,
            "reference": reference,
            "classes": classes,
            **self.measuring,
        }


def rules_hash(rules: Rules) -> str:
    """Twelve digits that stand for the rules."""
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def guidance_of(rules: Rules) -> dict[str, Any]:
    """The settings of the teacher's guidance among the rules; empty where they name none."""
    settings = (rules.get("teacher") or {}).get("settings") or {}
    return {name: settings[name] for name in GUIDANCE if name in settings}


def unguided(rules: Rules) -> Rules:
    """The rules without the teacher's guidance: against real data it is a way of sampling."""
    teacher = rules.get("teacher") or {}
    settings = {k: v for k, v in (teacher.get("settings") or {}).items() if k not in GUIDANCE}
    return {**rules, "teacher": {**teacher, "settings": settings}}


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


def titles() -> dict[str, str]:
    """What every named protocol is, in words."""
    return {name: _content(name)["title"] for name in names()}


def load_protocol(name: str) -> Protocol:
    """The protocol of that name, or of a file of one's own (``./mine.yaml``).

    Raises:
        UserError: naming the nearest, or what is wrong in the file.
    """
    where = f"protocol={name}"
    found: Protocol = build_dataclass(Protocol, settings_of(name), where)
    for key in ("extractors", "metrics"):
        if not getattr(found, key):
            raise UserError(f"{where}.{key}=[]: at least one is needed")
    return found


def is_own(name: str) -> bool:
    """Whether what is given as a protocol is a file of one's own, there or not."""
    return Path(name).suffix in (".yaml", ".yml")


def is_file(name: str) -> bool:
    """Whether a protocol is a file of one's own that is there."""
    return is_own(name) and Path(name).is_file()


def settings_of(name: str) -> dict[str, Any]:
    """What a named protocol, or a file of one's own, says, as it stands there; and its name.

    Raises:
        UserError: naming the nearest, or where the file is none of settings.
    """
    return {"name": Path(name).stem, **_content(name)}


def _content(name: str) -> dict[str, Any]:
    import yaml

    if is_own(name):
        if not is_file(name):
            raise UserError(f"protocol={name}: no such file")
        try:
            text = Path(name).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"protocol={name}: is no text in UTF-8") from error
    elif name in names():
        text = (files(PACKAGE) / f"{name}.yaml").read_text("utf-8")
    else:
        raise UserError(f"protocol={name}: no such protocol; {nearest(name, names())}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"protocol={name}: no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"protocol={name}: must hold settings, a line each")
    return content
