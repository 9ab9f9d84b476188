"""Reflow, PeRFlow and progressive distillation on Gaussian data: where each is at rest."""

import math

import pytest
import torch
from piflow_methods import perflow, progressive, reflow
from piflow_methods.parts.pairs import PairBuffer
from piflow_methods.parts.stepping import EulerStudent
from torch import nn

from piflow_bench.api import Unconditional, flow
from tests.methods import gaussian

MU, S = gaussian.MU, gaussian.S


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Told(nn.Module):
    """theta times a field."""

    def __init__(self, field, theta=1.0):
        super().__init__()
        self.field, self.theta = field, nn.Parameter(torch.tensor(theta))

    def forward(self, x, t, condition):
        return self.theta * self.field(x, t)


def line_velocity(x, t):
    """Of the lines from noise e to MU + S e, on which states lie at (1 - t) MU + scale e."""
    t = flow.expand(t, x)
    e = (x - (1 - t) * MU) / ((1 - t) * S + t)
    return e - (MU + S * e)


# ------------------------------------------------------------------ reflow


class Joined(PairBuffer):
    """Noise joined with where the Gaussian's flow takes it, exactly."""

    def draw(self, batch, context, steps):
        noise = context.random.normal("pair noise", batch.shape)
        return torch.stack([noise, MU + S * noise], 1), batch.condition


def reflowed(theta, progress=0.0, nfe=1, field=line_velocity, **settings):
    method = reflow.Reflow(reflow.Config(**settings))
    method.nfe = nfe
    network = Told(field, theta)
    modules = {"student": network, "pairs": Joined(8, 0.25, 1, (2,), Unconditional(1))}
    batch, context = gaussian.setting({"student": network}, modules=modules, progress=progress)
    asked = []
    network.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    (update,) = method.training_step(batch, context)
    return update, network, asked[0]


@pytest.mark.parametrize("progress", [0.0, 0.7])
def test_reflow_rests_at_the_field_of_the_lines(progress):
    update, network, _ = reflowed(1.0, progress)
    update.loss.backward()
    assert update.loss.item() < 1e-20 and abs(network.theta.grad.item()) < 1e-9
    assert reflowed(1.1, progress)[0].loss.item() > 1e-4
    if not progress:
        assert reflowed(1.0, field=gaussian.velocity)[0].loss.item() > 1e-4


@pytest.mark.parametrize("nfe", [1, 3])
def test_on_its_lines_one_step_of_euler_goes_to_the_end(nfe):
    noise = torch.randn(10, 2)
    x = EulerStudent(Told(line_velocity)).sample(noise, None, nfe, None)
    assert torch.allclose(x, MU + S * noise)


def test_times_are_of_whole_lines_and_then_of_the_steps():
    *_, t = reflowed(1.0, 0.49)
    assert len(t.unique()) == len(t) and t.min() < 0.1 < 0.9 < t.max()
    *_, t = reflowed(1.0, 0.51, nfe=4)
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    *_, t = reflowed(1.0, 1.0, nfe=1)
    assert t.unique().tolist() == [1.0]
    elastic = [reflow.Reflow(reflow.Config(rectified=r)).facts_for().elastic for r in (0.5, 1.0)]
    assert elastic == [False, True]


# ------------------------------------------------------------------ PeRFlow


def in_windows(windows, steps):
    """The velocity of the lines from starts of windows to where Euler's steps take them."""

    def velocity(x, t):
        # The solver's map of a window is affine, as is the line: their inverse gives the start.
        window = (1 - t) * windows
        high = 1 - window.floor().clamp(max=windows - 1) / windows
        back = flow.expand((high - t) * windows, x)

        def end(start):
            for i in range(steps):
                at = high - i / (steps * windows)
                start = start - gaussian.velocity(start, at) / (steps * windows)
            return start

        zero, one = end(torch.zeros_like(x)), end(torch.ones_like(x))
        start = (x - back * zero) / (1 - back + back * (one - zero))
        return (start - end(start)) * windows

    return velocity


def perflowed(theta, windows, steps=4, field=None):
    method = perflow.PeRFlow(perflow.Config(solver_steps=steps))
    method.windows = windows
    network = Told(field or in_windows(windows, steps), theta)
    batch, context = gaussian.setting({"student": network})
    asked = []
    network.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    (update,) = method.training_step(batch, context)
    return update, network, asked[0]


@pytest.mark.parametrize("windows", [1, 3])
def test_perflow_rests_at_the_lines_of_its_windows(windows):
    update, network, t = perflowed(1.0, windows)
    update.loss.backward()
    assert update.loss.item() < 1e-18 and abs(network.theta.grad.item()) < 1e-8
    assert perflowed(1.1, windows)[0].loss.item() > 1e-4
    assert perflowed(1.0, windows, field=in_windows(windows, 5))[0].loss.item() > 1e-8
    assert t.min() >= 0 and t.max() <= 1
    shares = torch.histc(t, windows, 0, 1) / len(t)
    assert (shares - 1 / windows).abs().max() < 0.2


def test_perflows_gap_to_the_flow_is_of_eulers_order_in_its_solvers_steps():
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    exact = gaussian.flow_map(noise, torch.ones(64), torch.zeros(64))
    gaps = []
    for steps in (8, 16, 32):
        student = EulerStudent(Told(in_windows(2, steps)))
        gaps.append((student.sample(noise, None, 2, None) - exact).abs().mean().item())
    for larger, smaller in zip(gaps, gaps[1:], strict=False):
        assert math.log2(larger / smaller) == pytest.approx(1, abs=0.2)


# ------------------------------------------------------------------ progressive distillation


def two_steps(teacher, steps):
    """The mean velocity of two of a teacher's steps of 1 / (2 steps)."""

    def velocity(x, t):
        first = teacher(x, t)
        return (first + teacher(x - first / (2 * steps), t - 1 / (2 * steps))) / 2

    return velocity


def stepped(theta, progress, nfe=2, rounds=2, field=None, previous=None):
    method = progressive.Progressive(progressive.Config(rounds=rounds))
    method.nfe = nfe
    network = Told(field, theta)
    held = progressive.Previous(Told(previous or gaussian.velocity))
    held.round.fill_(1 if previous else 0)
    networks = {"student": network, "previous": held}
    batch, context = gaussian.setting(networks, progress=progress)
    asked = []
    network.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    (update,) = method.training_step(batch, context)
    return update, network, asked[0]


def test_a_round_rests_at_two_of_its_teachers_steps():
    first = two_steps(gaussian.velocity, 4)
    for field, given in (
        (first, {"progress": 0.2}),
        (two_steps(first, 2), {"progress": 0.7, "previous": first}),
    ):
        update, network, t = stepped(1.0, field=field, **given)
        update.loss.backward()
        assert update.loss.item() < 1e-20 and abs(network.theta.grad.item()) < 1e-9
        assert stepped(1.1, field=field, **given)[0].loss.item() > 1e-4
        steps = 4 if given["progress"] < 0.5 else 2
        assert t.unique().tolist() == [(i + 1) / steps for i in range(steps)]


def test_after_its_rounds_it_is_eulers_method_with_as_many_steps():
    noise = torch.randn(10, 2)
    last = two_steps(two_steps(two_steps(gaussian.velocity, 4), 2), 1)
    found = EulerStudent(Told(last)).sample(noise, None, 1, None)
    assert torch.allclose(found, flow.euler(gaussian.velocity, noise, flow.time_grid(8).double()))


def test_the_rounds_teacher_is_the_student_as_it_was():
    network = Told(gaussian.velocity, 0.9)
    held = progressive.Previous(Told(gaussian.velocity, 0.3))
    held.begin(0, network)
    assert held.network.theta.item() == 0.3, "the first round has the experiment's teacher"
    held.begin(1, network)
    with torch.no_grad():
        network.theta.fill_(0.5)
    held.begin(1, network)
    assert held.network.theta.item() == 0.9 and int(held.round) == 1
    again = progressive.Previous(Told(gaussian.velocity, 0.1))
    again.load_state_dict(held.state_dict())
    again.begin(1, network)
    assert again.network.theta.item() == 0.9, "a training that goes on is in the same round"
    assert not any(p.requires_grad for p in held.parameters())
