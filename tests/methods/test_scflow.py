"""Self-corrected flow distillation on Gaussians: closed forms of its parts, and what rests."""

import pytest
import torch
from piflow_methods.parts.consistency import Average, neighbour, pseudo_huber
from piflow_methods.parts.stepping import EulerStudent
from piflow_methods.scflow import Config, SCFlow
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from tests.methods import gaussian
from tests.methods.test_dmd2_switches import CLASS, Field, guided
from tests.methods.test_ladd import ExactJudge

ROWS, DIM = 256, 3
STUDENTS = [(0.2, -0.5), (1.2, 0.4), (-0.3, 1.0)]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Affine(nn.Module):
    """u(x, t) = p x + q."""

    def __init__(self, p, q):
        super().__init__()
        self.p, self.q = nn.Parameter(torch.tensor(p)), nn.Parameter(torch.tensor(q))

    def forward(self, x, t, condition):
        return self.p * x + self.q


class ExactMap(nn.Module):
    """The velocity whose estimate of the data is where the class's flow ends."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition):
        end = gaussian.flow_map(x, t, torch.zeros_like(t), **CLASS)
        return (x - end) / flow.expand(t, x) + self.nothing * x


def update(student, w=1.0, step=0, **settings):
    method = SCFlow(Config(**{"gan_weight": 0.0, "reflow_weight": 0.0, **settings}))
    average = Average(student, 0.9)
    networks = {"student": student, "average": average, "judge": ExactJudge(0.7, 0.3)}
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    x0 = 1 + 0.4 * torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    batch = Batch(x0, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(step, 0.0, TrainingRandom(5, step, 0, ROWS), teacher, networks, networks)
    found = next(method.training_step(batch, context))
    found.loss.backward()
    context.thaw()
    return found, x0


def draw(name, kind="uniform", shape=()):
    return getattr(TrainingRandom(5, 0, 0, ROWS), kind)(name, shape)


def path(x0):
    t = draw("time")
    return t, flow.interpolate(x0, draw("path noise", "normal", (DIM,)), t)


def slopes(error, c, direction):
    """Of a pseudo-Huber mean: the gradients of p and q, by hand."""
    bent = error / (error.square() + c**2).sqrt() / error.numel()
    return (bent * direction[0]).sum().item(), (bent * direction[1]).sum().item()


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("start", STUDENTS)
def test_the_gradient_of_neighbours_has_its_closed_form(start, weight):
    p, q = start
    student = Affine(p, q)
    _, x0 = update(student, w=2.5, bidirectional_weight=weight)
    t, x = path(x0)
    level = t[:, None]
    velocity = (x - guided(x, t)) / level

    def estimate(x, t):
        return x - t[:, None] * (p * x + q)

    def error(by):
        state, there = x + by[:, None] * velocity, t + by
        target = torch.where(
            (there < 0.1)[:, None] & (by <= 0)[:, None], x0, estimate(state, there)
        )
        return estimate(x, t) - target

    ways = (-level * x, -level)
    towards = error(-draw("step") * t.clamp(max=0.1))
    back = error(draw("step back") * (1 - t).clamp(max=0.1))
    expected = [
        a + weight * b
        for a, b in zip(slopes(towards, 0.01, ways), slopes(back, 0.01, ways), strict=True)
    ]
    assert (student.p.grad.item(), student.q.grad.item()) == pytest.approx(expected, abs=1e-9)


def test_the_exact_map_agrees_with_its_neighbours_to_second_order():
    losses = [
        update(ExactMap(), window=window, truncated=0.0, bidirectional_weight=0.0, huber=1e-9)[0]
        .scalars["loss"]
        .item()
        for window in (0.2, 0.1, 0.05)
    ]
    assert losses[0] / losses[1] > 3 and losses[1] / losses[2] > 3 and losses[2] < 1e-3


@pytest.mark.parametrize("start", STUDENTS)
def test_straight_paths_lead_to_one_step_samples(start):
    p, q = start
    with_it, without = Affine(p, q), Affine(p, q)
    update(with_it, reflow_weight=0.7, bidirectional_weight=0.0)
    update(without, bidirectional_weight=0.0)
    noise, t = draw("noise", "normal", (DIM,)), draw("reflow time")
    sample = noise - (p * noise + q)
    x = flow.interpolate(sample, noise, t)
    level = t[:, None]
    error = 2 * 0.7 * (x - level * (p * x + q) - sample) / x.numel()
    expected = ((-error * level * x).sum().item(), (-error * level).sum().item())
    found = (
        (with_it.p.grad - without.p.grad).item(),
        (with_it.q.grad - without.q.grad).item(),
    )
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_map_that_is_straight_already_is_at_rest_in_the_reflow():
    class Straight(Affine):
        def forward(self, x, t, condition):
            """Of the path between noise z and z - (p z + q), at all times."""
            z = (x + (1 - t)[:, None] * self.q) / (1 - (1 - t)[:, None] * self.p)
            return self.p * z + self.q

    found, _ = update(Straight(0.3, -0.2), reflow_weight=1.0)
    assert found.scalars["reflow_loss"] < 1e-20


@pytest.mark.parametrize("start", STUDENTS)
def test_the_judges_gradient_has_its_closed_form(start):
    p, q = start
    with_it, without = Affine(p, q), Affine(p, q)
    update(with_it, gan_weight=0.4, bidirectional_weight=0.0)
    update(without, bidirectional_weight=0.0)
    noise = draw("noise", "normal", (DIM,))
    x = noise - (p * noise + q)
    t = draw("generator time", "normal").sigmoid()
    noisy = flow.interpolate(x, draw("generator noise", "normal", (DIM,)), t)
    alpha, level = (1 - t)[:, None], t[:, None]

    def score(mu, s):
        return -(noisy - alpha * mu) / (alpha**2 * s**2 + level**2)

    slope = score(1.0, 0.4) - score(0.3, 0.7)
    logits = ExactJudge(0.7, 0.3)(noisy, t, None).detach()
    heads = -torch.sigmoid(-logits) / logits.numel() * torch.tensor([1.0, 2.0])
    g = 0.4 * heads.sum(1, keepdim=True) * slope * alpha
    found = (
        (with_it.p.grad - without.p.grad).item(),
        (with_it.q.grad - without.q.grad).item(),
    )
    assert found == pytest.approx(((-g * noise).sum().item(), -g.sum().item()), abs=1e-9)


def test_before_the_warmups_end_there_is_consistency_alone():
    found, _ = update(Affine(0.2, 0.1), gan_weight=0.1, reflow_weight=0.1, warmup=1)
    assert set(found.scalars) == {"loss"}
    found, _ = update(Affine(0.2, 0.1), gan_weight=0.1, reflow_weight=0.1, warmup=1, step=1)
    assert len(found.scalars) == 4


class TestAverage:
    def test_it_follows_once_a_step(self):
        network = Affine(1.0, 2.0)
        average = Average(network, 0.9)
        random = TrainingRandom(5, 0, 0, 4)
        teacher = Teacher(Field(), nn.Linear(1, 1), closed_form=True)
        with torch.no_grad():
            network.p.fill_(2.0)
        average.follow(network, Context(0, 0.0, random, teacher, {}, {}, last=False))
        assert average.network.p == 1
        average.follow(network, Context(0, 0.0, random, teacher, {}, {}))
        assert average.network.p.item() == pytest.approx(1.1)
        assert not any(p.requires_grad for p in average.parameters())


def test_pseudo_huber_and_a_step_by_hand():
    error = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    expected = torch.tensor([((9 + 16) ** 0.5 - 4) / 2, 0.0])
    assert torch.allclose(pseudo_huber(error, 4.0), expected)
    x, t = torch.ones(2, 2), torch.tensor([0.5, 0.2])
    state, there = neighbour(x, 2 * x, t, torch.tensor([0.1, -0.1]))
    assert torch.allclose(state, torch.tensor([[1.2, 1.2], [0.8, 0.8]]))
    assert torch.allclose(there, torch.tensor([0.6, 0.1]))


def test_samples_are_eulers():
    noise = torch.randn(4, DIM)
    student = EulerStudent(Affine(0.5, 0.0))
    found = student.sample(noise, Unconditional(4), 2, SampleRandom(0, range(4)))
    assert torch.allclose(found, noise * 0.75**2)


def test_settings():
    assert SCFlow(Config()).facts_for().backbone == ("features",)
    assert SCFlow(Config(gan_weight=0.0)).facts_for().backbone == ()
    with pytest.raises(ValueError, match="depths=.*: the judge looks through at least one"):
        Config(depths=())
