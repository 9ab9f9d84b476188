"""ArcFlow's policy: its integral against quadrature, its head's start, and its exact student."""

import numpy as np
import pytest
import torch
from piflow_methods.piflow.arc import SMALL, ArcPolicy, mean_growth
from piflow_methods.piflow.heads import ArcNetwork
from piflow_methods.piflow.method import Config, PiFlow, PolicyStudent, make_policy
from torch import nn

from piflow_bench.api import (
    Batch,
    Context,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.mlp import MLP
from tests.methods.gaussian import setting

NODES, WEIGHTS = (torch.as_tensor(values) for values in np.polynomial.legendre.leggauss(24))


def a_policy(shift=1.0, scale=3.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(4, *shape, generator=g, dtype=torch.float64)  # noqa: E731
    rates = scale * draw(4, 1, 5, 5)
    rates[:, 1] = 0.1 * SMALL
    t = torch.tensor([1.0, 0.8, 0.5, 0.01])
    given = draw(5, 3, 5, 5), rates, draw(5, 1, 5, 5).log_softmax(1), draw(3, 5, 5), t
    return ArcPolicy(*(value.to(dtype) for value in given), shift)


@pytest.mark.parametrize("shift", [1.0, 3.2])
@pytest.mark.parametrize("share", [(1.0, 0.0), (0.7, 0.2), (0.31, 0.3)])
def test_a_rollout_equals_the_quadrature_of_its_velocity(shift, share):
    policy = a_policy(shift)
    raw = flow.unwarp(policy.t_src, shift)
    start, end = share[0] * raw, share[1] * raw
    t_from, t_to = flow.warp(start, shift), flow.warp(end, shift)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    way = sum(
        weight / 2 * policy.velocity(x, t_from + (t_to - t_from) * (node + 1) / 2)
        for node, weight in zip(NODES, WEIGHTS, strict=True)
    )
    expected = x - flow.expand(t_from - t_to, x) * way
    for substeps in (1, 128):
        found = policy.rollout(x, start, end, substeps)
        assert (found - expected).abs().max() < 1e-11


def test_two_rollouts_are_one():
    policy = a_policy(shift=2.0)
    raw = flow.unwarp(policy.t_src, 2.0)
    x = policy.x_src
    halfway = policy.rollout(x, raw, 0.4 * raw)
    once = policy.rollout(x, raw, 0.1 * raw)
    assert (policy.rollout(halfway, 0.4 * raw, 0.1 * raw) - once).abs().max() < 1e-13
    assert (once - x).abs().max() > 0.1


def test_velocities_at_the_source_are_the_mixture_and_change_at_their_rates():
    policy = a_policy()
    weights = policy.logweights.exp()
    x = torch.zeros_like(policy.x_src)
    assert torch.equal(policy.velocity(x, policy.t_src), (weights * policy.means).sum(1))
    later = policy.velocity(x, policy.t_src - 0.01)
    rates = torch.cat([torch.zeros_like(policy.rates[:, :1]), policy.rates], 1)
    grown = (weights * policy.means * (0.01 * rates).exp()).sum(1)
    assert torch.allclose(later, grown, atol=1e-13)


def test_the_mean_growth_is_smooth_at_no_rate():
    z = torch.tensor([-2 * SMALL, -SMALL, -1e-9, 0.0, 1e-9, SMALL, 2 * SMALL, 3.0]).double()
    z.requires_grad_()
    value = mean_growth(z)
    places = torch.arange(2, 42).double()
    exact = (z.detach()[:, None] ** (places - 2) / places.lgamma().exp()).sum(1)
    assert (value - exact).abs().max() < 1e-9
    (slope,) = torch.autograd.grad(value.sum(), z)
    small = z.detach().abs() < 3 * SMALL
    assert (slope[small] - 0.5 - z.detach()[small] / 3).abs().max() < 1e-5
    assert torch.autograd.gradcheck(mean_growth, (z,))


def test_dropped_components_give_their_weight_to_the_others():
    policy = a_policy()
    drop = torch.zeros(4, 5, dtype=torch.bool)
    drop[:, 2:] = True
    drop[3] = True  # Of this one all would go: it keeps them.
    kept = policy.with_dropout(drop)
    assert torch.allclose(kept.logweights.exp().sum(1), torch.ones(4, 1, 5, 5).double())
    assert (kept.logweights[:3, 2:].exp() == 0).all()
    assert torch.equal(kept.logweights[3], policy.logweights[3].log_softmax(0))
    two = policy.means[:3, :2] * policy.logweights[:3, :2].log_softmax(1).exp()
    x = policy.x_src
    assert torch.allclose(kept.velocity(x, policy.t_src)[:3], two.sum(1))


def test_the_head_starts_at_the_teachers_velocity_with_rates_apart():
    backbone = MLP(2, dim=16, depth=2)
    x, t = torch.randn(6, 2), torch.rand(6)
    expected = backbone(x, t, Unconditional(6))
    network = ArcNetwork(backbone, 5, noise=0.05, seed=1)
    output = network(x, t, Unconditional(6))
    assert output["means"].shape == (6, 5, 2) and output["rates"].shape == (6, 4, 1)
    jitter = output["means"] - expected[:, None]
    assert (jitter - jitter[:1]).abs().max() < 1e-6 and 0.005 < jitter.std() < 0.1
    assert torch.allclose(output["logweights"].exp(), torch.full((6, 5, 1), 0.2))
    start = output["rates"][0, :, 0].exp()
    assert torch.allclose(start[[0, -1]], torch.tensor([0.2, 4.0]))
    assert torch.allclose(start[1:] / start[:-1], start[1] / start[0])


RATES = torch.tensor([0.0, 1.3, -2.0], dtype=torch.float64)
VELOCITIES = torch.tensor([[0.4, -1.0], [0.7, 0.2], [-0.9, 0.5]], dtype=torch.float64)


def drift(x, t, condition=None):
    """A field in which every state moves alike, faster and slower by three rates."""
    return ((RATES * (1 - t[:, None])).exp() @ VELOCITIES).to(x) / 3


class Exact(nn.Module):
    """The head's output that stands for ``drift`` at any source time."""

    def __init__(self, off=0.0):
        super().__init__()
        self.rates = nn.Parameter(RATES[1:] + off)
        self.velocities = nn.Parameter(VELOCITIES.clone())

    def forward(self, x, t, condition):
        growth = (RATES * (1 - t[:, None])).exp()
        return {
            "means": growth[..., None] * self.velocities,
            "rates": self.rates[None, :, None].expand(len(x), 2, 1),
            "logweights": x.new_zeros(len(x), 3, 1).log_softmax(1),
        }


def gradient(network, nfe, **settings):
    method = PiFlow(Config(policy="arc", components=3, dropout=0.0, states=3, **settings))
    method.nfe = nfe
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = Batch(x0, Unconditional(64), (2,))
    teacher = Teacher(drift, nn.Linear(1, 1), closed_form=True)
    networks = {"student": network}
    context = Context(7, 0.0, TrainingRandom(0, 7, 0, 64), teacher, networks, networks)
    loss = sum(update.loss for update in method.training_step(batch, context))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("settings", [{}, {"shift": 3.2}, {"data_free": True}, {"num_decay": 10}])
@pytest.mark.parametrize("nfe", [1, 2])
def test_the_exact_student_has_no_gradient_and_a_wrong_rate_has(settings, nfe):
    exact = gradient(Exact(), nfe, **settings).abs().max()
    wrong = gradient(Exact(off=0.3), nfe, **settings).abs().max()
    if settings.get("num_decay"):  # The teacher's own Euler steps are not exact.
        assert wrong > exact > 1e-6
    else:
        assert exact < 1e-6 and wrong > 1e-2


def test_components_are_dropped_from_what_rolls_out_alone():
    """The loss is at other states, of the whole policy."""
    losses = {}
    for dropout in (0.0, 0.9):
        method = PiFlow(Config(policy="arc", components=3, dropout=dropout))
        method.nfe = 1
        batch, context = setting({"student": Exact()})
        (update,) = method.training_step(batch, context)
        losses[dropout] = float(update.scalars["loss"])
    assert losses[0.0] != losses[0.9]


def test_the_exact_student_samples_what_the_field_makes():
    noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    made = {}
    for nfe in (1, 2, 4):
        student = PolicyStudent(Exact(), Config(policy="arc", components=3, shift=2.0))
        with torch.no_grad():
            made[nfe] = student.sample(noise, Unconditional(16), nfe, SampleRandom(0, range(16)))
    fine = flow.euler(drift, noise, flow.time_grid(20000).double())
    assert (made[1] - made[2]).abs().max() < 1e-6 > (made[1] - made[4]).abs().max()
    assert (made[1] - fine).abs().max() < 1e-3


def test_one_component_is_refused():
    with pytest.raises(ValueError, match="policy=arc has at least 2"):
        Config(policy="arc", components=1)


def test_a_policys_paper_is_told():
    arc, gm = PiFlow(Config(policy="arc")).facts_for(), PiFlow(Config()).facts_for()
    assert arc.paper == "arXiv:2602.09014" != gm.paper and "arcflow" in arc.citation
    network = MLP(2, dim=16, depth=2)
    teacher = Teacher(network, network)
    built = PiFlow(Config(policy="arc", components=4)).build(
        teacher, Spec((2,), 1, 3, lambda: network, Unconditional(1))
    )
    x, t = torch.randn(3, 2), torch.full((3,), 0.9)
    output = built.modules["student"](x, t, Unconditional(3))
    policy = make_policy(Config(policy="arc", components=4), output, x, t, 1.0)
    assert isinstance(policy, ArcPolicy)
