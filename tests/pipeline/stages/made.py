"""A small world that stages run in: three classes of one point each, and a teacher that knows it.

Data of one point c have the velocity ``(x - c) / t``; its Euler steps end at c, however many.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.training.scale import Scale

SHAPE = (1, 2, 2)
LEVELS = torch.tensor([-0.5, 0.0, 0.5, 9.0])
"""What every pixel of a class is; the last is of no class."""
WORLD = {"dataset": {}, "space": {}, "teacher": {}}


def classes(n, first=0):
    return Classes(torch.arange(first, first + n) % 3, 3)


def points(condition):
    """The samples of some conditions."""
    return LEVELS[condition.labels][:, None, None, None].expand(-1, *SHAPE).clone()


def pictures(x):
    """Grey pictures of samples in [-1, 1]."""
    return ((x.permute(0, 2, 3, 1) + 1) * 127.5 + 0.5).floor().clamp(0, 255).byte().numpy()


def velocity(x, t, condition):
    return (x - points(condition)) / t[:, None, None, None]


class Scaled(nn.Module):
    """``u = w x``: a student of one step gives ``(1 - w)`` times its noise."""

    def __init__(self, w=None):
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 1) if w is None else torch.tensor([[w]]))

    def forward(self, x, t, condition):
        return (x.reshape(-1, 1) @ self.w).reshape(x.shape)  # A product, whose FLOPs count.


def dataset(**others):
    """12 samples to train on and 6 held out; those of an index have the classes in turn."""
    given = {
        "name": "tiny",
        "space": Space(SHAPE, pictures),
        "train": points(classes(12)),
        "train_condition": classes(12),
        "test": points(classes(6, 1)),
        "test_condition": classes(6, 1),
        "conditions": lambda seed, indices: Classes(
            torch.tensor([(i + seed) % 3 for i in indices], dtype=torch.int64), 3
        ),
        "digest": "d",
        "label_law": "balanced",
    }
    return Dataset(**{**given, **others})


def runtime(data=None, teacher=None, **others):
    """A call in this world; ``others`` replace what it gives."""
    data = data or dataset()
    found = teacher or Teacher(velocity, Scaled(0.5), closed_form=True)
    plugin = SimpleNamespace(fresh_network=lambda data: Scaled(), guidance=Guidance())
    given = {
        "folders": [],
        "dataset": lambda: data,
        "teacher": lambda made=None, frame=False: found,
        "teacher_plugin": lambda: plugin,
        "sample_batch": 4,
        "save_seconds": 0.0,
        "scale": Scale(),
        "student": None,
        "events": {},
    }
    return SimpleNamespace(**{**given, **others})


def silent(share, text):
    """Nobody is told of progress."""


def folder_of(root, name, **arrays):
    """A new folder with these features."""
    folder = root / name
    folder.mkdir()
    if arrays:
        np.savez(folder / "features.npz", **arrays)
    return folder


def samples_in(root, name, x):
    """A new folder with these samples."""
    folder = folder_of(root, name)
    np.save(folder / "samples.npy", np.asarray(x, np.float32))
    return folder
