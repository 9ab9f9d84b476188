"""The mathematics of flows against closed forms and recorded schedules."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from piflow_bench import flow
from piflow_bench.data.closed_form import gaussian_flow_map, mixture_velocity

GOLDEN = json.loads((Path(__file__).parent / "data" / "schedules.json").read_text())
SOLVERS = list(flow.SOLVERS)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 3, 4, 4)])
def test_conversions_are_inverses(shape):
    x0, noise = normal(*shape), normal(*shape, seed=1)
    t = torch.tensor([0.05, 0.3, 0.5, 0.9, 0.99], dtype=torch.float64)
    x, u = flow.interpolate(x0, noise, t), noise - x0
    torch.testing.assert_close(flow.x0_from_velocity(x, u, t), x0)
    torch.testing.assert_close(flow.noise_from_velocity(x, u, t), noise)
    torch.testing.assert_close(flow.velocity_from_x0(x, x0, t), u)
    torch.testing.assert_close(flow.velocity_from_noise(x, noise, t), u)


def test_conversions_take_a_number_for_the_time():
    x0, noise = normal(3, 2), normal(3, 2, seed=1)
    torch.testing.assert_close(flow.interpolate(x0, noise, 0.25), 0.75 * x0 + 0.25 * noise)
    assert torch.equal(flow.interpolate(x0, noise, 1.0), noise)
    assert torch.equal(flow.interpolate(x0, noise, 0.0), x0)


def test_velocities_stay_finite_at_the_ends():
    x, other = normal(3, 2), normal(3, 2, seed=1)
    assert flow.velocity_from_x0(x, other, 0.0).isfinite().all()
    assert flow.velocity_from_noise(x, other, 1.0).isfinite().all()


# ---------------------------------------------------------------------------- time


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.2])
def test_warp_and_unwarp_are_inverses(shift):
    raw = torch.linspace(0, 1, 21, dtype=torch.float64)
    t = flow.warp(raw, shift)
    torch.testing.assert_close(flow.unwarp(t, shift), raw)
    assert t[0] == 0 and t[-1] == 1
    assert (t.diff() > 0).all()
    if shift == 1:
        torch.testing.assert_close(t, raw)
    else:
        assert ((t > raw) == (shift > 1))[1:-1].all()


def test_time_grid_ends_exactly_at_noise_and_data():
    grid = flow.time_grid(4, 3.2)
    assert grid[0] == 1 and grid[-1] == 0
    assert grid.tolist() == pytest.approx([1, 2.4 / 2.65, 1.6 / 2.1, 0.8 / 1.55, 0])


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"nfe{c['nfe']}-h{c['h']}-m{c['shift']}")
def test_schedule_is_the_official_one(case):
    steps = flow.flow_map_schedule(
        case["nfe"], case["shift"], case["final_step_size_scale"], float(case["h"])
    )
    names = {"t_src": "sigma_src", "t_dst": "sigma_dst", "t_next": "sigma_next", "m": "m"}
    for ours, theirs in names.items():
        assert [getattr(s, ours) for s in steps] == pytest.approx(case[theirs], abs=1e-6), ours


@pytest.mark.parametrize(
    ("nfe", "scale", "shift", "raw", "warped"),
    [
        (4, 0.5, 3.2, [1, 0.714286, 0.428571, 0.142857], [1, 0.888889, 0.705882, 0.347826]),
        (
            8,
            0.5,
            3.2,
            [1, 0.866667, 0.733333, 0.6, 0.466667, 0.333333, 0.2, 0.066667],
            [1, 0.954128, 0.897959, 0.827586, 0.736842, 0.615385, 0.444444, 0.186047],
        ),
        (2, 1.0, 1.0, [1, 0.5], [1, 0.5]),
    ],
)
def test_raw_and_warped_times(nfe, scale, shift, raw, warped):
    steps = flow.flow_map_schedule(nfe, shift, scale)
    assert [s.raw_src for s in steps] == pytest.approx(raw, abs=1e-6)
    assert [s.t_src for s in steps] == pytest.approx(warped, abs=1e-6)
    assert [s.raw_dst for s in steps] == pytest.approx([*raw[1:], 0], abs=1e-6)


@pytest.mark.parametrize("h", [0.0, 0.3, 1.0, 2.0, math.inf])
def test_raw_ends_belong_to_the_warped_ones(h):
    for step in flow.flow_map_schedule(5, 3.2, 0.5, h):
        for raw, t in ((step.raw_src, step.t_src), (step.raw_dst, step.t_dst)):
            assert float(flow.warp(torch.tensor(raw, dtype=torch.float64), 3.2)) == pytest.approx(t)


@pytest.mark.parametrize("h", [0.3, 0.5, 2.0])
def test_the_amount_of_renoising_enters_as_its_square(h):
    first, second, last = flow.flow_map_schedule(3, 1.0, 1.0, h)
    # Noise-to-data ratio 1/2 at t = 1/3 over 2 at t = 2/3; nothing of pure noise is kept.
    assert (first.m, second.m, last.m) == pytest.approx((0, 0.25 ** (h**2), 0))


# ---------------------------------------------------------------------------- renoising


@pytest.mark.parametrize("h", [0.0, 0.3, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("shift", [1.0, 3.2])
def test_renoising_keeps_the_marginals(h, shift):
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for step in flow.flow_map_schedule(5, shift, 0.5, h):
        data = flow.renoise((1 - step.t_dst) * one, step, zero)
        old_noise = flow.renoise(step.t_dst * one, step, zero)
        new_noise = flow.renoise(zero, step, one)
        assert float(data) == pytest.approx(1 - step.t_next, abs=1e-12)
        assert float(old_noise**2 + new_noise**2) == pytest.approx(step.t_next**2, abs=1e-12)


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0, math.inf])
def test_exact_flow_maps_and_renoising_keep_a_gaussian(h):
    mean, std = 0.7, 0.4
    # The map is affine, so its mean and variance are carried along exactly.
    centre, variance = 0.0, 1.0
    for step in flow.flow_map_schedule(4, 3.2, 0.5, h):
        ends = torch.tensor([[centre], [centre + 1]], dtype=torch.float64)
        rolled = gaussian_flow_map(ends, step.t_src, step.t_dst, mean, std)
        low, high = flow.renoise(rolled, step, torch.zeros_like(rolled)).flatten().tolist()
        fresh = float(flow.renoise(torch.zeros(1), step, torch.ones(1)))
        centre, variance = low, (high - low) ** 2 * variance + fresh**2
        expected = (1 - step.t_next) ** 2 * std**2 + step.t_next**2
        assert centre == pytest.approx((1 - step.t_next) * mean, abs=1e-6)
        assert variance == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------------------- guidance


def test_guidance_of_scale_one_is_the_identity():
    conditional, empty = normal(4, 2), normal(4, 2, seed=1)
    assert torch.equal(flow.guide(conditional, empty, 1.0), conditional)
    torch.testing.assert_close(flow.guide(conditional, empty, 3.0), 3 * conditional - 2 * empty)
    torch.testing.assert_close(flow.guide(conditional, empty, 0.0), empty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rescaling_keeps_the_norm_of_every_patch_and_zero_stays_zero(dtype):
    conditional, guided = (normal(2, 3, 4, 4, seed=s, dtype=dtype) for s in (0, 1))
    guided[0] = 0
    found = flow.rescaled(guided, conditional * 100)
    assert torch.equal(found[0], guided[0])
    first = (slice(1, 2), slice(None), slice(2, 4), slice(0, 2))
    torch.testing.assert_close(found[first].norm(), 100 * conditional[first].norm())
    torch.testing.assert_close(
        found[first] / found[first].norm(), guided[first] / guided[first].norm()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("guided", [0.0, 1e-30])
def test_rescaling_has_a_gradient_of_zero_where_there_is_no_direction(guided, dtype):
    rows = torch.full((2, 1, 2, 2), guided, dtype=dtype)
    rows[1] = 1
    conditional = torch.full_like(rows, 3.0)
    conditional[1] = 0
    for u in (rows, conditional):
        u.requires_grad_()
    found = flow.rescaled(rows, conditional)
    found.sum().backward()
    assert found.dtype == dtype and not found.any()
    assert not rows.grad.any() and conditional.grad.isfinite().all()


def test_rescaling_is_exact_to_the_gradient_elsewhere():
    inputs = [normal(2, 3, 4, 4, seed=s).double().requires_grad_() for s in (0, 1)]
    assert torch.autograd.gradcheck(flow.rescaled, inputs)


# ---------------------------------------------------------------------------- solvers

oracle = partial(
    mixture_velocity,
    means=torch.tensor([[-1.0, 0.4], [0.8, -0.6], [0.3, 1.1]], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    std=0.5,
)


@pytest.fixture(scope="module")
def converged():
    x = normal(64, 2)
    return x, flow.heun(oracle, x, torch.linspace(0.98, 0.05, 4001, dtype=torch.float64))


@pytest.mark.parametrize(
    ("solver", "low", "high"),
    [
        ("euler", 0.9, 1.1),
        ("heun", 1.9, 2.1),
        ("dpmpp", 1.85, 2.1),
        ("unipc", 2.65, 2.95),
        ("adams", 2.8, 3.1),
    ],
)
def test_order_of_convergence(solver, low, high, converged):
    x, reference = converged
    counts = [10, 20, 40, 80, 160]
    errors = []
    for n in counts:
        times = torch.linspace(0.98, 0.05, n + 1, dtype=torch.float64)
        errors.append(float((flow.SOLVERS[solver](oracle, x, times) - reference).square().mean()))
    log_n = torch.tensor(counts, dtype=torch.float64).log2()
    log_error = torch.tensor(errors, dtype=torch.float64).sqrt().log2()
    centred = log_n - log_n.mean()
    order = -float((centred * log_error).sum() / centred.square().sum())
    assert low < order < high, (order, log_error.diff())


def test_adams_keeps_its_order_on_an_uneven_grid():
    x = normal(64, 2)
    grid = lambda n: 0.05 + 0.93 * flow.time_grid(n, 0.5, torch.float64)  # noqa: E731
    reference = flow.heun(oracle, x, grid(4000))
    coarse, fine = (
        (flow.adams(oracle, x, grid(n)) - reference).square().mean().sqrt() for n in (40, 160)
    )
    assert 2.8 < (coarse / fine).log2() / 2 < 3.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_of_one_point_is_reached_exactly(solver, steps, dtype):
    point = torch.tensor([0.3, -1.2], dtype=dtype)

    def straight(x, t):
        return (x - point) / flow.expand(t, x)

    x = normal(16, 2, dtype=dtype)
    end = flow.SOLVERS[solver](straight, x, flow.time_grid(steps, 3.2))
    assert end.dtype == dtype
    torch.testing.assert_close(end, point.expand(16, 2), atol=3e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_end_at_data_with_finite_numbers(solver):
    x = normal(64, 2)
    converged = flow.heun(oracle, x, flow.time_grid(2000, dtype=torch.float64))
    end = flow.SOLVERS[solver](oracle, x, flow.time_grid(40, dtype=torch.float64))
    assert end.isfinite().all()
    assert (end - converged).square().mean().sqrt() < 0.05


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_of_a_solver(solver, steps):
    seen = []
    flow.SOLVERS[solver](
        lambda x, t: seen.append(t) or oracle(x, t), normal(3, 2), flow.time_grid(steps)
    )
    assert len(seen) == flow.solver_evaluations(solver, steps)
    assert all(t.shape == (3,) and t.min() > 0 for t in seen)


@pytest.mark.parametrize("solver", ["euler", "dpmpp", "unipc"])
def test_a_grid_that_ends_above_data_costs_one_evaluation_a_step(solver):
    seen = []
    times = torch.linspace(0.98, 0.05, 6)
    flow.SOLVERS[solver](lambda x, t: seen.append(t) or oracle(x, t), normal(3, 2), times)
    assert len(seen) == 5


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_heun_with_an_euler_step_first_spends_an_even_number(steps):
    seen = []

    def counted(x, t):
        seen.append(float(t[0]))
        return oracle(x, t)

    x, times = normal(3, 2), flow.time_grid(steps, dtype=torch.float64)
    end = flow.heun(counted, x, times, euler_first=True)
    assert len(seen) == 2 * steps - 2
    first = flow.euler(oracle, x, times[:2])
    assert torch.equal(end, flow.heun(oracle, first, times[1:]))
