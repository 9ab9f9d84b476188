"""sCM on Gaussian data: TrigFlow's variables, the rest at the exact estimate, and what moves it."""

import math

import pytest
import torch
from piflow_methods.parts.derivatives import normalised, ramp
from piflow_methods.parts.renoising import RenoisingStudent
from piflow_methods.parts.trigflow import (
    angle,
    flow_time,
    mixture,
    tangent,
    trig_velocity,
)
from piflow_methods.scm import SCM, Config, Uncertainty
from torch import nn

from piflow_bench.api import Spec, TrainingRandom, Unconditional, flow
from tests.methods import gaussian

TIMES = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Estimate(nn.Module):
    """The velocity whose estimate of the data is where the flow ends, and ``theta t x`` beyond."""

    def __init__(self, theta=0.0):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x, t, condition):
        end = gaussian.flow_map(x, t, torch.zeros_like(t))
        return (x - end) / flow.expand(t, x) - self.theta * x


def update_of(network, rows=64, step=0, seed=1, progress=1.0, modules=None, **settings):
    method = SCM(Config(**{"uncertainty": False, **settings}))
    networks = {"student": network, **(modules or {})}
    batch, context = gaussian.setting(networks, rows, step=step, progress=progress)
    generator = torch.Generator().manual_seed(seed)
    batch.x0.copy_(gaussian.MU + gaussian.S * torch.randn(batch.x0.shape, generator=generator))
    (update,) = method.training_step(batch, context)
    return update, batch


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_angles_are_times_of_the_same_mixture(deviation):
    a = angle(TIMES, deviation)
    assert torch.allclose(flow_time(a, deviation), TIMES)
    x0, noise = torch.randn(2, 21, 3)
    theirs = flow.expand(a.cos(), x0) * x0 + flow.expand(a.sin(), x0) * deviation * noise
    assert torch.allclose(mixture(flow.interpolate(x0, noise, TIMES), a, deviation), theirs)
    assert angle(torch.tensor([0.0, 1.0]), deviation).tolist() == [0.0, math.pi / 2]


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_the_networks_velocity_gives_trigflows_and_the_same_estimate(deviation):
    a = angle(TIMES, deviation)
    x0, noise = torch.randn(2, 21, 3)
    state = flow.interpolate(x0, noise, TIMES)
    x = mixture(state, a, deviation)
    straight = trig_velocity(lambda x, t: noise - x0, x, a, deviation)
    cos, sin = flow.expand(a.cos(), x0), flow.expand(a.sin(), x0)
    assert torch.allclose(straight, cos * deviation * noise - sin * x0)
    assert torch.allclose(cos * x - sin * straight, x0)
    # The flow's own field is TrigFlow's: x moves along it as the angle does.
    field = trig_velocity(gaussian.velocity, x, a, deviation)
    step = 1e-5

    def moved(a):
        t = flow_time(a, deviation)
        return mixture(gaussian.flow_map(state, TIMES, t), a, deviation)

    assert torch.allclose((moved(a + step) - moved(a - step)) / (2 * step), field, atol=1e-6)


@pytest.mark.parametrize("ramp", [0.0, 0.4, 1.0])
def test_the_tangent_is_the_derivative_of_the_estimate(ramp):
    """For any network: by differences along the data's line, times cos(a)."""
    deviation = 0.5
    a = angle(TIMES[2:-2], deviation)
    x0, z = torch.randn(2, len(a), 3)

    def answer(x, a):
        return torch.sin(x) + flow.expand(a, x) * x

    def along(a):
        return flow.expand(a.cos(), x0) * x0 + flow.expand(a.sin(), x0) * z

    def parts(a):
        x = along(a)
        return x, answer(x, a)

    moved = flow.expand(a.cos(), x0) * z - flow.expand(a.sin(), x0) * x0
    step = 1e-5
    slope = (parts(a + step)[1] - parts(a - step)[1]) / (2 * step)
    both = flow.expand(a.cos() * a.sin(), x0)
    x, found = parts(a)
    got = tangent(found, both * slope, moved, x, a, ramp)

    def estimate(a):
        x, found = parts(a)
        return flow.expand(a.cos(), x) * x - flow.expand(a.sin(), x) * found

    whole = flow.expand(a.cos(), x) * (estimate(a + step) - estimate(a - step)) / (2 * step)
    first = -(flow.expand(a.cos(), x) ** 2) * (found - moved)
    assert torch.allclose(got, first + ramp * (whole - first), atol=1e-6)


def test_distillation_rests_at_the_exact_estimate():
    network = Estimate()
    update, _ = update_of(network)
    update.loss.backward()
    assert update.loss.item() < 1e-20 and abs(network.theta.grad.item()) < 1e-9
    wrong, _ = update_of(Estimate(0.1))
    assert wrong.loss.item() > 1e-4
    ramping, _ = update_of(network, progress=0.0)
    assert ramping.loss.item() > 1e-4, "without its derivative the first part alone is no rest"


@pytest.mark.parametrize("theta, rests", [(0.0, True), (0.1, False)])
def test_training_on_data_rests_in_expectation_where_directions_are_not_cut(theta, rests):
    """With a large floor directions are linear in the data's velocity, whose mean is the flow's."""
    gradients = []
    for step in range(100):
        network = Estimate(theta)
        update, _ = update_of(network, 1000, step, step, path="data", tangent_floor=1e6)
        (gradient,) = torch.autograd.grad(update.loss, network.theta)
        gradients.append(gradient)
    found = torch.stack(gradients)
    error = found.std() / math.sqrt(len(found))
    assert (found.mean().abs() < 3 * error) == rests


def test_how_far_the_published_floor_moves_that_rest():
    """Normalised directions have another mean: here it rests within .02 of estimates of size 1."""
    means = []
    for theta in (-0.02, 0.02):
        gradients = []
        for step in range(60):
            network = Estimate(theta)
            update, _ = update_of(network, 2000, step, step, path="data")
            gradients.append(torch.autograd.grad(update.loss, network.theta)[0])
        means.append(torch.stack(gradients).mean().item())
    assert means[0] < 0 < means[1]


def test_the_direction_is_at_most_as_long_as_one():
    g = torch.randn(50, 4) * torch.logspace(-3, 3, 50)[:, None]
    found = normalised(g, 0.1)
    norm = g.norm(dim=1)
    assert torch.allclose(found.norm(dim=1), norm / (norm + 0.1))
    assert torch.allclose(found / found.norm(dim=1)[:, None], g / norm[:, None])


def test_the_loss_is_weighed_by_what_is_learned_of_the_angles():
    weights = Uncertainty(2)
    plain, batch = update_of(Estimate(0.2))
    started, _ = update_of(Estimate(0.2), modules={"uncertainty": weights}, uncertainty=True)
    assert started.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    with torch.no_grad():
        weights.last.bias.fill_(0.7)
    found, _ = update_of(Estimate(0.2), modules={"uncertainty": weights}, uncertainty=True)
    expected = math.exp(0.7) * plain.loss.item() - 0.7
    assert found.loss.item() == pytest.approx(expected, rel=1e-6)
    assert found.scalars["loss"].item() == pytest.approx(plain.loss.item(), rel=1e-9)
    (gradient,) = torch.autograd.grad(found.loss, weights.last.bias)
    assert gradient.item() == pytest.approx(math.exp(0.7) * plain.loss.item() - 1, rel=1e-6)


def test_times_follow_their_law():
    asked = []

    class Noting(Estimate):
        def forward(self, x, t, condition):
            asked.append(t)
            return super().forward(x, t, condition)

    update_of(Noting(), 8192)
    sigma = TrainingRandom(5, 0, 0, 8192).normal("time") * 1.4 - 1.0
    t = asked[-1].detach()
    assert torch.allclose((t / (1 - t)).log(), sigma, atol=1e-4)


def test_samples_start_at_the_largest_sigma():
    spec = Spec((2,), None, 4, lambda: nn.Linear(1, 1), Unconditional(1))
    built = SCM(Config()).build(gaussian.teacher(), spec)
    assert isinstance(built.student, RenoisingStudent) and built.student.start == 80 / 81
    assert built.optimizers["student"].modules == ("student", "uncertainty")
    facts = SCM(Config(uncertainty=False, path="data")).facts_for()
    assert facts.auxiliary == () and "without guidance" in facts.target


def test_the_ramp_ends_with_its_share():
    assert [ramp(p, 0.4) for p in (0.0, 0.1, 0.2, 0.4, 1.0)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0
