"""MeanFlow against its closed form: on Gaussian data the exact average velocity is known."""

import pytest
import torch
from piflow_methods.meanflow import Config, FlowMapStudent, MeanFlow, adaptive_loss
from torch import nn

from piflow_bench.api import TrainingRandom, flow
from tests.methods import gaussian


class ScaledAverageVelocity(nn.Module):
    """theta times the exact average velocity."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x, t, condition, duration):
        return self.theta * gaussian.average_velocity(x, t, t - duration)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def one_step(theta, **settings):
    method = MeanFlow(Config(**settings))
    network = ScaledAverageVelocity(theta)
    batch, context = gaussian.setting({"student": network})
    (update,) = method.training_step(batch, context)
    return network, update, batch


def draws(batch, **settings):
    """The times and states the method drew, made again from the same keys."""
    _, context = gaussian.setting({})
    method = MeanFlow(Config(**settings))
    noise = TrainingRandom(5, 0, 0, len(batch)).normal("noise", batch.shape)
    t, r = method.times(context)
    return flow.interpolate(batch.x0, noise, t), t, r


@pytest.mark.parametrize("theta", [1.0, 0.6, 1.7])
def test_loss_and_gradient_equal_their_closed_form(theta):
    # With U = theta U*, the identity gives the target v - (t - r) theta dU*/dt, so the error is
    # theta (U* + (t - r) dU*/dt) - v = (theta - 1) v.
    settings = {"power": 0.0, "instant_share": 0.3}
    network, update, batch = one_step(theta, **settings)
    x, t, r = draws(batch, **settings)
    v = gaussian.velocity(x, t)
    assert (t > r).sum() > 20
    expected = ((theta - 1) * v).square().sum(1).mean()
    assert update.loss.item() == pytest.approx(expected.item(), abs=1e-9)
    update.loss.backward()
    average = gaussian.average_velocity(x, t, r)
    gradient = (2 * (theta - 1) * v * average).sum(1).mean()
    assert network.theta.grad.item() == pytest.approx(gradient.item(), abs=1e-9)


def test_finite_difference_is_first_order_close():
    for step, tolerance in ((0.05, 0.1), (0.005, 0.01)):
        _, update, _ = one_step(1.0, jvp="finite-difference", difference_step=step, power=0.0)
        assert update.loss.item() < tolerance**2
    _, exact, _ = one_step(1.0, power=0.0)
    assert exact.loss.item() < 1e-20


def test_wrong_tangent_would_be_seen():
    class Wrong(MeanFlow):
        def derivative(self, student, x, t, r, velocity, condition, context):
            return super().derivative(student, x, t, r, -velocity, condition, context)

    batch, context = gaussian.setting({"student": ScaledAverageVelocity(1.0)})
    (update,) = Wrong(Config(power=0.0, instant_share=0.0)).training_step(batch, context)
    assert update.loss.item() > 1e-3


def test_adaptive_weight():
    e = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert adaptive_loss(e, 0.0, 0.1).item() == pytest.approx(13.0)
    assert adaptive_loss(e, 1.0, 0.5).item() == pytest.approx((25 / 25.5 + 1 / 1.5) / 2)


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_exact_average_velocity_samples_exactly(nfe):
    noise = torch.randn(10, 2)
    student = FlowMapStudent(ScaledAverageVelocity(1.0))
    x = student.sample(noise, None, nfe, None)
    end = gaussian.flow_map(noise, torch.ones(10), torch.zeros(10))
    assert torch.allclose(x, end, atol=1e-7)


def test_times_follow_their_laws():
    _, context = gaussian.setting({}, rows=4096)
    t, r = MeanFlow(Config(instant_share=0.5)).times(context)
    assert (t >= r).all() and (r >= 0).all() and (t <= 1).all()
    assert (t == r).float().mean().item() == pytest.approx(0.5, abs=0.05)

    _, context = gaussian.setting({}, rows=4096)
    t, r = MeanFlow(Config(instant_share=0.0, time_law="uniform", end_mean=-4.0)).times(context)
    assert (t > r).all()
    # The second draw is nearly 0, so r is it and t the uniform one.
    assert t.mean().item() == pytest.approx(0.5, abs=0.05)
    assert r.median().item() == pytest.approx(0.018, abs=0.004)
