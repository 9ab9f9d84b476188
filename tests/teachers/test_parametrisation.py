"""Networks that predict exactly, on a Gaussian mixture, become the exact velocity of the flow."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from piflow_bench import flow, forward_mode
from piflow_bench.data import mixture2d
from piflow_bench.errors import UserError
from piflow_bench.teachers.parametrisation import (
    LEAST,
    PREDICTIONS,
    coefficients,
    covers,
    velocity_field,
)
from piflow_bench.teachers.schedules import EDM, VP, Flow

F64 = torch.float64
SIGMA_DATA = 0.7
SCHEDULES = {
    "flow": Flow(),
    "flow of 1000": Flow(1000.0),
    "sit": Flow(reverse=True),
    "ddpm": VP(),
    "stable diffusion": VP("scaled_linear", 0.00085, 0.012),
    "cosine": VP("cosine"),
    "zero snr": VP("scaled_linear", 0.00085, 0.012, zero_snr=True),
    "edm": EDM(),
}
PAIRS = pytest.mark.parametrize(
    ("name", "prediction"), [(name, p) for name in SCHEDULES for p in PREDICTIONS]
)
KIND = {"ddpm": "linear", "stable diffusion": "scaled", "zero snr": "scaled", "cosine": "cosine"}


# ---------------------------------------------------------------------------- networks that know


def process(name, time):
    """alpha and sigma at the network's time, by the definition of each process."""
    if name in ("flow", "flow of 1000", "sit"):
        sigma = {"flow": time, "flow of 1000": time / 1000, "sit": 1 - time}[name]
        return 1 - sigma, sigma
    if name == "edm":
        return torch.ones_like(time), (4 * time).exp()
    index = torch.arange(1000, dtype=F64)
    if KIND[name] == "linear":
        betas = 1e-4 + (0.02 - 1e-4) * index / 999
    elif KIND[name] == "scaled":
        betas = (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * index / 999) ** 2
    else:
        f = ((torch.arange(1001, dtype=F64) / 1000 + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    alpha = (1 - betas).cumprod(0).sqrt()
    if name == "zero snr":
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    sigma = (1 - alpha**2).sqrt()
    low = time.floor().long().clamp(max=998)
    t = torch.lerp(*((sigma / (alpha + sigma))[i] for i in (low, low + 1)), time - low)
    return (1 - t) / torch.hypot(1 - t, t), t / torch.hypot(1 - t, t)


def exact_network(name, prediction):
    """The network ``(z, time) -> F`` that the mixture's posterior mean makes, in float64."""

    def network(z, time, *condition):
        precision = z.dtype
        z = z.double()
        alpha, sigma = (s[:, None] for s in process(name, time.double()))
        if prediction == "edm":
            ratio = sigma / alpha
            total = ratio**2 + SIGMA_DATA**2
            z = z * total.sqrt() * alpha
        x, t = z / (alpha + sigma), (sigma / (alpha + sigma))[:, 0]
        x0 = mixture2d.mixture_posterior_mean(
            x, t, mixture2d.MEANS, mixture2d.WEIGHTS, mixture2d.STD
        )
        eps = (z - alpha * x0) / sigma
        if prediction == "edm":
            skip, out = SIGMA_DATA**2 / total, ratio * SIGMA_DATA / total.sqrt()
            return ((x0 - skip * z / alpha) / out).to(precision)
        made = {
            "velocity": eps - x0,
            "reversed_velocity": x0 - eps,
            "eps": eps,
            "x0": x0,
            "v": (alpha * eps - sigma * x0) / torch.hypot(alpha, sigma),
        }
        return made[prediction].to(precision)

    return network


def exact_field(name, prediction):
    network = exact_network(name, prediction)
    return velocity_field(network, SCHEDULES[name], prediction, SIGMA_DATA)


def covered_times(name, prediction, n=300):
    """Flow times from end to end, but for 0 and 1, where the definitions divide by zero."""
    low, high = covers(SCHEDULES[name], prediction)
    inside = torch.linspace(0, 1, n, dtype=F64)
    return (low + (high - low) * inside).clamp(1e-3, 1 - 1e-6)


def states(t, seed=0):
    noise = torch.randn(len(t), 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return flow.interpolate(mixture2d.draw(seed, len(t)).double(), noise, t)


# ---------------------------------------------------------------------------- covered times


@PAIRS
def test_the_velocity_is_exact(name, prediction):
    t = covered_times(name, prediction)
    x = states(t)
    found = exact_field(name, prediction)(x, t, None)
    assert (found - mixture2d.velocity(x, t)).abs().max() < 1e-9


@PAIRS
def test_the_velocity_is_exact_at_whole_network_times(name, prediction):
    schedule = SCHEDULES[name]
    low, high = covers(schedule, prediction)
    if name in KIND:
        times = torch.tensor([0.0, 1, 2, 17, 500, 731, 998, 999], dtype=F64)
    else:
        ends = schedule.time(torch.stack([low, high]))
        times = ends[0] + (ends[1] - ends[0]) * torch.linspace(0.01, 0.99, 9, dtype=F64)
    t = schedule.t(times)
    t = t[(t >= low) & (t <= high) & (t < 1)]
    assert len(t) > 5
    x = states(t)
    found = exact_field(name, prediction)(x, t)
    assert (found - mixture2d.velocity(x, t)).abs().max() < 1e-9


@PAIRS
def test_in_float32_the_error_is_the_networks_rounding(name, prediction):
    t = covered_times(name, prediction).float()
    x = states(t.double()).float()
    found = exact_field(name, prediction)(x, t)
    assert found.dtype == torch.float32
    error = (found - mixture2d.velocity(x.double(), t.double())).abs().amax(1)
    divisor = {"eps": 1 - t, "x0": t}.get(prediction, torch.ones_like(t))
    assert (error * divisor).max() < 1e-5


@PAIRS
def test_coefficients_at_the_ends_are_finite_in_value_and_slope(name, prediction):
    t = torch.tensor([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0], dtype=F64, requires_grad=True)
    found = coefficients(SCHEDULES[name], prediction, t, SIGMA_DATA)
    for value in found:
        assert value.dtype == F64 and value.isfinite().all()
    (slope,) = torch.autograd.grad(sum(value.sum() for value in found), t)
    assert slope.isfinite().all()


@PAIRS
def test_the_output_is_found_from_the_velocity(name, prediction):
    t = covered_times(name, prediction)
    x = states(t)
    c = coefficients(SCHEDULES[name], prediction, t, SIGMA_DATA)
    output = exact_network(name, prediction)(c.scale[:, None] * x, c.time)
    found = (mixture2d.velocity(x, t) - c.a[:, None] * x) / c.b[:, None]
    assert (found - output).abs().max() < 1e-9


@PAIRS
def test_coefficients_are_float64_of_any_times(name, prediction):
    t = torch.tensor([0.1, 0.4, 0.9])
    found = coefficients(SCHEDULES[name], prediction, t)
    for value, expected in zip(
        found, coefficients(SCHEDULES[name], prediction, t.double()), strict=True
    ):
        assert value.dtype == F64 and torch.equal(value, expected)


def test_inputs_of_edm_have_the_variance_of_one():
    t = covered_times("edm", "edm")
    scale = coefficients(EDM(), "edm", t).scale
    variance = (1 - t) ** 2 * 0.5**2 + t**2
    torch.testing.assert_close(scale**2 * variance, torch.ones_like(t))


def test_what_divides_covers_less():
    assert [float(end) for end in covers(Flow(), "eps")] == [0, 1 - LEAST]
    assert [float(end) for end in covers(Flow(), "x0")] == [LEAST, 1]
    assert [float(end) for end in covers(Flow(), "v")] == [0, 1]
    # No network of DDPM's or Stable Diffusion's noise loses any of its times.
    for name in ("ddpm", "stable diffusion"):
        for prediction in PREDICTIONS:
            assert covers(SCHEDULES[name], prediction) == SCHEDULES[name].covers()


@pytest.mark.parametrize(
    ("name", "prediction", "t", "asked"),
    [("cosine", "eps", 1.0, 1 - LEAST), ("flow", "eps", 1.0, 1 - LEAST), ("edm", "x0", 0.0, LEAST)],
)
def test_beyond_what_a_pair_covers_the_nearest_covered_time_is_asked(name, prediction, t, asked):
    t, asked = torch.tensor([t, asked], dtype=F64)
    found = coefficients(SCHEDULES[name], prediction, t).time
    torch.testing.assert_close(found, SCHEDULES[name].time(asked), rtol=0, atol=1e-9)


def test_unknown_predictions_are_refused():
    with pytest.raises(UserError, match="prediction=epsilon"):
        coefficients(Flow(), "epsilon", torch.tensor([0.5]))


# ---------------------------------------------------------------------------- beyond


@PAIRS
def test_the_field_is_continuous_where_covering_ends(name, prediction):
    schedule = SCHEDULES[name]
    for end in covers(schedule, prediction):
        if 0 < end < 1:
            t = end + torch.tensor([-1e-9, 0.0, 1e-9], dtype=F64)
            for value in coefficients(schedule, prediction, t, SIGMA_DATA):
                assert (value - value[1]).abs().max() < 1e-3 * (1 + value[1].abs())


@PAIRS
def test_data_ends_as_the_exact_field_does(name, prediction):
    low, _ = covers(SCHEDULES[name], prediction)
    if low > 0:
        c = coefficients(SCHEDULES[name], prediction, torch.zeros(1, dtype=F64), SIGMA_DATA)
        assert c.a.item() == pytest.approx(-1, abs=1e-12) and c.b.item() == 0


@PAIRS
def test_below_all_noise_the_score_is_held(name, prediction):
    low, _ = covers(SCHEDULES[name], prediction)
    if low > 0:
        t = low * torch.linspace(0, 0.99, 20, dtype=F64)
        x = states(t)
        alpha, ratio = (1 - t)[:, None], (t / (1 - t) * (1 - low) / low)[:, None]
        last = x / alpha * (1 - low)
        eps = ratio * flow.noise_from_velocity(last, mixture2d.velocity(last, low), low)
        found = exact_field(name, prediction)(x, t)
        assert (found - (eps - x) / alpha).abs().max() < 1e-9


def gaussian_network(name, prediction):
    """As :func:`exact_network`, for data N(0, I)."""

    def network(z, time):
        alpha, sigma = (s[:, None] for s in process(name, time))
        if prediction == "edm":
            ratio = sigma / alpha
            total = ratio**2 + SIGMA_DATA**2
            z = z * total.sqrt() * alpha
        r = torch.hypot(alpha, sigma)
        x0, eps = alpha * z / r**2, sigma * z / r**2
        if prediction == "edm":
            skip, out = SIGMA_DATA**2 / total, ratio * SIGMA_DATA / total.sqrt()
            return (x0 - skip * z / alpha) / out
        made = {"velocity": eps - x0, "reversed_velocity": x0 - eps, "eps": eps, "x0": x0}
        return made.get(prediction, torch.zeros_like(z))

    return network


@pytest.mark.parametrize("name", ["ddpm", "stable diffusion", "edm"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_above_all_noise_the_field_of_normal_data_is_exact(name, prediction):
    _, high = covers(SCHEDULES[name], prediction)
    t = torch.linspace(float(high), 1, 20, dtype=F64)[1:]
    x = states(t)
    network = gaussian_network(name, prediction)
    found = velocity_field(network, SCHEDULES[name], prediction, SIGMA_DATA)(x, t)
    n = (1 - t) ** 2 + t**2
    assert (found - ((2 * t - 1) / n)[:, None] * x).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["ddpm", "stable diffusion", "cosine", "edm"])
def test_noise_at_the_start_is_what_the_network_was_trained_on(name):
    """Unit noise for VP networks, noise of sigma_max for EDM's, to the data's share of it."""
    c = coefficients(SCHEDULES[name], "v", torch.ones(1, dtype=F64))
    expected = 80.0 if name == "edm" else 1.0
    assert c.scale.item() == pytest.approx(expected, rel=1e-4)
    last = {"edm": torch.tensor(80.0).log().item() / 4}.get(name, 999)
    assert c.time.item() == pytest.approx(last, abs=1e-6)


# ---------------------------------------------------------------------------- samples

BOUND = {name: 1e-4 for name in SCHEDULES}
# Least covered is t = .028, where the modes' density is not quite smooth.
BOUND["zero snr"] = 5e-4
# Above t = .936 no network of it knows more: its last index still holds .07 of the data. Of
# thousands of samples one or another, close to a border, ends in another mode.
BOUND["stable diffusion"] = 1e-3


def solved(velocity, solver, start=1.0, n=200, steps=250):
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    times = flow.time_grid(steps, dtype=F64)
    if start < 1:
        before = torch.linspace(1, start, 40, dtype=F64)
        noise = flow.heun(mixture2d.velocity, noise, before)
        times = torch.cat([before[-1:], times[times < start]])
    return flow.SOLVERS[solver](velocity, noise, times)


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


@pytest.mark.parametrize("solver", ["heun", "adams", "unipc"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_samples_from_common_noise_are_those_of_the_exact_field(name, solver):
    exact = solved(mixture2d.velocity, solver)
    field = exact_field(name, "eps")
    assert rms(solved(field, solver), exact) < BOUND[name]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_samples_do_not_depend_on_what_is_predicted(prediction):
    exact, found = (solved(exact_field("ddpm", p), "adams") for p in ("velocity", prediction))
    assert rms(found, exact) < 1e-10


def test_stable_diffusion_is_exact_from_its_own_first_time():
    start = float(SCHEDULES["stable diffusion"].covers()[1])
    exact = solved(mixture2d.velocity, "adams", start)
    found = solved(exact_field("stable diffusion", "eps"), "adams", start)
    assert rms(found, exact) < 5e-4


# ---------------------------------------------------------------------------- any tensor


class Small(nn.Module):
    """A smooth network with a condition."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, z, time, condition, shift=0.0):
        time = time[:, None].log1p() if time.min() >= 0 else time[:, None]
        return self.outer(torch.tanh(self.inner(torch.cat([z, time], 1)))) + condition + shift


@PAIRS
def test_derivatives_are_those_of_differences(name, prediction):
    torch.manual_seed(0)
    network = Small().double()
    condition = torch.tensor([[0.3, -0.2]], dtype=F64)
    field = velocity_field(network, SCHEDULES[name], prediction, SIGMA_DATA)
    # The first and the last are beyond what most schedules cover.
    t = torch.tensor([0.0013, 0.0312, 0.2345, 0.5121, 0.8013, 0.9981], dtype=F64)
    x, dx = states(t), states(t, 1)
    dt = torch.tensor([1.0, -0.5, 2.0, 1.0, 1.0, -1.0], dtype=F64)

    def moved(x, t):
        return field(x, t, condition, 0.1)

    h = 1e-7
    expected = (moved(x + h * dx, t + h * dt) - moved(x - h * dx, t - h * dt)) / (2 * h)
    scale = 1 + expected.abs().max()
    for derivative in (torch.func.jvp, forward_mode.jvp):
        value, slope = derivative(moved, (x, t), (dx, dt))
        # A sum in another order on some processors, and no more.
        assert (value - moved(x, t)).abs().max() < 1e-14 * scale
        assert (slope - expected).abs().max() < 1e-5 * scale


@PAIRS
def test_all_is_elementwise_on_the_states_device(name, prediction):
    def network(z, time):
        return z + time[:, None, None]

    with FakeTensorMode():
        field = velocity_field(network, SCHEDULES[name], prediction)
        x = torch.randn(4, 3, 5, device="cuda")
        u = field(x, torch.rand(4, device="cuda"))
        assert u.device.type == "cuda" and u.shape == x.shape and u.dtype == x.dtype


@pytest.mark.parametrize("name", SCHEDULES)
def test_half_precisions_keep_network_times_and_coefficients(name):
    seen = {}

    def network(z, time):
        seen.update(z=z, time=time)
        return torch.ones_like(z)

    field = velocity_field(network, SCHEDULES[name], "eps")
    t = torch.tensor([0.3, 0.6, 0.93], dtype=F64)
    x = states(t)
    wide = field(x, t)
    time = seen["time"]
    with torch.autocast("cpu", torch.bfloat16):
        u = field(x.bfloat16(), t)
        assert field(x.float(), t).dtype == torch.float32
        assert (field(x.float(), t) - wide).abs().max() < 1e-5
    field(x.bfloat16(), t)
    assert seen["z"].dtype == u.dtype == torch.bfloat16 and seen["time"].dtype == torch.float32
    torch.testing.assert_close(seen["time"].double(), time, rtol=1e-6, atol=1e-6)


def test_pictures_take_the_times_of_their_rows():
    field = velocity_field(lambda z, time, scale, add: scale * z + add, VP(), "v")
    x, t = (
        torch.linspace(-2, 2, 96, dtype=F64).reshape(2, 3, 4, 4),
        torch.tensor([0.2, 0.9], dtype=F64),
    )
    u = field(x, t, 2.0, 0.5)
    for i in range(2):
        assert torch.equal(u[i : i + 1], field(x[i : i + 1], t[i : i + 1], 2.0, 0.5))
