"""The frozen teacher: a velocity field, its guidance, and the network students start from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from piflow_bench import flow
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.plugin import Plugin
from piflow_bench.settings import setting


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of scale w for t in [low, high]; w = 1 is off."""

    RULES: ClassVar[tuple[str, ...]] = ("plain", "norm-rescaled")

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    rule: str = "plain"
    """One of ``RULES``; norm-rescaled: each token keeps the norm of its unguided velocity."""

    def __call__(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """The guided velocity of rows where it holds."""
        guided = flow.guide(conditional, unconditional, self.scale)
        return flow.rescaled(guided, conditional) if self.rule == "norm-rescaled" else guided

    @property
    def on(self) -> bool:
        """Whether it changes anything."""
        return self.scale != 1.0

    def holds(self, t: Tensor) -> Tensor:
        """Whether it holds at each of the times ``t``, by shape; its edges belong to it.

        All who ask compare in float32, whatever precision they keep their times in.
        """
        low, high = torch.tensor([self.low, self.high], dtype=torch.float32).tolist()
        t = t.float()
        return (t >= low) & (t <= high) & self.on


class Teacher:
    """The field that students imitate.

    Args:
        field: the conditional velocity ``field(x, t, condition)``: a trained network, or a closed
            form.
        network: the backbone students are initialised from. Equal to ``field`` for trained
            teachers; for closed-form ones a network fitted to the field.
        guidance: the guidance that belongs to "the teacher" in this experiment.
        taken: which of the several sets of weights in its file it has.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        network: nn.Module,
        guidance: Guidance | None = None,
        closed_form: bool = False,
        taken: str = "",
    ) -> None:
        self.field, self.network = field, network
        self.guidance = guidance or Guidance()
        self.closed_form, self.taken = closed_form, taken
        self._gradient = False
        network.requires_grad_(False).eval()

    def bind(self, field: Callable[..., Tensor]) -> Self:
        """A copy whose evaluations go through ``field`` (a counting handle)."""
        bound = copy.copy(self)
        bound.field = field
        return bound

    def to(self, device: str, dtype: torch.dtype = torch.float32) -> Self:
        """A copy whose network (and field, where they are one) is on a device, in a dtype.

        A network that is in memory once, for all (it has ``roles``), is moved itself and keeps its
        precision.
        """
        moved = copy.copy(self)
        if hasattr(self.network, "roles"):
            self.network.to(device)
            return moved
        first = next(self.network.parameters(), None)
        if first is not None and (first.device != torch.device(device) or first.dtype != dtype):
            moved.network = copy.deepcopy(self.network).to(device, dtype)
            moved.field = moved.network if self.field is self.network else self.field
        return moved

    def guided(self, guidance: Guidance) -> Self:
        """A copy with another guidance."""
        other = copy.copy(self)
        other.guidance = guidance
        return other

    def differentiable(self) -> Self:
        """A copy whose velocities have gradients to x; its weights stay frozen."""
        other = copy.copy(self)
        other._gradient = True
        return other

    def _recording(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._gradient else torch.no_grad()

    def conditional(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity without guidance, in x's precision; one evaluation a row."""
        with self._recording():
            return self.field(x, t, condition).to(x.dtype)

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Guided velocity ``(B, *sample)`` at times ``(B,)``, in x's precision.

        It has no gradient, unless of the copy that :meth:`differentiable` gives. Rows inside the
        guidance interval cost two evaluations, rows outside it one.
        """
        g = self.guidance
        with self._recording():
            if not g.on:
                return self.conditional(x, t, condition)
            inside = g.holds(t)
            if not inside.any():
                return self.conditional(x, t, condition)
            rows = inside.nonzero()[:, 0]
            every = bool(inside.all())
            xs, ts, cs = (x, t, condition) if every else (x[rows], t[rows], condition[rows])
            both = self.conditional(
                torch.cat([x, xs]), torch.cat([t, ts]), condition.cat(cs.null())
            )
            u, empty = both[: len(x)], both[len(x) :]
            if every:
                return g(u, empty)
            return u.index_copy(0, rows, g(u[rows], empty))


@dataclass(frozen=True)
class Guided:
    """Settings of every teacher: its guidance."""

    guidance: float = setting(1.0, least=0)  # scale of classifier-free guidance; 1 is off
    guidance_low: float = setting(0.0, least=0, most=1)  # it holds for t in [low, high]
    guidance_high: float = setting(1.0, least=0, most=1)

    def __post_init__(self) -> None:
        if self.guidance_low > self.guidance_high:
            raise ValueError(
                f"guidance_low={self.guidance_low}: must be at most guidance_high, "
                f"{self.guidance_high}"
            )


@dataclass(frozen=True)
class TeacherTraining:
    """How a teacher is trained by a stage of the run."""

    method: Any
    """A `Method` that needs no teacher, whose student is the teacher."""
    settings: Any
    """`TrainingSettings`."""
    budget: Any
    """A `Budget`."""
    seed: int


class TeacherPlugin(Plugin):
    """A velocity field of a dataset's samples, and the network that students start from.

    ``Config`` is a subclass of ``Guided`` where the field can be guided.
    """

    kind: ClassVar[str] = "teacher"
    made: ClassVar[bool] = False
    """Whether its weights are made by a stage of the run: :meth:`training`, else :meth:`make`."""
    encodes: ClassVar[bool] = False
    """Whether its conditions are encoded by a stage of the run: :meth:`encode`."""

    @property
    def guidance(self) -> Guidance:
        """The guidance that belongs to "the teacher" in this experiment."""
        c = self.config
        if not isinstance(c, Guided):
            return Guidance()
        return Guidance(c.guidance, c.guidance_low, c.guidance_high)

    def look(self, dataset: Dataset) -> str:
        """Compare what files state with the data; no weights are read.

        Returns:
            Which of the several sets of weights in its file it takes; empty if there is one.

        Raises:
            UserError: naming the two facts that disagree.
        """
        return ""

    def fresh_network(self, dataset: Dataset) -> nn.Module:
        """A randomly initialised backbone of the teacher's architecture."""
        raise NotImplementedError("a teacher must define fresh_network()")

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher on the CPU, in float32; ``made`` holds what the stage wrote."""
        raise NotImplementedError("a teacher must define load()")

    def frame(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher without its weights, where those are large: what another model fits into."""
        return self.load(dataset, made)

    def training(self, dataset: Dataset) -> TeacherTraining | None:
        """How a stage trains it; its checkpoint is ``checkpoint_0.safetensors``. None: made."""
        return None

    def stated(self, dataset: Dataset) -> dict[str, Any]:
        """Facts that go into the ``config.json`` beside exported weights."""
        return {}

    def make(self, dataset: Dataset, folder: Path, report: Callable[[float, str], None]) -> None:
        """Write its weights into ``folder``, of a teacher that is made."""
        raise NotImplementedError("a teacher that is made must define make()")

    def encodings(self) -> dict[str, Any]:
        """What decides the encoded conditions, of a teacher that encodes them."""
        raise NotImplementedError("a teacher that encodes conditions must define encodings()")

    def encoded_bytes(self, dataset: Dataset) -> float:
        """Bytes that the dataset's encoded conditions take, about."""
        return 0.0

    def encode(
        self, dataset: Dataset, folder: Path, device: str, report: Callable[[float, str], None]
    ) -> list[str]:
        """Write all of the dataset's conditions, encoded, into ``folder``, which `load` is given.

        Goes on after what it had written there before.

        Returns:
            What a user should know of them, a line each.
        """
        raise NotImplementedError("a teacher that encodes conditions must define encode()")


def solve(
    teacher: Callable[[Tensor, Tensor, Condition], Tensor],
    noise: Tensor,
    condition: Condition,
    steps: int,
    solver: str = "heun",
    shift: float = 1.0,
    terminal: float = 0.0,
    **options: Any,
) -> Tensor:
    """Integrate the teacher from noise to data in ``steps`` steps, uniform in raw time."""
    times = flow.time_grid(steps, shift, torch.float64, terminal)
    return flow.SOLVERS[solver](lambda x, t: teacher(x, t, condition), noise, times, **options)
