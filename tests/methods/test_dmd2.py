"""DMD2's generator gradient on Gaussians with known scores."""

import math

import pytest
import torch
from piflow_methods.dmd2 import (
    DMD2,
    Config,
    RenoisingStudent,
    matching_gradient,
    matching_loss,
    noise_time,
)
from torch import nn

from piflow_bench.api import TrainingRandom, Unconditional, flow
from tests.methods import gaussian


class AffineGenerator(nn.Module):
    """A velocity network whose one-step estimate is x0 = a z + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x, t, condition):
        return (x - (self.a * x + self.b)) / flow.expand(t, x)


class ExactFakeScore(nn.Module):
    """The exact velocity of the generator's present samples N(b, a^2)."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition, step):
        return gaussian.velocity(x, t, mu=self.b, s=abs(self.a)) + 0 * self.unused, None


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator_update(a, b, rows=512, **settings):
    method = DMD2(Config(gan=False, **settings))
    method.nfe = 1
    networks = {"student": AffineGenerator(a, b), "fake_score": ExactFakeScore(a, b)}
    batch, context = gaussian.setting(networks, rows=rows)
    updates = list(method.training_step(batch, context))
    assert [u.optimizer for u in updates] == ["student", "fake"]
    return networks["student"], updates[0], batch


@pytest.mark.parametrize("law", ["karras", "uniform", "logit-normal"])
@pytest.mark.parametrize(("a", "b"), [(1.2, -0.4), (0.3, 0.9)])
def test_generator_gradient_equals_its_closed_form(a, b, law):
    generator, update, batch = generator_update(a, b, time_law=law)
    update.loss.backward()

    rows, dim = batch.x0.shape
    z = TrainingRandom(5, 0, 0, rows).normal("noise", (dim,))
    x = a * z + b
    quantile = 0.02 + 0.96 * TrainingRandom(5, 0, 0, rows).uniform("matching time")
    t = noise_time(law, quantile)
    x_t = flow.interpolate(x, TrainingRandom(5, 0, 0, rows).normal("matching noise", (dim,)), t)
    real = gaussian.posterior_mean(x_t, t)
    fake = gaussian.posterior_mean(x_t, t, mu=b, s=a)
    g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    assert generator.b.grad.item() == pytest.approx((g.sum() / g.numel()).item(), abs=1e-8)
    assert generator.a.grad.item() == pytest.approx(((g * z).sum() / g.numel()).item(), abs=1e-8)


def test_gradient_vanishes_at_the_teachers_distribution():
    generator, update, _ = generator_update(gaussian.S, gaussian.MU)
    update.loss.backward()
    assert abs(generator.a.grad) < 1e-9 and abs(generator.b.grad) < 1e-9


def test_descent_reaches_the_teachers_distribution():
    a, b = 1.2, -0.4
    for _ in range(200):
        generator, update, _ = generator_update(a, b, rows=64)
        update.loss.backward()
        a -= 0.5 * generator.a.grad.item()
        b -= 0.5 * generator.b.grad.item()
    assert a == pytest.approx(gaussian.S, abs=0.05)
    assert b == pytest.approx(gaussian.MU, abs=0.05)


def test_matching_loss_has_the_gradient_it_was_given():
    x = torch.randn(4, 3, requires_grad=True)
    g = torch.randn(4, 3)
    matching_loss(x, g).backward()
    assert torch.allclose(x.grad, g / g.numel())


def test_nan_gradients_become_zero():
    x = torch.zeros(2, 3)
    assert (matching_gradient(x, x, x) == 0).all()


def test_karras_law_in_flow_time():
    assert noise_time("karras", torch.tensor([1.0])).item() == pytest.approx(80 / 81)
    median = noise_time("karras", torch.tensor([0.5])).item()
    assert median == pytest.approx(0.71, abs=0.01)  # sigma about 2.5
    assert noise_time("logit-normal", torch.tensor([0.5])).item() == pytest.approx(0.5)


def test_fake_score_updates_outnumber_the_generators():
    method = DMD2(Config(gan=False, ratio=3))
    method.nfe = 1
    kinds = []
    for step in range(6):
        networks = {"student": AffineGenerator(1.0, 0.0), "fake_score": ExactFakeScore(1.0, 0.0)}
        batch, context = gaussian.setting(networks, step=step)
        kinds += [u.optimizer for u in method.training_step(batch, context)]
    assert kinds.count("student") == 2 and kinds.count("fake") == 6


def test_backward_simulation_trains_only_the_chosen_step():
    method = DMD2(Config(gan=False, step_shift=1.0))
    method.nfe = 4
    calls = []

    class Recording(AffineGenerator):
        def forward(self, x, t, condition):
            calls.append((float(t[0]), torch.is_grad_enabled()))
            return super().forward(x, t, condition)

    network = Recording(1.0, 0.0)
    batch, context = gaussian.setting({"student": network})
    _, step = method.generate(batch, context)
    assert (step == calls[-1][0]).all()
    assert [t for t, _ in calls] == [1.0, 0.75, 0.5, 0.25][: len(calls)]
    assert [grad for _, grad in calls] == [False] * (len(calls) - 1) + [True]


def test_multistep_sampling_keeps_the_marginal():
    from piflow_bench.api import SampleRandom

    class Posterior(nn.Module):
        def forward(self, x, t, condition):
            # The exact flow map to data as an estimate: renoising then keeps every marginal.
            end = gaussian.flow_map(x, t, torch.zeros_like(t))
            return (x - end) / flow.expand(t, x)

    n = 4000
    noise = SampleRandom(0, range(n)).noise((1,)).double()
    x = RenoisingStudent(Posterior(), 1.0).sample(
        noise, Unconditional(n), 4, SampleRandom(0, range(n))
    )
    assert x.mean().item() == pytest.approx(gaussian.MU, abs=4 * gaussian.S / math.sqrt(n))
    assert x.std().item() == pytest.approx(gaussian.S, rel=0.05)


def test_the_fake_score_sees_the_step_only_if_asked():
    from piflow_methods.dmd2 import FakeScore

    from piflow_bench.condition import Unconditional
    from piflow_bench.networks.mlp import MLP

    torch.manual_seed(0)
    x, t, rows = torch.randn(6, 2), torch.rand(6), Unconditional(6)
    early, late = torch.ones(6), torch.full((6,), 0.25)
    for knows in (False, True):
        fake = FakeScore(MLP(2, dim=32, depth=2), False, knows).double()
        if knows:
            torch.nn.init.normal_(fake.network.duration_embedder.linear_2.weight)
        torch.nn.init.normal_(fake.network.proj_out_2.weight)
        same = torch.equal(fake(x, t, rows, early)[0], fake(x, t, rows, late)[0])
        assert same is not knows
