"""U-Nets of diffusers: a ``UNet2DModel`` folder as ``save_pretrained`` writes it.

What is loaded is the raw network of DDPM (arXiv 2006.11239): :meth:`UNet.raw` takes the model's own
``timestep``, 0 to 999 as a rule, and what comes out is what it was trained to predict. Both, and
the schedule, are in the pipeline's scheduler, see :func:`scheduler_config`. Predicted variances are
dropped, and so is dropout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear, silu

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import State, load_into, read_weights
from piflow_bench.networks.checkpoints.pretrained import Pretrained
from piflow_bench.networks.unet import UNet
from piflow_bench.networks.unet_architecture import Architecture
from piflow_bench.networks.unet_blocks import frequencies, waves

DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""What a config.json means where it says nothing."""
HELD: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D", None),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None, "timestep"),
}
"""Values that a :class:`UNet` holds."""
_KINDS = {
    "down_block_types": {"DownBlock2D", "AttnDownBlock2D"},
    "up_block_types": {"UpBlock2D", "AttnUpBlock2D"},
}


def _settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A whole configuration of what can be held.

    Raises:
        UserError: naming the key and value that cannot.
    """
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        raise UserError(f"{where}: config.json is of a {kind}, not of a UNet2DModel")
    stated = {k: v for k, v in config.items() if not k.startswith("_")}
    c = DEFAULTS | stated
    refused = [k for k in stated if k not in DEFAULTS]
    refused += [k for k, values in HELD.items() if c[k] not in values]
    refused += [k for k, kinds in _KINDS.items() if not set(c[k]) <= kinds]
    refused += [k for k in _KINDS if len(c[k]) != len(c["block_out_channels"])]
    if c["norm_num_groups"] is None:
        refused.append("norm_num_groups")
    if c["attention_head_dim"] and any(w % c["attention_head_dim"] for w in _attended(c)):
        refused.append("attention_head_dim")
    if c["block_out_channels"][0] % 2:
        refused.append("block_out_channels")
    if c["out_channels"] not in (c["in_channels"], 2 * c["in_channels"]):
        refused.append("out_channels")
    if refused:
        key = refused[0]
        raise UserError(f"{where}: config.json has {key}={c[key]}, which this U-Net cannot hold")
    return c


def _attended(c: Mapping[str, Any]) -> set[int]:
    """Channels of the levels that attend."""
    levels = zip(
        c["block_out_channels"], c["down_block_types"], c["up_block_types"][::-1], strict=False
    )
    found = {width for width, *kinds in levels if any(kind.startswith("Attn") for kind in kinds)}
    middle = c["mid_block_type"] is not None and c["add_attention"]
    return found | ({c["block_out_channels"][-1]} if middle else set())


def diffusers_architecture(
    config: Mapping[str, Any],
    height: int | None = None,
    width: int | None = None,
    classes: int | None = None,
    null_label: bool = False,
    where: str = "checkpoint",
) -> Architecture:
    """The facts of a network, by its ``config.json``; see :func:`load_diffusers_unet`.

    Raises:
        UserError: naming what cannot be held, or is not said.
    """
    c = _settings(config, where)
    sizes = c["sample_size"]
    if height is None and sizes is None:
        raise UserError(f"{where}: config.json has sample_size=null; give the height")
    rows, columns = sizes if isinstance(sizes, list | tuple) else (sizes, sizes)
    down, up = c["down_block_types"], c["up_block_types"][::-1]
    adaptive = c["resnet_time_scale_shift"] == "scale_shift"
    if c["mid_block_type"] is None:
        middle = "none"
    else:
        middle = "attention" if c["add_attention"] else "plain"
    groups = c["attn_norm_num_groups"]
    if groups is None and adaptive:
        groups = 0
    known = c["num_class_embeds"]
    if c["class_embed_type"] == "timestep":
        known = classes
        if known is None:
            raise UserError(f"{where}: class_embed_type=timestep does not say how many classes")
    elif known is not None and null_label:
        known -= 1
    if classes is not None and classes != (known or 0):
        raise UserError(f"{where}: has num_class_embeds={c['num_class_embeds']}, not {classes}")
    return Architecture(
        channels=c["in_channels"],
        height=height or rows,
        width=width or (columns if height is None else height),
        widths=tuple(c["block_out_channels"]),
        blocks=c["layers_per_block"],
        classes=known or 0,
        null_weights=null_label,
        attention=tuple(i for i, kind in enumerate(down) if kind.startswith("Attn")),
        attention_up=tuple(i for i, kind in enumerate(up) if kind.startswith("Attn")),
        head_channels=c["attention_head_dim"],
        middle=middle,
        middle_groups=groups,
        adaptive=adaptive,
        groups=c["norm_num_groups"],
        eps=c["norm_eps"],
        resampling="convolution",
        asymmetric=c["downsample_padding"] == 0,
        embedding_dim=c["time_embedding_dim"],
        frequency_shift=c["freq_shift"],
        sines_first=not c["flip_sin_to_cos"],
        centred=c["center_input_sample"],
    )


# ------------------------------------------------------------------ names

_RESNET = {
    "norm1": "norm0", "conv1": "conv0", "time_emb_proj": "affine",
    "norm2": "norm1", "conv2": "conv1", "conv_shortcut": "skip",
}  # fmt: skip
_ATTENTION = {
    "group_norm": "norm2", "to_out.0": "proj", "proj_attn": "proj",
    "to_q": "q", "to_k": "k", "to_v": "v", "query": "q", "key": "k", "value": "v",
}  # fmt: skip
"""Names of today's files, and of those from before they were renamed."""
_TOP = {
    "conv_norm_out": "out_norm", "conv_out": "out_conv",
    "time_embedding.linear_1": "map_layer0", "time_embedding.linear_2": "map_layer1",
}  # fmt: skip


def _layer(name: str, a: Architecture) -> str | None:
    """This package's name of a layer; None if it has none."""
    last = len(a.widths) - 1
    if name == "conv_in":
        return f"enc.{a.name(0)}_conv"
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(
        r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.([a-z]+)\.(\d+)\.(.+)", name
    )
    if match is None:
        return None
    part, i, kind, j, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    level = i if part == "down_blocks" else last - i
    if kind == "downsamplers" and part == "down_blocks":
        return f"enc.{a.name(level + 1)}_down.{rest}"
    if kind == "upsamplers" and part == "up_blocks":
        return f"dec.{a.name(level - 1)}_up.{rest}"
    own = {"resnets": _RESNET, "attentions": _ATTENTION}.get(kind, {}).get(rest)
    if part == "mid_block":
        return own and f"dec.{a.name(last)}_in{j}.{own}"
    return own and f"{'enc' if part == 'down_blocks' else 'dec'}.{a.name(level)}_block{j}.{own}"


def diffusers_state(state: State, a: Architecture, where: str = "checkpoint") -> State:
    """The weights of a ``UNet2DModel`` under this package's names.

    Raises:
        UserError: naming a tensor that has no place.
    """
    made: State = {}
    for name, value in state.items():
        if name.startswith("class_embedding."):
            continue
        layer, _, kind = name.rpartition(".")
        own = _layer(layer, a)
        if own is None:
            raise UserError(f"{where}: {name} has no place in this U-Net")
        made[f"{own}.{kind}"] = value.float()
    for name in [k for k in made if re.search(r"\.(q\.weight|q\.bias|proj\.weight)$", k)]:
        value = made.pop(name)
        if ".q." in name:
            rest = [made.pop(name.replace(".q.", f".{part}."), value[:0]) for part in "kv"]
            if any(len(part) != len(value) for part in rest):
                raise UserError(f"{where}: {name} has no key or value of its shape")
            # Channels of the joint layer are (channel, q k v).
            name = name.replace(".q.", ".qkv.")
            value = torch.stack([value, *rest], dim=1).flatten(0, 1)
        made[name] = value[..., None, None] if name.endswith("weight") else value
    for name in {"out_conv.weight", "out_conv.bias"} & made.keys():
        made[name] = made[name][: a.channels].clone()
    return made | _labels(state, a)


def _labels(state: State, a: Architecture) -> State:
    """The table of labels; where they go through a perceptron, what it makes of each."""
    own = {k.partition(".")[2]: v.float() for k, v in state.items() if "class_embedding." in k}
    if not own:
        return {}
    if "linear_1.weight" in own:
        labels = torch.arange(a.classes + a.null_weights, dtype=torch.float32)
        features = own["linear_1.weight"].shape[1]
        h = waves(labels, frequencies(features, a.frequency_shift), a.sines_first)
        h = silu(linear(h, own["linear_1.weight"], own["linear_1.bias"]))
        own["weight"] = linear(h, own["linear_2.weight"], own["linear_2.bias"])
    return {"map_label.weight": own["weight"].T.contiguous()}


# ------------------------------------------------------------------ folders


def load_diffusers_unet(
    source: str,
    height: int | None = None,
    width: int | None = None,
    classes: int | None = None,
    null_label: bool = False,
    time_scale: float = 1.0,
    time_offset: float = 0.0,
) -> Pretrained[UNet]:
    """A U-Net of diffusers, in float32.

    Args:
        source: a ``UNet2DModel`` folder or that of a pipeline with one in ``unet/``: a local path,
            or an address on the hub (see ``hub.local_path``).
        height: rows of a sample, where the file does not say or other ones are meant.
        width: columns; ``height`` if None.
        classes: number of labels, where the file does not say (``class_embed_type=timestep``).
        null_label: whether the last embedding was trained as that of no label; otherwise no label
            is an embedding of zero, which the network has not seen.
        time_scale: see :class:`UNet`; with 1 and an offset of 0, forward takes the timestep as t.
        time_offset: see :class:`UNet`.

    Raises:
        UserError: naming what does not fit.
    """
    where = f"checkpoint {source}"
    folder = _network_folder(local_path(source))
    config = read_config(folder, where)
    architecture = diffusers_architecture(config, height, width, classes, null_label, where)
    tensors, _, taken = read_weights(folder)
    with torch.device("meta"):
        network = UNet(architecture, time_scale, time_offset)
    load_into(network, diffusers_state(tensors, architecture, where), where, assign=True)
    return Pretrained(network, digest(folder), taken)


def _network_folder(folder: Path) -> Path:
    return folder / "unet" if (folder / "unet").is_dir() else folder


def read_config(folder: Path, where: str = "checkpoint") -> dict[str, Any]:
    """The network's configuration in a folder, or in the ``unet/`` of a pipeline's.

    Raises:
        UserError: if there is none.
    """
    folder = _network_folder(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: no config.json of diffusers in {folder}")
    return _json(folder / "config.json")


def scheduler_config(folder: Path) -> dict[str, Any] | None:
    """The schedule's configuration beside a U-Net; None if there is none.

    Args:
        folder: that of a pipeline, its ``unet/``, or one with a ``scheduler_config.json``.

    Raises:
        UserError: if it is no JSON.
    """
    for place in (folder / "scheduler", folder.parent / "scheduler", folder):
        if (place / "scheduler_config.json").is_file():
            return _json(place / "scheduler_config.json")
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings by name")
    return content
