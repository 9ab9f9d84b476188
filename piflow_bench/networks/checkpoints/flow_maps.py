"""Published flow maps, trained elsewhere and from scratch: their layouts, and networks of them.

A layout is all that a file does not say of itself: what the second time is called and what it
means, and the units of its latents. All have t = 1 at noise, velocities that point to noise, and
the null label last; a step goes from t to t - duration by the average velocity of the duration.

``soflow``: DiT with an embedding ``s_embedder`` of the duration (SoFlow, arXiv 2512.15657).
``meanflow``: SiT with the same as ``r_embedder`` (MeanFlow in PyTorch, zhuyu-cs/MeanFlow).
``dmf``: SiT whose last blocks are told the end (Decoupled MeanFlow); see :class:`DecoupledDiT`.
``imf``: iMF's transformer, as its PyTorch branch stores it; see :class:`MiT`.

docs/checkpoints.csv says in which repository, file and commit each was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.files.weights import State, read_weights
from piflow_bench.networks.checkpoints.dit import (
    architecture,
    check_positions,
    dit_state,
    prefix_of,
)
from piflow_bench.networks.checkpoints.mit import mit_shape, mit_state
from piflow_bench.networks.decoupled import DecoupledDiT
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mit import MiT, Told

SCALING = 0.18215
"""Of Stable Diffusion's latents, which these networks' samples become."""
MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
"""Of the unscaled latents' channels on ImageNet 256, by which MeanFlow and iMF measure them."""
EXPORTED = "backbone.network."
"""What stands before a network's names in weights that `export` wrote of a student."""


@dataclass(frozen=True)
class Layout:
    """What a family of files does not say of itself."""

    second: str = ""
    """Name of the duration's embedding, in DiT's names; "" where there is no such layer."""
    spread: float | None = None
    """Standard deviation of its latents' channels, of mean 0; None: latents times ``SCALING``."""
    unused: str = "(?!)"
    """Names of what serves training alone."""

    def latents(self, x: Tensor) -> Tensor:
        """Its samples ``(B, 4, height, width)`` as Stable Diffusion's latents."""
        if self.spread is None:
            return x
        mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (x / self.spread * std + mean) * SCALING


LAYOUTS = {
    "soflow": Layout(second="s_embedder"),
    "meanflow": Layout(second="r_embedder", spread=0.5),
    "dmf": Layout(unused=r"logvar_linear\..+"),
    "imf": Layout(spread=1.0, unused=r"v_(heads|final_layer)\..+"),
}


class PublishedMap(nn.Module):
    """A flow map of a layout; it has no weights before it is given a file's.

    Args:
        layout: a name of ``LAYOUTS``.
        shape: of a sample, ``(C, height, width)``.
        classes: of the data; 0 where it has none.
        handover: of ``dmf``: blocks that are told the start.
        told: of ``imf``: the guidance that it is asked for.
    """

    def __init__(
        self,
        layout: str,
        shape: tuple[int, ...],
        classes: int,
        handover: int = 0,
        told: Told | None = None,
    ) -> None:
        super().__init__()
        self.name, self.layout = layout, LAYOUTS[layout]
        self.sample, self.classes = shape, classes
        self.handover, self.told = handover, told
        self.network: nn.Module | None = None
        self.register_load_state_dict_pre_hook(_as_in)

    def read(self, path: Path, where: str) -> State:
        """A file's tensors under this module's names, after it took their sizes.

        Raises:
            UserError: naming what is not of this layout, or not of these samples.
        """
        found = read_weights(path).state
        if all(name.startswith(EXPORTED) for name in found):
            state = {name.removeprefix(EXPORTED): value for name, value in found.items()}
        elif self.name == "imf":
            state = mit_state(found)
        else:
            state = self._dit_state(found, where)
        state = {k: v for k, v in state.items() if not re.fullmatch(self.layout.unused, k)}
        self.shape_as(state, where)
        if isinstance(self.network, DiT):
            check_positions(self.network, found, prefix_of(found, where), where)
        return {f"network.{name}": value for name, value in state.items()}

    def _dit_state(self, found: State, where: str) -> State:
        """The second time's embedding is the duration's, in DiT's names."""
        second, state = self.layout.second, dit_state(found, where)
        if not second:
            return state
        if not any(name.startswith(f"{second}.") for name in state):
            raise UserError(f"{where}: has no {second}, which layout={self.name} has")
        own = "emb.duration_embedder.linear_"
        first, last = f"{second}.mlp.0.", f"{second}.mlp.2."
        return {
            name.replace(first, f"{own}1.").replace(last, f"{own}2."): value
            for name, value in state.items()
        }

    def shape_as(self, state: Mapping[str, Tensor], where: str = "checkpoint") -> None:
        """Have a network of the sizes of a state, its values yet to come.

        Raises:
            UserError: if it is not of these samples.
        """
        channels, height, width = self.sample
        with torch.device("meta"):  # No value is drawn that is overwritten.
            made = self._mit(state, where) if self.name == "imf" else self._dit(state, where)
        for what, its, ours in (
            ("channels", made.channels, channels),
            ("classes", made.classes, self.classes),
        ):
            if its != ours:
                raise UserError(f"{where}: a network of {its} {what}; these samples are of {ours}")
        if height % made.patch or width % made.patch:
            raise UserError(
                f"{where}: its patches of {made.patch} do not divide samples of {width}x{height}"
            )
        self.network = made.network.to_empty(device="cpu").eval()
        if isinstance(self.network, DiT):
            self.network.place_positions()

    def _dit(self, state: Mapping[str, Tensor], where: str) -> _Made:
        _, height, width = self.sample
        a = architecture(dict(state), {}, height, where=where)
        cls = DecoupledDiT if self.name == "dmf" else DiT
        network = cls(a.channels, height, width, a.dim, a.depth, a.heads, a.patch, a.classes)
        if not isinstance(network, DecoupledDiT):
            network.add_duration()
        elif self.handover > a.depth:
            raise UserError(f"{where}: has {a.depth} blocks; handover={self.handover} is of more")
        else:
            network.handover = self.handover
        return _Made(network, a.channels, a.patch, a.classes)

    def _mit(self, state: Mapping[str, Tensor], where: str) -> _Made:
        assert self.told is not None
        _, height, width = self.sample
        s = mit_shape(state, height, width, where)
        return _Made(MiT(s, self.told), s.channels, s.patch, s.classes)

    def forward(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None = None
    ) -> Tensor:
        """Average velocity ``(B, C, height, width)`` from times t to t - duration, ``(B,)``."""
        assert self.network is not None
        velocity: Tensor = self.network(x, t, condition, duration=duration)
        return velocity


class _Made(NamedTuple):
    network: nn.Module
    channels: int
    patch: int
    classes: int


def _as_in(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: the network is of its sizes."""
    start = f"{prefix}network."
    own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    assert isinstance(module, PublishedMap)
    if module.network is None:
        module.shape_as(own)
