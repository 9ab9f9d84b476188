"""A network of any schedule and prediction as a backbone that predicts the flow's velocity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench import flow
from piflow_bench.contracts.condition import Condition
from piflow_bench.teachers.parametrisation import Coefficients, coefficients
from piflow_bench.teachers.schedules import VP, Flow, Schedule


class Converted(nn.Module):
    """``u(x, t) = a(t) x + b(t) F(c(t) x, time(t))`` around a network F.

    All parts of the backbone's contract are the network's own, asked at its own time and scale: a
    head reads its hidden state, and what the head gives is made a velocity as the output is.

    Args:
        network: takes its own time as t.
        schedule: the process it was trained on.
        prediction: what it predicts: see ``parametrisation.PREDICTIONS``.
        sigma_data: of the prediction ``edm``.
    """

    def __init__(
        self, network: Any, schedule: Schedule, prediction: str, sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.prediction, self.sigma_data = prediction, sigma_data
        self.channels, self.dim = network.channels, network.dim
        self.embedding_dim, self.elements = network.embedding_dim, network.elements

    @property
    def units(self) -> float:
        """What an interval of flow time is in the network's time, roughly: for a second time."""
        if isinstance(self.schedule, VP):
            return float(self.schedule.steps)
        return self.schedule.units if isinstance(self.schedule, Flow) else 1.0

    @property
    def depth(self) -> int:
        """Of the network."""
        return int(self.network.depth)

    @property
    def output_layer(self) -> Any:
        """Of the network."""
        return self.network.output_layer

    @property
    def checkpointing(self) -> bool:
        """Whether the network recomputes its activations."""
        return bool(self.network.checkpointing)

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.network.checkpointing = value

    def add_duration(self) -> None:
        """To the network."""
        self.network.add_duration()

    def add_guidance(self, inputs: int) -> None:
        """To the network."""
        self.network.add_guidance(inputs)

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """Of the network."""
        shape: tuple[int, int, int] = self.network.feature_shape(depth)
        return shape

    def features(
        self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Of the network at flow times t."""
        z, time, duration = self._asked(x, t, duration)
        return self.network.features(z, time, condition, duration, depth)

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of the network at flow times t."""
        z, time, duration = self._asked(x, t, duration)
        given = () if guidance is None else (guidance * self.units,)
        hidden, embedding = self.network.trunk(z, time, condition, duration, *given)
        return hidden, embedding

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """Of the network."""
        return self.network.project(layer, hidden, n)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs ``(B, n, C, *spatial)`` of F as velocities at states x."""
        c = self._coefficients(t)
        wide = torch.promote_types(x.dtype, torch.float32)
        state = x.to(wide)[:, None]
        a, b = flow.expand(c.a, state), flow.expand(c.b, state)
        return (a * state + b * output.to(wide)).to(output.dtype)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity ``(B, *sample)`` at flow times t ``(B,)``."""
        hidden, _ = self.trunk(x, t, condition, duration, guidance)
        return self.velocity(self.project(self.output_layer, hidden, 1), x, t)[:, 0]

    def _coefficients(self, t: Tensor) -> Coefficients:
        return coefficients(self.schedule, self.prediction, t, self.sigma_data)

    def _asked(
        self, x: Tensor, t: Tensor, duration: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The network's own state and times."""
        c = self._coefficients(t)
        wide = torch.promote_types(x.dtype, torch.float32)
        z = (flow.expand(c.scale, x.to(wide)) * x.to(wide)).to(x.dtype)
        return z, c.time.to(wide), None if duration is None else duration * self.units
