"""TwinFlow on Gaussians: closed forms of its parts, and what rests."""

import pytest
import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.stepping import FlowMapStudent, average_velocity
from piflow_methods.twinflow import Config, TwinFlow
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.mlp import MLP
from tests.methods import gaussian
from tests.methods.test_dmd2_switches import CLASS, Field, guided

ROWS, DIM = 128, 3
STUDENTS = [(0.2, -0.1, 0.3, 0.1), (1.1, 0.4, -0.2, -0.5), (-0.3, 0.2, 0.1, 0.4)]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Polynomial(nn.Module):
    """F(x, t, s) = a x + b t + c s + d."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x, t, condition, duration):
        a, b, c, d = self.values
        return a * x + (b * t + c * (t - duration))[:, None] + d


class Exact(nn.Module):
    """The class's flow map; at negative times the field of its samples, which is the class's."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition, duration):
        t = t.abs()
        r = torch.where(duration == 0, t, t - duration)
        span = (t - r)[:, None]
        safe = torch.where(span > 0, span, torch.ones_like(span))
        average = (x - gaussian.flow_map(x, t, r, **CLASS)) / safe
        return torch.where(span > 0, average, gaussian.velocity(x, t, **CLASS)) + self.nothing * x


def update(student, base, adversary, w=1.0, **settings):
    method = TwinFlow(Config(base_share=base, adversary_share=adversary, **settings))
    networks = {"student": student, "average": Average(student, 0.99)}
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    x0 = 1 + 0.4 * torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    batch = Batch(x0, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(0, 0.0, TrainingRandom(5, 0, 0, ROWS), teacher, networks, networks)
    (found,) = method.training_step(batch, context)
    found.loss.backward()
    return found, x0


def draw(name, kind="uniform", shape=()):
    return getattr(TrainingRandom(5, 0, 0, ROWS), kind)(name, shape)


def polynomial(values, x, t, s):
    a, b, c, d = values
    return a * x + (b * t + c * s)[:, None] + d


def slopes(error, x, t, s):
    """Gradients of the mean square of an error in F(x, t, s), by hand."""
    of = (x, t[:, None].expand_as(x), s[:, None].expand_as(x), torch.ones_like(x))
    return torch.stack([(2 * error * each).sum() / error.numel() for each in of])


def residual(values, x, t, s, velocity, cut=1.0):
    """Of the identity over [s, t], written out for one step and two of the average."""
    q = torch.minimum(torch.full_like(t, 0.01), t - s).clamp(min=1e-6)
    state, start = x - q[:, None] * velocity, t - q
    middle = (start + s) / 2
    first = (start - middle)[:, None] * polynomial(values, state, start, middle)
    second = (middle - s)[:, None] * polynomial(values, state - first, middle, s)
    whole = (t - s)[:, None] * polynomial(values, x, t, s)
    return ((whole - first - second) / q[:, None] - velocity).clamp(-cut, cut)


def field(x, t, w):
    return (x - guided(x, t, w)) / t[:, None]


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("values", STUDENTS)
def test_the_bases_gradient_has_its_closed_form(values, w):
    student = Polynomial(*values)
    _, x0 = update(student, 1.0, 0.0, w)
    t = draw("time")
    s = t * draw("end")
    x = flow.interpolate(x0, draw("noise", "normal", (DIM,)), t)
    velocity = field(x, t, w)
    expected = slopes(residual(values, x, t, s, velocity), x, t, s)
    expected = expected + slopes(polynomial(values, x, t, t) - velocity, x, t, t)
    assert torch.allclose(student.values.grad, expected, atol=1e-9)


@pytest.mark.parametrize("values", STUDENTS)
def test_the_adversarys_gradient_has_its_closed_form(values):
    student = Polynomial(*values)
    update(student, 0.0, 1.0)
    noise, t, one = draw("noise", "normal", (DIM,)), draw("time"), torch.ones(ROWS)
    x = noise - polynomial(values, noise, one, 0 * one)
    fresh = draw("fresh noise", "normal", (DIM,))
    noisy = flow.interpolate(x, fresh, t)
    error = polynomial(values, noisy, -t, -t) - (fresh - x)
    assert torch.allclose(student.values.grad, slopes(error, noisy, -t, -t), atol=1e-9)


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("values", STUDENTS)
def test_the_rectifications_gradient_has_its_closed_form(values, w):
    student = Polynomial(*values)
    update(student, 0.0, 0.0, w, cut=0.1)
    noise, t, one = draw("noise", "normal", (DIM,)), draw("time"), torch.ones(ROWS)
    velocity = polynomial(values, noise, one, 0 * one)
    noisy = flow.interpolate(noise - velocity, draw("fresh noise", "normal", (DIM,)), t)
    apart = polynomial(values, noisy, -t, -t) - polynomial(values, noisy, t, t)
    assert (apart.abs() > 0.1).any()
    expected = slopes(apart.clamp(-0.1, 0.1), noise, one, 0 * one)
    expected = expected + slopes(
        residual(values, noise, one, 0 * one, field(noise, one, w), 0.1), noise, one, 0 * one
    )
    assert torch.allclose(student.values.grad, expected, atol=1e-9)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 0.0)])
def test_the_exact_map_is_at_rest_as_its_step_shrinks(shares):
    sizes = []
    for step in (0.02, 0.01, 0.005):
        found, _ = update(Exact(), *shares, step=step, cut=100.0)
        sizes.append(max(v.item() for v in found.scalars.values()))
    assert sizes[0] / sizes[1] > 3 and sizes[1] / sizes[2] > 3 and sizes[2] < 1e-2


def test_one_step_samples_of_the_class_do_not_move():
    found, _ = update(Exact(), 0.0, 0.0)
    assert found.scalars["matching_loss"] < 1e-24


class Twin(Exact):
    """The exact map, whose field at negative times may be off by ``a x + b t + c``."""

    def __init__(self):
        super().__init__()
        self.off = nn.Parameter(torch.zeros(3))

    def forward(self, x, t, condition, duration):
        a, b, c = self.off
        off = (t < 0)[:, None] * (a * x + b * t[:, None] + c)
        return super().forward(x, t, condition, duration) + off


def test_where_samples_are_the_classs_so_is_the_field_that_negative_times_learn():
    rows, gradients = 2000, []
    method = TwinFlow(Config(base_share=0.0, adversary_share=1.0))
    batch = Batch(None, Classes(torch.zeros(rows, dtype=torch.int64), 1), (DIM,))
    for step in range(50):
        student = Twin()
        networks = {"student": student, "average": Average(student, 0.99)}
        teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(1.0), closed_form=True)
        random = TrainingRandom(5, step, 0, rows)
        (found,) = method.training_step(
            batch, Context(step, 0.0, random, teacher, networks, networks)
        )
        gradients.append(torch.autograd.grad(found.loss, student.off)[0])
    mean, error = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 50**0.5
    assert (mean.abs() < 3 * error).all() and (error < 0.01).all()


@pytest.mark.parametrize("style", ["few", "any"])
def test_several_steps_renoise_or_follow_the_map(style):
    method = TwinFlow(Config(style=style))
    assert method.facts_for().stochastic == (style == "few")
    student = method.build(Teacher(Field(), MLP(DIM), Guidance(1.0)), None).student.bind(Exact())
    noise, random, zero = torch.randn(8, DIM), SampleRandom(0, range(8)), torch.zeros(8)
    found = student.sample(noise, Unconditional(8), 2, random)
    expected = gaussian.flow_map(noise, zero + 1, zero, **CLASS)
    if style == "few":
        middle = (expected + random.normal(0, (DIM,))) / 2
        expected = gaussian.flow_map(middle, zero + 0.5, zero, **CLASS)
    assert torch.allclose(found, expected, atol=1e-6)


def test_samples_of_the_exact_map_are_its_ends():
    noise = torch.randn(8, DIM)
    one = torch.ones(8)
    exact = gaussian.flow_map(noise, one, 0 * one, **CLASS)
    for nfe in (1, 2, 4):
        found = FlowMapStudent(Exact()).sample(
            noise, Unconditional(8), nfe, SampleRandom(0, range(8))
        )
        assert torch.allclose(found, exact, atol=1e-6)


def test_a_network_is_asked_for_the_length_of_its_interval():
    x, t, s = torch.randn(4, DIM), torch.full((4,), 0.7), torch.full((4,), 0.2)
    values = (0.1, 0.2, 0.3, 0.4)
    found = average_velocity(Polynomial(*values), x, t, s, None)
    assert torch.allclose(found, polynomial(values, x, t, s))


def test_shares_that_are_more_than_all():
    with pytest.raises(ValueError, match="adversary_share=0.6: with base_share"):
        Config(base_share=0.5, adversary_share=0.6)
