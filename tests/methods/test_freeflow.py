"""FreeFlow on Gaussians: the exact flow map is at rest, gradients have closed forms."""

import pytest
import torch
from piflow_methods.freeflow import Config, FreeFlow, Sizes
from torch import nn

from piflow_bench.api import Batch, Classes, Context, Guidance, Teacher, TrainingRandom, flow
from tests.methods import gaussian
from tests.methods.test_dmd2_switches import CLASS, Field
from tests.methods.test_sid import FakeScore

ROWS, DIM = 128, 3
STUDENTS = [(0.2, -0.5, 0.1), (-0.3, 0.4, -1.0), (1.0, 0.3, 0.5)]


class Polynomial(nn.Module):
    """F(eps, delta) = (p + q delta) eps + c, whose derivative in delta is q eps."""

    def __init__(self, p, q, c):
        super().__init__()
        self.p, self.q, self.c = (nn.Parameter(torch.tensor(v)) for v in (p, q, c))

    def forward(self, x, t, condition, duration=None):
        return (self.p + self.q * duration[:, None]) * x + self.c


class Exact(nn.Module):
    """The exact flow map of the class, with a parameter that changes it by nothing."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition, duration=None):
        d = duration[:, None]
        alpha, one = d, torch.ones_like(d)
        s, mu = CLASS["s"], CLASS["mu"]
        ratio = ((alpha * s) ** 2 + (1 - d) ** 2).sqrt() / one
        end = alpha * mu + ratio * x
        return (x - end) / d + self.nothing * x


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def update(student, fake, share, w, step=0, **settings):
    method = FreeFlow(Config(prediction_share=share, **settings))
    networks = {"student": student, "fake_score": fake}
    modules = {**networks, "sizes": Sizes(0.9)}
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    batch = Batch(None, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(step, 0.0, TrainingRandom(5, step, 0, ROWS), teacher, networks, modules)
    found = next(method.training_step(batch, context))
    assert found.optimizer == "student"
    found.loss.backward()
    return found


def draws():
    return TrainingRandom(5, 0, 0, ROWS)


def guided(x, t, w):
    of_class, of_any = (gaussian.velocity(x, t, mu=mu, s=s) for mu, s in ((1.0, 0.4), (0.0, 1.0)))
    return of_any + w * (of_class - of_any)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_exact_map_is_at_rest(share):
    student = Exact()
    found = update(student, FakeScore(CLASS["s"], CLASS["mu"]), share, 1.0)
    assert abs(student.nothing.grad) < 1e-9 and max(map(abs, found.scalars.values())) < 1e-12


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("start", STUDENTS)
def test_the_predictions_gradient_has_its_closed_form(start, w):
    student = Polynomial(*start)
    update(student, FakeScore(1.0, 0.0), 1.0, w)
    p, q, c = start
    eps, d = draws().normal("noise", (DIM,)), draws().uniform("delta")
    big = d[:, None]
    value = (p + q * big) * eps + c
    target = guided(eps - big * value, 1 - d, w) - big * q * eps
    error = value - target
    weight = 1 / (error.square().mean(1, keepdim=True) + 1e-3)
    slope = 2 * weight * error / error.numel()
    expected = [(slope * of).sum().item() for of in (eps, big * eps, torch.ones_like(eps))]
    found = [v.grad.item() for v in (student.p, student.q, student.c)]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("start", STUDENTS)
def test_the_corrections_gradient_has_its_closed_form(start, w):
    p, q, c = start
    student, a, b = Polynomial(*start), 1 - p - q, -c
    update(student, FakeScore(abs(a), b), 0.0, w, noise_share=0.25)
    eps = draws().normal("noise", (DIM,))
    t = (0.8 + draws().normal("correction time")).sigmoid()
    t = torch.where(draws().uniform("all noise") < 0.25, torch.ones(ROWS), t)
    x = flow.interpolate(a * eps + b, draws().normal("correction noise", (DIM,)), t)
    apart = gaussian.velocity(x, t, mu=b, s=abs(a)) - guided(x, t, w)
    slope = 2 * apart / apart.numel()
    expected = [(slope * of).sum().item() for of in (eps, eps, torch.ones_like(eps))]
    found = [v.grad.item() for v in (student.p, student.q, student.c)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_descent_of_the_correction_reaches_the_teachers_distribution():
    p, c = 0.2, 0.3
    for _ in range(300):
        student = Polynomial(p, 0.0, c)
        update(student, FakeScore(abs(1 - p), -c), 0.0, 1.0)
        p, c = p - 0.1 * student.p.grad.item(), c - 0.1 * student.c.grad.item()
    assert (1 - p, -c) == pytest.approx((CLASS["s"], CLASS["mu"]), abs=0.05)


def test_parts_take_turns_by_their_share():
    def predicts(step):
        found = update(Polynomial(0.2, 0.1, 0.1), FakeScore(0.7, -0.1), 0.75, 1.0, step=step)
        return "loss" in found.scalars

    count = sum(predicts(step) for step in range(80))
    assert count == 60


class TestSizes:
    def context(self, last=True):
        random = TrainingRandom(5, 0, 0, 4)
        teacher = Teacher(Field(), nn.Linear(1, 1), closed_form=True)
        return Context(0, 0.0, random, teacher, {}, {}, last=last)

    def test_the_ratio_of_two_parts(self):
        sizes = Sizes(0.9)
        assert sizes.ratio() == 1
        sizes.add(0, torch.full((4, DIM), 6.0), self.context())
        assert sizes.ratio() == 1, "one alone says nothing"
        sizes.add(1, torch.full((4, DIM), 2.0), self.context())
        assert sizes.ratio().item() == pytest.approx(3)
        sizes.add(1, torch.full((4, DIM), 4.0), self.context())
        assert sizes.squares[1].item() == pytest.approx(0.9 * 4 + 0.1 * 16)

    def test_it_is_the_same_however_a_batch_is_divided(self):
        x = torch.randn(8, DIM)
        whole, parts = Sizes(0.9), Sizes(0.9)
        for _ in range(2):
            whole.add(0, x, self.context())
            parts.add(0, x[:3], self.context(last=False))
            parts.add(0, x[3:], self.context())
        assert torch.allclose(whole.squares, parts.squares, atol=1e-15)


def test_the_noising_velocity_is_learned_and_the_weighted_error_is_sized():
    p, q, c = 0.2, -0.5, 0.1
    networks = {"student": Polynomial(p, q, c), "fake_score": FakeScore(0.9, 0.2)}
    sizes = Sizes(0.9)
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(1.0), closed_form=True)
    batch = Batch(None, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    random = TrainingRandom(5, 0, 0, ROWS)
    context = Context(0, 0.0, random, teacher, networks, {**networks, "sizes": sizes})
    method = FreeFlow(Config(prediction_share=1.0, power=0.5))
    predicted, fake = method.training_step(batch, context)

    eps, d = draws().normal("noise", (DIM,)), draws().uniform("delta")
    big = d[:, None]
    value = (p + q * big) * eps + c
    squared = (value - guided(eps - big * value, 1 - d, 1.0) + big * q * eps).square().mean(1)
    assert sizes.squares[0].item() == pytest.approx((squared / (squared + 1e-3)).mean().item())

    x, t = (1 - p - q) * eps - c, draws().uniform("fake time")
    fresh = draws().normal("fake", (DIM,))
    found = gaussian.velocity(flow.interpolate(x, fresh, t), t, mu=0.2, s=0.9)
    assert fake.loss.item() == pytest.approx((found - (fresh - x)).square().mean().item())
