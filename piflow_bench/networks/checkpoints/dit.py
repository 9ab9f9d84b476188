"""DiT checkpoints of the field, loaded unchanged.

Three layouts are understood, in safetensors or as PyTorch files (never unpickled):

- the official pi-Flow teachers and students (one embedding shared by all blocks), whose names are
  this package's own;
- diffusers' ``DiTTransformer2DModel``, in which every block holds a copy of the embedding;
- the original DiT, and with it SiT and REPA (``blocks``, ``x_embedder``, joint ``qkv``).

Predicted variances are dropped. What the network's time means is not in the file: see
:func:`load_dit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import (
    State,
    is_averaged,
    load_into,
    one_averaged,
    read_weights,
)
from piflow_bench.networks.checkpoints.pretrained import Pretrained
from piflow_bench.networks.dit import DiT

_INPUTS = ("pos_embed.proj.weight", "x_embedder.proj.weight")
POSITIONS = ("pos_embed", "pos_embed.pos_embed")
"""Names of the fixed position table, which some files state."""
POSITIONS_TOLERANCE = 0.01
"""Rounding of a table that was stored in half precision, and more."""


# ------------------------------------------------------------------ layouts


def dit_state(state: State, where: str = "checkpoint") -> State:
    """The tensors of a DiT under this package's names, whatever the layout; heads are kept.

    Raises:
        UserError: if it is none of the known layouts.
    """
    prefix = prefix_of(state, where)
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if "emb.timestep_embedder.linear_1.weight" in state:
        converted = {k: v for k, v in state.items() if k not in POSITIONS}
    elif "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight" in state:
        converted = _from_diffusers(state, where)
    elif "blocks.0.attn.qkv.weight" in state:
        converted = _from_original(state)
    else:
        some = ", ".join(sorted(state)[:3])
        raise UserError(
            f"{where}: no class-conditional DiT in the official, diffusers' or original layout "
            f"(it has {some}, ...)"
        )
    return _without_variances(converted)


def prefix_of(state: State, where: str = "checkpoint") -> str:
    """What stands before the names of one network of several: the averaged, never a teacher's.

    Raises:
        UserError: if there is no network, or two averaged ones.
    """
    prefixes = [k.removesuffix(end) for k in state for end in _INPUTS if k.endswith(end)]
    prefixes = [p for p in prefixes if p == "" or p.endswith(".")]
    own = [p for p in prefixes if "teacher" not in p] or prefixes
    if not own:
        some = ", ".join(sorted(state)[:3])
        raise UserError(f"{where}: no patch embedding of a DiT (it has {some}, ...)")
    return one_averaged(own, where) or min(own, key=lambda p: (len(p), p))


def _from_diffusers(state: State, where: str) -> State:
    copies: dict[str, list[Tensor]] = {}
    converted: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"transformer_blocks\.\d+\.norm1\.emb\.(.+)", name)
        if match:
            copies.setdefault(match[1], []).append(value)
        elif name not in POSITIONS:  # Fixed, and made anew.
            converted[name] = value
    for name, values in copies.items():
        if any(not _equal(v, values[0]) for v in values[1:]):
            raise UserError(f"{where}: blocks have different embeddings ({name}), a DiT has one")
        converted[f"emb.{name}"] = values[0]
    return converted


def _equal(a: Tensor, b: Tensor) -> bool:
    """By shape alone where no values were read."""
    return a.shape == b.shape and (a.is_meta or torch.equal(a, b))


_ORIGINAL = (
    (r"x_embedder\.proj\.(.+)", r"pos_embed.proj.\1"),
    (r"t_embedder\.mlp\.0\.(.+)", r"emb.timestep_embedder.linear_1.\1"),
    (r"t_embedder\.mlp\.2\.(.+)", r"emb.timestep_embedder.linear_2.\1"),
    (r"y_embedder\.embedding_table\.weight", r"emb.class_embedder.embedding_table.weight"),
    (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"transformer_blocks.\1.attn1.to_out.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(.+)", r"transformer_blocks.\1.ff.net.0.proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(.+)", r"transformer_blocks.\1.ff.net.2.\2"),
    (r"blocks\.(\d+)\.adaLN_modulation\.1\.(.+)", r"transformer_blocks.\1.norm1.linear.\2"),
    (r"final_layer\.adaLN_modulation\.1\.(.+)", r"proj_out_1.\1"),
    (r"final_layer\.linear\.(.+)", r"proj_out_2.\1"),
)
_UNUSED = re.compile(r"pos_embed|projectors\..+|blocks\.\d+\.attn\.rotary.*")
"""The fixed position table, and what REPA aligned its features with."""


def _from_original(state: State) -> State:
    converted: State = {}
    for name, value in state.items():
        joint = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(.+)", name)
        if joint:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                converted[f"transformer_blocks.{joint[1]}.attn1.to_{part}.{joint[2]}"] = third
            continue
        if _UNUSED.fullmatch(name):
            continue
        for pattern, own in _ORIGINAL:
            if re.fullmatch(pattern, name):
                name = re.sub(pattern, own, name)
                break
        converted[name] = value
    return converted


def _without_variances(state: State) -> State:
    """Outputs ``(p, p, 2 C)`` cut to the first C channels; a velocity has no variance."""
    weight = state.get("proj_out_2.weight")
    embed = state["pos_embed.proj.weight"]
    channels, elements = embed.shape[1], embed.shape[2] * embed.shape[3]
    if weight is None or len(weight) != 2 * channels * elements:
        return state
    cut = dict(state)
    for name in ("proj_out_2.weight", "proj_out_2.bias"):
        value = state[name]
        kept = value.reshape(elements, 2 * channels, *value.shape[1:])[:, :channels]
        cut[name] = kept.reshape(-1, *value.shape[1:]).contiguous()
    return cut


# ------------------------------------------------------------------ networks


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's shapes say of its DiT."""

    channels: int
    height: int
    dim: int
    depth: int
    heads: int
    patch: int
    classes: int


def architecture(
    state: State,
    facts: Mapping[str, Any],
    height: int | None = None,
    heads: int | None = None,
    where: str = "checkpoint",
) -> Architecture:
    """The architecture of ``state`` (as from :func:`dit_state`).

    The number of heads is not in the shapes: it comes from ``heads``, from ``facts`` (diffusers'
    config.json), or is as in the published sizes (72 channels a head at XL, else 64).
    """
    dim, channels, patch, _ = state["pos_embed.proj.weight"].shape
    blocks = {int(m[1]) for k in state if (m := re.match(r"transformer_blocks\.(\d+)\.", k))}
    heads = heads or facts.get("num_attention_heads")
    if heads is None:
        width = next((w for w in (72, 64) if dim % w == 0), None)
        if width is None:
            raise UserError(f"{where}: {dim} channels are of no published size; give its heads")
        heads = dim // width
    return Architecture(
        channels=channels,
        height=height or facts.get("sample_size") or 32,
        dim=dim,
        depth=max(blocks) + 1,
        heads=int(heads),
        patch=patch,
        classes=max(len(state.get("emb.class_embedder.embedding_table.weight", ())) - 1, 0),
    )


def load_dit(
    source: str,
    units: float = 1.0,
    reverse: bool = False,
    height: int | None = None,
    heads: int | None = None,
    width: int | None = None,
) -> Pretrained[DiT]:
    """A velocity network from a checkpoint, in float32.

    Args:
        source: a local path, or an address on the hub (see ``hub.local_path``).
        units: the network's time at noise: 1 where it was trained with t in [0, 1] (REPA), 1000
            for 0..1000 (FM-DiT).
        reverse: whether its time runs from noise to data and its velocity points to data (SiT).
        height: rows of a latent, where the file does not say.
        heads: attention heads, where they are not as published.
        width: its columns; ``height`` if None.

    Raises:
        UserError: naming what does not fit.
    """
    path = local_path(source, "teacher")
    where = f"checkpoint {source}"
    tensors, facts, taken = read_weights(path)
    prefix = prefix_of(tensors, where)
    state = dit_state(tensors, where)
    a = architecture(state, facts, height, heads, where)
    scale, offset = (-units, units) if reverse else (units, 0.0)
    with torch.device("meta"):
        network = DiT(
            a.channels, a.height, width, a.dim, a.depth, a.heads, a.patch, a.classes, scale, offset
        )
    state = {k: v.float() for k, v in state.items()}
    if reverse:
        for name in ("proj_out_2.weight", "proj_out_2.bias"):
            state[name] = -state[name]
    load_into(network, state, where, assign=True)
    network.place_positions()
    check_positions(network, tensors, prefix, where)
    return Pretrained(network, digest(path), which_set(taken, prefix))


def which_set(taken: str, prefix: str) -> str:
    """Which of several sets of weights a network has, whose names begin with ``prefix``."""
    return ".".join(filter(None, [taken, prefix.rstrip(".") * is_averaged(prefix)]))


def check_positions(network: DiT, tensors: State, prefix: str, where: str) -> None:
    """Refuse a network whose file states another position table than the one that is made.

    Raises:
        UserError: naming the table.
    """
    for name in POSITIONS:
        stated = tensors.get(prefix + name)
        if stated is None:
            continue
        stated, made = stated.float().squeeze(0), network.positions.squeeze(0)
        if stated.shape != made.shape:
            raise UserError(
                f"{where}: its position table is of {len(stated)} patches, these samples are of "
                f"{len(made)}"
            )
        if (stated - made).abs().max() > POSITIONS_TOLERANCE:
            raise UserError(
                f"{where}: its position table ({name}) is not the sines and cosines of a DiT"
            )
