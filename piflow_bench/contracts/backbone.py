"""The network that students start from, behind one written contract.

The least of it is a module that is called as ``network(x, t, condition)`` and gives the velocity
``(B, *sample)``. What a method needs beyond that it declares in its facts, by the names of
``PARTS``: a head of its own on the trunk, a second time input, guidance as an input, features at a
depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from piflow_bench.contracts.condition import Condition

PARTS = {
    "heads": (
        "trunk",
        "output_layer",
        "project",
        "velocity",
        "elements",
        "channels",
        "dim",
        "embedding_dim",
    ),
    "duration": ("add_duration",),
    "guidance input": ("add_guidance",),
    "features": ("features", "feature_shape", "depth"),
}
"""Members of the contract, by what a method needs them for."""


class Backbone(Protocol):
    """A network with all parts of the contract: DiT, U-Net and MLP have them."""

    channels: int
    """C of a sample."""
    dim: int
    """Width of the hidden state that the output layer reads."""
    embedding_dim: int
    """Width of the embedding of time and condition."""
    elements: int
    """Elements of a sample that one place of the hidden state stands for: a patch's, or one."""
    depth: int
    """Number of places where features can be taken."""

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity ``(B, *sample)`` at times t ``(B,)`` in [0, 1]."""
        ...

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden state before the output layer, and the embedding ``(B, embedding_dim)``."""
        ...

    @property
    def output_layer(self) -> nn.Linear | nn.Conv2d:
        """The layer that reads the hidden state; its outputs lie as ``(elements, C)``."""
        ...

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """Outputs ``(B, n, C', *spatial)`` of a layer like ``output_layer``.

        The layer's outputs lie as ``(elements, n, C')``: C' is the sample's channels or another
        number.
        """
        ...

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs ``(B, n, C, *spatial)`` as velocities at states x ``(B, C, *spatial)``.

        The same where the network predicts velocities; of one that predicts noise or data, what
        its parametrisation makes of them.
        """
        ...

    def features(
        self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Hidden state ``(B, *feature_shape(depth))`` at a depth; deeper ones are not computed."""
        ...

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the features at a depth, 1 to ``depth``."""
        ...

    def add_duration(self) -> None:
        """Add a second time input, t - r, that changes nothing until it is trained."""
        ...

    def add_guidance(self, inputs: int) -> None:
        """Add numbers in [0, 1], ``guidance`` ``(B, inputs)``, that change nothing untrained."""
        ...


def lacking(network: Any, needs: Sequence[str]) -> list[str]:
    """Of what a method needs, in the words of ``PARTS``, that which a network has not."""
    return [part for part in needs if any(not hasattr(network, name) for name in PARTS[part])]
