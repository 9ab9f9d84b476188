"""DOLLAR on Gaussians with exact scores: closed forms of its parts, and when each is there."""

import pytest
import torch
from piflow_methods.dollar import DOLLAR, Config
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.matching import matching_gradient
from torch import nn

from piflow_bench.api import Batch, Classes, Context, Guidance, Teacher, TrainingRandom, flow
from tests.methods import gaussian
from tests.methods.test_dmd2 import ExactFakeScore
from tests.methods.test_dmd2_switches import CLASS, Field, guided
from tests.methods.test_scflow import Affine, slopes

ROWS, DIM = 256, 3
STUDENTS = [(0.4, 1.0), (1.2, -0.4), (0.3, 0.9)]
"""Scale and mean of one-step samples; the first is the conditional distribution."""


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Praise(nn.Module):
    """Two heads, which like samples that are large and samples that are near 2."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition):
        assert not t.any()
        return torch.stack([x.sum(1), -(x - 2).square().sum(1)], 1) + self.shift


class Velocity(Affine):
    """u(x, t) = p x + q, whose samples of one step from N(0, 1) are N(b, a^2)."""

    def __init__(self, a, b):
        super().__init__(1.0 - a, -b)


def updates(a, b, w=1.0, step=0, progress=0.0, nfe=1, student=None, average=None, **settings):
    settings = {"consistency_weight": 0.0, "reward_weight": 0.0, **settings}
    method = DOLLAR(Config(**settings))
    method.times = flow.time_grid(nfe)[:-1]
    student = student or Velocity(a, b)
    networks = {
        "student": student,
        "average": Average(average or student, 0.9),
        "fake_score": ExactFakeScore(a, b),
        "latent_reward": Praise(),
    }
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    x0 = CLASS["mu"] + CLASS["s"] * torch.randn(
        ROWS, DIM, generator=torch.Generator().manual_seed(0)
    )
    batch = Batch(x0, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(
        step,
        progress,
        TrainingRandom(5, step, 0, ROWS),
        teacher,
        networks,
        networks,
        reward=lambda x, condition: 3 * x[:, 0],
    )
    for update in method.training_step(batch, context):
        update.loss.backward()
        context.thaw()
        yield update, networks, x0


def gradient(a, b, **settings):
    """Of the student's two parameters in its update."""
    _, networks, _ = next(updates(a, b, **settings))
    return networks["student"].p.grad.item(), networks["student"].q.grad.item()


def draw(name, kind="uniform", shape=()):
    return getattr(TrainingRandom(5, 0, 0, ROWS), kind)(name, shape)


def samples(a, b):
    noise = draw("noise", "normal", (DIM,))
    return noise, a * noise + b


def through(g, noise):
    """Gradients of p and q from those of samples ``noise - (p noise + q)``."""
    return (-g * noise).sum().item(), -g.sum().item()


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("start", STUDENTS)
def test_the_matching_has_its_closed_form(start, w):
    a, b = start
    noise, x = samples(a, b)
    t = 0.02 + 0.96 * draw("matching time")
    noisy = flow.interpolate(x, draw("matching noise", "normal", (DIM,)), t)
    fake = gaussian.posterior_mean(noisy, t, mu=b, s=a)
    g = matching_gradient(x, guided(noisy, t, w), fake) / x.numel()
    assert gradient(a, b, w=w) == pytest.approx(through(g, noise), abs=1e-9)


def test_at_the_target_the_matching_rests():
    assert gradient(0.4, 1.0) == pytest.approx((0, 0), abs=1e-12)
    assert max(map(abs, gradient(0.4, 1.0, w=2.5))) > 1e-3


@pytest.mark.parametrize("start", STUDENTS)
def test_neighbours_have_their_closed_form(start):
    a, b = start
    p, q = 1 - a, -b
    _, _, x0 = next(updates(a, b))
    t = (draw("path time") * 50).ceil() / 50
    x = flow.interpolate(x0, draw("path noise", "normal", (DIM,)), t)
    level = t[:, None]

    def estimate(x, level):
        return x - level * (p * x + q)

    state, there = x - 0.02 * (x - guided(x, t)) / level, (level - 0.02).clamp(min=0)
    target = state - there * ((1 - 0.6) * state - 0.2)
    expected = slopes(estimate(x, level) - target, 0.01, (-level * x, -level))
    averaged = Velocity(0.6, 0.2)
    with_it = gradient(a, b, w=2.5, consistency_weight=0.7, average=averaged)
    without = gradient(a, b, w=2.5)
    found = tuple(x - y for x, y in zip(with_it, without, strict=True))
    assert found == pytest.approx([0.7 * e for e in expected], abs=1e-9)


def test_the_exact_map_agrees_with_its_neighbours_to_second_order():
    class Exact(Affine):
        def forward(self, x, t, condition):
            end = gaussian.flow_map(x, t, torch.zeros_like(t), **CLASS)
            level = flow.expand(t, x)
            there = (x - end) / level.clamp(min=1e-9)
            return torch.where(level > 0, there, x) + 0 * (self.p * x + self.q)

    losses = [
        next(updates(0.4, 1.0, student=Exact(0.0, 0.0), consistency_weight=1.0,
                     consistency_steps=steps, huber=1e-9))[0].scalars["consistency_loss"].item()
        for steps in (10, 20, 40)
    ]  # fmt: skip
    assert losses[0] / losses[1] > 3 and losses[1] / losses[2] > 3 and losses[2] < 1e-3


@pytest.mark.parametrize("start", STUDENTS)
def test_the_rewards_pull_has_its_closed_form(start):
    a, b = start
    noise, x = samples(a, b)
    g = -0.3 * (1 - 2 * (x - 2)) / 2 / ROWS
    with_it = gradient(a, b, reward_weight=0.3, progress=0.5)
    without = gradient(a, b)
    found = tuple(x - y for x, y in zip(with_it, without, strict=True))
    assert found == pytest.approx(through(g, noise), abs=1e-9)


def test_its_network_learns_what_the_reward_says():
    _, x = samples(0.3, 0.9)
    told, guessed = 3 * x[:, 0], (x.sum(1) - (x - 2).square().sum(1)) / 2
    *_, (update, networks, _) = updates(0.3, 0.9, reward_weight=0.3, progress=0.5)
    assert update.optimizer == "reward"
    assert update.loss.item() == pytest.approx((guessed - told).square().mean().item())
    slope = 2 * (guessed - told).mean().item()
    assert networks["latent_reward"].shift.grad.item() == pytest.approx(slope)
    assert update.scalars["reward"].item() == pytest.approx(told.mean().item())


def test_the_pull_does_not_train_the_rewards_network():
    for update, networks, _ in updates(0.3, 0.9, reward_weight=0.3, progress=0.5):
        if update.optimizer != "reward":
            assert networks["latent_reward"].shift.grad is None


@pytest.mark.parametrize(
    ("progress", "step", "expected"),
    [
        (0.0, 0, ["student", "fake"]),
        (0.39, 5, ["student", "fake"]),
        (0.45, 5, ["student", "fake", "reward"]),
        (0.45, 6, ["fake", "reward"]),
        (0.5, 10, ["student", "fake", "reward"]),
    ],
)
def test_what_is_trained_when(progress, step, expected):
    found = [u for u, _, _ in updates(0.3, 0.9, step=step, progress=progress, reward_weight=0.1)]
    assert [u.optimizer for u in found] == expected
    pulled = "latent_reward" in found[0].scalars
    assert pulled == (progress >= 0.5)


def test_without_a_weight_no_reward_is_asked():
    facts = DOLLAR(Config(reward_weight=0.0)).facts_for()
    assert (facts.reward, facts.backbone) == ("", ()) and "latent_reward" not in facts.auxiliary
    assert "pulled" not in facts.target
    assert DOLLAR(Config(reward="mine")).facts_for().reward == "mine"
    names = [u.optimizer for u, _, _ in updates(0.3, 0.9, progress=0.9)]
    assert names == ["student", "fake"]


def test_without_consistency_neither_data_nor_an_average_is_needed():
    facts = DOLLAR(Config(consistency_weight=0.0)).facts_for()
    assert not facts.needs_data and "average" not in facts.auxiliary
    assert DOLLAR(Config()).facts_for().needs_data


def test_settings():
    with pytest.raises(ValueError, match="reward='': name a reward"):
        Config(reward="")
    with pytest.raises(ValueError, match="time_low=0.9: must be below time_high"):
        Config(time_low=0.9, time_high=0.8)
    with pytest.raises(ValueError, match="depths"):
        Config(depths=())


def test_the_fake_score_learns_at_uniform_times():
    _, (update, *_) = updates(0.9, 0.2)
    (_, x), t = samples(0.9, 0.2), draw("fake time")
    noise = draw("fake noise", "normal", (DIM,))
    found = gaussian.velocity(flow.interpolate(x, noise, t), t, mu=0.2, s=0.9)
    assert update.loss.item() == pytest.approx((found - (noise - x)).square().mean().item())
