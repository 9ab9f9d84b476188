"""Whether a teacher is one of these data: its flow-matching loss, as it is and in other readings.

A checkpoint does not say what its numbers mean: whether its time runs from data to noise or back,
in 0..1 or 0..1000, whether it predicts a velocity, noise or data, at which scale its latents were,
and where its labels begin. Each of these mistakes gives a network that runs, and wrong samples.
So the loss ``|u(x_t, t, c) - (eps - x0)|^2`` on real samples is measured by time, and again under
every other reading. Where another one is clearly better than the one that is set, it is named.

Losses are relative to ``|eps - x0|^2``, and stand beside those of a predictor that knows mean and
variance of the data alone: for N(m, s^2) the least loss at t is ``s^2 / ((1-t)^2 s^2 + t^2)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Teacher

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROWS = 64
"""Real samples that are looked at, at every time."""
BETTER = 0.75
"""Of its loss, what another reading must be below to be named."""
FEW = 16
"""Classes up to which every offset of labels is tried; of more, the near ones."""
SURE = 5.0
"""Standard errors by which other labels must be better to be named."""
SCALES = (0.18215, 0.13025, 0.5, 2.0)
"""Factors of the data that are tried, and their inverses: of published autoencoders, and two."""
Call = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class TeacherReport:
    """What was measured: losses by time, relative to those of predicting nothing."""

    times: tuple[float, ...]
    loss: tuple[float, ...]
    """As the teacher is set."""
    shuffled: tuple[float, ...]
    """With the labels of other samples; empty without labels."""
    known: tuple[float, ...]
    """Of a predictor that knows mean and variance of the data alone."""
    problem: str = ""
    """What is wrong, with the setting that mends it; empty where nothing is."""
    note: str = ""
    """What is odd, but may be meant."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@torch.no_grad()
def look_at(dataset: Dataset, teacher: Teacher, device: str = "cpu") -> TeacherReport:
    """Measure a teacher, without its guidance, on real samples.

    Args:
        dataset: with training samples.
        teacher: on ``device``.
        device: where it is called.
    """
    rows = torch.linspace(0, len(dataset.training_rows) - 1, ROWS).round().long()
    x0 = dataset.training_rows.take(rows, None).to(device)
    condition = dataset.train_condition[rows].to(device)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(device)
    probe = _Probe(x0, noise, condition, teacher.conditional)

    own = probe.losses(probe.velocity)
    scale = float((noise - x0).square().mean())
    by_time = tuple(float(row.mean()) / scale for row in own)
    known = tuple(loss / scale for loss in probe.known())
    if not own.isfinite().all():
        return TeacherReport(TIMES, by_time, (), known, "gives values that are not finite")
    problem = probe.other_reading(float(own.mean()))
    shuffled: tuple[float, ...] = ()
    note = ""
    if isinstance(condition, Classes) and len(condition.labels.unique()) > 1:
        others = probe.losses(probe.with_labels(condition.labels.roll(ROWS // 2 + 1)))
        shuffled = tuple(float(row.mean()) / scale for row in others)
        problem = problem or probe.other_labels(own, condition)
        if not problem and _errors(others - own) < 2:
            note = "the labels of other samples serve it as well: are they those it was trained on?"
    if not problem and sum(by_time) > 1.02 * sum(known):
        note = (
            "knows less of these data than their mean and variance: trained briefly, on other "
            "data, or its parametrisation is another"
        )
    return TeacherReport(TIMES, by_time, shuffled, known, problem, note)


@dataclass(frozen=True)
class _Probe:
    """Real samples with noise, at all times, and the field that is asked."""

    x0: Tensor
    noise: Tensor
    condition: Condition
    field: Call

    def velocity(self, t: Tensor) -> Tensor:
        """As the teacher is set."""
        return self.field(flow.interpolate(self.x0, self.noise, t), t, self.condition)

    def losses(self, velocity: Callable[[Tensor], Tensor], data: float = 1.0) -> Tensor:
        """Squared errors ``(times, rows)``; ``data`` scales the data that are asked about."""
        target = self.noise - data * self.x0
        found = []
        for time in TIMES:
            t = torch.full((len(self.x0),), time, device=self.x0.device)
            found.append((velocity(t) - target).flatten(1).square().mean(1))
        return torch.stack(found).double().cpu()

    def with_labels(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """The same field under other labels."""
        assert isinstance(self.condition, Classes)
        other = Classes(labels, self.condition.count)
        return lambda t: self.field(flow.interpolate(self.x0, self.noise, t), t, other)

    def known(self, factor: float = 1.0) -> list[float]:
        """Losses at all times of who knows mean and variance alone, of data times ``factor``."""
        variance = factor**2 * float(self.x0.var(0, correction=0).mean())
        return [variance / ((1 - t) ** 2 * variance + t**2) for t in TIMES]

    def other_reading(self, own: float) -> str:
        """The reading that is clearly better than the one that is set, in words.

        Each is judged by its loss over that of knowing mean and variance alone: a right one knows
        more.
        """

        def at(t: Tensor) -> Tensor:
            return flow.interpolate(self.x0, self.noise, t)

        def called(t: Tensor, own_time: Tensor) -> Tensor:
            return self.field(at(t), own_time, self.condition)

        def from_noise(t: Tensor) -> Tensor:
            return flow.velocity_from_noise(at(t), called(t, t), t)

        def from_data(t: Tensor) -> Tensor:
            return flow.velocity_from_x0(at(t), called(t, t), t)

        readings: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("its velocity points from noise to data: teacher.reverse", lambda t: -called(t, t)),
            ("it predicts noise, not velocity: teacher.predicts=eps", from_noise),
            ("it predicts data, not velocity: teacher.predicts=x0", from_data),
            ("its time runs from noise to data: teacher.reverse", lambda t: called(t, 1 - t)),
            (
                "its time runs from noise to data, as its velocity does: teacher.reverse",
                lambda t: -called(t, 1 - t),
            ),
            (
                "it predicts velocity, not noise: teacher.predicts=velocity",
                lambda t: flow.noise_from_velocity(at(t), called(t, t), t),
            ),
            (
                "it predicts velocity, not data: teacher.predicts=velocity",
                lambda t: flow.x0_from_velocity(at(t), called(t, t), t),
            ),
            ("its time runs over 0..1000: teacher.units=1000", lambda t: called(t, 1000 * t)),
            ("its time runs over 0..1: teacher.units=1", lambda t: called(t, t / 1000)),
        ]
        known = sum(self.known()) / len(TIMES)
        scored = [
            (float(self.losses(v).nan_to_num(1e9).mean()) / known, words) for words, v in readings
        ]
        for factor in (*SCALES, *(1 / s for s in SCALES)):
            scaled = _Probe(factor * self.x0, self.noise, self.condition, self.field)
            loss = float(scaled.losses(scaled.velocity).nan_to_num(1e9).mean())
            relative = loss * len(TIMES) / sum(self.known(factor))
            scored.append((relative, f"its data are {factor:.4g} times these: another scale"))
        best, words = min(scored)
        return words if best < min(BETTER * own / known, 1.0) else ""

    def other_labels(self, own: Tensor, condition: Classes) -> str:
        """The offset of labels that is clearly better than none, in words."""
        found = []
        most = condition.count // 2 if condition.count <= FEW else 2
        for offset in (o for o in range(-most, most + 1) if o):
            labels = (condition.labels + offset) % condition.count
            found.append((_errors(own - self.losses(self.with_labels(labels))), offset))
        sure, offset = max(found)
        if sure < SURE:
            return ""
        return f"its labels are these {offset:+d}: the dataset's begin elsewhere"


def _errors(difference: Tensor) -> float:
    """How many standard errors a mean lies above 0, by rows ``(times, rows)``."""
    rows = difference.mean(0)
    return float(rows.mean() / (rows.std() / len(rows) ** 0.5).clamp(min=1e-12))
