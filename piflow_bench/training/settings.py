"""Training settings: the experiment's, equal for every variant unless one overrides them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EMASettings:
    """Exponential moving average: ``power`` beta_t = (1 - 1/t)^(gamma + 1), or ``fixed``."""

    kind: str = "power"
    gamma: float = 7.0
    decay: float = 0.999

    def __post_init__(self) -> None:
        if self.kind not in ("power", "fixed"):
            raise ValueError(f"ema.kind={self.kind}: must be power or fixed")


@dataclass(frozen=True)
class TrainingSettings:
    """How the loop trains. ``threads`` is here because the bits of a result depend on it."""

    batch: int = 64  # global batch, samples
    precision: str = "fp32"  # fp32 | bf16 (autocast with fp32 masters) | fp64
    clip: float = 50.0  # gradient norm; 0 is off
    warmup: int = 20  # steps of linear learning-rate warm-up
    ema: EMASettings = field(default_factory=EMASettings)
    threads: int = 1
    optimizer: str = "adamw"  # adamw | adamw8bit (moments in 8 bits; needs bitsandbytes)
    checkpointing: bool = False  # recompute blocks in the backward pass; its cost is counted

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", "fp64"):
            raise ValueError(f"training.precision={self.precision}: must be fp32, bf16 or fp64")
        if self.optimizer not in ("adamw", "adamw8bit"):
            raise ValueError(f"training.optimizer={self.optimizer}: must be adamw or adamw8bit")
        if self.batch < 1:
            raise ValueError(f"training.batch={self.batch}: must be positive")
        if self.threads < 1:
            raise ValueError(f"training.threads={self.threads}: must be at least 1")


@dataclass(frozen=True)
class Budget:
    """What one variant may spend on training, and where it is evaluated on the way."""

    unit: str = "tfe"  # tfe | images | seconds
    amount: float = 5000.0
    checkpoints: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)  # fractions, ending with 1
    batch: int | None = None  # of the teacher forward that is the unit; None: the variant's own

    def __post_init__(self) -> None:
        if self.unit not in ("tfe", "images", "seconds"):
            raise ValueError(f"budget.unit={self.unit}: must be tfe, images or seconds")
        if not self.amount > 0:
            raise ValueError(f"budget.amount={self.amount}: must be positive")
        fractions = tuple(self.checkpoints)
        if not fractions or fractions != tuple(sorted(set(fractions))) or fractions[-1] != 1:
            raise ValueError("budget.checkpoints: must be increasing fractions that end with 1")
        if fractions[0] <= 0:
            raise ValueError("budget.checkpoints: must be positive")


def learning_rate_scale(step: int, progress: float, warmup: int, schedule: str) -> float:
    """Factor of the base learning rate at a step (linear warm-up) and spent share of the budget."""
    import math

    ramp = min((step + 1) / warmup, 1.0) if warmup else 1.0
    if schedule == "cosine":
        return ramp * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
    if schedule == "linear":
        return ramp * (1 - min(progress, 1.0))
    if schedule != "constant":
        raise ValueError(f"schedule={schedule}: must be constant, cosine or linear")
    return ramp
