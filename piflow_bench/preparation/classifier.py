"""Trains a classifier of a dataset's pictures, which then describes and judges samples.

Epoch by epoch, each from a file that the one before left: a training that is killed goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.contracts.data import Dataset, Rows
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.classifier import SIZE, pictures
from piflow_bench.evaluation.extractors.classifier_network import Classifier
from piflow_bench.files.atomic import write_atomically
from piflow_bench.files.weights import State
from piflow_bench.randomness import seed_of
from piflow_bench.settings import setting

LEAST = 4
"""Pixels that a side has at least."""
LOOKED = 256
"""Pictures at once where none is learned from."""

FORM = torch.channels_last
"""How a batch lies in memory: in two thirds of the time on a CPU."""

Report = Callable[[str, int, int], None]
"""Told of progress: what, how much of it is done, and of how much."""


@dataclass(frozen=True)
class ClassifierTraining:
    """Settings of the training."""

    epochs: int = setting(12, least=1)
    batch: int = setting(128, least=2)
    lr: float = setting(3e-3, above=0)  # falls to 0 by half a cosine
    decay: float = setting(0.05, least=0)  # of weights (AdamW)
    shift: int = setting(2, least=0)  # pixels by which pictures are moved about, at most
    mirror: bool = True  # whether mirror images are of the same class
    seed: int = setting(0, least=0)


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    accuracy: float
    """Share of the held-out pictures whose class is right."""
    held_out: int
    """How many they were."""


def train_classifier(
    dataset: Dataset, settings: ClassifierTraining, out: Path, report: Report
) -> Trained:
    """Train on the dataset's training pictures, and write the weights in half precision.

    Args:
        dataset: of pictures with classes.
        settings: of the training.
        out: the file that is written; ``OUT.training`` beside it while it is trained.
        report: told of the pictures that were learned from.

    Raises:
        UserError: for data without classes or pictures, or a training of other settings there.
    """
    channels, height, width = _shape(dataset, dataset.training_rows)
    labels = _classes(dataset, dataset.train_condition)
    network = _fresh(channels, labels.count, settings.seed)
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.decay)
    steps = settings.epochs * -(-len(labels) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    kept = out.with_name(f"{out.name}.training")
    of = {"settings": repr(settings), "data": dataset.digest}
    for epoch in range(_resumed(kept, of, parts), settings.epochs):
        rng = np.random.default_rng(seed_of("classifier", settings.seed, epoch))
        for x, y, done in _batches(dataset, labels, settings, rng):
            loss = nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            report("pictures", epoch * len(labels) + done, settings.epochs * len(labels))
        _keep(kept, {**of, "epochs": epoch + 1}, parts)
    found = _accuracy(network, dataset, _classes(dataset, dataset.test_condition))
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    _write(out, {**weights, SIZE: torch.tensor([height, width])})
    kept.unlink()
    return Trained(found, len(dataset.held_out))


def _batches(
    dataset: Dataset, labels: Classes, settings: ClassifierTraining, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """An epoch: pictures moved about, their labels, and how many were seen with these."""
    order, seen = torch.from_numpy(rng.permutation(len(labels))), 0
    for rows in order.split(settings.batch):
        seen += len(rows)
        if len(rows) > 1:  # No batch norm of one picture.
            x = _moved(_pictures(dataset, dataset.training_rows, rows), settings, rng)
            yield x.contiguous(memory_format=FORM), labels.labels[rows], seen


def _classes(dataset: Dataset, condition: Condition) -> Classes:
    if not isinstance(condition, Classes):
        raise UserError(f"prepare classifier: {dataset.name} has no classes to tell apart")
    return condition


def _shape(dataset: Dataset, rows: Rows) -> tuple[int, int, int]:
    """Channels, height and width of the pictures."""
    if dataset.space.pictures is None:
        raise UserError(f"prepare classifier: samples of {dataset.name} are points, no pictures")
    _, channels, height, width = _pictures(dataset, rows, torch.arange(1)).shape
    if min(height, width) < LEAST:
        raise UserError(f"prepare classifier: pictures of {width}x{height}; {LEAST} is least")
    return channels, height, width


def _pictures(dataset: Dataset, rows: Rows, index: Tensor) -> Tensor:
    """As the extractor sees them: what a space makes of samples, in [-1, 1]."""
    assert dataset.space.pictures is not None
    images = dataset.space.pictures(rows.take(index, None))
    return pictures(images, images.shape[-1] == 1)


def _moved(x: Tensor, settings: ClassifierTraining, rng: np.random.Generator) -> Tensor:
    """Pictures moved by up to ``shift`` pixels, their edge repeated, half of them mirrored."""
    s, (n, _, height, width) = settings.shift, x.shape
    down, right = (torch.from_numpy(rng.integers(0, 2 * s + 1, n)) for _ in range(2))
    mirrored = torch.from_numpy(rng.random(n) < 0.5) & settings.mirror
    framed = nn.functional.pad(x, (s, s, s, s), mode="replicate")
    y = (torch.arange(height) + down[:, None])[:, None, :, None]
    along = torch.arange(width).expand(n, -1)
    along = torch.where(mirrored[:, None], along.flip(1), along) + right[:, None]
    batch, channel = torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])
    return framed[batch, channel[:, None, None], y, along[:, None, None, :]]


@torch.no_grad()
def _accuracy(network: Classifier, dataset: Dataset, condition: Classes) -> float:
    network.eval()
    rows, right = dataset.held_out, 0
    for index in torch.arange(len(rows)).split(LOOKED):
        seen = network(_pictures(dataset, rows, index)).argmax(1)
        right += int((seen == condition.labels[index]).sum())
    return right / len(rows)


def _fresh(channels: int, classes: int, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("classifier", seed))
        return Classifier(channels, classes).to(memory_format=FORM).train()


def _left(kept: Path) -> dict[str, Any]:
    """What a killed training left; nothing is unpickled."""
    try:
        return dict(torch.load(kept, weights_only=True))
    except Exception as error:  # Of many kinds, by what a file holds.
        raise UserError(f"out={kept.with_suffix('')}: {kept} is damaged; remove it") from error


def _resumed(kept: Path, of: dict[str, str], parts: dict[str, Any]) -> int:
    """How many epochs a killed training had done; ``parts`` are as it left them."""
    if not kept.is_file():
        return 0
    found = _left(kept)
    if any(found.get(key) != value for key, value in of.items()):
        raise UserError(
            f"out={kept.with_suffix('')}: {kept} is of other data or settings; remove it"
        )
    for name, part in parts.items():
        part.load_state_dict(found[name])
    return int(found["epochs"])


def _keep(kept: Path, facts: dict[str, Any], parts: dict[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    write_atomically(kept, lambda path: torch.save({**facts, **state}, path))


def _write(out: Path, state: State) -> None:
    from safetensors.torch import save_file

    write_atomically(out, lambda path: save_file(state, path))
