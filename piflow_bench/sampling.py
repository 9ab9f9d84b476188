"""Sampling a student: noise, conditions and step noise by sample index; evaluations are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Teacher, solve
from piflow_bench.costs.flops import Handle, Meter, Stopwatch, count_all_flops
from piflow_bench.costs.memory import PeakMemory
from piflow_bench.files.rows import Parts
from piflow_bench.randomness import SampleRandom

AUDIT_SAMPLES = 4
AUDIT_TOLERANCE = 0.02
"""Share of matrix-product FLOPs outside the counted network that is still taken as arithmetic."""


@dataclass(frozen=True)
class Arithmetic:
    """Where samples are computed, and in which precision."""

    device: str = "cpu"
    precision: str = "fp32"
    """fp32 | bf16 (autocast)."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks are called."""
        if self.precision == "bf16":
            return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)
        return nullcontext()


CPU = Arithmetic()


class DishonestNFE(RuntimeError):
    """A student whose evaluations are not the number it was asked for."""


@dataclass(frozen=True)
class Samples:
    """Samples ``(n, *shape)`` float32 and what they cost."""

    x: Tensor
    nfe: float
    flops_per_sample: float
    seconds_per_sample: float
    """Of the student's ``sample`` alone: noise, labels and copies are made before and after."""
    policy_seconds_per_sample: float = float("nan")
    """Those outside the network: what a policy between its evaluations costs."""
    memory: float = float("nan")
    """Bytes at the peak, of the last process that sampled."""


@torch.no_grad()
def _run(
    student: Student,
    network: Callable[..., Any],
    dataset: Dataset,
    indices: range,
    nfe: int,
    sample_seed: int,
    settings: Mapping[str, Any],
    arithmetic: Arithmetic,
    unit: Mapping[str, float],
) -> tuple[Tensor, Meter, float]:
    """Samples, the meter of their evaluations, and the seconds of ``sample``.

    ``unit`` holds costs of a row that were measured before: measuring them takes time.
    """
    meter = Meter(clock=Stopwatch(arithmetic.device), unit=dict(unit))
    whole = Stopwatch(arithmetic.device)
    random = SampleRandom(sample_seed, indices, arithmetic.device)
    noise = random.noise(dataset.shape)
    condition = dataset.conditions(sample_seed, indices).to(arithmetic.device)
    bound = student.bind(Handle("student", network, meter))
    with arithmetic.autocast(), whole.running():
        x = bound.sample(noise, condition, nfe, random, **settings)
    if not isinstance(x, Tensor) or x.shape != noise.shape:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"sample() returned {shape} for noise of shape {tuple(noise.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("sample() returned values that are not finite")
    return x.float().cpu(), meter, whole.seconds()


def _check(meter: Meter, samples: int, nfe: int, all_flops: float | None = None) -> None:
    counted = sum(meter.rows.values()) / samples
    if counted != nfe:
        raise DishonestNFE(f"sample(nfe={nfe}) evaluated its network {counted:g} times per sample")
    if all_flops is not None and all_flops > meter.flops * (1 + AUDIT_TOLERANCE):
        hidden = all_flops / max(meter.flops, 1e-9) - 1
        raise DishonestNFE(
            f"sample(nfe={nfe}) does {hidden:.0%} more matrix arithmetic than its counted network "
            "evaluations: a network is called outside self.network"
        )


def audit(
    student: Student,
    network: Any,
    dataset: Dataset,
    nfe: int,
    settings: Mapping[str, Any],
    arithmetic: Arithmetic = CPU,
) -> dict[str, float]:
    """Sample a few with all FLOPs counted, through the handle or not; returns costs of a row.

    Raises:
        DishonestNFE: if evaluations are hidden, or their number is wrong.
    """
    with count_all_flops() as counter:
        _, meter, _ = _run(
            student, network, dataset, range(AUDIT_SAMPLES), nfe, 0, settings, arithmetic, {}
        )
    _check(meter, AUDIT_SAMPLES, nfe, float(counter.get_total_flops()))
    return meter.unit


def sample(
    student: Student,
    network: nn.Module | Callable[..., Any],
    dataset: Dataset,
    indices: range,
    nfe: int,
    sample_seed: int,
    batch: int,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[float, str], None] = lambda share, text: None,
    arithmetic: Arithmetic = CPU,
    parts: Parts | None = None,
) -> Samples:
    """Samples of the given indices, independent of ``batch``; evaluations are checked.

    Goes on after the rows that ``parts`` holds.

    Raises:
        DishonestNFE: if the student does not use exactly ``nfe`` evaluations per sample.
    """
    settings = settings or {}
    if isinstance(network, nn.Module):
        network.eval()
    unit = audit(student, network, dataset, nfe, settings, arithmetic)
    parts = parts or Parts()
    memory = PeakMemory(arithmetic.device)
    for low in range(indices.start + parts.rows, indices.stop, batch):
        part = range(low, min(low + batch, indices.stop))
        x, meter, seconds = _run(
            student, network, dataset, part, nfe, sample_seed, settings, arithmetic, unit
        )
        _check(meter, len(part), nfe)
        assert meter.clock is not None
        policy = max(seconds - meter.clock.seconds(), 0.0)
        costs = {"flops": [meter.flops], "seconds": [seconds], "policy": [policy]}
        parts.add(len(part), x=x.numpy(), **costs)
        report(parts.rows / len(indices), f"{parts.rows} samples")
    found, n = parts.arrays(), len(indices)
    x = torch.from_numpy(found["x"])
    flops, whole, policy = (float(found[k].sum()) / n for k in ("flops", "seconds", "policy"))
    return Samples(x, float(nfe), flops, whole, policy, memory.read())


@torch.no_grad()
def converged(
    teacher: Teacher,
    dataset: Dataset,
    indices: range,
    sample_seed: int,
    solver: str,
    steps: int,
    batch: int,
    report: Callable[[float, str], None] = lambda share, text: None,
    arithmetic: Arithmetic = CPU,
    parts: Parts | None = None,
    shift: float = 1.0,
    terminal: float = 0.0,
) -> tuple[Tensor, float]:
    """Samples of the guided teacher solved to convergence, ``(n, *shape)`` float32, and their NFE.

    NFE is counted at the teacher's handle, as a student's is. Goes on after the rows that
    ``parts`` holds.
    """
    parts = parts or Parts()
    # What is counted are rows: a fixed cost of a row keeps the FLOP counter out of it.
    meter = Meter()
    teacher = teacher.bind(Handle("teacher", teacher.field, meter, flops_per_row=0.0))
    for low in range(indices.start + parts.rows, indices.stop, batch):
        part = range(low, min(low + batch, indices.stop))
        condition: Condition = dataset.conditions(sample_seed, part).to(arithmetic.device)
        noise = SampleRandom(sample_seed, part, arithmetic.device).noise(dataset.shape)
        with arithmetic.autocast():
            x = solve(teacher, noise, condition, steps, solver, shift, terminal).float().cpu()
        parts.add(len(part), x=x.numpy(), evaluations=[sum(meter.rows.values())])
        meter.rows.clear()
        report(parts.rows / len(indices), f"{parts.rows} samples")
    found = parts.arrays()
    return torch.from_numpy(found["x"]), float(found["evaluations"].sum()) / len(indices)
