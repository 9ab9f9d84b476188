"""The 1,797 real 8x8 digits that scikit-learn ships, with a trained teacher and feature network.

A fixed stratified fifth is held out as the reference of the data question. Pixels 0..16 are scaled
to [-1, 1]. The files in ``assets/``, the digits among them (reading them from scikit-learn takes
seconds of imports), are remade by ``python -m piflow_bench prepare digits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.networks.dit import DiT

ASSETS = Path(__file__).parent / "assets"
CLASSIFIER, JUDGE = "digits_classifier.safetensors", "digits_judge.safetensors"
SHAPE = (1, 8, 8)
CLASSES = 10


class Classifier(nn.Module):
    """A small convolutional classifier; its penultimate layer gives 64 features."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv_2 = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.conv_3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2)
        self.hidden = nn.Linear(2 * width * 4, 64)
        self.out = nn.Linear(64, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations ``(B, 64)`` of images ``(B, 1, 8, 8)`` in [-1, 1]."""
        for layer in (self.conv_1, self.conv_2, self.conv_3):
            x = nn.functional.gelu(layer(x))
        return nn.functional.gelu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``(B, 10)``."""
        return self.out(self.features(x))


class Perceptron(nn.Module):
    """A classifier of another kind, which judges class accuracy and gives no features."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``(B, 10)``."""
        return self.layers(x)


def teacher_network(dim: int = 64, depth: int = 3) -> DiT:
    """The backbone of teacher and students: a DiT whose time embedding is smooth in t."""
    return DiT(channels=1, height=8, dim=dim, depth=depth, heads=4, classes=CLASSES, time_scale=1.0)


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, held-out ones; images ``(n, 1, 8, 8)`` in [-1, 1]."""
    found = load_file(ASSETS / "digits.safetensors")
    train, test = (found[k].float()[:, None] / 8 - 1 for k in ("train", "test"))
    return train, found["train_labels"].long(), test, found["test_labels"].long()


def conditions(sample_seed: int, indices: Sequence[int]) -> Classes:
    """Labels of samples by index: index modulo 10, so that every block is balanced."""
    return Classes(torch.tensor([i % CLASSES for i in indices]), CLASSES)


class Digits(DatasetPlugin):
    """Real 8x8 digits of ten classes; on the CPU in minutes."""

    space = "grey-levels"

    @property
    def judge(self) -> str:
        """A network of another kind than the one that gives features."""
        return "digits-judge"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Four fifths for training, a stratified fifth held out."""
        x, y, x_test, y_test = images()
        return Dataset(
            name="digits",
            space=space.load((*SHAPE[1:], SHAPE[0]), place),
            train=x,
            train_condition=Classes(y, CLASSES),
            test=x_test,
            test_condition=Classes(y_test, CLASSES),
            conditions=conditions,
            digest=hashlib.sha256(x.numpy().tobytes() + x_test.numpy().tobytes()).hexdigest(),
            label_law="balanced",
        )
