"""Latents of images on disk: shards that are mapped into memory and read by row.

A folder holds ``latents.json`` and, for every shard, ``shard-00000.npy`` ``(rows, views, c, h, w)``
with its labels ``shard-00000.labels.npy`` ``(rows,)``. Views are the image and, where it was
encoded too, its mirror image. ``kind`` says what a latent is: ``mean-std`` (c = 2 C: mean and
standard deviation, drawn from anew at every reading) or ``sample`` (c = C: one draw).
Numbers are scaled as the diffusion network sees them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.errors import UserError

FACTS, FORMAT = "latents.json", 1
KINDS = ("mean-std", "sample")


def shard_names(index: int) -> tuple[str, str]:
    """Names of a shard's latents and labels."""
    return f"shard-{index:05d}.npy", f"shard-{index:05d}.labels.npy"


def content_digest(facts: dict[str, Any]) -> str:
    """sha256 over everything that decides the latents: of the shards, and what they mean."""
    parts = {
        k: facts[k] for k in ("kind", "dtype", "shape", "flip", "classes", "shards", "scaling")
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Latents:
    """A prepared folder.

    Attributes:
        facts: the content of ``latents.json``.
        shape: of one latent, ``(C, h, w)``.
        labels: int64 ``(n,)``.
        classes: their number.
        digest: sha256 of the content.

    Raises:
        UserError: if the folder is not (yet) whole.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FACTS
        if not path.is_file():
            unfinished = any(folder.glob("shard-*.npy")) if folder.is_dir() else False
            state = "is not finished: run `prepare imagenet` again" if unfinished else (
                "holds no latents: make them with `piflow_bench prepare imagenet`"
            )  # fmt: skip
            raise UserError(f"latents={folder}: {state}")
        self.folder = folder
        self.facts: dict[str, Any] = json.loads(path.read_text())
        if self.facts.get("format") != FORMAT:
            raise UserError(f"latents={folder}: of another format; prepare them anew")
        self.shape: tuple[int, ...] = tuple(self.facts["shape"])
        self.classes = int(self.facts["classes"])
        self.digest: str = self.facts["digest"]
        self._arrays = []
        labels = []
        for i, shard in enumerate(self.facts["shards"]):
            names = shard_names(i)
            try:
                rows = np.load(folder / names[0], mmap_mode="r", allow_pickle=False)
                labels.append(np.load(folder / names[1], allow_pickle=False))
            except (OSError, ValueError) as error:
                raise UserError(f"latents={folder}: {names[0]} cannot be read ({error})") from error
            if len(rows) != shard["rows"] or len(labels[-1]) != shard["rows"]:
                raise UserError(f"latents={folder}: {names[0]} is cut short; prepare it anew")
            self._arrays.append(rows)
        self.labels = torch.from_numpy(np.concatenate(labels))
        self._ends = np.cumsum([len(a) for a in self._arrays])
        self.views = self._arrays[0].shape[1]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: Tensor, view: Tensor | None, noise: Tensor | None) -> Tensor:
        """Latents ``(B, C, h, w)`` float32.

        Args:
            rows: which, int64 ``(B,)``, in any order.
            view: 0 for the image and 1 for its mirror ``(B,)``; None (and sets without mirrors):
                the image.
            noise: standard normal ``(B, C, h, w)``: mean + std * noise; None for the mean. Stored
                samples are as they are.
        """
        index = rows.numpy()
        sides = np.zeros(len(index), np.int64)
        if view is not None and self.views > 1:
            sides = view.numpy()
        out = np.empty((len(index), *self._arrays[0].shape[2:]), self._arrays[0].dtype)
        shard = np.searchsorted(self._ends, index, side="right")
        for s in np.unique(shard):
            here = np.flatnonzero(shard == s)
            inside = index[here] - (self._ends[s] - len(self._arrays[s]))
            order = np.argsort(inside, kind="stable")  # Disks like rows in order.
            here, inside = here[order], inside[order]
            out[here] = self._arrays[s][inside, sides[here]]
        found = torch.from_numpy(out).float()
        if self.facts["kind"] == "sample":
            return found
        mean, std = found.chunk(2, dim=1)
        return mean if noise is None else mean + std * noise
