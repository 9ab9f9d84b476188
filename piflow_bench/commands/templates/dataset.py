"""NAME: say here in one line what the samples are, and where they come from.

Test it with `python -m piflow_bench check dataset NAME plugins=THIS_FILE`, and use it with
`dataset=NAME`. As it stands it reads pictures from a folder of numpy files, and makes some of its
own where no folder is given.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from piflow_bench.api import (
    Classes,
    Dataset,
    DatasetPlugin,
    Location,
    Place,
    SpacePlugin,
    UserError,
    local_path,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings, each with its type, default and bounds: dataset.folder=PATH."""

    folder: Location | None = setting(None)  # of images.npy (n, h, w, c) uint8 and labels.npy (n,)
    held_out: float = setting(0.2, above=0, below=1)  # share that no training sees
    made: int = setting(1000, least=20)  # pictures that are made where no folder is given


class CLASSDataset(DatasetPlugin):
    """Say here in one line what the samples are: `list` and `show` print it."""

    Config = Config
    space = "pixels"  # what a sample is, unless `space=` says otherwise; `list` names the others

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Read everything; the same again whenever it is called."""
        images, labels = self.read() if self.config.folder else bars(self.config.made)
        classes = int(labels.max()) + 1
        made = space.load(images.shape[1:], place)
        if made.encode is None:
            raise UserError("dataset=NAME: these are pictures; space=pixels holds them")
        x = made.encode(images)  # float32, (n, *made.shape)
        y = torch.from_numpy(labels).long()  # 0 to classes - 1

        # Held-out samples are the reference of quality: drawn from all, and always the same.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        n = round(self.config.held_out * len(x))
        test, train = order[:n], order[n:]

        def conditions(seed: int, indices: Sequence[int]) -> Classes:
            """The classes of generated samples, which depend on seed and index alone."""
            return Classes(torch.tensor([i % classes for i in indices]), classes)

        return Dataset(
            name="NAME",
            space=made,
            train=x[train],
            train_condition=Classes(y[train], classes),
            test=x[test],
            test_condition=Classes(y[test], classes),
            conditions=conditions,
            digest=digest(x[train], y[train], x[test], y[test]),
            label_law="balanced",  # in turn; "uniform" where each is drawn for itself
        )

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Pictures and labels of the folder; what is wrong with it is said in one line."""
        folder = local_path(self.config.folder, "dataset.folder")
        try:
            images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
        except (OSError, ValueError) as error:
            raise UserError(f"dataset.folder={folder}: {error}") from error
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise UserError(
                f"dataset.folder={folder}: images.npy is {images.dtype} {images.shape}, labels.npy "
                f"{labels.shape}; (n, h, w, c) uint8 and (n,) are needed"
            )
        return images, labels


def bars(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes of 8x8 pictures: a bright bar at one of four heights, in noise."""
    draws = np.random.default_rng(0)
    labels = np.arange(n) % 4
    images = draws.integers(0, 64, (n, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += draws.integers(128, 192)
    return images.astype(np.uint8), labels


def digest(*tensors: Tensor) -> str:
    """A sha256 of all data: by it results are kept, and computed again when the data change."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return whole.hexdigest()
