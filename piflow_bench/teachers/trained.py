"""A teacher that the run trains from the dataset itself, before its students."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guided, Teacher, TeacherPlugin, TeacherTraining
from piflow_bench.errors import UserError
from piflow_bench.files.weights import load_into, read_weights
from piflow_bench.networks.dit import DiT
from piflow_bench.settings import setting
from piflow_bench.teachers.flow_matching import FlowMatching, FlowMatchingConfig
from piflow_bench.training.output import weights_file
from piflow_bench.training.settings import PRECISIONS, Budget, EMASettings, TrainingSettings

HEAD = 32
"""Least width of an attention head."""


@dataclass(frozen=True)
class Config(Guided):
    """Settings of the teacher's network and of its training."""

    guidance: float = setting(1.0, least=0)  # scale of classifier-free guidance; 1 is off
    dim: int = setting(192, least=4)  # width of the transformer
    depth: int = setting(6, least=1)  # its blocks
    patch: int | None = setting(None, least=1)  # side of a patch; None: at most 8 patches a side
    images: int = setting(80_000, least=1)  # seen in training, each as often as they last
    batch: int = setting(128, least=1)
    lr: float = setting(1e-3, least=0)
    class_dropout: float = setting(0.1, least=0, most=1)
    warmup: int = setting(100, least=0)  # steps
    precision: str = setting("fp32", choices=PRECISIONS)
    threads: int = setting(2, least=1)  # of the training, on which its last bits depend
    seed: int = setting(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 4:
            raise ValueError(f"dim={self.dim}: must be a multiple of 4")


class Trained(TeacherPlugin):
    """A diffusion transformer that the run trains on the images by flow matching, in a stage."""

    Config = Config
    made = True

    def identity(self) -> Mapping[str, Any]:
        """Every setting."""
        return {**super().identity(), "method": FlowMatching.facts.version}

    def fresh_network(self, dataset: Dataset) -> nn.Module:
        """A transformer for the dataset's samples and classes."""
        c, shape = self.config, dataset.shape
        if len(shape) != 3:
            raise UserError(
                f"teacher=trained: for pictures and latents; samples of {dataset.name} are "
                f"{'x'.join(map(str, shape))}"
            )
        channels, height, width = shape
        patch = c.patch or patch_side(height, width)
        if height % patch or width % patch:
            raise UserError(
                f"teacher.patch={patch}: samples of {width}x{height} do not divide by it; "
                f"teacher.patch={patch_side(height, width)}"
            )
        condition = dataset.train_condition
        classes = condition.count if isinstance(condition, Classes) else 0
        return DiT(channels, height, width, c.dim, c.depth, self._heads, patch, classes)

    @property
    def _heads(self) -> int:
        dim = self.config.dim
        return next(h for h in range(max(dim // HEAD, 1), 0, -1) if dim % (4 * h) == 0)

    def stated(self, dataset: Dataset) -> dict[str, Any]:
        """What the weights' shapes do not say."""
        return {"num_attention_heads": self._heads, "sample_size": dataset.shape[1]}

    def training(self, dataset: Dataset) -> TeacherTraining:
        """Flow matching over so many images, its learning rate falling to 0."""
        c = self.config
        return TeacherTraining(
            FlowMatching(FlowMatchingConfig(c.lr, c.class_dropout)),
            TrainingSettings(
                batch=c.batch,
                precision=c.precision,
                clip=1.0,
                warmup=c.warmup,
                threads=c.threads,
                ema=EMASettings("power", gamma=7.0),
            ),
            Budget("images", c.images, (1.0,)),
            c.seed,
        )

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher that was trained; of no meaning before."""
        network = self.fresh_network(dataset)
        if made is not None:
            path = weights_file(made)
            load_into(network, read_weights(path).state, str(path))
        return Teacher(network, network, self.guidance)


def patch_side(height: int, width: int) -> int:
    """The smallest side of a patch that divides the sample into at most 8 a side."""
    longer = max(height, width)
    sides = [p for p in range(1, longer + 1) if height % p == 0 and width % p == 0]
    return next((p for p in sides if longer // p <= 8), sides[-1])
