"""AnyFlow on Gaussian data: both stages at rest at the exact map, and what moves a wrong one."""

import pytest
import torch
from piflow_methods.anyflow import AnyFlow, Config, rollout
from piflow_methods.parts.flow_maps import interval_times
from torch import nn

from piflow_bench.api import Unconditional, flow
from tests.methods import gaussian


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Scaled(nn.Module):
    """theta times the exact average velocity, and a constant."""

    def __init__(self, theta=1.0, off=0.0):
        super().__init__()
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))
        self.asked = []

    def forward(self, x, t, condition, duration):
        self.asked.append((float(t[0]), float(duration[0])))
        return self.theta * gaussian.average_velocity(x, t, t - duration) + self.off


class Score(nn.Module):
    """The velocity of samples of a mean."""

    def __init__(self, mu=gaussian.MU):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu))

    def forward(self, x, t, condition):
        return gaussian.velocity(x, t, mu=self.mu)


def update(network, progress=0.0, step=0, mu=gaussian.MU, rows=256, **settings):
    networks = {"student": network, "fake_score": Score(mu)}
    batch, context = gaussian.setting(networks, rows=rows, step=step, progress=progress)
    (found,) = AnyFlow(Config(**settings)).training_step(batch, context)
    return found


def slopes(network, **settings):
    loss = update(network, **settings).loss
    return [float(g) for g in torch.autograd.grad(loss, list(network.parameters()))]


EVEN = {"weight_floor": 1e6}
"""Far above every error, so that all rows weigh the same."""


def shift(step):
    """What the difference quotient adds to the gradient at the exact map."""
    return max(abs(s) for s in slopes(Scaled(), difference_step=step, **EVEN)) * 1e6


def test_stage_one_is_at_rest_at_the_exact_map_but_for_the_difference():
    """The published step's shift is small, of second order; a wrong map's is 100 times as large."""
    assert shift(0.02) / shift(0.01) == pytest.approx(4, rel=0.2)
    assert shift(0.005) < 1e-4
    assert abs(slopes(Scaled(theta=1.05), **EVEN)[0]) * 1e6 > 1e-2
    assert abs(slopes(Scaled(off=0.05), **EVEN)[1]) * 1e6 > 1e-2


def test_stage_one_weighs_rows_by_their_noise():
    batch, context = gaussian.setting({}, rows=256)
    t, r = interval_times(context, -0.4, 1.0, 1.0)
    assert torch.equal(t, r)
    x = flow.interpolate(batch.x0, context.random.normal("noise", batch.shape), t)
    error = 0.1 * gaussian.velocity(x, t)
    squared = error.square().sum(1)
    expected = (t * (1 - t).sqrt() * squared / (squared + 0.5)).mean()
    given = {"instant_share": 1.0, "whole_share": 0.0, "weight_floor": 0.5}
    assert update(Scaled(theta=1.1), **given).loss.item() == pytest.approx(expected.item())


def test_times_have_the_published_shares():
    _, context = gaussian.setting({}, rows=20_000)
    c = Config()
    t, r = interval_times(context, c.time_mean, c.time_std, c.instant_share, c.whole_share)
    assert (t >= r).all()
    assert (t == r).double().mean() == pytest.approx(0.5, abs=0.02)
    assert (r == 0).double().mean() == pytest.approx(0.25, abs=0.02)


def test_stage_one_is_at_the_times_of_its_settings():
    class Seen(Scaled):
        def forward(self, x, t, condition, duration):
            self.seen = t.detach(), duration.detach()
            return super().forward(x, t, condition, duration)

    network = Seen()
    update(network, time_mean=-1.2, time_std=0.7, instant_share=0.3, whole_share=0.4)
    t, r = interval_times(gaussian.setting({}, rows=256)[1], -1.2, 0.7, 0.3, 0.4)
    assert torch.equal(network.seen[0], t) and torch.equal(network.seen[1], t - r)


def test_stages_and_turns():
    told = {p: update(Scaled(), progress=p, step=5).scalars for p in (0.0, 0.49, 0.5, 1.0)}
    assert ["matching" in scalars for scalars in told.values()] == [False, False, True, True]
    turns = [update(Scaled(), progress=0.9, step=step).optimizer for step in range(11)]
    assert turns == ["student" if step % 5 == 0 else "fake" for step in range(11)]


def test_stage_two_is_at_rest_where_samples_are_the_teachers():
    assert max(abs(s) for s in slopes(Scaled(), progress=0.9)) < 1e-12


@pytest.mark.parametrize("steps", [1, 4])
def test_stage_two_pulls_along_the_analytic_direction(steps):
    """A fake score of a larger mean says that samples' is too large: they are moved down."""
    mu = gaussian.MU + 0.4
    given = {"steps": steps, "step_shift": 2.0}
    found = slopes(Scaled(), progress=0.9, mu=mu, **given)
    batch, context = gaussian.setting({}, rows=256)
    random, c = context.random, Config(**given)
    chosen = random.shared_integer("chosen", steps)
    noise = random.normal("noise", batch.shape)
    ones = torch.ones(256)
    x = gaussian.flow_map(noise, ones, 0 * ones)
    u = random.uniform("matching time")
    t = 5 * u / (1 + 4 * u)
    noisy = flow.interpolate(x, random.normal("matching noise", batch.shape), t)
    real, fake = (gaussian.posterior_mean(noisy, t, mu=m) for m in (gaussian.MU, mu))
    g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    times = flow.time_grid(steps, c.step_shift)
    length = float(times[chosen] - times[chosen + 1])
    assert found[1] == pytest.approx(-length * g.mean().item(), rel=1e-6)
    assert g.mean() > 0.01


def test_the_fake_score_learns_the_maps_own_samples():
    losses = dict.fromkeys((gaussian.MU - 0.4, gaussian.MU, gaussian.MU + 0.4), 0.0)
    for mu in losses:
        for step in (1, 2, 3, 4):
            losses[mu] += update(Scaled(), progress=0.9, mu=mu, step=step).loss.item()
    assert min(losses, key=losses.get) == gaussian.MU


@pytest.mark.parametrize("chosen", [0, 1, 2, 3])
def test_a_rollout_ends_where_the_flow_does_and_one_step_has_a_gradient(chosen):
    noise, times = torch.randn(6, 2), flow.time_grid(4, 5.0)
    network = Scaled()
    found = rollout(network, noise, times, chosen, Unconditional(6))
    ones = torch.ones(6)
    torch.testing.assert_close(found, gaussian.flow_map(noise, ones, 0 * ones))
    assert [round(t, 4) for t, _ in network.asked] == [1.0, 0.9375, 0.8333, 0.625]
    assert sum(d for _, d in network.asked) == pytest.approx(1.0)
    (slope,) = torch.autograd.grad(found.sum(), [network.off])
    assert float(slope) == pytest.approx(-12 * float(times[chosen] - times[chosen + 1]))


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at most 1 together"):
        Config(instant_share=0.8, whole_share=0.3)
