"""Shortcut models on Gaussian data: the map that they are at rest at, and how near it is."""

import pytest
import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.stepping import FlowMapStudent
from piflow_methods.shortcut import Config, Shortcut, halves
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.mlp import MLP
from tests.methods import gaussian


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Doubled(nn.Module):
    """theta times Euler's map in ``steps`` steps: a step of any of its lengths is that many."""

    def __init__(self, steps, theta=1.0, off=0.0, field=gaussian.velocity):
        super().__init__()
        self.steps, self.field = steps, field
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))

    def forward(self, x, t, condition, duration):
        counts = (duration * self.steps).round().long()
        assert (counts >= 1).all() and torch.allclose(counts / self.steps, duration)
        state, at = x, t
        for i in range(int(counts.max())):
            step = torch.where(counts > i, 1 / self.steps, 0.0)
            state = state - flow.expand(step, x) * self.field(state, at.clamp(min=1e-9))
            at = at - step
        moved = (x - state) / flow.expand(duration, x)
        # What is off is the more so the longer the step: no other map can have this.
        return self.theta * moved + self.off * flow.expand(duration, x)


class Exact(Doubled):
    def forward(self, x, t, condition, duration):
        return self.theta * gaussian.average_velocity(x, t, t - duration)


def update(network, rows=256, average=None, guidance=1.0, **settings):
    method = Shortcut(Config(decay=0.0, **settings))
    method.guidance = guidance
    networks = {"student": network} | ({"average": average} if average else {})
    batch, context = gaussian.setting(networks, rows=rows)
    (found,) = method.training_step(batch, context)
    return found.loss


def slopes(network, **settings):
    loss = update(network, clip=None, **settings)
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [0.0 if g is None else abs(float(g)) for g in found]


@pytest.mark.parametrize("share", [0.125, 0.9])
def test_at_rest_at_eulers_map_and_at_no_other(share):
    given = {"steps": 16, "halves_share": share}
    assert update(Doubled(16), clip=None, **given) < 1e-28
    assert max(slopes(Doubled(16), **given)) < 1e-6
    assert slopes(Doubled(16, theta=1.05), **given)[0] > 1e-3
    assert slopes(Doubled(16, off=0.05), **given)[1] > 1e-4


def test_the_exact_map_is_missed_by_first_order_in_the_shortest_step():
    """Of the shortest steps alone: every other is then two of its halves, exactly."""
    losses = [
        update(Exact(steps), steps=steps, halves_share=1e-9, clip=None).item() ** 0.5
        for steps in (16, 32, 64)
    ]
    for larger, smaller in zip(losses, losses[1:], strict=False):
        assert larger / smaller == pytest.approx(2, rel=0.15)
    apart = update(Exact(64), steps=64, halves_share=1 - 1e-9, clip=None)
    assert apart < 1e-28, "the exact map is two of its halves"


def test_two_halves_are_the_mean_of_both():
    network, x = Doubled(8), torch.randn(5, 2)
    t, span = torch.tensor([1.0, 0.5, 0.75, 1.0, 0.25]), torch.tensor([1.0, 0.5, 0.25, 0.5, 0.25])
    whole = network(x, t, None, duration=span)
    assert torch.allclose(halves(network, x, t, span, None, None), whole, atol=1e-14)
    assert halves(network, 10 * x, t, span, None, 0.3).abs().max() == 0.3


def test_lengths_and_times_are_of_the_grid():
    asked = []

    class Seen(Doubled):
        def forward(self, x, t, condition, duration):
            asked.append((t, duration))
            return super().forward(x, t, condition, duration)

    update(Seen(16), rows=4096, steps=16, halves_share=0.5)
    t, span = asked[-1]  # Of the prediction.
    assert set(span.tolist()) == {1 / 16, 1 / 8, 1 / 4, 1 / 2, 1}
    assert torch.equal((t / span).round(), t / span) and (t >= span).all() and (t <= 1).all()
    shares = {s: (span == s).double().mean().item() for s in set(span.tolist())}
    assert shares.pop(1 / 16) == pytest.approx(0.5, abs=0.03)
    assert all(share == pytest.approx(0.125, abs=0.02) for share in shares.values())
    whole = t[span == 1 / 4]
    assert all((whole == q).double().mean() == pytest.approx(0.25, abs=0.05) for q in (0.25, 1))


def test_halves_are_the_averages():
    """Targets of longer steps are of another network, which gets no gradient."""
    settings = {"steps": 8, "halves_share": 1 - 1e-9, "clip": None}
    method = Shortcut(Config(decay=0.99, **settings))
    student, average = Doubled(8, theta=0.5), Doubled(8)

    modules = {"student": student, "average": Average(student, 0.99)}
    batch, context = gaussian.setting({"student": student, "average": average}, modules=modules)
    (found,) = method.training_step(batch, context)
    own = update(Doubled(8, theta=0.5), rows=64, **settings)
    assert found.loss.item() != own.item()
    found.loss.backward()
    assert student.theta.grad is not None and average.theta.grad is None


def test_from_scratch_the_shortest_halves_are_guided():
    """By w U(label) + (1 - w) U(no label), of the map itself."""

    class Constant(nn.Module):
        def forward(self, x, t, condition, duration):
            return torch.ones_like(x) * flow.expand((condition.labels < 3).to(x), x)

    labels = torch.arange(512) % 3
    batch = Batch(torch.zeros(512, 2), Classes(labels, 3), (2,))
    levels = TrainingRandom(5, 0, 0, 512).integers("level", 3)
    shortest = (levels == 2).double().mean().item()
    for w in (1.0, 3.0):
        settings = {"distill": False, "steps": 8, "halves_share": 1 - 1e-9, "class_dropout": 0.0}
        method = Shortcut(Config(decay=0.0, clip=None, guidance=w, **settings))
        method.guidance = w
        networks = {"student": Constant()}
        random = TrainingRandom(5, 0, 0, 512)
        context = Context(0, 0.0, random, gaussian.teacher(), networks, networks)
        (found,) = method.training_step(batch, context)
        assert found.loss.item() == pytest.approx(shortest * (w - 1) ** 2)
    assert 0.2 < shortest < 0.5


def test_samples_of_the_map_are_eulers():
    noise = torch.randn(8, 2)
    expected = flow.euler(gaussian.velocity, noise, flow.time_grid(16).double())
    for nfe in (1, 2, 4):
        student = FlowMapStudent(Doubled(16))
        with torch.no_grad():
            made = student.sample(noise, Unconditional(8), nfe, SampleRandom(0, range(8)))
        assert (made - expected).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [3, 12, 100])
def test_another_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match="must be a power of 2"):
        Config(steps=steps)


def test_what_is_built():
    network = MLP(2, dim=16, depth=2)
    spec = Spec((2,), None, 4, lambda: MLP(2, dim=16, depth=2), Unconditional(1))
    teacher = Teacher(network, network, Guidance(2.0))
    scratch, distilled = (Shortcut(Config(distill=d)) for d in (False, True))
    assert scratch.build(teacher, spec).optimizers["student"].weight_decay == 0.1
    distilled.build(teacher, spec)
    assert scratch.guidance == 2.0 and scratch.facts_for().track == "from scratch"
    assert not scratch.facts_for().needs_teacher and distilled.facts_for().needs_teacher
    assert Shortcut(Config(decay=0.0)).facts_for().auxiliary == ()


def test_from_scratch_the_shortest_steps_learn_the_datas_velocity():
    class Constant(nn.Module):
        def forward(self, x, t, condition, duration):
            return 0 * x + 1

    method = Shortcut(Config(distill=False, decay=0.0, steps=8, halves_share=1e-9))
    method.guidance = 1.0
    batch, context = gaussian.setting({"student": Constant()})
    (found,) = method.training_step(batch, context)
    noise = TrainingRandom(5, 0, 0, len(batch)).normal("noise", batch.shape)
    expected = (1 - (noise - batch.x0)).square().mean()
    assert found.loss.item() == pytest.approx(expected.item())
