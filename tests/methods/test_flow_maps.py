"""The family of flow maps' targets, from flow matching to MeanFlow, on Gaussian data."""

from dataclasses import replace

import pytest
import torch
from piflow_methods.meanflow.method import Config, MeanFlow
from piflow_methods.parts.flow_maps import adaptive_loss, ratio_at, row_weight, secant_target
from torch import nn

from piflow_bench.api import Classes, Guidance, Teacher, Unconditional, flow
from tests.methods import gaussian

TIMES = torch.linspace(0.2, 1.0, 33, dtype=torch.float64)
ROWS = len(TIMES)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def exact(x, t, condition, duration):
    return gaussian.average_velocity(x, t, t - duration)


def points():
    """States, their times and the intervals' ends."""
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(3))
    return x, TIMES, TIMES * torch.linspace(0.05, 0.9, ROWS)


def target(ratio, network=exact):
    x, t, r = points()
    v = gaussian.velocity(x, t)
    return secant_target(network, x, t, r, v, Unconditional(ROWS), ratio)


def test_a_whole_first_step_is_flow_matching():
    x, t, _ = points()
    assert torch.equal(target(1.0), gaussian.velocity(x, t))


def test_half_a_first_step_is_the_mean_of_velocity_and_map():
    x, t, r = points()
    v, middle = gaussian.velocity(x, t), (t + r) / 2
    half = x - flow.expand(t - middle, x) * v
    assert torch.allclose(target(0.5), (v + gaussian.average_velocity(half, middle, r)) / 2)


def test_at_the_exact_map_the_error_is_of_first_order_in_the_ratio():
    """The derivative's target has none; a share a of Euler's step has one of a^2 / 2 x''."""
    x, t, r = points()
    errors = [
        (target(a) - gaussian.average_velocity(x, t, r)).square().mean().sqrt().item()
        for a in (0.08, 0.04, 0.02)
    ]
    for larger, smaller in zip(errors, errors[1:], strict=False):
        # The residual is of order a^2: of SoFlow's, which is divided by a, of order a.
        assert larger / smaller == pytest.approx(4, rel=0.15)
    wrong = target(0.02, lambda *given, duration: 1.1 * exact(*given, duration=duration))
    assert (wrong - target(0.02)).square().mean().sqrt() > 100 * errors[-1]


def test_a_small_ratios_residual_is_meanflows():
    """(target - U) / a -> v - (t - r) dU/dt - U, for any map: here of twice the velocity."""
    x, t, r = points()
    v = gaussian.velocity(x, t)

    def network(x, t, condition, duration):
        return 2 * exact(x, t, condition, duration) + x * flow.expand(t * duration, x)

    def average(x, t):
        return network(x, t, None, t - r)

    value, slope = torch.func.jvp(average, (x, t), (v, torch.ones_like(t)))
    limit = v - flow.expand(t - r, x) * slope - value
    errors = [((target(a, network) - value) / a - limit).abs().max() for a in (0.01, 0.005)]
    assert errors[0] < 0.1 * limit.abs().max()
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_soflows_residual_is_the_same_target():
    """(f(x, t, s) - f(x + v (l - t), l, s)) / (t - l) with l = t + (s - t) a, to 12 digits."""
    x, t, s = points()
    v, ratio = gaussian.velocity(x, t), 0.1

    def network(x, t, condition, duration):
        return torch.sin(x) + flow.expand(t * duration, x)

    def solution(x, t, s):
        return x - flow.expand(t - s, x) * network(x, t, None, t - s)

    at = t + (s - t) * ratio
    moved = x + flow.expand(at - t, x) * v
    residual = (solution(x, t, s) - solution(moved, at, s)) / flow.expand(t - at, x)
    expected = (target(ratio, network) - network(x, t, None, t - s)) / ratio
    assert torch.allclose(residual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.5, 0.2])
def test_what_a_constant_ratio_converges_to_are_eulers_steps_of_its_shares(ratio):
    """The fixed point is the map of steps a, a (1 - a), ... of what is left, an Euler step each."""

    def network(x, t, condition, duration):
        end, start = (t - duration)[:, None], x
        t = t[:, None]
        for _ in range(200):
            step = ratio * (t - end)
            x, t = x - step * gaussian.velocity(x, t[:, 0]), t - step
        return (start - x) / duration[:, None]

    x, t, r = points()
    found = network(x, t, None, t - r)
    assert torch.allclose(target(ratio, network), found, atol=1e-12)
    gap = (found - gaussian.average_velocity(x, t, r)).abs().mean().item()
    assert 0.02 * ratio < gap < ratio


@pytest.mark.parametrize("law", ["sigmoid", "exponential"])
def test_ratios_move_in_their_part_of_the_training(law):
    found = [ratio_at(p, law, 0.5, 0.01, (0.2, 0.6)) for p in torch.linspace(0, 1, 101).tolist()]
    assert found[:21] == [0.5] * 21 and found[60:] == [0.01] * 41
    assert all(a > b for a, b in zip(found[20:60], found[21:61], strict=True))
    middle = {"sigmoid": 0.255, "exponential": (0.5 * 0.01) ** 0.5}[law]
    assert found[40] == pytest.approx(middle)


def test_the_published_ratio_ends_as_meanflow_and_starts_as_flow_matching():
    c = Config(ratio_start=1.0)
    assert [c.ratio(p) for p in (0.0, 0.5, 0.55, 0.8, 0.9, 1.0)] == [1, 1, 1, 0, 0, 0]
    assert 0.4 < c.ratio(2 / 3) < 0.6
    soflow = Config(ratio_start=0.1, ratio_end=0.002, ratio_law="exponential", ratio_floor=0.0)
    assert soflow.ratio(1.0) == 0.002


@pytest.mark.parametrize(
    "settings, jvp",
    [
        ({}, "exact"),
        ({"jvp": "finite-difference"}, "finite difference"),
        ({"ratio_start": 1.0}, "exact"),
        ({"ratio_start": 0.5, "ratio_end": 0.5}, "none"),
    ],
)
def test_facts_say_what_is_taken(settings, jvp):
    facts = MeanFlow(Config(**settings)).facts_for()
    assert facts.jvp == jvp
    assert ("2510.20771" in facts.citation) == ("ratio_start" in settings)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"ratio_moves": (0.8, 0.5)}, "a share, and a later one"),
        ({"ratio_law": "exponential", "ratio_start": 0.1}, "ratio_end are above 0"),
        ({"instant_share": 0.75, "whole_share": 0.3}, "at most 1 together"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


class Scaled(nn.Module):
    """theta times the exact average velocity."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x, t, condition, duration):
        return self.theta * gaussian.average_velocity(x, t, t - duration)


def update_of(theta, progress=0.0, **settings):
    batch, context = gaussian.setting({"student": Scaled(theta)}, progress=progress)
    method = MeanFlow(Config(**settings))
    method.guidance = Guidance(1.0)
    (update,) = method.training_step(batch, context)
    _, again = gaussian.setting({})
    noise = again.random.normal("noise", batch.shape)
    t, r = method.times(again)
    return update, flow.interpolate(batch.x0, noise, t), t, r


@pytest.mark.parametrize("residual", [False, True])
def test_the_loss_is_that_of_the_secants_error(residual):
    ratio, floor = 0.25, 0.05
    update, x, t, r = update_of(
        0.8,
        ratio_start=ratio,
        ratio_end=ratio,
        residual=residual,
        ratio_power=0.0 if residual else 1.0,
        instant_share=0.4,
        weight_floor=floor,
    )
    interval = t > r
    assert 10 < interval.sum() < len(t)
    v, u = gaussian.velocity(x, t), 0.8 * gaussian.average_velocity(x, t, r)
    at = t - ratio * (t - r)
    moved = x - flow.expand(ratio * (t - r), x) * v
    secant = ratio * v + (1 - ratio) * 0.8 * gaussian.average_velocity(moved, at, r)
    error = torch.where(interval[:, None], u - secant, u - v)
    squared = error.square().sum(1)
    if residual:
        squared = torch.where(interval, squared / ratio**2, squared)
        weight = torch.ones_like(t)
    else:
        weight = torch.where(interval, ratio, 1.0)
    assert update.loss.item() == pytest.approx(
        (weight * squared / (squared + floor)).mean().item(), abs=1e-12
    )
    told = error.square().mean().item()
    assert update.scalars["loss"].item() == pytest.approx(told, abs=1e-12)


def test_a_ratio_of_the_past_is_meanflow_to_the_bit():
    after, *_ = update_of(0.8, progress=0.9, ratio_start=1.0)
    plain, *_ = update_of(0.8)
    assert after.loss.item() == plain.loss.item()


def test_targets_of_intervals_alone_are_clipped():
    free, *_ = update_of(1.3, instant_share=0.0, power=0.0)
    clipped, x, t, r = update_of(1.3, instant_share=0.0, power=0.0, target_clip=1e-9)
    squared = (1.3 * gaussian.average_velocity(x, t, r)).square().sum(1).mean()
    assert free.loss.item() != clipped.loss.item() == pytest.approx(squared.item(), rel=1e-6)
    instant = [update_of(1.3, instant_share=1.0, target_clip=c)[0].loss for c in (None, 1e-9)]
    assert instant[0] == instant[1]


def test_a_share_of_the_rows_goes_down_to_data():
    method = MeanFlow(Config(instant_share=0.5, whole_share=0.1))
    _, context = gaussian.setting({}, rows=8192)
    t, r = method.times(context)
    assert (r == 0).double().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (t == r).double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_weights_of_rows():
    t, r = torch.tensor([0.5, 0.8, 1.0, 0.3]), torch.tensor([0.5, 0.2, 0.0, 0.0])
    tangents = row_weight("tangents", t, r)
    assert torch.allclose(tangents[:2], torch.tensor([1.0, (4 - 0.25 + 1) ** -0.5]))
    assert 0 < tangents[2] < 2e-3
    angle = [torch.atan2(each, 1 - each) for each in (t, r)]
    theirs = (angle[0].tan() - angle[1].tan() + 1).rsqrt()
    assert torch.allclose(tangents[[0, 1, 3]], theirs[[0, 1, 3]])
    assert torch.allclose(row_weight("noise", t, r)[1:3], torch.tensor([0.8 * 0.2**0.5, 0.0]))
    assert torch.equal(row_weight("none", t, r), torch.ones(4))


@pytest.mark.parametrize("power, best", [(0.0, 0.2), (0.5, 0.03), (1.0, 0.003)])
def test_where_velocities_differ_weights_draw_to_the_common_one(power, best):
    """From scratch a target has noise: of 0 and 1 with chances .8 and .2 squares find the mean, .2.

    The least of .8 f(u) + .2 f(1 - u) over u, with f' = 2 u / (u^2 + c)^p where the weight is a
    constant to the gradient, is where .8 u / (u^2 + c)^p = .2 (1 - u) / ((1 - u)^2 + c)^p.
    """
    target = torch.tensor([0.0] * 4 + [1.0])[:, None]

    def slope(u):
        given = torch.tensor(u, requires_grad=True)
        adaptive_loss(given - target, power, 0.01).backward()
        return given.grad.item()

    low, high = 0.0, 0.5
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    pulls = [share * off / (off**2 + 0.01) ** power for share, off in ((0.8, low), (0.2, 1 - low))]
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-6)
    assert low == pytest.approx(best, abs=0.005)


# ------------------------------------------------------------------ moved by the interval's end


def end_error(theta, x, t, r):
    """Of theta times the exact map: its value minus ``v(x_r, r) + (t - r) dU/dr``."""

    def average(r):
        return theta * gaussian.average_velocity(x, t, r)

    value, slope = torch.func.jvp(average, (r,), (torch.ones_like(r),))
    span = flow.expand(t - r, x)
    return value - gaussian.velocity(x - span * value, r) - span * slope


@pytest.mark.parametrize("distill", [True, False])
def test_moved_by_its_end_the_exact_map_is_at_rest(distill):
    settings = {"identity": "end", "instant_share": 0.0, "power": 0.0, "distill": distill}
    settings |= {"class_dropout": 0.0, "omega": 1.0}
    update, *_ = update_of(1.0, **settings)
    update.loss.backward()
    assert update.loss.item() < 1e-20
    wrong, *_ = update_of(1.05, **settings)
    assert wrong.loss.item() > 1e-4


def test_its_loss_is_that_of_the_field_at_the_maps_own_end():
    theta = 0.8
    update, x, t, r = update_of(theta, identity="end", instant_share=0.4, power=0.0)
    interval = (t > r)[:, None]
    error = end_error(theta, x, t, r)
    instant = theta * gaussian.velocity(x, t) - gaussian.velocity(x, t)
    error = torch.where(interval, error, instant)
    expected = error.square().sum(1).mean()
    assert 10 < interval.sum() < len(t)
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_its_derivative_is_of_the_end_alone_and_costs_no_second_teacher():
    asked = []

    def teacher(x, t, condition=None):
        asked.append(len(x))
        return gaussian.velocity(x, t)

    batch, context = gaussian.setting({"student": Scaled(0.8)})
    context = replace(context, teacher=Teacher(teacher, nn.Linear(1, 1), closed_form=True))
    method = MeanFlow(Config(identity="end", instant_share=0.5))
    (update,) = method.training_step(batch, context)
    assert asked == [len(batch.x0)] and update.loss.isfinite()
    assert MeanFlow(Config(identity="end")).facts_for().jvp == "exact"


@pytest.mark.parametrize("identity", ["start", "end"])
def test_bounded_errors_have_the_gradient_of_their_directions(identity):
    """AYF's: of U . sg(e / (|e| + c)), twice and a mean over rows; instants are as they are."""
    settings = {"identity": identity, "power": 0.0}
    floor = 0.1
    for share in (0.0, 1.0):
        free, x, t, r = update_of(0.8, instant_share=share, **settings)
        bounded, *_ = update_of(0.8, instant_share=share, tangent_floor=floor, **settings)
        assert bounded.scalars["loss"] == free.scalars["loss"]
        if share:
            assert bounded.loss.item() == free.loss.item()
            continue
        network = Scaled(0.8)
        batch, context = gaussian.setting({"student": network})
        method = MeanFlow(Config(instant_share=0.0, tangent_floor=floor, **settings))
        (update,) = method.training_step(batch, context)
        update.loss.backward()
        average = gaussian.average_velocity(x, t, r)
        # Moved by its start the error of theta U* is (theta - 1) v: see test_meanflow.
        start = identity == "start"
        error = -0.2 * gaussian.velocity(x, t) if start else end_error(0.8, x, t, r)
        direction = error / (error.norm(dim=1) + floor)[:, None]
        expected = (2 * direction * average).sum(1).mean()
        assert network.theta.grad.item() == pytest.approx(expected.item(), rel=1e-9)


def test_papers_of_the_derivatives():
    papers = [
        MeanFlow(Config(**settings)).facts_for().paper
        for settings in (
            {"identity": "end"},
            {"identity": "end", "tangent_floor": 0.1},
            {"tangent_floor": 0.1},
            {"row_weight": "tangents"},
        )
    ]
    assert papers == [f"arXiv:{n}" for n in ("2505.18825", *["2506.14603"] * 2, "2509.04394")]


@pytest.mark.parametrize(
    "name, value", [("ratio_start", 1.0), ("target_clip", 4.0), ("jvp", "finite-difference")]
)
def test_moved_by_its_end_it_takes_no_setting_that_would_do_nothing(name, value):
    with pytest.raises(ValueError, match=f"identity=end: .* leave out {name}"):
        Config(**{"identity": "end", name: value})


def test_times_have_the_laws_mean():
    _, context = gaussian.setting({}, rows=8192)
    t, r = MeanFlow(Config(instant_share=0.0, time_mean=-0.9, time_std=0.5)).times(context)
    both = torch.cat([t, r]).logit()
    assert (both.mean().item(), both.std().item()) == pytest.approx((-0.9, 0.5), abs=0.03)


@pytest.mark.parametrize("omega", [None, 1.7])
def test_from_scratch_velocities_are_mixed_by_omega_and_kappa(omega):
    """omega v + (1 - omega - kappa) U(no label) + kappa U(label), omega = w (1 - kappa)."""

    def network(x, t, condition, duration):
        assert (duration == 0).all()
        return torch.where(condition.labels < 2, 1.0, 10.0)[:, None].expand(x.shape)

    method = MeanFlow(Config(distill=False, kappa=0.3, omega=omega, class_dropout=0.0))
    method.guidance = Guidance(2.0, 0.0, 0.6)
    _, context = gaussian.setting({"student": network})
    x, v, t = *torch.randn(2, 64, 2), torch.rand(64)
    labels = Classes(torch.arange(64) % 2, 2)
    _, found = method._data_velocity(x, t, v, labels, context)
    w = 2 * 0.7 if omega is None else omega
    mixed = w * v + (1 - w - 0.3) * 10 + 0.3
    assert torch.allclose(found, torch.where((t <= 0.6)[:, None], mixed, v))


def test_the_derivatives_part_grows_over_its_warmup():
    """With U = theta U* and a part c of the derivative: theta (U* + c (v - U*)) - v."""
    for step, part in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        batch, context = gaussian.setting({"student": Scaled(0.8)}, step=step)
        method = MeanFlow(Config(power=0.0, instant_share=0.0, tangent_warmup=4))
        (update,) = method.training_step(batch, context)
        _, again = gaussian.setting({}, step=step)
        noise = again.random.normal("noise", batch.shape)
        t, r = method.times(again)
        x = flow.interpolate(batch.x0, noise, t)
        v, u = gaussian.velocity(x, t), gaussian.average_velocity(x, t, r)
        expected = (0.8 * (u + part * (v - u)) - v).square().sum(1).mean()
        assert update.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_from_scratch_the_datas_velocity_is_learned():
    settings = {"distill": False, "omega": 1.0, "class_dropout": 0.0}
    update, x, t, _ = update_of(0.8, instant_share=1.0, power=0.0, **settings)
    batch, context = gaussian.setting({})
    target = context.random.normal("noise", batch.shape) - batch.x0
    expected = (0.8 * gaussian.velocity(x, t) - target).square().sum(1).mean()
    assert update.loss.item() == pytest.approx(expected.item())
