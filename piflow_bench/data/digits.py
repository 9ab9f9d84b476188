"""The 1,797 real 8x8 digits that scikit-learn ships, with a trained teacher and feature network.

A fixed stratified fifth is held out as the reference of the data question. Pixels 0..16 are scaled
to [-1, 1]. The files in ``assets/``, the digits among them (reading them from scikit-learn takes
seconds of imports), are remade by ``python -m piflow_bench prepare digits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.errors import UserError
from piflow_bench.files.hub import digest
from piflow_bench.files.weights import check_finite
from piflow_bench.networks.dit import DiT
from piflow_bench.settings import build_dataclass, setting

ASSETS = Path(__file__).parent / "assets"
CLASSIFIER, JUDGE = "digits_classifier.safetensors", "digits_judge.safetensors"
GREY = "17 grey levels"
"""How samples are rounded before anything looks at them: see :func:`quantise`."""
SHAPE = (1, 8, 8)
CLASSES = 10
GUIDANCE = 1.5


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


def quantise(x: Tensor) -> Tensor:
    """The 17 grey levels of the real digits: ``round`` to multiples of 1/8 in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 8).round() / 8 - 1


def load_weights(path: Path, network: nn.Module) -> str:
    """Load a safetensors file into ``network``; returns the file's sha256.

    Raises:
        UserError: if the file is missing, truncated, not safetensors, or of another network.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"checkpoint {path}: not a readable safetensors file ({error}); pickled checkpoints "
            "are refused: convert them with safetensors.torch.save_file"
        ) from error
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        wrong = sorted(expected.items() ^ found.items())[0]
        raise UserError(
            f"checkpoint {path}: weights of another network (first difference: {wrong[0]} "
            f"{wrong[1]})"
        )
    check_finite(state, f"checkpoint {path}")
    network.load_state_dict(state)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Config:
    """Settings of the dataset."""

    checkpoint: str | None = setting(None)  # another teacher
    guidance: float = setting(GUIDANCE, least=0)  # its scale
    dim: int = setting(64, least=1)
    depth: int = setting(3, least=1)
    untrained: bool = False  # the smoke profile's tiny network


def load(settings: dict[str, Any], device: str = "cpu") -> Dataset:
    """Real 8x8 digits of ten classes, with a trained guided teacher; on the CPU in minutes.

    Settings: see ``Config``. Its classifiers run on ``device``.
    """
    options = build_dataclass(Config, settings, "dataset.settings")
    x, y, x_test, y_test = images()

    def fresh_network() -> DiT:
        return teacher_network(options.dim, options.depth)

    @cache
    def teacher() -> Teacher:
        network = fresh_network()
        if options.untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = fresh_network()
            found = "untrained"
        else:
            path = Path(options.checkpoint or ASSETS / "digits_teacher.safetensors")
            found = load_weights(path, network)
        return Teacher(network, network, Guidance(options.guidance), digest=found)

    def network_features(name: str, build: Callable[[], Any]) -> Callable[[Tensor], np.ndarray]:
        @cache
        def network() -> Any:
            classifier = build()
            load_weights(ASSETS / name, classifier)
            return classifier.eval().to(device)

        @torch.no_grad()
        def extract(samples: Tensor) -> np.ndarray:
            function = getattr(network(), "features", network())
            return function(quantise(samples.to(device))).double().cpu().numpy()

        return extract

    return Dataset(
        name="digits",
        kind="images",
        shape=SHAPE,
        train=x,
        train_condition=Classes(y, CLASSES),
        test=x_test,
        test_condition=Classes(y_test, CLASSES),
        conditions=conditions,
        teacher=teacher,
        fresh_network=fresh_network,
        extractors={
            "classifier": network_features(CLASSIFIER, Classifier),
            "pixels": lambda samples: quantise(samples).flatten(1).double().numpy(),
        },
        digest=hashlib.sha256(x.numpy().tobytes() + x_test.numpy().tobytes()).hexdigest(),
        extractor_digests={
            "classifier": f"{GREY}; {digest(ASSETS / CLASSIFIER)}",
            "pixels": GREY,
        },
        judge_digest=f"{GREY}; {digest(ASSETS / JUDGE)}",
        # Of a checkpoint the teacher's own digest says what is in it, wherever it lies.
        identity={k: v for k, v in settings.items() if k != "checkpoint"},
        judge=network_features(JUDGE, Perceptron),
        label_law="balanced",
        notes={"guidance": options.guidance},
    )
