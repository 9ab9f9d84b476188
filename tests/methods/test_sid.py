"""SiD's generator gradient on Gaussians with known scores."""

import pytest
import torch
from piflow_methods.parts.noise_times import noise_time
from piflow_methods.parts.renoising import RenoisingStudent
from piflow_methods.sid import Config, SiD, identity_loss
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Teacher,
    TrainingRandom,
    flow,
)
from tests.methods import gaussian
from tests.methods.test_dmd2 import AffineGenerator
from tests.methods.test_dmd2_switches import ANY, CLASS, STUDENTS, Field

ROWS, DIM = 256, 3
START = torch.tensor(2.5 / 3.5, dtype=torch.float32).item()  # The grid of times is of float32.


class FakeScore(nn.Module):
    """The exact velocity of samples N(b, a^2)."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b, self.unused = a, b, nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition):
        return gaussian.velocity(x, t, mu=self.b, s=self.a) + 0 * self.unused


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def updates(a, b, w, nfe=1, **settings):
    """The updates of one step; samples are N(b, a^2), made of noise of ``START`` of its size."""
    method = SiD(Config(**settings))
    method.nfe = nfe
    student = AffineGenerator(a / START, b)
    networks = {"student": student, "fake_score": FakeScore(a, b)}
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    batch = Batch(None, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(0, 0.0, TrainingRandom(5, 0, 0, ROWS), teacher, networks, networks)
    for update in method.training_step(batch, context):
        yield update, student
        context.thaw()


def slopes(a, b, w, **settings):
    update, student = next(updates(a, b, w, **settings))
    update.loss.backward()
    return student.a.grad.item(), student.b.grad.item()


def closed(a, b, w, alpha, law="karras", scale=100.0):
    """The gradient, by derivatives of affine estimates written out by hand."""

    def random():
        return TrainingRandom(5, 0, 0, ROWS)

    def affine(mu, s, t):
        """Slope and offset of the posterior mean in x_t."""
        k = s**2 * (1 - t) / ((1 - t) ** 2 * s**2 + t**2)
        return k, mu - k * (1 - t) * mu

    z = START * random().normal("noise", (DIM,))
    t = noise_time(law, 0.8 * random().uniform("matching time"))[:, None]
    x = a / START * z + b
    noisy = flow.interpolate(x, random().normal("matching noise", (DIM,)), t[:, 0])
    (kc, oc), (ke, oe), (kf, of) = (affine(mu, s, t) for mu, s in ((1.0, 0.4), (0.0, 1.0), (b, a)))
    kr, o = ke + w * (kc - ke), oe + w * (oc - oe)
    real, fake = kr * noisy + o, kf * noisy + of
    weight = 1 / (x - real).abs().mean(1, keepdim=True)
    apart, d_apart = real - fake, (kr - kf) * (1 - t)
    other = (real - x) - alpha * apart
    d_other = kr * (1 - t) - 1 - alpha * d_apart
    slope = scale * weight * (d_apart * other + apart * d_other) / x.numel()
    return (slope * z).sum().item(), slope.sum().item()


@pytest.mark.parametrize("alpha", [1.0, 1.2])
@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("student", STUDENTS)
def test_generator_gradient_equals_its_closed_form(student, w, alpha):
    found = slopes(*student, w, alpha=alpha)
    assert found == pytest.approx(closed(*student, w, alpha), abs=1e-9, rel=1e-9)


def test_without_guidance_the_teachers_distribution_is_at_rest():
    assert max(map(abs, slopes(CLASS["s"], CLASS["mu"], 1.0))) < 1e-9
    assert max(map(abs, slopes(CLASS["s"], CLASS["mu"], 2.5))) > 1e-3
    assert max(map(abs, slopes(ANY["s"], ANY["mu"], 1.0))) > 1e-3


def test_descent_reaches_the_teachers_distribution():
    a, b = 0.9, 0.2
    for _ in range(300):
        da, db = slopes(a, b, 1.0, loss_scale=1.0, time_law="uniform")
        a, b = a - 0.3 * da * START, b - 0.3 * db
    assert (a, b) == pytest.approx((CLASS["s"], CLASS["mu"]), abs=0.03)


def test_the_fake_score_is_frozen_in_the_generators_update():
    for update, student in updates(0.9, 0.2, 1.0):
        update.loss.backward()
        if update.optimizer == "student":
            assert student.a.grad.abs() > 0
        else:
            assert update.scalars["fake_loss"] > 0


def test_scores_that_agree_have_no_loss():
    x = torch.zeros(2, 3)
    assert identity_loss(x, x, x, 1.2) == 0


def test_several_steps_start_at_the_same_level():
    asked = []

    class Recording(AffineGenerator):
        def forward(self, x, t, condition):
            asked.append(t[0].item())
            return super().forward(x, t, condition)

    method = SiD(Config())
    with torch.random.fork_rng():
        from piflow_methods.parts.renoising import RenoisingStudent

        from piflow_bench.api import SampleRandom

        student = RenoisingStudent(Recording(1.0, 0.0), 1.0, start=method.config.start)
        noise = torch.ones(4, DIM)
        student.sample(noise, None, 2, SampleRandom(0, range(4)))
    assert asked == pytest.approx([START, START / 2])


def test_times_in_the_wrong_order():
    with pytest.raises(ValueError, match="time_low=0.9: must be below time_high=0.8"):
        Config(time_low=0.9)


def test_the_fake_score_learns_at_times_of_its_own_law():
    _, (update, _) = updates(0.9, 0.2, 1.0)
    t = noise_time("edm", TrainingRandom(5, 0, 0, ROWS).uniform("fake time"))
    x = 0.9 * TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,)) + 0.2
    noise = TrainingRandom(5, 0, 0, ROWS).normal("fake noise", (DIM,))
    found = gaussian.velocity(flow.interpolate(x, noise, t), t, mu=0.2, s=0.9)
    assert update.loss.item() == pytest.approx((found - (noise - x)).square().mean().item())


def test_matching_times_lie_between_their_quantiles():
    update, _ = next(updates(0.9, 0.2, 1.0, time_law="uniform", time_low=0.3, time_high=0.6))
    t = 0.3 + 0.3 * TrainingRandom(5, 0, 0, ROWS).uniform("matching time")
    x = 0.9 * TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,)) + 0.2
    noise = TrainingRandom(5, 0, 0, ROWS).normal("matching noise", (DIM,))
    noisy = flow.interpolate(x, noise, t)
    real, fake = (gaussian.posterior_mean(noisy, t, *of) for of in ((1.0, 0.4), (0.2, 0.9)))
    expected = (real - fake).square().mean().item()
    assert update.scalars["loss"].item() == pytest.approx(expected)


def test_several_steps_start_from_noise_of_that_size():
    seen = []

    def network(x, t, condition):
        seen.append(x)
        return torch.zeros_like(x)

    noise = torch.randn(4, 3)
    RenoisingStudent(network, 1.0, start=0.7).sample(noise, None, 1, SampleRandom(0, range(4)))
    assert torch.equal(seen[0], 0.7 * noise)
