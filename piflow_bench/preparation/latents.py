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
DECIDING = ("kind", "dtype", "shape", "flip", "size", "crop", "classes", "scaling", "shift")
"""Facts that the digest is of, beside the shards' contents."""


def shard_names(index: int) -> tuple[str, str]:
    """Names of a shard's latents and labels."""
    return f"shard-{index:05d}.npy", f"shard-{index:05d}.labels.npy"


def content_digest(facts: dict[str, Any]) -> str:
    """sha256 over everything that decides the latents: of the shards, and what they mean."""
    parts = {k: facts[k] for k in DECIDING if k in facts}
    parts["shards"] = [{k: shard[k] for k in ("rows", "sha256")} for shard in facts["shards"]]
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
        self.facts: dict[str, Any] = _facts(path)
        self.shape: tuple[int, ...] = tuple(self.facts["shape"])
        self.classes = int(self.facts["classes"])
        self.digest: str = self.facts["digest"]
        self.views = 2 if self.facts["flip"] else 1
        self._arrays, labels = [], []
        for i, shard in enumerate(self.facts["shards"]):
            rows, of_rows = self._shard(i, shard["rows"])
            self._arrays.append(rows)
            labels.append(of_rows)
        self.labels = torch.from_numpy(np.concatenate(labels))
        self._ends = np.cumsum([len(a) for a in self._arrays])

    def _shard(self, index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Latents, mapped into memory, and labels of a shard that must have ``count`` rows."""
        names = shard_names(index)
        try:
            # Not every numpy maps an array without rows (all its images were skipped).
            mode: Any = "r" if count else None
            rows = np.load(self.folder / names[0], mmap_mode=mode, allow_pickle=False)
            labels = np.load(self.folder / names[1], allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"latents={self.folder}: {names[0]} cannot be read ({error}); prepare it anew"
            ) from error
        if len(rows) != count or len(labels) != count:
            raise UserError(f"latents={self.folder}: {names[0]} is cut short; prepare it anew")
        numbers = 2 if self.facts["kind"] == "mean-std" else 1
        expected = (self.views, numbers * self.shape[0], *self.shape[1:])
        if rows.shape[1:] != expected or str(rows.dtype) != self.facts["dtype"]:
            raise UserError(
                f"latents={self.folder}: {names[0]} has rows of {rows.shape[1:]} {rows.dtype}, "
                f"{FACTS} says {expected} {self.facts['dtype']}; prepare it anew"
            )
        return rows, labels

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

        Raises:
            IndexError: for a row that is not there; negative ones do not count from the end.
        """
        index = rows.cpu().numpy()
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)} latents")
        sides = np.zeros(len(index), np.int64)
        if view is not None and self.views > 1:
            sides = view.cpu().numpy()
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


def _facts(path: Path) -> dict[str, Any]:
    """The content of a folder's ``latents.json``."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the latents anew") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"latents={path.parent}: of another format; prepare them anew")
    return facts
