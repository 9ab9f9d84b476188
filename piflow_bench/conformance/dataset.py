"""What a dataset must be, looked at before any work: a look at some rows, and one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.contracts.condition import Classes, Condition, Prompts
from piflow_bench.contracts.data import Dataset, Rows
from piflow_bench.contracts.teacher import Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.randomness import SampleRandom

SMALL = 1024
"""Values of a sample up to which networks are small."""
LOOK = 256
"""Rows that are looked at, evenly spread over a set."""
GROUPS = ("samples", "labels", "conditions")
"""What a dataset may be wrong in."""
ROUNDING = 1e-3
"""How far images may lie outside [-1, 1]."""


def dataset_problems(dataset: Dataset, held_out: bool = True) -> list[str]:
    """What is wrong with the data and conditions, a line each; nothing where all is right.

    Args:
        dataset: what a plugin gave.
        held_out: whether held-out samples are needed: a data question is asked.
    """
    return [line for lines in dataset_findings(dataset, held_out).values() for line in lines]


def dataset_findings(dataset: Dataset, held_out: bool = True) -> dict[str, list[str]]:
    """The lines of :func:`dataset_problems` by what they are about: ``GROUPS``."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    if not isinstance(dataset, Dataset):
        found["samples"] = [f"the plugin gave {type(dataset).__name__}, not a Dataset"]
        return found
    sets: list[tuple[str, Rows, Condition]] = [
        ("train", dataset.training_rows, dataset.train_condition)
    ]
    needed = ["train"]
    if dataset.reference is None:
        sets.append(("test", dataset.held_out, dataset.test_condition))
        needed += ["test"] if held_out else []
    samples, labels = found["samples"], found["labels"]
    alone = isinstance(dataset.train_condition, Prompts)  # They have no pictures of their own.
    for name, rows, condition in sets:
        if not len(rows):
            samples += [f"{name} is empty"] if name in needed and not alone else []
            continue
        if len(rows) != len(condition):
            labels.append(f"{name} has {len(rows)} samples and {len(condition)} conditions")
        labels += [f"{name} {words}" for words in _labels(condition)]
        if getattr(rows, "deferred", False):  # Looked at when they are made.
            continue
        index = torch.linspace(0, len(rows) - 1, min(LOOK, len(rows))).round().long()
        samples += [f"{name} {words}" for words in _samples(dataset, rows.take(index, None))]
    found["conditions"] = [f"conditions {words}" for words in _conditions(dataset)]
    return found


def _samples(dataset: Dataset, x: Any) -> Iterator[str]:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        yield f"is of {kind}; samples are float32 tensors"
        return
    if tuple(x.shape[1:]) != tuple(dataset.shape):
        yield f"has samples of {tuple(x.shape[1:])}, shape says {tuple(dataset.shape)}"
    bad = int((~x.flatten(1).isfinite().all(1)).sum())
    if bad:
        yield f"has {bad} of {len(x)} samples that are not finite"
    elif dataset.space.bounded:
        low, high = float(x.min()), float(x.max())
        if low < -1 - ROUNDING or high > 1 + ROUNDING:
            yield f"has images in [{low:g}, {high:g}]; they lie in [-1, 1]: pixels / 127.5 - 1"
        elif low >= 0 and len(x) > 1:
            yield f"has images in [{low:g}, {high:g}], none of them dark; they lie in [-1, 1]"


def _labels(condition: Condition) -> Iterator[str]:
    if isinstance(condition, Classes) and len(condition):
        low, high = int(condition.labels.min()), int(condition.labels.max())
        if low < 0 or high >= condition.count:
            yield f"has labels {low} to {high}; of {condition.count} classes they are 0 to " + str(
                condition.count - 1
            )


def _conditions(dataset: Dataset) -> Iterator[str]:
    """Those of samples: as many as asked, of the training set's kind, by index alone."""
    few, later = dataset.conditions(0, range(LOOK)), dataset.conditions(0, range(LOOK - 8, LOOK))
    if len(few) != LOOK or type(few) is not type(dataset.train_condition):
        yield (
            f"of {LOOK} samples are {len(few)} {type(few).__name__}; the training set's are "
            f"{type(dataset.train_condition).__name__}"
        )
        return
    yield from _labels(few)
    counts = (getattr(few, "count", None), getattr(dataset.train_condition, "count", None))
    if counts[0] != counts[1]:
        yield f"are of {counts[0]} classes, the training set of {counts[1]}"
    if not torch.equal(few[torch.arange(LOOK - 8, LOOK)].pack(), later.pack()):
        yield "depend on more than seed and index: a sample's differs with what is drawn beside it"


def network_of(dataset: Dataset, plugin: TeacherPlugin) -> tuple[nn.Module, list[str]]:
    """A teacher's network without its weights, and what is wrong with its shapes.

    On the meta device, which takes neither memory nor time, where samples are not small (to import
    what it needs takes a second) and the network allows it.
    """
    n, shape = 2, dataset.shape
    network, problem = nn.Module(), ""
    for device in ("cpu",) if math.prod(shape) <= SMALL else ("meta", "cpu"):
        try:
            where = nullcontext() if device == "cpu" else torch.device(device)
            with where, torch.no_grad(), torch.random.fork_rng(devices=[]):
                network = plugin.fresh_network(dataset)
                x, t = torch.zeros(n, *shape), torch.full((n,), 0.5)
                out = network(x, t, dataset.conditions(0, range(n)).to(device))
        except UserError:
            raise
        except Exception as error:  # A network of somebody else's.
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        problem = "" if given == (n, *shape) else f"gives {given} for {(n, *shape)}"
        break
    words = f"its network, on samples of {'x'.join(map(str, shape))}"
    return network, [f"{words}: {problem}"] if problem else []


@torch.no_grad()
def teacher_problems(dataset: Dataset, teacher: Teacher, device: str = "cpu") -> list[str]:
    """What is wrong with a guided forward pass of a teacher there, and one of its network."""
    n = min(2, LOOK)
    noise = SampleRandom(0, range(n), device).noise(dataset.shape)
    condition = dataset.conditions(0, range(n)).to(device)
    t = torch.full((n,), 0.5, device=device)
    calls: dict[str, Any] = {"teacher": teacher}
    if teacher.network is not teacher.field:
        calls["network"] = teacher.network
    found = []
    for name, call in calls.items():
        try:
            out = call(noise, t, condition)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            found.append(f"the {name} cannot be called on {tuple(noise.shape)}: {words}")
            continue
        if not isinstance(out, Tensor) or out.shape != noise.shape:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            found.append(f"the {name} gives {shape} for samples of {tuple(noise.shape)}")
        elif not out.isfinite().all():
            found.append(f"the {name} gives values that are not finite at t = 0.5")
    return found
