"""MeanFlow against its closed form: on Gaussian data the exact average velocity is known."""

import pytest
import torch
from piflow_methods.meanflow.method import Config, MeanFlow
from piflow_methods.parts.derivatives import difference
from piflow_methods.parts.flow_maps import adaptive_loss
from piflow_methods.parts.stepping import FlowMapStudent
from torch import nn

from piflow_bench.api import TrainingRandom, Unconditional, flow
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


@pytest.mark.parametrize("instant_share", [0.0, 1.0])
def test_the_error_of_the_finite_difference_is_of_second_order(instant_share):
    settings = {"jvp": "finite-difference", "power": 0.0, "instant_share": instant_share}
    losses = []
    for step in (0.1, 0.05):
        _, update, _ = one_step(1.0, difference_step=step, **settings)
        losses.append(update.loss.item())
    if instant_share:
        assert max(losses) < 1e-20  # No interval, no derivative.
    else:
        # Halving the step divides the error by 4, so its square by 16.
        assert losses[0] < 0.02**2 and losses[1] < losses[0] / 8
    _, exact, _ = one_step(1.0, power=0.0, instant_share=instant_share)
    assert exact.loss.item() < 1e-20


class Table(nn.Module):
    """Average velocities over [0, t] at multiples of ``step``: states and r do not matter."""

    def __init__(self, step):
        super().__init__()
        self.step, self.values = step, torch.zeros(round(1 / step) + 1)

    def forward(self, x, t, condition, duration):
        assert (duration >= -1e-9).all(), "before the interval's end"
        place = t / self.step
        assert (place - place.round()).abs().max() < 1e-6 and t.max() < 1 + 1e-9
        return self.values[place.round().long()][:, None].expand(x.shape)


def test_what_the_finite_difference_converges_to_has_no_bias_of_first_order():
    """v = t^2, so U = t^2 / 3: what is learned at t = 1 decides samples in one evaluation."""
    method = MeanFlow(Config(jvp="finite-difference", difference_step=0.1))
    table = Table(0.1)
    _, context = gaussian.setting({})
    t = torch.linspace(0, 1, len(table.values))[1:, None]
    r, v = torch.zeros(len(t)), t**2
    for _ in range(1500):
        slope = method.derivative(table, t, t[:, 0], r, v, Unconditional(len(t)), context)
        table.values[1:] += 0.02 * (v - t * slope - table.values[1:, None])[:, 0]
    assert table.values[-1].item() == pytest.approx(1 / 3, rel=0.005)
    assert torch.allclose(table.values, torch.linspace(0, 1, len(table.values)) ** 2 / 3, atol=2e-3)


@pytest.mark.parametrize("step", [0.5, 0.1, 1e-3])
def test_differences_are_exact_for_parabolas_and_stay_in_the_interval(step):
    t = torch.tensor([1.0, 1.0, 1.0, 0.95, 0.5, 0.5, 0.02, 1e-4])
    r = torch.tensor([0.0, 0.9, 0.9999, 0.3, 0.0, 0.45, 0.0, 0.0])
    offsets, weights = difference(t, t - r, step)
    at = torch.where(weights != 0, t[:, None] + offsets, t[:, None])
    assert (at <= 1 + 1e-12).all() and (at >= r[:, None] - 1e-12).all()
    assert offsets.abs().max() <= 2 * step + 1e-12
    for value, slope in ((at**0, 0 * t), (at, t**0), (at**2, 2 * t)):
        assert torch.allclose((weights * value).sum(1), slope, atol=1e-7)
    # Central where there is room, so that it costs two evaluations there.
    room = t + torch.minimum(t - r, torch.tensor(step)) <= 1
    assert torch.equal((weights != 0).sum(1), torch.where(room, 2, 3))


@pytest.mark.parametrize("jvp", ["exact", "finite-difference"])
def test_steps_without_an_interval_call_the_network_as_often(jvp):
    """Else processes that share weights would wait for each other."""

    class Counted(ScaledAverageVelocity):
        calls = 0

        def forward(self, *arguments, **named):
            self.calls += 1
            return super().forward(*arguments, **named)

    calls = []
    for share in (0.0, 0.5, 1.0):
        network = Counted(0.7)
        batch, context = gaussian.setting({"student": network})
        method = MeanFlow(Config(jvp=jvp, instant_share=share))
        (update,) = method.training_step(batch, context)
        assert update.loss.isfinite()
        calls.append(network.calls)
    assert calls == [2, 2, 2]


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
