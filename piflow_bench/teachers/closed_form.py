"""The exact velocity of a closed-form distribution, and a network fitted to it as common start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset, Truth
from piflow_bench.contracts.teacher import Guided, Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import load_into, read_weights
from piflow_bench.networks.mlp import MLP
from piflow_bench.randomness import seed_of
from piflow_bench.settings import Location, in_keys, setting

SEED = 303
CLASS_DROPOUT = 0.1


def exact(truth: Truth, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The exact velocity of every row's class, where there are classes."""
    if truth.of_class is None:
        return truth.velocity(x, t)
    assert isinstance(condition, Classes)
    return truth.of_class(x, t, condition.labels)


def fit_backbone(
    truth: Truth,
    steps: int,
    seed: int,
    batch: int = 512,
    lr: float = 2e-3,
    dim: int = 64,
    depth: int = 3,
    classes: int = 0,
) -> MLP:
    """An MLP fitted to an exact velocity: the initialisation that all students share.

    Mean squared error at ``x_t`` of fresh samples and uniform t; AdamW, cosine decay to 0 (so the
    last weights need no averaging). Of classes, every tenth label is the null one. Deterministic by
    ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(dim=dim, depth=depth, classes=classes)
    if steps == 0:
        return network
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    data = truth.draw(seed, steps * batch).reshape(steps, batch, 2)
    labels = None
    if truth.draw_labels is not None:
        labels = truth.draw_labels(seed, steps * batch)
        dropped = torch.rand(len(labels), generator=generator) < CLASS_DROPOUT
        labels = torch.where(dropped, classes, labels).reshape(steps, batch)
    for step, x0 in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        t = torch.rand(batch, generator=generator)
        x = flow.interpolate(x0, torch.randn(x0.shape, generator=generator), t)
        condition: Condition = Unconditional(batch)
        if labels is not None:
            condition = Classes(labels[step], classes)
        target = exact(truth, x, t, condition)
        loss = (network(x, t, condition) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@dataclass(frozen=True)
class Config(Guided):
    """Settings of the field's guidance, and of the common start of all students."""

    guidance: float = setting(1.0, least=0, added=True)  # scale of guidance by classes; 1 is off
    guidance_low: float = setting(0.0, least=0, most=1, added=True)  # for t in [low, high]
    guidance_high: float = setting(1.0, least=0, most=1, added=True)
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
        return MLP(dim=self.config.dim, depth=self.config.depth, classes=_classes(dataset))

    def identity(self) -> Mapping[str, Any]:
        """Every setting; guidance where it is on."""
        return in_keys(self.config, super().identity())

    def look(self, dataset: Dataset) -> str:
        """Whether there is a closed form, and one of classes where guidance asks for it."""
        truth = _truth(dataset)
        if self.guidance.on and truth.of_class is None:
            raise UserError(
                f"teacher.guidance={self.config.guidance:g}: {dataset.name} has no classes to "
                "guide by; rings2d, twomodes2d and submodes2d have"
            )
        return ""

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The exact field, with the network that :meth:`make` fitted."""
        truth = _truth(dataset)

        def field(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return exact(truth, x, t, condition)

        network = self.fresh_network(dataset)
        if made is not None:
            load_into(network, read_weights(made).state, f"{made}")
        return Teacher(field, network, self.guidance, closed_form=True)

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
                truth,
                c.backbone_steps,
                seed_of(dataset.name, SEED),
                dim=c.dim,
                depth=c.depth,
                classes=_classes(dataset),
            )
        save_file(network.state_dict(), folder / "network.safetensors")


def _classes(dataset: Dataset) -> int:
    condition = dataset.train_condition
    return condition.count if isinstance(condition, Classes) else 0


def _truth(dataset: Dataset) -> Truth:
    if dataset.truth is None:
        raise UserError(
            f"teacher=closed-form: {dataset.name} has no closed form; teacher=trained trains one"
        )
    return dataset.truth
