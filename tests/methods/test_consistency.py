"""Consistency models on Gaussian data: what they converge to and its order, times and weights."""

import math

import pytest
import torch
from piflow_methods.consistency import Config, Consistency
from piflow_methods.parts.consistency import Average, doubled, ect_end, estimate, grid, pair
from piflow_methods.parts.renoising import RenoisingStudent
from torch import nn

from piflow_bench.api import Spec, TrainingRandom, Unconditional, flow
from tests.methods import gaussian

EDGES = (0.002, 80.0, 7.0)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def solve(x, t, edges, solver):
    """From times on the edges ``(B,)`` along them to the data, by the solver's steps."""
    for i in range(len(edges) - 1, 0, -1):
        start, end = edges[i], edges[i - 1]
        moving = (t >= start - 1e-12)[:, None]
        times = torch.stack([start, end])
        x = torch.where(moving, getattr(flow, solver)(gaussian.velocity, x, times), x)
    return x


class Solved(nn.Module):
    """The velocity whose estimate of the data is ``theta`` times where the solver's path ends."""

    def __init__(self, edges, solver, theta=1.0):
        super().__init__()
        self.edges, self.solver = edges, solver
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x, t, condition):
        positive = torch.where(t > 0, t, torch.ones_like(t))
        end = self.theta * solve(x, t, self.edges, self.solver)
        found = (x - end) / flow.expand(positive, x)
        return torch.where(flow.expand(t, x) > 0, found, torch.zeros_like(x))


def update_of(network, rows=64, step=0, progress=0.0, seed=1, **settings):
    method = Consistency(Config(**{"decay": 0.0, **settings}))
    networks = {"student": network}
    if method.config.decay:
        networks["average"] = Average(network, method.config.decay)
    batch, context = gaussian.setting(networks, rows, step=step, progress=progress)
    batch.x0.copy_(
        gaussian.MU
        + gaussian.S * torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(seed))
    )
    (update,) = method.training_step(batch, context)
    return update, batch, networks


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_distillation_rests_at_the_map_of_its_solvers_steps(solver, decay):
    edges = grid(12, *EDGES)
    network = Solved(edges, solver)
    update, *_ = update_of(network, nodes=12, solver=solver, decay=decay)
    update.loss.backward()
    assert update.loss.item() < 1e-20 and abs(network.theta.grad.item()) < 1e-9
    for wrong in (Solved(edges, solver, 1.05), Solved(grid(11, *EDGES), solver)):
        update, *_ = update_of(wrong, nodes=12, solver=solver, decay=decay)
        assert update.loss.item() > 1e-7


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_that_maps_gap_to_the_exact_one_is_of_the_solvers_order(solver, order):
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    gaps = []
    for nodes in (40, 80, 160):
        edges = grid(nodes, *EDGES)
        start = edges[-1].expand(len(x))
        state = start[0] * x
        end = gaussian.flow_map(state, start, torch.zeros_like(start))
        gaps.append((solve(state, start, edges, solver) - end).abs().mean().item())
    for larger, smaller in zip(gaps, gaps[1:], strict=False):
        assert math.log2(larger / smaller) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("rests", [True, False])
def test_training_on_data_rests_in_expectation_at_eulers_map(rests):
    """Estimates of Gaussians are affine in x: the line's mean next state is Euler's step."""
    edges = grid(6, *EDGES)
    gradients = []
    for step in range(100):
        network = Solved(edges if rests else grid(7, *EDGES), "euler")
        update, *_ = update_of(network, 1000, step, seed=step, nodes=6, path="data")
        (gradient,) = torch.autograd.grad(update.loss, network.theta)
        gradients.append(gradient)
    found = torch.stack(gradients)
    error = found.std() / math.sqrt(len(found))
    assert (found.mean().abs() < 3 * error) == rests


def test_the_loss_is_that_of_the_estimates_of_one_noises_states():
    network = Solved(grid(10, *EDGES), "euler", 0.8)
    found, batch, _ = update_of(network, nodes=10, path="data")
    random = TrainingRandom(5, 0, 0, 64)
    noise, u = random.normal("noise", (2,)), random.uniform("time")
    t, r = pair(grid(10, *EDGES), u, None)
    ends = [
        estimate(network, flow.interpolate(batch.x0, noise, time), time, batch.condition)
        for time in (t, r)
    ]
    rows = (ends[0] - ends[1]).square().mean(1)
    assert found.loss.item() == pytest.approx(rows.mean().item(), rel=1e-12)
    huber, *_ = update_of(network, nodes=10, path="data", distance="huber", huber=0.03)
    expected = ((rows + 0.03**2).sqrt() - 0.03).mean().item()
    assert huber.loss.item() == pytest.approx(expected, rel=1e-12)
    span, *_ = update_of(network, nodes=10, path="data", weight="span")
    sigma = [time / (1 - time) for time in (t, r)]
    assert span.loss.item() == pytest.approx((rows / (sigma[0] - sigma[1])).mean().item())


def test_targets_are_the_averages_which_follows():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, t, condition):
            return self.p * x

    network = Affine()
    method = Consistency(Config(decay=0.9, nodes=5))
    average = Average(network, 0.9)
    with torch.no_grad():
        network.p.fill_(1.3)
    networks = {"student": network, "average": average}
    batch, context = gaussian.setting(networks)
    (update,) = method.training_step(batch, context)
    update.loss.backward()
    assert average.network.p.item() == pytest.approx(0.3 + 0.1 * 1.0)
    alone, *_ = update_of(network, nodes=5)
    assert alone.loss.item() != pytest.approx(update.loss.item())


def test_the_grid_is_edms_and_the_data():
    edges = grid(40, *EDGES)
    sigma = edges / (1 - edges)
    assert len(edges) == 41 and sigma[0] == 0
    assert sigma[1].item() == pytest.approx(0.002) and sigma[-1].item() == pytest.approx(80)
    roots = sigma[1:] ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(39))


def test_pairs_are_neighbours_as_probable_as_their_law_says():
    edges = grid(8, *EDGES)
    u = (torch.arange(40000) + 0.5) / 40000
    t, r = pair(edges, u, None)
    share = (t[:, None] == edges[1:]).double().mean(0)
    assert torch.allclose(share, torch.full((8,), 1 / 8), atol=1e-4)
    t, r = pair(edges, u, (-1.1, 2.0))
    at = torch.searchsorted(edges, t)
    assert torch.equal(edges[at - 1], r) and at.min() >= 1 and at.max() == 8
    share = (t[:, None] == edges[1:]).double().mean(0)
    sigma = edges[1:] / (1 - edges[1:])
    masses = [0.5 * (1 + math.erf((math.log(s) + 1.1) / (2 * math.sqrt(2)))) for s in sigma]
    expected = torch.tensor(masses).diff(prepend=torch.zeros(1)) / masses[-1]
    assert torch.allclose(share, expected, atol=1e-4)
    last, _ = pair(edges.float(), torch.tensor([1.0 - 2**-24]), (-1.1, 2.0))
    assert last.item() == pytest.approx(edges[-1].item())


def test_grids_are_doubled_in_equal_parts():
    found = [doubled(10, 1280, p / 16) for p in range(17)]
    assert found == [n for n in (10, 20, 40, 80, 160, 320, 640, 1280) for _ in "ab"] + [1280]
    assert {doubled(40, 40, p) for p in (0.0, 0.5, 1.0)} == {40}
    assert [doubled(10, 30, p) for p in (0.0, 0.4, 0.8, 1.0)] == [10, 20, 30, 30]


def test_ects_pairs_draw_near():
    sigma = torch.tensor([0.01, 0.5, 2.0, 40.0])
    assert ect_end(sigma, 2.0)[0] == 0, "first it is a denoiser"
    expected = sigma * (1 - (1 + 8 / (1 + sigma.exp())) / 256)
    assert torch.allclose(ect_end(sigma, 256.0), expected)
    method = Consistency(Config(path="data", grid="ect", stages=8))
    spans = []
    for progress in (0.0, 0.5, 0.99, 1.0):
        _, context = gaussian.setting({}, 4096, progress=progress)
        t, r = method.times(context)
        assert (t > r).all() and (r >= 0).all() and t.max() < 1
        spans.append(((t - r) / t).mean().item())
        sigma = t / (1 - t)
        assert sigma.log().mean().item() == pytest.approx(-1.1, abs=0.1)
        assert sigma.log().std().item() == pytest.approx(2.0, abs=0.1)
        end = ect_end(sigma, 2.0 ** min(int(8 * progress) + 1, 8))
        assert torch.allclose(r, end / (1 + end))
    assert spans[0] > 5 * spans[1] > 20 * spans[2] and spans[2] == spans[3]


@pytest.mark.parametrize("nfe", [1, 2])
def test_the_exact_estimate_samples_the_data(nfe):
    class Exact(nn.Module):
        def forward(self, x, t, condition):
            end = gaussian.flow_map(x, t, torch.zeros_like(t))
            return (x - end) / flow.expand(t, x)

    class Draws:
        def normal(self, i, shape):
            return torch.randn(20000, *shape, generator=torch.Generator().manual_seed(i + 9))

    noise = torch.randn(20000, 2, generator=torch.Generator().manual_seed(4))
    spec = Spec((2,), None, 4, lambda: nn.Linear(1, 1), Unconditional(1))
    student = Consistency(Config()).build(gaussian.teacher(), spec).student
    assert isinstance(student, RenoisingStudent) and student.start == 80 / 81
    student.network = Exact()
    x = student.sample(noise, None, nfe, Draws())
    assert x.mean().item() == pytest.approx(gaussian.MU, abs=0.02)
    assert x.std().item() == pytest.approx(gaussian.S, abs=0.01)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sigma_min": 90.0}, "is below sigma_max"),
        ({"nodes_end": 20}, "at least nodes=40"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


def test_facts_say_whose_settings_they_are():
    papers = [
        Consistency(Config(**settings)).facts_for().paper
        for settings in ({}, {"path": "data"}, {"path": "data", "grid": "ect"})
    ]
    assert papers == ["arXiv:2303.01469", "arXiv:2310.14189", "arXiv:2406.14548"]
    assert Consistency(Config(decay=0.0)).facts_for().auxiliary == ()
    assert "without guidance" in Consistency(Config(path="data")).facts_for().target
