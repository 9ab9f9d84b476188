"""Remakes the digits weights: ``python -m piflow_bench prepare digits out=DIR``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Spec
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.data.digits import CLASSES, SHAPE, Classifier, Perceptron, images, teacher_network
from piflow_bench.teachers.flow_matching import FlowMatching, FlowMatchingConfig
from piflow_bench.training.loop import train
from piflow_bench.training.output import weights_file
from piflow_bench.training.settings import Budget, EMASettings, TrainingSettings
from piflow_bench.training.trainer import TrainingData

HELD_OUT = 0.2
Report = Callable[[float, str], None]


def make_digits(out: Path) -> None:
    """Write ``digits.safetensors``: scikit-learn's digits, divided."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.images))
    parts = train_test_split(rows, test_size=HELD_OUT, random_state=0, stratify=digits.target)
    tensors = {}
    for name, part in zip(("train", "test"), parts, strict=True):
        tensors[name] = torch.from_numpy(digits.images[part].astype(np.uint8))
        tensors[f"{name}_labels"] = torch.from_numpy(digits.target[part].astype(np.uint8))
    save_file(tensors, out / "digits.safetensors")


def make_teacher(out: Path, report: Report, steps: int = 8000, batch: int = 256) -> None:
    """Train the teacher and write ``digits_teacher.safetensors``; resumable."""
    x, y, _, _ = images()
    work = out / "teacher-training"
    work.mkdir(parents=True, exist_ok=True)
    settings = TrainingSettings(
        batch=batch, warmup=100, clip=1.0, threads=2, ema=EMASettings("power", gamma=7.0)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = teacher_network()
    train(
        FlowMatching(FlowMatchingConfig()),
        Teacher(start, start),
        TrainingData(TensorRows(x), Classes(y, CLASSES)),
        Spec(SHAPE, None, batch, teacher_network, Classes(y, CLASSES)),
        settings,
        Budget("images", steps * batch, (1.0,)),
        train_seed=0,
        folder=work,
        report=report,
    )
    weights_file(work).replace(out / "digits_teacher.safetensors")
    shutil.rmtree(work)


def make_classifier(
    network: nn.Module, out: Path, report: Report, steps: int = 3000, batch: int = 128
) -> float:
    """Train a classifier on jittered training images; returns its held-out accuracy."""
    x, y, x_test, y_test = images()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(len(x), (batch,), generator=generator)
        jitter = 0.15 * torch.randn(batch, *SHAPE, generator=generator)
        loss = nn.functional.cross_entropy(network(x[rows] + jitter), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            report(step / steps, f"step {step}, loss {float(loss.detach()):.3g}")
    save_file(network.state_dict(), out)
    with torch.no_grad():
        return float((network(x_test).argmax(1) == y_test).float().mean())


def make_assets(out: Path, report: Report = lambda share, text: None) -> dict[str, float]:
    """Remake all files in ``out``; returns the classifiers' held-out accuracies."""
    out.mkdir(parents=True, exist_ok=True)
    make_digits(out)
    torch.set_num_threads(2)
    accuracy = {}
    for name, kind in (("classifier", Classifier), ("judge", Perceptron)):
        torch.manual_seed(0)
        accuracy[name] = make_classifier(kind(), out / f"digits_{name}.safetensors", report)
    make_teacher(out, report)
    return accuracy
