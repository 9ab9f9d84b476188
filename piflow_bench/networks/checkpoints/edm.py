"""U-Nets of EDM (arXiv 2206.00364): DDPM++, NCSN++ and ADM, from the state dicts of their files.

The published files are pickles, which are not read: where one is trusted, ``network.state_dict()``
is saved by ``safetensors.torch.save_file``. What is loaded is the raw network
``F(x_in, c_noise, labels)``: c_in, c_skip, c_out and c_noise around it (table 1) are in no state
dict. :meth:`UNet.raw` takes c_noise; forward takes it in the place of t, unless a scale is given.

What is dropped: ``map_augment``, whose labels are zero for an image that was not augmented, so that
it adds nothing; predicted variances; constants, which are checked; and dropout.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import State, load_into, one_averaged, read_weights
from piflow_bench.networks.checkpoints.pretrained import Pretrained
from piflow_bench.networks.unet import UNet
from piflow_bench.networks.unet_architecture import Architecture

_ANCHOR = "map_layer0.weight"
_TAPS = ((1, 1), (1, 3, 3, 1))
_DDPMPP: dict[str, Any] = {
    "skip_scale": math.sqrt(0.5),
    "eps": 1e-6,
    "head_channels": None,
    "attention_last": True,
    "project_resampled": True,
    "labels_first": True,
    "sines_first": True,
    "frequency_shift": 1.0,
}
_ADM: dict[str, Any] = {"eps": 1e-5, "head_channels": 64}
"""What shapes do not say, and a family has in common."""


def edm_state(state: State, where: str = "checkpoint") -> State:
    """The weights of one network under this package's names, predicted variances among them.

    Raises:
        UserError: if it is no U-Net in EDM's layout.
    """
    prefixes = [k.removesuffix(_ANCHOR) for k in state if k.endswith(_ANCHOR)]
    prefix = one_averaged(prefixes, where) or (prefixes[0] if len(prefixes) == 1 else None)
    if prefix is None or f"{prefix}map_layer1.weight" not in state:
        some = ", ".join(sorted(state)[:3])
        raise UserError(f"{where}: no U-Net in the layout of EDM (it has {some}, ...)")
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    other = [k for k in own if re.search(r"_aux_(down|skip|up)\b", k)]
    if other or sum(k.endswith("_aux_conv.weight") for k in own) > 1:
        what = other[0] if other else "an output at every resolution"
        raise UserError(f"{where}: a U-Net with skips of the image itself ({what}) is not held")
    named = {re.sub(r"dec\.\d+x\d+_aux_(norm|conv)\.", r"out_\1.", k): v for k, v in own.items()}
    return {k: v for k, v in named.items() if not k.startswith("map_augment.")}


def edm_architecture(state: State, where: str = "checkpoint") -> Architecture:
    """The facts of a network, by the names and shapes of :func:`edm_state`.

    Raises:
        UserError: if they are of no published family.
    """
    try:
        return _architecture(state, where)
    except (KeyError, IndexError) as error:
        raise UserError(f"{where}: no whole U-Net in the layout of EDM, it lacks {error}") from None


def _architecture(state: State, where: str) -> Architecture:
    sizes = {int(m[1]) for k in state if (m := re.match(r"enc\.(\d+)x\1_block0\.", k))}
    levels = [f"enc.{size}x{size}" for size in sorted(sizes, reverse=True)]
    if not levels:
        raise UserError(f"{where}: no U-Net of square maps in the layout of EDM")
    stem = state[f"{levels[0]}_conv.weight"]
    blocks = sum(bool(re.match(rf"{levels[0]}_block\d+\.conv0\.weight", k)) for k in state)
    first = state[f"{levels[0]}_block0.conv0.weight"]
    # ADM scales and shifts by its embedding; Song's networks add it.
    adaptive = len(state[f"{levels[0]}_block0.affine.weight"]) == 2 * len(first)
    width, features = state[_ANCHOR].shape
    label = state.get("map_label.weight")
    return Architecture(
        channels=stem.shape[1],
        height=max(sizes),
        widths=tuple(len(state[f"{at}_block{blocks - 1}.conv0.weight"]) for at in levels),
        blocks=blocks,
        classes=0 if label is None else label.shape[1],
        stem=stem.shape[0],
        attention=tuple(i for i, at in enumerate(levels) if f"{at}_block0.qkv.weight" in state),
        adaptive=adaptive,
        taps=_taps(state, where),
        residual_input=any("_aux_residual." in k for k in state),
        embedding_dim=width,
        time_channels=features,
        fourier="map_noise.freqs" in state,
        **(_ADM if adaptive else _DDPMPP),
    )


def _taps(state: State, where: str) -> tuple[int, ...]:
    """The filter of the maps that are halved and doubled, which is the same in every layer.

    On the meta device, which has no values, by its size alone.
    """
    filters = [v for k, v in state.items() if k.endswith("resample_filter")]
    for taps in _TAPS:
        row = torch.tensor(taps, dtype=torch.float32)
        made = row.outer(row) / row.sum() ** 2
        if all(f.squeeze().shape == made.shape and (f.is_meta or _near(f, made)) for f in filters):
            return taps
    raise UserError(f"{where}: resample_filter is neither [1, 1] nor [1, 3, 3, 1]")


def _near(found: torch.Tensor, made: torch.Tensor) -> bool:
    return bool((found.float() - made).abs().max() < 1e-3)


def load_edm(source: str, time_scale: float = 1.0, time_offset: float = 0.0) -> Pretrained[UNet]:
    """A U-Net of EDM, in float32.

    Args:
        source: a local path, or an address on the hub (see ``hub.local_path``).
        time_scale: see :class:`UNet`; with 1 and an offset of 0, forward takes c_noise as t.
        time_offset: see :class:`UNet`.

    Raises:
        UserError: naming what does not fit.
    """
    path = local_path(source)
    tensors, _, taken = read_weights(path)
    where = f"checkpoint {source}"
    state = edm_state(tensors, where)
    architecture = edm_architecture(state, where)
    for name in ("out_conv.weight", "out_conv.bias"):
        value = state.get(name)
        if value is not None and len(value) == 2 * architecture.channels:
            state[name] = value[: architecture.channels].clone()
    with torch.device("meta"):
        network = UNet(architecture, time_scale, time_offset)
    kept = {k: v.float() for k, v in state.items() if not k.endswith("resample_filter")}
    load_into(network, kept, where, assign=True)
    return Pretrained(network, digest(path), taken)
