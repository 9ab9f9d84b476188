"""MDT-dist on Gaussian data: its rest at the exact map, and what moves it."""

import pytest
import torch
from piflow_methods.mdt_dist import Config, MDTDist
from torch import nn

from piflow_bench.api import Teacher, Unconditional, flow
from tests.methods import gaussian

FREE = {"jvp": "exact", "tangent_floor": None}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def whole_way(x, t):
    return gaussian.average_velocity(x, t, torch.zeros_like(t))


class Scaled(nn.Module):
    """theta times the exact average velocity to data, and a constant."""

    def __init__(self, theta=1.0, off=0.0):
        super().__init__()
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))

    def forward(self, x, t, condition):
        return self.theta * whole_way(x, t) + self.off


def update(network, progress=1.0, **settings):
    batch, context = gaussian.setting({"student": network}, progress=progress)
    (found,) = MDTDist(Config(**settings)).training_step(batch, context)
    return found


def slopes(network, **settings):
    loss = update(network, **settings).loss
    return [float(g) for g in torch.autograd.grad(loss, list(network.parameters()))]


LOSSES = [{"distillation_weight": 0.0}, {"matching_weight": 0.0}, {}]


@pytest.mark.parametrize("weights", LOSSES)
def test_at_rest_at_the_exact_map_and_at_no_other(weights):
    assert max(abs(s) for s in slopes(Scaled(), **FREE, **weights)) < 1e-6
    assert abs(slopes(Scaled(theta=1.05), **FREE, **weights)[0]) > 1e-3
    assert abs(slopes(Scaled(off=0.05), **FREE, **weights)[1]) > 1e-3


@pytest.mark.parametrize("weights", LOSSES)
def test_a_difference_moves_it_by_first_order(weights):
    found = [
        max(abs(s) for s in slopes(Scaled(), tangent_floor=None, difference_step=h, **weights))
        for h in (0.02, 0.01, 0.005)
    ]
    for larger, smaller in zip(found, found[1:], strict=False):
        assert larger / smaller == pytest.approx(2, rel=0.3)
    assert 1e-4 < found[-1] < 0.02


def states(theta=1.0, fake=False):
    """What one step sees: states, times, and the student's, the teacher's and dv/dt's values."""
    batch, context = gaussian.setting({})
    random, c = context.random, Config()
    noise = random.normal("noise", batch.shape)
    t = c.difference_step + (1 - c.difference_step) * (1 + random.normal("time")).sigmoid()
    x0 = batch.x0
    if fake:
        start = random.normal("start", batch.shape)
        x0 = start - theta * whole_way(start, torch.ones_like(t))
    x = flow.interpolate(x0, noise, t)
    v = gaussian.velocity(x, t)
    value, slope = torch.func.jvp(whole_way, (x, t), (v, torch.ones_like(t)))
    return x, t, theta * value, v, theta * slope


def test_the_norm_moves_the_target_by_what_it_takes_from_the_derivative():
    _, t, value, v, slope = states()
    norm = slope.norm(dim=1, keepdim=True)
    shorter = slope / (norm + 0.1)
    error = (value - v + t[:, None] * shorter).square().mean()
    found = update(Scaled(), jvp="exact", distillation_weight=0.0)
    assert found.loss.item() == pytest.approx(error.item(), rel=1e-9)
    assert error > 1e-3, "the exact map is not where the published loss is at rest"


def test_a_ramped_derivative_counts_by_its_part():
    _, t, value, v, slope = states()
    free = {**FREE, "distillation_weight": 0.0}
    for progress, part in ((0.0, 0.0), (0.1, 0.2), (0.5, 1.0), (0.9, 1.0)):
        error = (value - v + part * t[:, None] * slope).square().mean()
        found = update(Scaled(), progress=progress, tangent_warmup=0.5, **free)
        assert found.loss.item() == pytest.approx(error.item(), rel=1e-9, abs=1e-12)
    assert update(Scaled(), progress=0.0, **free).loss.item() < 1e-12, "the paper has no ramp"


def test_matching_is_the_error_on_noised_data():
    _, t, value, v, slope = states(0.8)
    error = value - (v - t[:, None] * slope)
    found = update(Scaled(0.8), **FREE, distillation_weight=0.0, matching_weight=3.0)
    assert found.loss.item() == pytest.approx(3 * error.square().mean().item(), rel=1e-9)
    (_, slope_off) = slopes(Scaled(0.8), **FREE, distillation_weight=0.0)
    assert slope_off == pytest.approx(2 * error.mean().item(), rel=1e-9)


def test_distillation_moves_samples_by_the_error_where_they_are_noised():
    _, t, value, v, slope = states(0.8, fake=True)
    error = value - (v - t[:, None] * slope)
    (_, slope_off) = slopes(Scaled(0.8), **FREE, matching_weight=0.0)
    assert slope_off == pytest.approx(2 * error.mean().item(), rel=1e-9)
    assert abs(slope_off) > 0.01


def test_times_are_logit_normal_above_a_step():
    batch, context = gaussian.setting({"student": Scaled()}, rows=4096)
    asked = []

    class Seen(Scaled):
        def forward(self, x, t, condition):
            asked.append(t)
            return super().forward(x, t, condition)

    context.networks["student"] = Seen()
    (_,) = MDTDist(Config(difference_step=0.2, distillation_weight=0.0)).training_step(
        batch, context
    )
    t, before = asked[0], asked[1]
    assert torch.allclose(t - before, torch.full_like(t, 0.2)) and t.min() > 0.2
    draw = ((t - 0.2) / 0.8).logit()
    assert draw.mean().item() == pytest.approx(1, abs=0.06)
    assert draw.std().item() == pytest.approx(1, abs=0.06)


def test_samples_are_steps_towards_the_data():
    network = Scaled()
    student = MDTDist(Config()).build(Teacher(network, network), None).student
    noise = torch.randn(6, 2)
    one = student.sample(noise, Unconditional(6), 1, None)
    assert torch.allclose(one, gaussian.MU + gaussian.S * noise)


def test_facts_tell_how_it_differs():
    assert MDTDist(Config()).facts_for().jvp == "finite difference"
    assert MDTDist(Config(jvp="exact")).facts_for().jvp == "exact"
    with pytest.raises(ValueError, match="nothing is trained"):
        Config(matching_weight=0.0, distillation_weight=0.0)


def test_distillation_has_its_weight():
    (_, once), (_, thrice) = (
        slopes(Scaled(0.8), **FREE, matching_weight=0.0, distillation_weight=w) for w in (1.0, 3.0)
    )
    assert thrice == pytest.approx(3 * once)
