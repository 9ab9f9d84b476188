"""NAME: say here in one line what the teacher is, and where its weights come from.

Test it with `python -m piflow_bench check teacher NAME plugins=THIS_FILE`, on its own data with
`dataset=NAME` beside it (which says as well whether its time, its scale and its labels are those of
the data), and use it with `teacher=NAME`. As it stands it is a small perceptron on samples of any
shape, of random weights where no checkpoint is given.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from piflow_bench.api import (
    Classes,
    Condition,
    Dataset,
    Guided,
    Location,
    Teacher,
    TeacherPlugin,
    load_into,
    local_path,
    read_weights,
    setting,
)


@dataclass(frozen=True)
class Config(Guided):
    """Settings, each with its type, default and bounds: teacher.width=256.

    Those of `Guided` are the scale and the interval of classifier-free guidance. Leave it out where
    the network knows no empty condition.
    """

    checkpoint: Location | None = setting(None)  # safetensors, or a file of torch.save
    width: int = setting(128, least=8)
    depth: int = setting(2, least=1)  # residual blocks


class CLASSNetwork(nn.Module):
    """The velocity eps - x0 at x = (1 - t) x0 + t eps: t = 1 is noise, t = 0 is data.

    A network that was trained otherwise is translated here: another direction or unit of time, and
    noise or data in place of the velocity.

    Some methods need more than this call: a head of their own on the trunk (`trunk`,
    `output_layer`, `project`, `velocity` and four numbers), a second time input (`add_duration`),
    guidance as an input (`add_guidance`), features at a depth (`features`, `feature_shape`,
    `depth`). `piflow_bench.api.Backbone` says what each must be; `check` tests those that are
    there, and names the methods that go without.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, depth: int) -> None:
        super().__init__()
        size = prod(shape)
        self.inner = nn.Linear(size, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        # Label `classes` is the empty condition of guidance.
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(depth)
        )
        self.outer = nn.Linear(width, size)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity (B, *shape) at states x (B, *shape) and times t (B,), each row by itself."""
        angle = t[:, None] * torch.arange(8, dtype=t.dtype, device=t.device)
        embedding = self.time(torch.cat([angle.cos(), angle.sin()], dim=1))
        if self.label is not None and isinstance(condition, Classes):
            embedding = embedding + self.label(condition.labels)
        h = self.inner(x.flatten(1))
        for block in self.blocks:
            h = h + block(h + embedding)
        return self.outer(h).view_as(x)


class CLASSTeacher(TeacherPlugin):
    """Say here in one line what the teacher is: `list` and `show` print it."""

    Config = Config

    def look(self, dataset: Dataset) -> str:
        """Refuse data that it is not a teacher of, before any work, by a UserError; this takes all.

        Compare what the files state, as `read_weights(path, values=False)` reads it, with
        `dataset.shape` and `dataset.train_condition`.
        """
        return ""

    def fresh_network(self, dataset: Dataset) -> CLASSNetwork:
        """Its architecture for these samples, without its weights."""
        condition = dataset.train_condition
        classes = condition.count if isinstance(condition, Classes) else 0
        return CLASSNetwork(dataset.shape, classes, self.config.width, self.config.depth)

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher with its weights, on the CPU; the same again whenever it is called."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.fresh_network(dataset)
        if self.config.checkpoint:
            path = local_path(self.config.checkpoint, "teacher.checkpoint")
            load_into(network, read_weights(path).state, f"teacher.checkpoint={path}")
        return Teacher(network, network, self.guidance)
