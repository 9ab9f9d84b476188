"""LoRAs of other projects' tools, in whatever layout, as a role's layers.

diffusers knows the layouts (its own, kohya's with ``lora_down`` and ``alpha``, others); of a file
it makes ``transformer.NAME.lora_A.weight``. Scales are folded into B: here every LoRA has scale 1.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.files.weights import read_weights, without_values
from piflow_bench.networks.text_to_image.loading import quietly

LOADERS = {
    "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "QwenImageTransformer2DModel": "QwenImageLoraLoaderMixin",
}
"""diffusers' readers of LoRAs, by the class of the transformer."""
PREFIX = "transformer."


def read_lora(
    path: Path, transformer: nn.Module, where: str, scale: float = 1.0
) -> dict[str, Tensor]:
    """The LoRAs of a file, ``NAME.lora_A.weight`` ``(r, in)`` and ``NAME.lora_B.weight``.

    Args:
        path: a safetensors file; of a frame's its header alone is read.
        transformer: of diffusers, whose layers they change; perhaps a frame without weights.
        where: what gave it, for messages.
        scale: that it is used with.

    Raises:
        UserError: if it has no LoRA of a transformer, one of a text encoder, half of one, or those
            of another transformer.
    """
    from diffusers import loaders

    reader: Any = getattr(loaders, LOADERS[type(transformer).__name__])
    given = read_weights(path, values=not without_values(transformer)).state
    try:
        with quietly():
            state = dict(reader.lora_state_dict(dict(given)))
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: no LoRA that diffusers knows ({words})") from error
    if any(name.startswith("text_encoder") for name in state):
        raise UserError(f"{where}: changes the text encoder, too; prompts are encoded without it")
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, end = _parts(name.removeprefix(PREFIX))
        if end is None:
            raise UserError(f"{where}: has {name}, which is no part of a LoRA")
        found[f"{layer}.{end}.weight"] = value
    layers = {name.rpartition(".lora_")[0] for name in found}
    for layer in sorted(layers):
        a, b = (found.get(f"{layer}.lora_{part}.weight") for part in "AB")
        if a is None or b is None:
            raise UserError(f"{where}: has half of a LoRA of {layer}")
        # What a file says of alpha beside its converted tensors is diffusers' network_alphas.
        alpha = given.get(f"{PREFIX}{layer}.alpha", given.get(f"{layer}.alpha"))
        own = scale if alpha is None or _converted(given) else scale * float(alpha) / len(a)
        found[f"{layer}.lora_B.weight"] = own * b.float()
        found[f"{layer}.lora_A.weight"] = a.float()
    if not layers:
        raise UserError(f"{where}: has no LoRA of the transformer")
    _check(found, transformer, where)
    return found


def _check(found: dict[str, Tensor], transformer: nn.Module, where: str) -> None:
    """Refuse LoRAs of layers that a transformer has not, or has otherwise."""
    for name, value in found.items():
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        try:
            own: Any = transformer.get_submodule(layer)
        except AttributeError as error:
            raise UserError(f"{where}: of another base, which has a layer {layer}") from error
        side = own.in_features if part == "lora_A" else own.out_features
        if value.shape[1 if part == "lora_A" else 0] != side:
            shape = "x".join(map(str, value.shape))
            raise UserError(f"{where}: of another base: {name} is {shape}, for {side} features")


def _converted(given: dict[str, Tensor]) -> bool:
    """Whether diffusers turned another tool's layout into its own, alpha included."""
    return any(".lora_down." in name for name in given)


def _parts(name: str) -> tuple[str, str | None]:
    """A layer's name and lora_A or lora_B, from a tensor's."""
    match = re.fullmatch(r"(.+)\.(lora_[AB])(?:\.[\w-]+)?\.weight", name)
    return (match[1], match[2]) if match else (name, None)
