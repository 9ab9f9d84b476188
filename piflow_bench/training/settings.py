"""Training settings: the experiment's, equal for every variant unless one overrides them."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_bench.settings import refuse_name, setting

PRECISIONS = ("fp32", "bf16", "fp64")
SCHEDULES = ("constant", "cosine", "linear")
"""How a learning rate falls with the spent share of the budget."""


@dataclass(frozen=True)
class EMASettings:
    """Exponential moving average: ``power`` beta_t = (1 - 1/t)^(gamma + 1), or ``fixed``."""

    kind: str = setting("power", choices=("power", "fixed"))
    gamma: float = setting(7.0, least=0)
    decay: float = setting(0.999, least=0, below=1)


@dataclass(frozen=True)
class TrainingSettings:
    """How the loop trains. ``threads`` is here because the bits of a result depend on it."""

    batch: int = setting(64, least=1)  # global batch, samples
    precision: str = setting("fp32", choices=PRECISIONS)  # bf16: autocast with fp32 masters
    clip: float = setting(50.0, least=0)  # gradient norm; 0 is off
    warmup: int = setting(20, least=0)  # steps of linear learning-rate warm-up
    ema: EMASettings = setting(factory=EMASettings)
    threads: int = setting(1, least=1)
    # adamw8bit: moments in 8 bits; needs bitsandbytes
    optimizer: str = setting("adamw", choices=("adamw", "adamw8bit"))
    checkpointing: bool = False  # recompute blocks in the backward pass; its cost is counted
    # of students that are adapters on a frozen network: rank, and dropout of their inputs
    adapter_rank: int = setting(256, least=1, added=True)
    adapter_dropout: float = setting(0.05, least=0, below=1, added=True)


@dataclass(frozen=True)
class Budget:
    """What one variant may spend on training, and where it is evaluated on the way."""

    unit: str = setting("tfe", choices=("tfe", "images", "seconds"))
    amount: float = setting(5000.0, above=0)
    # fractions, ending with 1
    checkpoints: tuple[float, ...] = setting((0.125, 0.25, 0.5, 1.0), above=0, most=1)
    # of the teacher forward that is the unit; None: the experiment's
    batch: int | None = setting(None, least=1)

    def __post_init__(self) -> None:
        fractions = tuple(self.checkpoints)
        if not fractions or fractions != tuple(sorted(set(fractions))) or fractions[-1] != 1:
            raise ValueError("budget.checkpoints: must be increasing fractions that end with 1")


def learning_rate_scale(step: int, progress: float, warmup: int, schedule: str) -> float:
    """Factor of the base learning rate at a step (linear warm-up) and spent share of the budget."""
    import math

    ramp = min((step + 1) / warmup, 1.0) if warmup else 1.0
    if schedule == "cosine":
        return ramp * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
    if schedule == "linear":
        return ramp * (1 - min(progress, 1.0))
    if schedule != "constant":
        raise ValueError(f"schedule={schedule}: {refuse_name(schedule, SCHEDULES)}")
    return ramp
