"""What describes pictures (or points): a feature network with all that decides its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.plugin import Place, Plugin
from piflow_bench.precision import products
from piflow_bench.settings import Location, setting

FEATURES, SPATIAL, LOGITS = "features", "spatial", "logits"


class Recipe(NamedTuple):
    """Arguments of the ``get_extractor`` that gives an extractor again, in another process."""

    name: str
    weights: str | None
    device: str
    precision: str
    compiled: bool
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extractor:
    """An extractor that is loaded.

    ``prepare`` turns images ``(b, h, w, 3)`` uint8 into the network's input and may run in threads;
    ``network`` gives ``features`` ``(b, d)`` and, where it has them, ``spatial`` ``(b, s)`` and
    ``logits`` ``(b, classes)``.
    """

    name: str
    weights: str
    """sha256 of the weights' file."""
    rule: str
    """How images are resized and scaled."""
    outputs: tuple[str, ...]
    prepare: Callable[[np.ndarray], Tensor]
    network: Callable[[Tensor], dict[str, Tensor]]
    device: str = "cpu"
    precision: str = "float32"
    """float32, tf32 (a GPU's shorter products) or bfloat16 (autocast)."""
    recipe: Recipe | None = None
    """How another process gets it; None where it cannot."""
    source: str = ""
    """Digest of a plugin that is a file or another project's; set by what loads it."""
    batch: int | None = None
    """Images at once, of a network to which that makes no difference; None: as the device likes."""

    @property
    def identity(self) -> str:
        """Name, resizing rule and the first digits of the weights' sha256."""
        source = f"; source {self.source}" if self.source else ""
        return f"{self.name} ({self.rule}; weights {self.weights[:12]}{source})"

    @property
    def key(self) -> list[str]:
        """What decides its outputs."""
        compiled = self.recipe is not None and self.recipe.compiled
        rule = [self.name, self.rule, self.weights, self.precision, "compiled" * compiled]
        return [*rule, self.source] if self.source else rule

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of images ``(b, h, w, 3)`` uint8, as float32 arrays."""
        x = self.prepare(images).to(self.device)
        with products(self.device, self.precision):
            found = self.network(x)
        return {k: v.float().cpu().numpy() for k, v in found.items() if k in self.outputs}


@dataclass(frozen=True)
class Weights:
    """Settings of an extractor."""

    weights: Location | None = setting(None)  # a file, where it is not in the cache folder


class ExtractorPlugin(Plugin):
    """A feature network of pictures ``(b, h, w, 3)`` uint8."""

    kind: ClassVar[str] = "extractor"
    Config: ClassVar[type] = Weights
    outputs: ClassVar[tuple[str, ...]] = (FEATURES,)
    """What it gives: features, and perhaps logits and spatial features."""
    rule: ClassVar[str] = ""
    """How pictures are resized and scaled: a part of its identity."""
    seconds: ClassVar[float] = 0.0
    """That a picture takes on one core, about: for how long a run is said to take; 0: not known."""
    of_points: ClassVar[bool] = False
    """Whether it describes samples themselves: ``prepare`` takes them, ``(b, *shape)`` float32."""

    def file(self) -> Path | None:
        """The file of its weights; None where it has none.

        Raises:
            UserError: saying which file to put where.
        """
        return None

    def identity(self) -> Mapping[str, Any]:
        """Its settings, its rule and the digest of its weights; nothing is loaded."""
        from piflow_bench.files.digests import digest

        path = self.file()
        return {**super().identity(), "rule": self.rule, "weights": digest(path) if path else ""}

    def load(self, name: str, place: Place) -> Extractor:
        """The network on its device; ``name`` is that of the plugin.

        Raises:
            UserError: where the weights are missing or of another network.
        """
        raise NotImplementedError("an extractor must define load()")

    def loaded(
        self,
        name: str,
        place: Place,
        prepare: Callable[[np.ndarray], Tensor],
        network: Callable[[Tensor], dict[str, Tensor]],
        batch: int | None = None,
    ) -> Extractor:
        """The extractor of these functions, with the plugin's identity."""
        found = self.identity()
        return Extractor(
            name,
            found["weights"],
            found["rule"],
            self.outputs,
            prepare,
            network,
            place.device,
            batch=batch,
        )
