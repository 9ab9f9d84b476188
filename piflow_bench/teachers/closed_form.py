"""The exact velocity of a closed-form distribution, and a network fitted to it as common start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.condition import Condition, Unconditional
from piflow_bench.contracts.data import Dataset, Truth
from piflow_bench.contracts.teacher import Teacher, TeacherPlugin
from piflow_bench.data.closed_form import Draw, Field
from piflow_bench.errors import UserError
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import load_into, read_weights
from piflow_bench.networks.mlp import MLP
from piflow_bench.randomness import seed_of
from piflow_bench.settings import Location, setting

SEED = 303


def fit_backbone(
    velocity: Field,
    draw: Draw,
    steps: int,
    seed: int,
    batch: int = 512,
    lr: float = 2e-3,
    dim: int = 64,
    depth: int = 3,
) -> MLP:
    """An MLP fitted to an exact velocity: the initialisation that all students share.

    Mean squared error at ``x_t`` of fresh samples and uniform t; AdamW, cosine decay to 0 (so the
    last weights need no averaging). Deterministic by ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(dim=dim, depth=depth)
    if steps == 0:
        return network
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    data = draw(seed, steps * batch).reshape(steps, batch, 2)
    condition = Unconditional(batch)
    for step, x0 in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        t = torch.rand(batch, generator=generator)
        x = flow.interpolate(x0, torch.randn(x0.shape, generator=generator), t)
        loss = (network(x, t, condition) - velocity(x, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@dataclass(frozen=True)
class Config:
    """Settings of the common start of all students."""

    backbone_steps: int = setting(1500, least=0)
    dim: int = setting(64, least=1)
    depth: int = setting(3, least=1)
    backbone: Location | None = setting(None)  # a file of weights fitted before


class ClosedForm(TeacherPlugin):
    """The exact velocity of a distribution whose closed form is known."""

    Config = Config
    made = True

    def fresh_network(self, dataset: Dataset) -> MLP:
        """Of the common start's size."""
        return MLP(dim=self.config.dim, depth=self.config.depth)

    def look(self, dataset: Dataset) -> str:
        """Whether there is a closed form."""
        _truth(dataset)
        return ""

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The exact field, with the network that :meth:`make` fitted."""
        truth = _truth(dataset)

        def field(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return truth.velocity(x, t)

        network = self.fresh_network(dataset)
        if made is not None:
            load_into(network, read_weights(made).state, f"{made}")
        return Teacher(field, network, closed_form=True)

    def make(self, dataset: Dataset, folder: Path, report: Callable[[float, str], None]) -> None:
        """Fit the common start, or take the one that is given."""
        c, truth = self.config, _truth(dataset)
        report(0.0, "fitting the backbone to the closed form")
        if c.backbone is not None:
            network = self.fresh_network(dataset)
            source = local_path(c.backbone, "teacher.backbone")
            load_into(network, read_weights(source).state, f"teacher.backbone={source}")
        else:
            network = fit_backbone(
                truth.velocity,
                truth.draw,
                c.backbone_steps,
                seed_of(dataset.name, SEED),
                dim=c.dim,
                depth=c.depth,
            )
        save_file(network.state_dict(), folder / "network.safetensors")


def _truth(dataset: Dataset) -> Truth:
    if dataset.truth is None:
        raise UserError(
            f"teacher=closed-form: {dataset.name} has no closed form; teacher=trained trains one"
        )
    return dataset.truth
