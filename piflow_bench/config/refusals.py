"""What is refused while composing, in one line: the key, the value, the nearest valid one."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from piflow_bench.config.files import OwnFile
from piflow_bench.config.overrides import METHOD
from piflow_bench.config.schema import (
    ExperimentConfig,
    VariantConfig,
)
from piflow_bench.errors import UserError, nearest

_TEACHERS = ["checkpoint", "units", "reverse", "heads", "guidance", "guidance_low"]
_TEACHERS += ["guidance_high", "dim", "depth", "untrained", "backbone", "backbone_steps"]
RENAMED = {
    "checkpoint": "teacher.checkpoint",
    "dataset.fit_backbone": "teacher=closed-form, which has it",
    "dataset.settings.autoencoder": "space.autoencoder",
    "dataset.settings.autoencoder_dtype": "space.dtype",
    "dataset.settings.uint8": "space.uint8",
    "dataset.settings.weights": "extractors.inception.weights",
    "dataset.settings.generated": "profile=smoke, which has it",
    "protocol.precision=fp32": "protocol.sampling_precision=fp32",
    "protocol.precision=bf16": "protocol.sampling_precision=bf16",
    **{f"dataset.settings.{key}": f"teacher.{key}" for key in _TEACHERS},
}
"""Settings of earlier versions, and what they are called."""


def renamed(key: str) -> str | None:
    """What a setting of an earlier version is called; None of one that never was."""
    if key in RENAMED:
        return RENAMED[key]
    if key.startswith("dataset.settings."):
        return f"dataset.{key.removeprefix('dataset.settings.')}"
    return None


def refuse_renamed(arguments: Sequence[str]) -> None:
    """UserError for a setting of an earlier version, with its name of now."""
    for argument in arguments:
        written = argument.lstrip("+~")
        key = written if written in RENAMED else written.partition("=")[0]
        now = renamed(key)
        if now is not None:
            raise UserError(f"{key}: is called {now} now")


def refuse_no_truth(override: Any) -> None:
    """Numbers given to a switch, which hydra would take for true."""
    kind: Any = ExperimentConfig
    for name in override.key_or_group.split("."):
        kind = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in values if kind is bool else ():
        if not isinstance(value, bool):
            raise UserError(f"{override.key_or_group}={value}: must be bool: true or false")


def check_group(key: str, override: Any, options: Sequence[str], files: Collection[str]) -> None:
    """UserError for a group's option that is neither there nor a file of one's own."""
    value = override.value()
    values = (
        [str(v) for v in override.sweep_iterator()]
        if override.is_sweep_override()
        else [str(value)]
    )
    for name in values:
        if name not in options and name not in files and name != "None":
            raise UserError(f"{key}={name}: no such {key}; {nearest(name, list(options))}")


def _flat_keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _flat_keys(value, f"{prefix}{name}.")
    return keys


def explain(
    error: Exception, overrides: Sequence[str], loader: Any, files: Mapping[str, OwnFile]
) -> str:
    """One line for a composition error: the key, the value, the nearest valid key."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause)
    groups = loader.list_groups("")
    chosen = [o for o in overrides if o.partition("=")[0] in groups]
    try:
        composed = OmegaConf.to_container(hydra_compose("config", overrides=chosen), resolve=False)
        assert isinstance(composed, Mapping)
        valid = _flat_keys(composed) + groups
        variants = list(composed["variants"])
    except Exception:
        valid, variants = [], []
    first, *further = text.splitlines()
    if first.endswith("raised while composing config:") and further:
        first = further[0]
    new = {method[1] for method in map(METHOD.fullmatch, overrides) if method}
    for override in overrides if valid else []:
        key, _, value = override.lstrip("+~").partition("=")
        parts = key.split(".")
        if parts[0] == "variants" and len(parts) > 2 and parts[1] not in {*variants, *new}:
            return (
                f"variants.{parts[1]}: no such variant; a new one needs its method "
                f"(variants.{parts[1]}.method=NAME); {nearest(parts[1], variants)}"
            )
        whole = parts[0] == "variants" and len(parts) == 2
        if key not in valid and not whole and (parts[-1] in text or f"'{key}'" in str(error)):
            return f"{key}: no such setting; {_nearest_key(key, valid)}"
    key_match = re.search(r"full_key: (\S+)", text)
    if key_match and key_match.group(1):
        full = key_match.group(1)
        if first.startswith("Missing mandatory value") and full.endswith(".method"):
            return f"{full}: is needed: the name of a method, see `piflow_bench list methods`"
        if re.match(r"Key '.+' not in 'VariantConfig'", first):
            known = [f.name for f in dataclasses.fields(VariantConfig)]
            return f"{full}: no such setting; {nearest(full.rpartition('.')[2], known)}"
        if first.endswith("is incompatible with (str)"):
            return f"{full.rpartition('.')[0]}: is given one by one: {full}=VALUE"
        if "not a subclass of VariantConfig" in first:
            first = "must be settings, such as {method: kd}"
        for override in overrides:
            key, _, value = override.lstrip("+~").partition("=")
            if key == full.partition("[")[0]:
                given = "ListConfig" in first and value.startswith("[")
                if "Dict[" in first or key in _of_settings() or given:
                    first = f"it holds settings, which are given one by one: {key}.KEY=VALUE"
                elif "ListConfig" in first:
                    first = f"must be a list, such as {key}=[{value}]"
                return f"{key}={value}: {first}"
        if "ListConfig" in first:
            first = f"must be a list, such as {full}: [1]"
        first = f"{full}: {first}"
    own = next((f"{f.key}={f.path}: " for n, f in files.items() if n in str(error)), "")
    return f"{own}{first}"


def _of_settings() -> set[str]:
    """Fields of an experiment that hold settings by name or key."""
    return {f.name for f in dataclasses.fields(ExperimentConfig) if f.default_factory is dict}


def _nearest_key(key: str, valid: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if not close:
        last = key.split(".")[-1]
        close = [
            k
            for k in valid
            if k.split(".")[-1]
            in difflib.get_close_matches(last, [v.split(".")[-1] for v in valid])
        ][:1]
    return f"did you mean '{close[0]}'?" if close else "see `piflow_bench show`"
