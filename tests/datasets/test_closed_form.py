"""Exact velocity fields against numerical integration, and the datasets made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench import flow
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.teacher import solve
from piflow_bench.data import checkerboard2d, closed_form, mixture2d
from piflow_bench.errors import UserError
from tests.world import world

DATASETS = pytest.mark.parametrize("module", [mixture2d, checkerboard2d], ids=lambda m: m.NAME)
F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def states(module, t, n=200, seed=1):
    """States of the true marginal at time t."""
    return flow.interpolate(module.draw(seed, n).double(), normal(n, 2, seed=seed), t)


# ---------------------------------------------------------------------------- one Gaussian

MEAN, STD = torch.tensor([0.7, -0.2], dtype=F64), 0.4


def test_gaussian_velocity_is_that_of_the_posterior_mean():
    x, t = normal(50, 2), torch.linspace(0.02, 1, 50, dtype=F64)
    s = t[:, None]
    gain = STD**2 * (1 - s) / ((1 - s) ** 2 * STD**2 + s**2)
    mean = MEAN + gain * (x - (1 - s) * MEAN)
    u = closed_form.gaussian_velocity(x, t, MEAN, STD)
    torch.testing.assert_close(u, flow.velocity_from_x0(x, mean, t))
    torch.testing.assert_close(closed_form.gaussian_velocity(x, 0.0, MEAN, STD), -x)


def test_gaussian_flow_map_solves_the_ode():
    x = normal(50, 2)
    end = flow.heun(
        lambda x, t: closed_form.gaussian_velocity(x, t, MEAN, STD),
        x,
        torch.linspace(0.9, 0.1, 2001, dtype=F64),
    )
    torch.testing.assert_close(
        closed_form.gaussian_flow_map(x, 0.9, 0.1, MEAN, STD), end, atol=1e-6, rtol=0
    )


def test_gaussian_flow_maps_compose():
    x, t, r = normal(9, 2), torch.linspace(0.6, 1, 9, dtype=F64), torch.linspace(0, 0.4, 9)
    half = closed_form.gaussian_flow_map(x, t, 0.5, MEAN, STD)
    torch.testing.assert_close(
        closed_form.gaussian_flow_map(half, 0.5, r, MEAN, STD),
        closed_form.gaussian_flow_map(x, t, r, MEAN, STD),
    )
    torch.testing.assert_close(closed_form.gaussian_flow_map(x, t, t, MEAN, STD), x)


def test_meanflow_identity():
    x = normal(200, 2)
    t = 0.3 + 0.7 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=F64)
    r = t * torch.linspace(0, 0.95, 200, dtype=F64)

    def average(x, t):
        end = closed_form.gaussian_flow_map(x, t, r, MEAN, STD)
        return (x - end) / flow.expand(t - r, x)

    u = closed_form.gaussian_velocity(x, t, MEAN, STD)
    mean_u, rate = torch.func.jvp(average, (x, t), (u, torch.ones_like(t)))
    torch.testing.assert_close(mean_u, u - flow.expand(t - r, x) * rate)


# ---------------------------------------------------------------------------- mixture


def gridded_moments(x, t):
    """E[x0] and E[|x0 - E[x0]|^2] given x_t = x by summing over a fine grid."""
    # An eighth of a standard deviation: sums of Gaussians converge beyond all powers.
    axis = torch.arange(-2.6, 2.6, 0.01, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    prior = torch.zeros(len(grid), dtype=F64)
    for weight, mean in zip(mixture2d.WEIGHTS, mixture2d.MEANS, strict=True):
        prior += weight * torch.exp(-(grid - mean).square().sum(1) / (2 * mixture2d.STD**2))
    logit = prior.log() - (x - (1 - t) * grid).square().sum(1) / (2 * t**2)
    share = logit.softmax(0)
    mean = (share[:, None] * grid).sum(0)
    return mean, (share * (grid - mean).square().sum(1)).sum()


@pytest.mark.parametrize("t", [0.1, 0.4, 0.8, 0.97, 1.0])
def test_mixture_posterior_against_a_grid(t):
    x = torch.cat([states(mixture2d, t, 3), torch.tensor([[2.0, -2.0]], dtype=F64)])
    args = mixture2d.MEANS, mixture2d.WEIGHTS, mixture2d.STD
    mean = closed_form.mixture_posterior_mean(x, t, *args)
    component_means, variance, logweights = mixture2d.posterior(x, t, *args)
    assert component_means.shape == (4, 9, 2)
    assert variance.shape == (4, 1) and logweights.shape == (4, 9)
    spread = (component_means - mean[:, None]).square().sum(2)
    second = (logweights.exp() * spread).sum(1) + 2 * variance[:, 0]
    for i in range(len(x)):
        expected, expected_second = gridded_moments(x[i], t)
        torch.testing.assert_close(mean[i], expected, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(second[i], expected_second, atol=1e-8, rtol=1e-8)
    u = mixture2d.velocity(x, t)
    torch.testing.assert_close(u, (x - mean) / t)


def test_mixture_posterior_is_a_mixture_that_the_field_follows_from():
    """The posterior at the source, narrowed by a later state, gives the later posterior mean."""
    args = mixture2d.MEANS, mixture2d.WEIGHTS, mixture2d.STD
    for t_src, t in ((1.0, 0.6), (0.9, 0.2), (0.5, 0.05)):
        x_src, x = states(mixture2d, t_src, 20), states(mixture2d, t, 20, seed=2)
        means, variance, logweights = mixture2d.posterior(x_src, t_src, *args)
        # Likelihood of x0 at (x, t) over that at (x_src, t_src): a Gaussian in x0, in natural form.
        nu = (1 - t) / t**2 * x - (1 - t_src) / t_src**2 * x_src
        zeta = ((1 - t) / t) ** 2 - ((1 - t_src) / t_src) ** 2
        v = variance[:, :, None]
        centre = (means + v * nu[:, None]) / (1 + v * zeta)
        gain = (centre.square() * (1 + v * zeta) - means.square()).sum(2) / (2 * v[:, :, 0])
        share = (logweights + gain).softmax(1)
        expected = closed_form.mixture_posterior_mean(x, t, *args)
        torch.testing.assert_close((share[:, :, None] * centre).sum(1), expected)


def test_mixture_modes_are_separate_and_weights_fall():
    distance = torch.cdist(mixture2d.MEANS, mixture2d.MEANS) + 9 * torch.eye(9)
    assert distance.min() > 8 * mixture2d.STD
    assert mixture2d.WEIGHTS.sum() == pytest.approx(1, abs=1e-12)
    assert mixture2d.WEIGHTS[0] == 0.5 and mixture2d.WEIGHTS[-1] == 0.002
    assert (mixture2d.WEIGHTS.diff() < 0).all()


# ---------------------------------------------------------------------------- checkerboard


def interval_reference(x, t, low, high):
    """log mass and mean of x0 uniform on [low, high] given x_t = x, by composite quadrature.

    Pieces shrink geometrically towards the peak of the likelihood, so that it is resolved at any
    t, however far in the tail.
    """
    alpha = 1 - t
    peak = min(max(x / alpha, low), high) if alpha > 0 else (low + high) / 2
    scale = t / max(alpha, 1e-12)
    pull = alpha * abs(x - alpha * peak)
    if pull > 0:
        scale = min(scale, t**2 / pull)
    steps = scale * np.concatenate([np.arange(0, 40, 0.5), np.geomspace(40, 1e7, 30)])
    edges = np.unique(np.clip(np.concatenate([peak - steps, peak + steps, [low, high]]), low, high))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges) / 2
    y = ((edges[:-1] + edges[1:]) / 2)[:, None] + half[:, None] * nodes
    # Relative to the likelihood at the peak, so that nothing is lost in large exponents.
    exponent = -alpha * (peak - y) * (2 * x - alpha * (peak + y)) / (2 * t**2)
    mass = half[:, None] * weights * np.exp(exponent)
    at_peak = -((x - alpha * peak) ** 2) / (2 * t**2)
    return at_peak + math.log(mass.sum()), (mass * (y - peak)).sum() / mass.sum() + peak


def board_reference(x, t):
    """E[x0 | x_t = x] on the checkerboard from the quadratures of its cells."""
    edges = np.linspace(-math.sqrt(3), math.sqrt(3), 5)
    logs, means = [], []
    for i in range(4):
        for j in range(4):
            if (i + j) % 2 == 0:
                a = interval_reference(x[0], t, edges[i], edges[i + 1])
                b = interval_reference(x[1], t, edges[j], edges[j + 1])
                logs.append(a[0] + b[0])
                means.append((a[1], b[1]))
    share = np.exp(np.array(logs) - max(logs))
    return (share[:, None] * np.array(means)).sum(0) / share.sum()


TIMES = [1e-4, 1e-3, 0.01, 0.1, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-6, 1.0]


@pytest.mark.parametrize("t", TIMES)
def test_checkerboard_posterior_mean_against_quadrature(t):
    x = torch.cat([states(checkerboard2d, t, 6), 3 * normal(5, 2, seed=3)])
    far = [[30.0, -0.2], [-200.0, 150.0], [0.0, 0.0], [5.0, 5.1], [1e4, 1.0]]
    x = torch.cat([x, torch.tensor(far, dtype=F64)])
    mean = checkerboard2d.posterior_mean(x, torch.full((len(x),), t, dtype=F64))
    expected = np.stack([board_reference(p, t) for p in x.numpy()])
    np.testing.assert_allclose(mean.numpy(), expected, atol=3e-8, rtol=0)
    u = checkerboard2d.velocity(x, t)
    np.testing.assert_allclose(u.numpy() * t, x.numpy() - expected, atol=3e-8, rtol=1e-12)


@pytest.mark.parametrize("t", [0.3, 0.7, 1.0])
def test_checkerboard_posterior_mean_against_a_plain_average(t):
    """No use of the squares' factorisation: midpoints of a grid that fits the board."""
    n = 800
    axis = (torch.arange(n, dtype=F64) + 0.5) / n * 2 * math.sqrt(3) - math.sqrt(3)
    grid = torch.cartesian_prod(axis, axis)
    cell = torch.arange(n) * 4 // n
    grid = grid[torch.cartesian_prod(cell, cell).sum(1) % 2 == 0]
    for x in states(checkerboard2d, t, 4):
        share = (-(x - (1 - t) * grid).square().sum(1) / (2 * t**2)).softmax(0)
        expected = (share[:, None] * grid).sum(0)
        mean = checkerboard2d.posterior_mean(x[None], t)[0]
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=0)


def test_truncated_normal_has_no_seam_between_its_branches():
    half = torch.full((1,), 0.1, dtype=F64)
    for c in (0.0, 0.3, 5.0, 9.9):
        centre = torch.full((1,), c, dtype=F64)
        below = checkerboard2d.truncated_normal(centre, half * (1 - 1e-12))
        above = checkerboard2d.truncated_normal(centre, half * (1 + 1e-12))
        for a, b in zip(below, above, strict=True):
            torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_checkerboard_is_the_board_at_unit_scale():
    x = checkerboard2d.draw(0, 40000)
    assert checkerboard2d.on_board(x).all()
    assert x.abs().max() <= math.sqrt(3) + 1e-6
    assert x.std(0).tolist() == pytest.approx([1, 1], abs=0.02)
    cell = ((x + math.sqrt(3)) / (math.sqrt(3) / 2)).floor().clamp(0, 3).long()
    counts = (cell[:, 0] * 4 + cell[:, 1]).bincount(minlength=16)
    assert (counts > 0).sum() == 8
    assert (counts[counts > 0] - 5000).abs().max() < 4.5 * 5000**0.5


# ---------------------------------------------------------------------------- both fields


@DATASETS
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_velocity_is_finite_everywhere(module, dtype):
    x = torch.tensor([[0.1, 0.2], [-1.1, 0.4], [1.7, -1.7], [9.0, -30.0], [1e3, 1e3]], dtype=dtype)
    for t in (0.0, 1e-30, 1e-8, 1e-5, 1e-3, 0.5, 0.999999, 1.0):
        u = module.velocity(x, torch.full((len(x),), t, dtype=dtype))
        assert u.dtype == dtype and u.shape == x.shape
        assert u.isfinite().all(), t


@DATASETS
def test_velocity_at_the_ends(module):
    x = states(module, 0.0, 50)
    if module is checkerboard2d:  # At the edges the noise is not centred.
        edge = (x + math.sqrt(3)) % (math.sqrt(3) / 2)
        x = x[((edge > 0.01) & (edge < 0.85)).all(1)]
    # At data the noise is unknown, its mean 0; at noise the data are.
    torch.testing.assert_close(module.velocity(x, 0.0), -x, atol=5e-6, rtol=0)
    z = normal(50, 2)
    mean = mixture2d.WEIGHTS @ mixture2d.MEANS if module is mixture2d else torch.zeros(2)
    torch.testing.assert_close(module.velocity(z, 1.0), z - mean)


@DATASETS
@pytest.mark.parametrize("t", [0.02, 0.1, 0.5, 0.9, 1 - 1e-5, 1.0])
def test_single_precision_agrees_with_double(module, t):
    x = states(module, t).float()
    t = torch.full((len(x),), t)
    u, exact = module.velocity(x, t), module.velocity(x.double(), t.double())
    torch.testing.assert_close(u.double(), exact, atol=5e-4, rtol=5e-4)


@DATASETS
def test_velocity_has_the_derivative_of_finite_differences(module):
    for value in (0.2, 0.7, 0.99):
        x, t = states(module, value, 20), torch.full((20,), value, dtype=F64)
        v, step = normal(20, 2, seed=5), 1e-6
        _, rate = torch.func.jvp(module.velocity, (x, t), (v, torch.ones_like(t)))
        ahead = module.velocity(x + step * v, t + step)
        behind = module.velocity(x - step * v, t - step)
        torch.testing.assert_close(rate, (ahead - behind) / (2 * step), atol=1e-4, rtol=1e-4)


@DATASETS
def test_the_derivative_at_pure_noise_is_finite(module):
    x, t = normal(20, 2), torch.ones(20, dtype=F64)
    _, rate = torch.func.jvp(module.velocity, (x, t), (x, t))
    _, before = torch.func.jvp(module.velocity, (x, t - 1e-5), (x, t))
    assert rate.isfinite().all()
    torch.testing.assert_close(rate, before, atol=1e-3, rtol=1e-3)
    module.velocity(x.requires_grad_(), t).sum().backward()
    assert x.grad.isfinite().all()


@DATASETS
def test_velocity_is_the_mean_of_noise_minus_data(module):
    """Regressed on features of x_t, ``eps - x0`` and the velocity agree within sampling error."""
    n, t = 100_000, 0.35
    x0, noise = module.draw(3, n).double(), normal(n, 2, seed=4)
    x = flow.interpolate(x0, noise, t)
    rest = noise - x0 - module.velocity(x, t)
    for feature in (torch.ones(n), x[:, 0], x[:, 1].sin(), (3 * x[:, 0]).cos() * x[:, 1]):
        product = rest * feature[:, None]
        assert (product.mean(0).abs() < 4.5 * product.std(0) / n**0.5).all()


# ---------------------------------------------------------------------------- the ODE


@pytest.fixture(scope="module")
def teacher_samples():
    def make(module, n, steps):
        teacher = world(module.NAME).teacher()
        return solve(teacher, normal(n, 2, dtype=torch.float32), Unconditional(n), steps)

    return make


def test_the_teacher_makes_the_mixture(teacher_samples):
    n = 10000
    x = teacher_samples(mixture2d, n, 150).double()
    distance = torch.cdist(x, mixture2d.MEANS)
    nearest = distance.argmin(1)
    assert (distance.min(1).values < 5 * mixture2d.STD).float().mean() > 0.999
    share = nearest.bincount(minlength=9) / n
    error = (mixture2d.WEIGHTS * (1 - mixture2d.WEIGHTS) / n).sqrt()
    assert ((share - mixture2d.WEIGHTS).abs() < 4 * error).all(), share
    for k in range(3):
        inside = x[nearest == k]
        assert inside.std(0).tolist() == pytest.approx([mixture2d.STD] * 2, rel=0.06)
        assert (inside.mean(0) - mixture2d.MEANS[k]).abs().max() < 0.02


def test_the_teacher_makes_the_checkerboard(teacher_samples):
    x = teacher_samples(checkerboard2d, 3000, 150)
    assert checkerboard2d.on_board(x).float().mean() > 0.98
    assert x.std(0).tolist() == pytest.approx([1, 1], abs=0.05)


# ---------------------------------------------------------------------------- datasets


@DATASETS
def test_dataset(module):
    data = world(module.NAME).dataset()
    assert (data.name, data.shape, data.space.pictures) == (module.NAME, (2,), None)
    assert not data.space.bounded and data.label_law is None and data.reference is None
    for x, condition in ((data.train, data.train_condition), (data.test, data.test_condition)):
        assert x.shape == (20000, 2) and x.dtype == torch.float32
        assert len(condition) == 20000
    assert not torch.equal(data.train, data.test)
    assert len(data.conditions(0, range(5))) == 5
    assert (data.truth.modes is None) == (module is checkerboard2d)
    assert data.truth.velocity is module.velocity
    again = loaded(module)
    assert again is not data
    assert torch.equal(again.train, data.train) and again.digest == data.digest
    draw = data.truth.draw
    assert torch.equal(draw(3, 10), draw(3, 10))
    assert not torch.equal(draw(3, 10), draw(4, 10))


def loaded(module):
    """The dataset, made anew."""
    runtime = world(module.NAME)
    return runtime.dataset_plugin().load(runtime.space_plugin(), runtime.place)


@DATASETS
def test_what_looks_at_points_sees_their_coordinates(module):
    x = world(module.NAME).dataset().train[:7]
    seen = world(module.NAME).extractor("points")(x.numpy())["features"]
    assert seen.dtype == np.float32 and np.array_equal(seen, x.numpy())


def test_the_two_datasets_have_two_digests():
    assert loaded(mixture2d).digest != loaded(checkerboard2d).digest


@DATASETS
def test_a_dataset_of_points_has_no_settings(module):
    runtime = world(module.NAME)
    runtime = replace(
        runtime, given=replace(runtime.given, dataset={"name": module.NAME, "dim": 3})
    )
    with pytest.raises(UserError, match=r"dataset\.dim: no such setting"):
        runtime.dataset()
