"""Settings of the verb ``evaluate``: its own, and those of the metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from piflow_bench import registry
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import all_metrics, use_plugins
from piflow_bench.evaluation.options import Options
from piflow_bench.evaluation.protocols import USUAL
from piflow_bench.file_plugins import places
from piflow_bench.places import CACHE, store_root
from piflow_bench.settings import DEVICE, NPZ, build_dataclass, is_location, read_setting, setting

PATH_KEYS = {
    "samples": "samples",
    "reference": "reference",
    "teacher": "teacher",
    "prompts": "prompts",
    "labels": "labels",
    "extractor.weights": "weights",
    "lpips.weights": "lpips_weights",
    "statistics": "statistics",
    "out": "out",
    "store": "store",
    "plugins": "plugins",
}
"""Settings that are paths, taken as they are written, and the fields they fill."""
OF_SPACE = re.compile(r"space\.[A-Za-z_]\w*")
"""Files of the space that a run's samples lie in, by the key that the run has for them."""
OF_SCORERS = re.compile(r"scorers\.(\w+)\.weights")
"""Weights of metrics of pictures with prompts, by metric."""
FILES = ("samples", "reference", "teacher", "prompts", "labels", "weights", "lpips_weights")
SCORED = (
    *FILES,
    "protocol",
    "extractor",
    "metrics",
    "per_class",
    "n",
    "precision",
    "compiled",
    "scorers",
)
"""What decides which scores there are, beside the settings of the metrics."""
OF_THE_MACHINE = ("block", "device")
"""Settings of the metrics that the scores do not depend on."""


@dataclass(frozen=True)
class Settings:
    """Settings of the verb; all others are settings of the metrics."""

    samples: str = setting("")
    reference: str | None = setting(None)
    protocol: str = setting(USUAL)
    extractor: str | None = setting(None)
    weights: str | None = setting(None)
    metrics: list[str] | None = setting(None, choices=all_metrics)
    n: int | list[int] | None = setting(None, least=1)
    teacher: str | None = setting(None)
    prompts: str | None = setting(None)
    labels: str | None = setting(None)
    per_class: list[str] = setting(factory=list, choices=all_metrics)
    lpips_weights: str | None = setting(None)
    device: str = setting(Options.device, **DEVICE)
    precision: str | None = setting(None, choices=("float32", "tf32", "bfloat16"))
    compiled: bool = Options.compiled
    workers: int = setting(Options.workers, least=1)
    processes: int = setting(Options.processes, least=1)
    batch: int | None = setting(None, least=1)
    cache: bool = True
    statistics: str | None = setting(None, **NPZ)
    out: str | None = setting(None)
    store: str | None = setting(None)
    plugins: str | None = setting(None)
    space: dict[str, str] = setting(factory=dict)  # files by setting: space.autoencoder=PATH
    scorers: dict[str, str] = setting(factory=dict)  # scorers.METRIC.weights=PATH

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("samples=PATH is needed")


def parse(arguments: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """Settings of the verb, and those of the metrics.

    Raises:
        UserError: naming the key, its value and the nearest valid one.
    """
    from piflow_bench.config.paths import split_paths
    from piflow_bench.evaluation.settings import Settings as MetricSettings
    from piflow_bench.evaluation.settings import make_settings

    keys = Counter(argument.partition("=")[0] for argument in arguments)
    twice = next((key for key, count in keys.items() if count > 1), None)
    if twice is not None:
        hint = "; several sets are samples=[a,b]" if twice == "samples" else ""
        raise UserError(f"{twice}=: given twice; each setting has one value{hint}")
    if "clip.weights" in keys:
        raise UserError("clip.weights: is called scorers.clip_score.weights now")
    of_space = [key for key in keys if OF_SPACE.fullmatch(key)]
    of_scorers = [key for key in keys if OF_SCORERS.fullmatch(key)]
    overrides, paths = split_paths(arguments, [*PATH_KEYS, *of_space, *of_scorers])
    other = (*PATH_KEYS.values(), "space", "scorers")
    plain = [f.name for f in fields(Settings) if f.name not in other]
    # The device of the network serves the pairwise distances too.
    of_metrics = [f.name for f in fields(MetricSettings) if f.name not in ("device", "of_metrics")]
    files = {key.partition(".")[2]: paths.pop(key) for key in of_space}
    scorers = {key.split(".")[1]: paths.pop(key) for key in of_scorers}
    values: dict[str, Any] = {PATH_KEYS[key]: value for key, value in paths.items()}
    values |= {"space": files, "scorers": scorers}
    use_plugins(places(values.get("plugins")))
    _check_files(files, places(values.get("plugins")))
    own = {name for name, metric in all_metrics().items() if metric.Config is not None}
    metric_values: dict[str, Any] = {}
    known = [*PATH_KEYS, "space.autoencoder", "scorers.METRIC.weights", *plain, *of_metrics]
    for override in overrides:
        key = override.partition("=")[0]
        if key in of_metrics:
            metric_values[key] = read_setting(override)[1]
        elif key in plain:
            values[key] = read_setting(override)[1]
        elif key.partition(".")[0] in own:
            name, _, part = key.partition(".")
            metric_values.setdefault(name, {})[part] = read_setting(override)[1]
        else:
            raise UserError(f"{key}: no such setting; {nearest(key, known)}")
    settings = build_dataclass(Settings, values, "")
    make_settings(metric_values)
    return settings, metric_values


def _check_files(files: Mapping[str, str], folders: Sequence[str]) -> None:
    """Refuse files that no space has."""
    if not files:
        return
    configs = [plugin.load().Config for plugin in registry.find("space", folders).values()]
    known = {f.name for config in configs for f in fields(config) if is_location(config, f.name)}
    for name in files:
        if name not in known:
            raise UserError(f"space.{name}: no file of a space; {nearest(name, sorted(known))}")


def cache_of(settings: Settings) -> Path | None:
    """Where finished features are kept; None for nowhere."""
    if not settings.cache:
        return None
    return store_root(settings.store) / CACHE
