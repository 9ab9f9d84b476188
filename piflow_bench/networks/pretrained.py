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

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.hub import digest, local_path
from piflow_bench.networks.dit import DiT

State = dict[str, Tensor]
WEIGHTS = "diffusion_pytorch_model"
_INPUTS = ("pos_embed.proj.weight", "x_embedder.proj.weight")
_NESTED = ("ema", "state_dict", "model", "module")
"""Where a training script's file keeps the weights; averaged ones first."""


# ------------------------------------------------------------------ reading


def read_weights(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors by name, and the ``config.json`` beside them (empty where there is none).

    ``path`` is a file, or a folder as diffusers writes it.

    Raises:
        UserError: if there are no weights, or they cannot be read without unpickling objects.
    """
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        config = folder / "config.json"
        facts = json.loads(config.read_text()) if config.is_file() else {}
        return _read_folder(folder), facts
    return _read_file(path), {}


def _read_folder(folder: Path) -> State:
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / Path(name).name for name in names]
    else:
        files = [p for p in (folder / f"{WEIGHTS}{end}" for end in (".safetensors", ".bin"))
                 if p.is_file()][:1]  # fmt: skip
        if not files:
            files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"checkpoint {folder}: no {WEIGHTS}.safetensors in this folder")
    state: State = {}
    for file in files:
        state |= _read_file(file)
    return state


def _read_file(path: Path) -> State:
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"checkpoint {path}: not readable safetensors ({error})") from error
    try:
        # DiT's and SiT's files hold their command-line arguments, which are plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"checkpoint {path}: not a PyTorch file of plain tensors ({reason}); "
            "files that hold code are refused: save the weights with "
            "safetensors.torch.save_file"
        ) from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> State:
    while isinstance(content, Mapping):
        inner = next((content[k] for k in _NESTED if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {path}: holds {type(content).__name__}, not named tensors")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise UserError(f"checkpoint {path}: holds no tensors")
    return state


# ------------------------------------------------------------------ layouts


def dit_state(state: State, where: str = "checkpoint") -> State:
    """The tensors of a DiT under this package's names, whatever the layout; heads are kept.

    Raises:
        UserError: if it is none of the known layouts.
    """
    state = _without_prefix(state, where)
    if "emb.class_embedder.embedding_table.weight" in state:
        converted = dict(state)
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


def _without_prefix(state: State, where: str) -> State:
    """One network of several, under its own names: averaged weights first, never a teacher's."""
    prefixes = [k.removesuffix(end) for k in state for end in _INPUTS if k.endswith(end)]
    prefixes = [p for p in prefixes if p == "" or p.endswith(".")]
    own = [p for p in prefixes if "teacher" not in p] or prefixes
    if not own:
        some = ", ".join(sorted(state)[:3])
        raise UserError(f"{where}: no patch embedding of a DiT (it has {some}, ...)")
    prefix = min(own, key=lambda p: ("ema" not in p, len(p), p))
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _from_diffusers(state: State, where: str) -> State:
    copies: dict[str, list[Tensor]] = {}
    converted: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"transformer_blocks\.\d+\.norm1\.emb\.(.+)", name)
        if match:
            copies.setdefault(match[1], []).append(value)
        elif name != "pos_embed.pos_embed":  # Fixed, and made anew.
            converted[name] = value
    for name, values in copies.items():
        if any(not torch.equal(v, values[0]) for v in values[1:]):
            raise UserError(f"{where}: blocks have different embeddings ({name}), a DiT has one")
        converted[f"emb.{name}"] = values[0]
    return converted


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
        classes=len(state["emb.class_embedder.embedding_table.weight"]) - 1,
    )


def load_dit(
    source: str,
    units: float = 1.0,
    reverse: bool = False,
    height: int | None = None,
    heads: int | None = None,
) -> tuple[DiT, str]:
    """A velocity network from a checkpoint, in float32, and the checkpoint's sha256.

    Args:
        source: a local path, or an address on the hub (see ``hub.local_path``).
        units: the network's time at noise: 1 where it was trained with t in [0, 1] (REPA), 1000
            for 0..1000 (FM-DiT).
        reverse: whether its time runs from noise to data and its velocity points to data (SiT).
        height: rows of a latent, where the file does not say.
        heads: attention heads, where they are not as published.

    Raises:
        UserError: naming what does not fit.
    """
    path = local_path(source, "teacher")
    where = f"checkpoint {source}"
    tensors, facts = read_weights(path)
    state = dit_state(tensors, where)
    a = architecture(state, facts, height, heads, where)
    scale, offset = (-units, units) if reverse else (units, 0.0)
    with torch.device("meta"):
        network = DiT(
            a.channels, a.height, None, a.dim, a.depth, a.heads, a.patch, a.classes, scale, offset
        )
    state = {k: v.float() for k, v in state.items()}
    if reverse:
        for name in ("proj_out_2.weight", "proj_out_2.bias"):
            state[name] = -state[name]
    load_into(network, state, where, assign=True)
    network.place_positions()
    return network, digest(path)


def load_into(network: nn.Module, state: State, where: str, assign: bool = False) -> None:
    """``load_state_dict``, with one clear line where names or shapes differ."""
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        missing, extra = (
            sorted(expected.keys() - found.keys()),
            sorted(found.keys() - expected.keys()),
        )
        differ = [k for k in sorted(expected.keys() & found.keys()) if expected[k] != found[k]]
        words = [f"lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
        words += [f"has {extra[0]} and {len(extra) - 1} more that do not belong"] if extra else []
        words += [f"{k} is {found[k]}, not {expected[k]}" for k in differ[:1]]
        raise UserError(f"{where}: weights of another network: {'; '.join(words)}")
    network.load_state_dict(state, assign=assign)
