"""Networks that share one frozen base: what each adds to it, and nothing else, is its own.

The base is in memory once, whatever the number of roles (teacher, student, fake score): layers of
it that a role changes have a hook, which asks whose call this is. A role's module holds its
own tensors alone, so that averages, checkpoints and sharding see no others; without a role the base
is exactly the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class LoRA(nn.Module):
    """A change of low rank to a linear layer: ``layer(x) + B A x`` (arXiv:2106.09685, eq. 3).

    Its scale is 1, as with peft's ``lora_alpha`` equal to the rank. A starts as a normal of std
    1/rank, B as zero: the layer is unchanged.
    """

    def __init__(self, layer: nn.Linear, rank: int, dropout: float = 0.0) -> None:
        super().__init__()
        device = _of_frame(layer)
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False, device=device)
        self.dropout = dropout
        nn.init.normal_(self.lora_A.weight, std=1 / rank)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The layer's output for x, changed; weights of another precision are cast to x's."""
        dropped = functional.dropout(x, self.dropout, self.training)
        low = functional.linear(dropped, self.lora_A.weight.to(x.dtype))
        return output + functional.linear(low, self.lora_B.weight.to(low.dtype)).to(output.dtype)

    @property
    def rank(self) -> int:
        """Of the change."""
        return self.lora_A.out_features

    @torch.no_grad()
    def change(self) -> Tensor:
        """What it adds to the layer's weight ``(out, in)``."""
        return self.lora_B.weight @ self.lora_A.weight


class Copied(nn.Linear):
    """A linear layer of its own in the place of the base's, equal to it at first."""

    def __init__(self, layer: nn.Linear) -> None:
        device = _of_frame(layer)
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device)
        if device is not None:
            return
        with torch.no_grad():  # A copy: training it must not change the base.
            self.weight.copy_(layer.weight)
            if layer.bias is not None:
                self.bias.copy_(layer.bias)

    def forward(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """Its own output for x, in x's precision where nothing else is said."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


def _of_frame(layer: nn.Module) -> str | None:
    """The meta device where a layer is of a frame, which has no weights."""
    return "meta" if layer.weight.is_meta else None


class Roles:
    """Whose call of a frozen network this is, and the hooks that ask."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False).eval()
        self.acting: Layers | None = None
        self._hooked: set[str] = set()

    def hook(self, name: str) -> None:
        """Let roles change the layer of this name."""
        if name not in self._hooked:
            self._hooked.add(name)
            self.network.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def change(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            own = self.acting and self.acting.layers.get(name)
            return own(inputs[0], output) if own else None

        return change

    @contextmanager
    def of(self, role: Layers | None) -> Iterator[None]:
        """Inside it the network is the role's; the base's own for None."""
        before, self.acting = self.acting, role
        try:
            yield
        finally:
            self.acting = before

    def recomputed(self, block: nn.Module, *inputs: Any) -> Any:
        """A block's output, whose activations are computed again in the backward pass: as then.

        By then another role may be acting, or none.
        """
        role = self.acting

        def run(*again: Any) -> Any:
            with self.of(role):
                return block(*again)

        return checkpoint(run, *inputs, use_reentrant=False)


class Layers(nn.Module):
    """A role's own layers, under the names that those of the base have.

    ``state_dict`` has the keys of published adapters: ``NAME.lora_A.weight``, ``NAME.weight``. A
    state whose LoRAs are on other layers, or of another rank, makes it so when it is loaded.

    Args:
        roles: of the base.
        adapted: names of the layers that get a LoRA.
        copied: names of the layers that it has copies of.
        rank: of the LoRAs.
        dropout: of their inputs, in training.
    """

    def __init__(
        self,
        roles: Roles,
        adapted: Sequence[str],
        copied: Sequence[str],
        rank: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._roles = (roles,)  # In a tuple: nothing of it is this module's.
        self.layers: dict[str, LoRA | Copied] = {}
        for name in copied:
            self._add(name, Copied(_linear(roles.network, name)))
        for name in adapted:
            self._add(name, LoRA(_linear(roles.network, name), rank, dropout))
        self.dropout = dropout
        self.register_load_state_dict_pre_hook(_as_in)

    def _add(self, name: str, layer: LoRA | Copied) -> None:
        self.layers[name] = layer
        parent, last = _parent(self, name)
        parent.add_module(last, layer)
        self._roles[0].hook(name)

    def _drop(self, name: str) -> None:
        del self.layers[name]
        parent, last = _parent(self, name)
        del parent._modules[last]

    def shape_as(self, state: Mapping[str, Tensor]) -> None:
        """Have LoRAs on the layers that a state has them on, of its ranks, and on no others.

        Raises:
            KeyError: for a layer that the base has not.
        """
        end, network = ".lora_A.weight", self._roles[0].network
        ranks = {k.removesuffix(end): len(v) for k, v in state.items() if k.endswith(end)}
        own = {n: layer.rank for n, layer in self.layers.items() if isinstance(layer, LoRA)}
        for name in own.keys() - ranks.keys():
            self._drop(name)
        for name, rank in ranks.items():
            if own.get(name) != rank:
                try:
                    layer = LoRA(_linear(network, name), rank, self.dropout)
                except AttributeError as error:
                    raise KeyError(f"the base has no layer {name}") from error
                device = next(network.parameters()).device
                self._add(name, layer.to(device))


def _as_in(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any, **__: Any) -> None:
    """Before a state is loaded: the role gets the LoRAs that are in it."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    assert isinstance(module, Layers)
    module.shape_as(own)


def _linear(base: nn.Module, name: str) -> nn.Linear:
    layer = base.get_submodule(name)
    if not (hasattr(layer, "in_features") and hasattr(layer, "out_features")):
        raise TypeError(f"{name} is no linear layer but {type(layer).__name__}")
    return layer  # type: ignore[return-value]


def _parent(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a dotted name, with those on the way there, and its last part."""
    *way, last = name.split(".")
    for part in way:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, last
