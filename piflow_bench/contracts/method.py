"""The contract of a method plugin (see api.py for all that a plugin may import)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_bench import forward_mode
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.reward import Reward
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.costs.flops import Handle
from piflow_bench.precision import products
from piflow_bench.randomness import TrainingRandom
from piflow_bench.tracks import DISTILLED


@dataclass(frozen=True)
class Facts:
    """What a method declares about itself; `check` holds it to what can be observed."""

    family: str
    """trajectory imitation | flow map | distribution matching | regression | solver | ..."""
    track: str = DISTILLED
    """distilled (teacher given) | from scratch (the teacher's own training counts) | none."""
    trains: bool = True
    needs_data: bool = False
    needs_teacher: bool = True
    jvp: str = "none"
    """none | exact | finite difference."""
    auxiliary: tuple[str, ...] = ()
    """Networks beside the student."""
    elastic: bool = False
    """One student serves every NFE; otherwise one is trained per NFE."""
    nfes: tuple[int, ...] | None = None
    """NFEs that can be served; None: any."""
    group: int = 1
    """Consecutive rows of a batch that belong together: no process or micro-batch parts them."""
    stochastic: bool = False
    target: str = ""
    """What its optimum samples, in words, where that is not the end of the guided teacher's ODE."""
    backbone: tuple[str, ...] = ()
    """What it needs of the teacher's network beyond ``(x, t, condition)``: heads | duration |
    guidance input | features, the words of ``contracts.backbone.PARTS``."""
    guidance: str = "baked"
    """baked | at inference | none."""
    published: bool = False
    """Whether it is scored with published weights alone, which a variant names, never trained."""
    paper: str = ""
    citation: str = ""
    """BibTeX of it; ``cite`` writes an entry."""
    fidelity: str = ""
    """How near it is to its paper, in words: the published recipe, or what differs."""
    reward: str = ""
    """The reward plugin that it is trained to please; "": none."""
    trained_on: tuple[str, ...] = ()
    """Extractors whose features it is trained on: their metrics are marked in its rows."""
    version: int = 1
    """Raise it when the method's mathematics change: it is part of every artifact's key."""

    @property
    def trained_here(self) -> bool:
        """Whether a run trains it."""
        return self.trains and not self.published

    def stochastic_at(self, nfe: int) -> bool:
        """Whether samples depend on more than their initial noise: renoising needs two steps."""
        return self.stochastic and nfe > 1


@dataclass(frozen=True)
class Spec:
    """What a student is built for."""

    shape: tuple[int, ...]
    """Shape of a sample, (C, *spatial)."""
    train_nfe: int | None
    """The NFE trained for; None for an elastic student."""
    batch: int
    """Global batch."""
    fresh_network: Callable[[], nn.Module]
    """A randomly initialised backbone of the teacher's architecture."""
    condition: Condition
    """Some conditions, at least one: their kind."""
    device: str = "cpu"
    """Where it will be trained or sampled: cpu | cuda. The teacher is there already."""
    seed: int = 0


@dataclass(frozen=True)
class Optimizer:
    """AdamW over the named modules, as the training loop builds it."""

    modules: tuple[str, ...]
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    schedule: str = "constant"
    """constant | cosine | linear: of the spent share of the budget, after the warm-up."""


@dataclass(frozen=True)
class Built:
    """What `build` returns.

    ``modules["student"]`` is what ``student.network`` calls. Modules' buffers are part of every
    checkpoint, so a method keeps its state there.
    """

    student: Student
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    ema: tuple[str, ...] = ("student",)


@dataclass(frozen=True)
class Batch:
    """Rows of one training step: data (None where the method needs none) and conditions."""

    x0: Tensor | None
    condition: Condition
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.condition)


@dataclass(frozen=True)
class Update:
    """One backward pass of ``loss`` for ``optimizer``; it steps unless ``step`` is False."""

    optimizer: str
    loss: Tensor
    step: bool = True
    scalars: Mapping[str, float] = field(default_factory=dict)


def no_reward(samples: Tensor, condition: Condition) -> Tensor:
    """What stands for the reward of a method that declares none.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("context.reward: the method's facts name no reward")


@dataclass(frozen=True)
class Context:
    """What a training step works with: everything is a counted handle already."""

    step: int
    progress: float
    """Spent share of the budget, 0..1."""
    random: TrainingRandom
    teacher: Teacher
    """The guided teacher of the experiment; ``.conditional`` is the unguided field."""
    networks: Mapping[str, Handle]
    modules: Mapping[str, nn.Module]
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    """Rows of every process, in the order of the global batch: all processes must call it."""
    last: bool = True
    """Whether this is the step's last micro-batch of this process."""
    eager: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Inside it nothing runs compiled: forward-mode derivatives need that."""

    forwards: float = 0.0
    """What all processes spent before this step, in teacher forwards of one sample."""

    reward: Reward = no_reward
    """How good samples are, by the reward of the facts; as numbers, without gradient."""

    held: list[nn.Parameter] = field(default_factory=list)
    """Parameters without gradient until the update's backward pass is over."""

    def frozen(self, name: str) -> Callable[..., Any]:
        """The network ``name`` with gradient to its inputs but not to its parameters.

        Its parameters stay so until the backward pass is over: activations may be recomputed there.
        """
        handle, module = self.networks[name], self.modules[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            wanted = [p for p in module.parameters() if p.requires_grad]
            for p in wanted:
                p.requires_grad_(False)
            self.held.extend(wanted)
            return handle(*args, **kwargs)

        return call

    def thaw(self) -> None:
        """Let frozen parameters take gradients again."""
        for p in self.held:
            p.requires_grad_(True)
        self.held.clear()

    def products(self, precision: str) -> AbstractContextManager[None]:
        """Inside it products are ``float32`` (autocast and TF32 are off), ``tf32`` or ``bfloat16``.

        What is subtracted from its like, or differentiated, wants float32 in a bfloat16 run, too.
        """
        return products(self.random.device, precision)

    def jvp(
        self,
        function: Callable[..., Tensor],
        primals: Sequence[Tensor],
        tangents: Sequence[Tensor],
        precision: str = "float32",
    ) -> tuple[Tensor, Tensor]:
        """Value and directional derivative, without gradient, in a precision of its own.

        Gradients never pass through here, hence no wrapper's hooks are bypassed.
        """
        with self.eager(), self.products(precision):
            return forward_mode.jvp(
                function, *([_precise(x) for x in xs] for xs in (primals, tangents))
            )


def _precise(x: Tensor) -> Tensor:
    """A tensor in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class NoSampling:
    """Of a method whose student has no settings of sampling alone."""


class Method:
    """Base of a method plugin: a frozen configuration and three functions.

    A subclass sets ``Config`` (a dataclass of hyper-parameters with defaults) and ``facts``. If its
    student's ``sample`` takes settings, which a variant's ``sampling`` may set, those that
    ``Config`` has are named in ``sampling``, and all others are fields of ``Sampling``; it is
    given those that are set, and no defaults. ``self.config`` is a validated ``Config``.
    """

    Config: ClassVar[type]
    facts: ClassVar[Facts]
    sampling: ClassVar[tuple[str, ...]] = ()
    Sampling: ClassVar[type] = NoSampling

    def __init__(self, config: Any) -> None:
        self.config = config

    def facts_for(self) -> Facts:
        """The facts of this configuration (the class's, unless settings change them)."""
        return self.facts

    def serves(self, nfe: int) -> str | None:
        """None if this configuration can sample in ``nfe`` evaluations, else the reason."""
        nfes = self.facts_for().nfes
        if nfes is not None and nfe not in nfes:
            return f"serves NFE {', '.join(map(str, nfes))}"
        return None

    def samples_with(self, sampling: Mapping[str, Any], nfe: int, guidance: Guidance) -> str | None:
        """None if this configuration's student can be sampled so, else the reason.

        Args:
            sampling: a value for each setting that a variant's ``sampling`` names.
            nfe: evaluations, one that ``serves`` lets through.
            guidance: the teacher's, which holds where sampling names no other.
        """
        return None

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Networks, optimizers and the student, initialised from the teacher."""
        raise NotImplementedError("a method must define build()")

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """The updates of one training step, in order."""
        raise NotImplementedError("a method that trains must define training_step()")
