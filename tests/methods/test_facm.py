"""FACM on Gaussian data: the rest of both parts at the exact map, and what moves it from scratch.

Distilled, targets are without noise: no weight or clip moves where the loss is at rest.
"""

import math

import pytest
import torch
from piflow_methods.facm import FACM, Config, anchoring
from piflow_methods.parts.renoising import WholeWayStudent
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
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

PLAIN = {"power": 0.0, "clip": None}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def whole_way(x, t):
    return gaussian.average_velocity(x, t, torch.zeros_like(t))


class Exact(nn.Module):
    """theta times the average velocity to data, and phi times the velocity and a constant."""

    def __init__(self, theta=1.0, phi=1.0, average=whole_way, velocity=gaussian.velocity):
        super().__init__()
        self.average, self.velocity = average, velocity
        self.theta, self.phi = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(phi))

    def forward(self, x, t, condition, duration):
        if (duration == 0).all():
            return self.phi * self.velocity(x, t)
        assert (duration == t).all()
        return self.theta * self.average(x, t)


def normal(shape, generator):
    return gaussian.MU + gaussian.S * torch.randn(shape, generator=generator)


def update(network, rows=256, step=0, data=normal, **settings):
    method = FACM(Config(**settings))
    method.guidance = Guidance()
    batch, context = gaussian.setting({"student": network}, rows, step=step)
    batch.x0.copy_(data(batch.x0.shape, torch.Generator().manual_seed(step)))
    (found,) = method.training_step(batch, context)
    return found


def slopes(network, **settings):
    """Gradients in theta, of consistency alone, and in phi, of the anchor alone."""
    found = torch.autograd.grad(update(network, **settings).loss, [network.theta, network.phi])
    return [float(g) for g in found]


@pytest.mark.parametrize("settings", [{}, PLAIN])
def test_distillation_rests_at_the_exact_map_and_at_no_other(settings):
    """At the published weights and clip, too: what is cut there is 0."""
    assert update(Exact(), **settings).loss < 1e-12
    assert max(abs(s) for s in slopes(Exact(), **settings)) < 1e-6
    for side in (0.95, 1.05):
        off_theta, rests = slopes(Exact(theta=side), **settings)
        assert off_theta * (side - 1) > 1e-4 and abs(rests) < 1e-6
        rests, off_phi = slopes(Exact(phi=side), **settings)
        assert off_phi * (side - 1) > 1e-3 and abs(rests) < 1e-6


def published(theta, power=0.5, c=1e-3, p=0.5, clip=1.0, rows=256):
    """The consistency part in the paper's variables: data at time 1, velocities towards data."""
    batch, context = gaussian.setting({}, rows)
    batch.x0.copy_(normal(batch.x0.shape, torch.Generator().manual_seed(0)))
    noise = context.random.normal("noise", batch.shape)
    sigma = (-0.8 + 1.6 * context.random.normal("time")).exp()
    time = 1 - torch.arctan(sigma) * 2 / math.pi
    at = flow.expand(time, batch.x0)
    x = at * batch.x0 + (1 - at) * noise
    v = -gaussian.velocity(x, 1 - time)

    def average(x, time):
        return -theta * whole_way(x, 1 - time)

    step = 1e-6
    after, before = (average(x + h * v, time + h) for h in (step, -step))
    value, slope = average(x, time), (after - before) / (2 * step)
    g = value - (v + (1 - at) * slope)
    target = value - (1 - at**p) * (g if clip is None else g.clamp(-clip, clip))
    e = (value - target).square().mean(1)
    return ((math.pi / 2 * time).cos() * e / (e + c) ** power).mean().item()


@pytest.mark.parametrize(
    "settings, theirs",
    [
        ({}, {}),
        ({"clip": 0.2}, {"clip": 0.2}),
        ({"clip": None}, {"clip": None}),
        ({"power": 1.0}, {"power": 1.0}),
        ({"weight_floor": 0.1}, {"c": 0.1}),
        ({"relaxation": 1.0}, {"p": 1.0}),
    ],
)
def test_the_consistency_part_is_the_papers(settings, theirs):
    found = update(Exact(0.3), **settings).scalars["consistency"].item()
    assert found == pytest.approx(published(0.3, **theirs), rel=1e-5)
    if settings:
        assert abs(published(0.3) / found - 1) > 0.05


def test_the_anchor_is_of_squares_and_of_cosines_over_channels():
    found, velocity = torch.randn(2, 5, 3, 4, 4, requires_grad=True)
    cosine = (found * velocity).sum(1) / found.norm(dim=1) / velocity.norm(dim=1)
    expected = (found - velocity).square().mean() + 1 - cosine.mean()
    assert anchoring(found, velocity).item() == pytest.approx(expected.item())
    single, of = found[:, :1], velocity[:, :1].detach()
    (slope,) = torch.autograd.grad(anchoring(single, of), found)
    assert torch.allclose(slope[:, :1], 2 * (single - of) / single.numel(), atol=1e-12)


def test_the_anchor_has_its_weight():
    both, heavy, none = (update(Exact(0.5, 0.5), anchor_weight=w) for w in (1.0, 3.0, 0.0))
    consistency, anchor = both.scalars["consistency"].item(), both.scalars["anchor"].item()
    assert both.loss.item() == pytest.approx(consistency + anchor)
    assert heavy.loss.item() == pytest.approx(consistency + 3 * anchor)
    assert none.loss.item() == pytest.approx(consistency) and anchor > 0.1


def mean_slope(network, steps=100, **settings):
    """Mean gradient in theta of batches of 1000 from scratch, and its standard error."""
    settings = {"distill": False, "class_dropout": 0.0, "rows": 1000, **settings}
    found = torch.tensor([slopes(network, step=step, **settings)[0] for step in range(steps)])
    return found.mean().item(), found.std().item() / math.sqrt(steps)


@pytest.mark.parametrize("settings", [{}, PLAIN])
def test_from_scratch_consistency_rests_in_expectation_on_gaussians(settings):
    """Clip and weight are even, and data velocities lie symmetrically about their mean."""
    mean, error = mean_slope(Exact(), **settings)
    assert abs(mean) < 3 * error
    for side in (0.9, 1.1):
        mean, error = mean_slope(Exact(theta=side), 20, **settings)
        assert mean * (side - 1) > 0 and abs(mean) > 3 * error


WEIGHTS, MEANS, WIDTH = torch.tensor([0.8, 0.2]), torch.tensor([-0.5, 1.0]), 0.2


def skewed(shape, generator):
    """Four fifths at one place, the rest at another, in every coordinate."""
    picked = (torch.rand(shape, generator=generator) < WEIGHTS[1]).long()
    return MEANS.to(torch.float64)[picked] + WIDTH * torch.randn(shape, generator=generator)


def skewed_velocity(x, t):
    t, y, means = flow.expand(t, x)[..., None], x[..., None], MEANS.to(x)
    variance = (1 - t) ** 2 * WIDTH**2 + t**2
    share = (WEIGHTS.to(x).log() - (y - (1 - t) * means) ** 2 / (2 * variance)).softmax(-1)
    return (share * (y * (t - WIDTH**2 * (1 - t)) - means * t) / variance).sum(-1)


def skewed_way(x, t, steps=12):
    """The average velocity to data by Runge and Kutta's method of fourth order."""
    h, end = flow.expand(t, x) / steps, x
    for i in range(steps):
        first, middle, last = (t * (1 - (i + part) / steps) for part in (0, 0.5, 1))
        a = skewed_velocity(end, first)
        b = skewed_velocity(end - h / 2 * a, middle)
        c = skewed_velocity(end - h / 2 * b, middle)
        end = end - h / 6 * (a + 2 * b + 2 * c + skewed_velocity(end - h * c, last))
    return (x - end) / flow.expand(t, x)


def test_how_far_weight_and_clip_move_consistency_from_scratch_on_skewed_data():
    """About a tenth of the average velocity, most by the weight; half of that by the clip alone."""

    def slope(theta, **settings):
        network = Exact(theta, average=skewed_way, velocity=skewed_velocity)
        return mean_slope(network, 8, data=skewed, **settings)

    exact, error = slope(1.0, **PLAIN)
    assert abs(exact) < 3 * error
    for low, high, settings in ((1.05, 1.15, {}), (1.02, 1.08, {"power": 0.0})):
        assert slope(low, **settings)[0] < 0 < slope(high, **settings)[0]


def test_how_far_the_cosine_moves_the_anchor_from_scratch_on_skewed_data():
    """By about .02 where velocities are of size 1: a mean of directions is not the mean's."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = skewed((1_000_000, 2), generator), torch.randn(1_000_000, 2, generator=generator)
    draw = torch.randn(1_000_000, generator=generator)
    t = (-0.8 + 1.6 * draw).exp().arctan() * 2 / math.pi
    exact = skewed_velocity(flow.interpolate(x0, noise, t), t)

    def slope(off, loss):
        off = torch.tensor(off, requires_grad=True)
        return torch.autograd.grad(loss(exact + off, noise - x0), off)[0].item()

    assert slope(0.005, anchoring) < 0 < slope(0.04, anchoring)
    assert abs(slope(0.0, nn.functional.mse_loss)) < 0.006


def test_times_follow_their_law():
    asked = []

    class Seen(Exact):
        def forward(self, x, t, condition, duration):
            asked.append(t)
            return super().forward(x, t, condition, duration)

    update(Seen(), 8192)
    update(Seen(), 8192, time_mean=0.5, time_std=0.3)
    for t, mean, deviation in zip((asked[1], asked[-1]), (-0.8, 0.5), (1.6, 0.3), strict=True):
        log = (t * math.pi / 2).tan().log()
        assert log.mean().item() == pytest.approx(mean, abs=0.06)
        assert log.std().item() == pytest.approx(deviation, abs=0.06)
        assert t.min() > 0 and t.max() < 1


def test_a_second_time_tells_the_two_questions_apart():
    asked = []

    class Seen(Exact):
        def forward(self, x, t, condition, duration):
            asked.append((t.detach(), duration))
            return super().forward(x, t, condition, duration)

    update(Seen())
    (t, whole), (at, none) = asked[1:]
    assert torch.equal(whole, t) and torch.equal(at, t) and (none == 0).all()


class ByLabel(nn.Module):
    """Ones where there is a label, else nothing; counts the rows without."""

    def forward(self, x, t, condition, duration):
        self.dropped = (condition.labels == 3).double().mean().item()
        return torch.ones_like(x) * flow.expand((condition.labels < 3).to(x), x)


def by_label(guidance, dropout):
    method = FACM(Config(distill=False, class_dropout=dropout))
    method.guidance = guidance
    batch, context = gaussian.setting({"student": ByLabel()}, 512)
    batch = Batch(batch.x0, Classes(torch.arange(512) % 3, 3), (2,))
    (found,) = method.training_step(batch, context)
    draw = TrainingRandom(5, 0, 0, 512)
    t = torch.arctan((-0.8 + 1.6 * draw.normal("time")).exp()) * 2 / math.pi
    v = draw.normal("noise", (2,)) - batch.x0
    keep = draw.uniform("class dropout") >= dropout
    return found.scalars["anchor"].item(), t, v, keep, context.networks["student"].dropped


@pytest.mark.parametrize("scale, low, high", [(1.0, 0, 1), (3.0, 0, 1), (3.0, 0.2, 0.6)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_from_scratch_labelled_data_velocities_are_guided_away_from_those_without(
    scale, low, high, dropout
):
    found, t, v, keep, dropped = by_label(Guidance(scale, low, high), dropout)
    guided = (keep & (t >= low) & (t <= high))[:, None]
    target = torch.where(guided, v + (scale - 1) * (v - 0), v)
    said = keep[:, None].to(v).expand(v.shape)
    assert found == pytest.approx(anchoring(said, target).item())
    assert dropped == pytest.approx(dropout, abs=0.06) == 1 - keep.double().mean().item()


def test_the_derivatives_precision_is_its_own():
    told = []

    class Noting:
        def __init__(self, context):
            self.context = context

        def __getattr__(self, name):
            return getattr(self.context, name)

        def jvp(self, function, primals, tangents, precision):
            told.append(precision)
            return self.context.jvp(function, primals, tangents, precision)

    for precision in ("float32", "bfloat16"):
        batch, context = gaussian.setting({"student": Exact()})
        method = FACM(Config(derivative_precision=precision))
        next(method.training_step(batch, Noting(context)))
    assert told == ["float32", "bfloat16"]


def test_samples_of_the_exact_map_are_where_the_flow_ends():
    student, noise, random = (
        WholeWayStudent(Exact(), 1.0),
        torch.randn(8, 2),
        SampleRandom(0, range(8)),
    )
    with torch.no_grad():
        one, two = (student.sample(noise, Unconditional(8), nfe, random) for nfe in (1, 2))
    assert torch.allclose(one, gaussian.MU + gaussian.S * noise)
    state = one / 2 + random.normal(0, (2,)) / 2
    half = torch.full((8,), 0.5)
    assert torch.allclose(two, gaussian.flow_map(state, half, 0 * half))


def test_what_is_built():
    network = MLP(2, dim=16, depth=2)
    nn.init.normal_(network.proj_out_2.weight)
    spec = Spec((2,), None, 4, lambda: MLP(2, dim=16, depth=2), Unconditional(1))
    teacher = Teacher(network, network, Guidance(2.0, 0.1, 0.7))
    distilled, scratch, other = (
        FACM(Config(**given)) for given in ({}, {"distill": False}, {"guidance": 3.0})
    )
    built, fresh, _ = (m.build(teacher, spec) for m in (distilled, scratch, other))
    x, t = torch.randn(4, 2), torch.rand(4)
    with torch.no_grad():
        found, own = (
            b.modules["student"](x, t, Unconditional(4), duration=t) for b in (built, fresh)
        )
        assert torch.equal(found, network(x, t, Unconditional(4))) and (own == 0).all()
    assert isinstance(built.student, WholeWayStudent) and built.student.start == 1
    assert built.student.network.duration_embedder is not None
    assert built.optimizers["student"].betas == (0.9, 0.999)
    assert scratch.guidance == Guidance(2.0, 0.1, 0.7)
    assert other.guidance == Guidance(3.0, 0.1, 0.7)
    facts = scratch.facts_for()
    assert facts.track == "from scratch" and not facts.needs_teacher and facts.target
    assert distilled.facts_for() is FACM.facts and not FACM.facts.target
