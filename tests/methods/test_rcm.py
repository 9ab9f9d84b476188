"""rCM on Gaussian data: where its consistency rests, where its matching pulls, whose turn it is."""

import pytest
import torch
from piflow_methods.parts.continuous import consistency_error
from piflow_methods.parts.trigflow import angle, mixture, tangent, trig_velocity
from piflow_methods.rcm import RCM, Config
from torch import nn

from piflow_bench.api import flow
from tests.methods import gaussian


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Estimate(nn.Module):
    """The velocity whose estimate of the data is the flow's end, with ``theta x`` and ``off``."""

    def __init__(self, theta=0.0, off=0.0):
        super().__init__()
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))

    def forward(self, x, t, condition):
        end = gaussian.flow_map(x, t, torch.zeros_like(t))
        return (x - end) / flow.expand(t, x) - self.theta * x - self.off


def fake_velocity(mu):
    return lambda x, t, condition: gaussian.velocity(x, t, mu=mu)


def updates(network, mu=gaussian.MU, step=0, progress=1.0, **settings):
    networks = {"student": network, "fake_score": fake_velocity(mu)}
    batch, context = gaussian.setting(networks, step=step, progress=progress)
    return list(RCM(Config(**settings)).training_step(batch, context))


def slopes(network, **given):
    (found,) = updates(network, **given)
    return [float(g) for g in torch.autograd.grad(found.loss, list(network.parameters()))]


def test_consistency_rests_at_the_exact_estimate_and_nowhere_else():
    alone = {"matching_weight": 0.0}
    assert max(abs(s) for s in slopes(Estimate(), **alone)) < 1e-6
    assert abs(slopes(Estimate(0.1), **alone)[0]) > 1e-3
    assert abs(slopes(Estimate(off=0.1), **alone)[1]) > 1e-3
    (ramping,) = updates(Estimate(), progress=0.01)
    assert ramping.loss > 1e-4, "with a part of its derivative the exact estimate is no rest"


def test_the_ramp_has_its_root():
    c = Config()
    batch, context = gaussian.setting({}, progress=0.01)
    sigma = (c.log_mean + c.log_std * context.random.normal("time")).exp()
    t, noise = sigma / (1 + sigma), context.random.normal("data noise", batch.shape)
    a = angle(t, 1.0)
    x = mixture(flow.interpolate(batch.x0, noise, t), a, 1.0)
    moved = trig_velocity(gaussian.velocity, x, a, 1.0)
    error = consistency_error(
        Estimate(), x, a, moved, batch.condition, context, deviation=1.0, warmup=0.025, floor=0.1,
        precision="float32", rooted=True,
    )  # fmt: skip
    (found,) = updates(Estimate(), progress=0.01)
    assert found.loss.item() == pytest.approx(100 * error.square().mean().item(), rel=1e-9)


@pytest.mark.parametrize("ramp", [0.0, 0.4, 1.0])
def test_the_first_part_grows_less_small_where_the_derivative_is_ramped(ramp):
    a, (found, slope, moved, x) = torch.linspace(0.1, 1.4, 5), torch.randn(4, 5, 2)
    plain, rooted = (tangent(found, slope, moved, x, a, ramp, r) for r in (False, True))
    cos, sin = a.cos()[:, None], a.sin()[:, None]
    more = -(cos * (1 - ramp**2 * sin**2).sqrt() - cos**2) * (found - moved)
    assert torch.allclose(rooted - plain, more)
    if ramp == 1:
        assert torch.allclose(rooted, plain)


def test_matching_is_at_rest_where_the_fake_score_is_the_teachers():
    assert max(abs(s) for s in slopes(Estimate(), consistency_weight=0.0)) < 1e-12


def test_matching_pulls_along_the_analytic_direction():
    """A student that is off has samples of another mean, which the fake score tells."""
    off, mu, weight = 0.3, gaussian.MU + 0.4, 2.0
    c = Config(longest=1, consistency_weight=0.0, matching_weight=weight)
    found = slopes(Estimate(off=off), mu=mu, longest=1, consistency_weight=0.0,
                   matching_weight=weight)  # fmt: skip
    batch, context = gaussian.setting({})
    start = c.start * context.random.normal("noise", batch.shape)
    at = torch.full((len(start),), c.start)
    x = gaussian.flow_map(start, at, 0 * at) + c.start * off
    u = context.random.uniform("matching time")
    t = 5 * u / (1 + 4 * u)
    noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
    real, fake = (gaussian.posterior_mean(noisy, t, mu=m) for m in (gaussian.MU, mu))
    g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    assert found[1] == pytest.approx(weight * c.start * g.mean().item(), rel=1e-6)
    assert g.mean() > 0.01, "samples whose mean is too large are moved down"


def test_turns_and_when_matching_begins():
    told = [[u.optimizer for u in updates(Estimate(), step=step)] for step in range(11)]
    assert told == [["student"] if step % 5 == 0 else ["fake"] for step in range(11)]
    for step in range(6):
        (early,) = updates(Estimate(), step=step, progress=0.02)
        assert early.optimizer == "student" and "matching" not in early.scalars
    assert "matching" in updates(Estimate(), step=5)[0].scalars
    ramped = updates(Estimate(), step=5, progress=0.5, tangent_warmup=1.0)[0]
    assert "matching" in ramped.scalars, "it waits for its own share, not for the derivative's"
    waiting = updates(Estimate(), step=5, progress=0.5, matching_start=0.6)[0]
    assert "matching" not in waiting.scalars


def test_samples_have_one_to_four_steps():
    asked = []

    class Seen(Estimate):
        def forward(self, x, t, condition):
            asked.append(float(t[0]))
            return super().forward(x, t, condition)

    counts = []
    for step in range(1, 60):
        asked.clear()
        updates(Seen(), step=step)
        counts += [len(asked)] if step % 5 else []
        assert step % 5 == 0 or asked[0] == pytest.approx(80 / 81)
    assert set(counts) == {1, 2, 3, 4}


def test_the_fake_score_learns_samples_of_the_student():
    """At the samples' own velocities the loss is what noise leaves of it, and more elsewhere."""
    losses = {}
    for mu in (gaussian.MU - 0.4, gaussian.MU, gaussian.MU + 0.4):
        batch_losses = []
        for step in range(1, 30):
            if step % 5:
                (found,) = updates(Estimate(), mu=mu, step=step)
                batch_losses.append(found.loss.item())
        losses[mu] = sum(batch_losses)
    assert min(losses, key=losses.get) == gaussian.MU
