"""Files of pi-Flow's published adapters: read into a policy network's state, and written.

A file holds a role's layers and a head, without prefix. Heads' outputs lie as (K, C, 2, 2) there;
in a backbone's order, (4, K, C), here. The scale of its LoRAs is 1: it states no alpha.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.files.weights import WEIGHTS, read_weights
from piflow_bench.networks.text_to_image.packing import PATCH, places_first, places_last

MEANS, LOGWEIGHTS, ESTIMATES = "proj_out_means", "proj_out_logweights", "proj_out"
OWN_ESTIMATES = "proj_out_2"
"""The DX head's name in this project, as in the ImageNet students' files."""


@dataclass(frozen=True)
class PublishedAdapter:
    """A student in a published file."""

    state: dict[str, Tensor]
    """Its layers under the base's names, and its head in a backbone's order."""
    policy: str
    """gm | dx-grid | dx-polynomial, as pi-Flow's ``policy`` setting says it."""
    components: int
    """K of the mixture, or N of the estimates."""
    options: dict[str, Any]
    """What else the file says of its policy, as ``shift``."""


def read_adapter(
    path: Path, where: str, channels: int = 16, values: bool = True
) -> PublishedAdapter:
    """A published student, from its folder or file.

    Args:
        path: a folder with ``config.json``, or the safetensors file.
        where: what gave it, for messages.
        channels: of a latent.
        values: whether they are read; else names and shapes alone.

    Raises:
        UserError: if it has no head, or not all of one.
    """
    state = {k.removeprefix("transformer."): v for k, v in read_weights(path, values).state.items()}
    if not is_adapter(state):
        raise UserError(f"{where}: no adapter: it has no tensor NAME.lora_A.weight")
    options = _policy_of(path)
    per_estimate = channels * PATCH * PATCH
    if f"{LOGWEIGHTS}.weight" in state:
        policy, components = "gm", len(state[f"{LOGWEIGHTS}.weight"]) // PATCH**2
        for name in (MEANS, "proj_out_logstds.1", "proj_out_logstds.3"):
            _require(state, name, where)
        heads: tuple[str, ...] = (MEANS, LOGWEIGHTS)
    else:
        _require(state, ESTIMATES, where)
        polynomial = options.get("mode") == "polynomial"
        policy = "dx-polynomial" if polynomial else "dx-grid"
        components = len(state[f"{ESTIMATES}.weight"]) // per_estimate
        heads = (ESTIMATES,)
    for head in heads:
        for part in ("weight", "bias"):
            rows = state.pop(f"{head}.{part}")
            name = OWN_ESTIMATES if head == ESTIMATES else head
            state[f"{name}.{part}"] = places_first(rows, components)
    return PublishedAdapter(state, policy, components, options)


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of an adapter."""
    return any(".lora_A." in name for name in state)


def write_adapter(
    folder: Path, state: Mapping[str, Tensor], policy: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write a student's state, as :func:`read_adapter` gives it, in the published form.

    Args:
        folder: of ``config.json`` and the weights.
        state: a role's layers and its head.
        policy: the file's ``policy_config``: ``{"type": "GMFlow"}``, for example.
        config: of the base's transformer, and of the head.
    """
    out = {}
    for name, rows in state.items():
        head, _, part = name.rpartition(".")
        if head in (MEANS, LOGWEIGHTS, OWN_ESTIMATES):
            channels = 1 if head == LOGWEIGHTS else config.get("in_channels", 64) // PATCH**2
            rows = places_last(rows, len(rows) // (channels * PATCH**2))
            name = f"{ESTIMATES if head == OWN_ESTIMATES else head}.{part}"
        out[name] = rows.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"policy_config": json.dumps(dict(policy))}
    save_file(out, folder / f"{WEIGHTS}.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True))


def as_published(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], base: Mapping[str, Any], nfe: int
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """A trained student's state, policy and configuration, for :func:`write_adapter`.

    Args:
        state: a policy network's on a role: the names of its layers begin with ``backbone.``.
        settings: pi-Flow's.
        base: the configuration of the base's transformer.
        nfe: that it was trained for.

    Raises:
        UserError: if it has no policy's head.
    """
    start = "backbone."
    kept = {
        name.removeprefix(start): value
        for name, value in state.items()
        if not name.startswith(f"{start}output_layer.")
    }
    if not is_adapter(kept) or "policy" not in settings:
        raise UserError("published form: is of pi-Flow's students of a text-to-image model")
    own = {k: v for k, v in base.items() if not k.startswith("_")}
    model, shift = str(base["_class_name"]), settings["shift"]
    if settings["policy"] == "gm":
        inner = len(kept["proj_out_logstds.1.bias"])
        config = {
            "_class_name": f"GM{model}",
            "num_gaussians": settings["components"],
            "logstd_inner_dim": inner,
            "gm_num_logstd_layers": 2,
            "logweights_channels": PATCH**2,
            "constant_logstd": None,
        }
        return kept, {"type": "GMFlow"}, own | config
    policy: dict[str, Any] = {"type": "DX", "shift": shift}
    if settings["policy"] == "dx-grid":
        policy["segment_size"] = 1 / (nfe - 1 + settings["final_step_scale"])
    else:
        policy["mode"] = "polynomial"
    outputs = len(kept[f"{OWN_ESTIMATES}.bias"])
    config = {"_class_name": model, "patch_size": 1, "out_channels": outputs}
    return kept, policy, own | config


def _require(state: Mapping[str, Tensor], head: str, where: str) -> None:
    for part in ("weight", "bias"):
        if f"{head}.{part}" not in state:
            raise UserError(f"{where}: lacks {head}.{part} of its head")


def _policy_of(path: Path) -> dict[str, Any]:
    """What the file's metadata says of its policy; nothing where it says nothing."""
    file = path / f"{WEIGHTS}.safetensors" if path.is_dir() else path
    if not file.is_file():
        return {}
    with safe_open(file, "pt") as opened:
        found = json.loads((opened.metadata() or {}).get("policy_config", "{}"))
    return dict(found)
