"""What papers change of DMD2, each against a closed form on Gaussians with exact scores."""

import pytest
import torch
from piflow_methods.dmd2 import DMD2, Config, first_velocity
from piflow_methods.parts.matching import (
    DIVERGENCES,
    RatioWeights,
    below,
    decoupled_x0,
    matching_gradient,
    projected,
)
from piflow_methods.parts.noise_times import noise_time
from piflow_methods.parts.pairs import PairBuffer
from torch import nn
from torch.nn.functional import softplus

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    Spec,
    Teacher,
    TrainingRandom,
    flow,
)
from piflow_bench.networks.mlp import MLP
from tests.methods import gaussian
from tests.methods.test_dmd2 import AffineGenerator, ExactFakeScore

ROWS, DIM, W = 256, 3, 2.5
CLASS = dict(mu=1.0, s=0.4)
ANY = dict(mu=0.0, s=1.0)
STUDENTS = [(0.4, 1.0), (1.2, -0.4), (0.3, 0.9)]
"""Scale and mean; the first is the conditional distribution."""


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Field(nn.Module):
    """The velocity of class N(1, 0.4^2), and of N(0, 1) without one."""

    def forward(self, x, t, condition):
        u, empty = gaussian.velocity(x, t, **CLASS), gaussian.velocity(x, t, **ANY)
        return torch.where((condition.labels == 0)[:, None], u, empty)


class Judge(ExactFakeScore):
    """The exact logit of real against generated samples, beside the exact score of the latter."""

    def forward(self, x, t, condition, step, judge=False):
        if not judge:
            return super().forward(x, t, condition, step)
        alpha = (1 - t)[:, None]

        def log_density(mu, s):
            variance = alpha**2 * s**2 + t[:, None] ** 2
            return (-(x - alpha * mu).square() / variance / 2 - variance.log() / 2).sum(1)

        return log_density(**CLASS) - log_density(self.b, abs(self.a)) + 0 * self.unused


def teacher(w=W, **interval):
    return Teacher(Field(), nn.Linear(1, 1), Guidance(w, **interval), closed_form=True)


def rows(n=ROWS):
    return Classes(torch.zeros(n, dtype=torch.int64), 1)


def setting(a, b, w=W, nfe=1, step=0, **settings):
    method = DMD2(Config(**{"gan": False, "time_law": "uniform", **settings}))
    method.nfe = nfe
    networks = {"student": AffineGenerator(a, b), "fake_score": Judge(a, b)}
    modules = {**networks, "ratios": RatioWeights(method.config.divergence)}
    batch = Batch(torch.randn(ROWS, DIM), rows(), (DIM,))
    random = TrainingRandom(5, step, 0, ROWS)
    return method, batch, Context(step, 0.0, random, teacher(w), networks, modules)


def slopes(a, b, w=W, **settings):
    """The gradients of the generator's scale and mean in its update."""
    method, batch, context = setting(a, b, w, **settings)
    next(method.training_step(batch, context)).loss.backward()
    context.thaw()
    student = context.networks["student"]
    return student.a.grad.item(), student.b.grad.item()


class Draws:
    """What the update drew, and closed forms of what it asked."""

    def __init__(self, a, b, low=0.02, high=0.98):
        def random():
            return TrainingRandom(5, 0, 0, ROWS)

        self.z = random().normal("noise", (DIM,))
        self.x = a * self.z + b
        self.t = noise_time("uniform", low + (high - low) * random().uniform("matching time"))
        self.noisy = flow.interpolate(self.x, random().normal("matching noise", (DIM,)), self.t)
        self.at = random().uniform("guidance time")
        self.below = flow.interpolate(self.x, random().normal("guidance noise", (DIM,)), self.at)
        self.fake = gaussian.posterior_mean(self.noisy, self.t, mu=b, s=a)

    def slopes(self, g):
        return (g * self.z).sum().item() / g.numel(), g.sum().item() / g.numel()


def guided(x, t, w=W):
    c, empty = (gaussian.posterior_mean(x, t, **of) for of in (CLASS, ANY))
    return empty + w * (c - empty)


@pytest.mark.parametrize("student", STUDENTS)
class TestGradients:
    """Of each switch: the closed form of the generator's gradient, at three students."""

    def check(self, student, g, draws, **settings):
        assert slopes(*student, **settings) == pytest.approx(draws.slopes(g), abs=1e-9)

    def test_guidance_below_the_trained_step(self, student):
        d = Draws(*student)
        pull = guided(d.below, d.at) - gaussian.posterior_mean(d.below, d.at, **CLASS)
        real = gaussian.posterior_mean(d.noisy, d.t, **CLASS) + pull
        self.check(student, matching_gradient(d.x, real, d.fake), d, guidance_time="below")

    def test_guidance_below_a_noise_level(self, student):
        d = Draws(*student)
        plain = gaussian.posterior_mean(d.noisy, d.t, **CLASS)
        real = torch.where((d.t <= 0.6)[:, None], guided(d.noisy, d.t), plain)
        assert 0 < (d.t <= 0.6).sum() < ROWS
        self.check(student, matching_gradient(d.x, real, d.fake), d, guidance_below=0.6)

    def test_projection(self, student):
        d = Draws(*student)
        g = matching_gradient(d.x, guided(d.noisy, d.t), d.fake)
        r = d.fake - d.x
        g = g - (g * r).sum(1, keepdim=True) / (r * r).sum(1, keepdim=True) * r
        assert ((g * r).sum(1).abs() < 1e-9).all()
        self.check(student, g, d, projection=True)

    @pytest.mark.parametrize("divergence", [d for d in DIVERGENCES if d != "reverse-kl"])
    def test_divergences(self, student, divergence):
        d = Draws(*student)
        rows_of = rows()
        logits = Judge(*student)(d.noisy, d.t, rows_of, None, judge=True).detach()
        ratio = logits.clamp(-10, 10).exp().clamp(0.1, 20)
        h = DIVERGENCES[divergence](ratio)
        g = h[:, None] * matching_gradient(d.x, guided(d.noisy, d.t), d.fake)
        self.check(student, g, d, gan=True, generator_gan_weight=0.0, divergence=divergence)

    def test_the_first_steps_regression(self, student):
        """With one step the regression is beside the matching of it."""
        d = Draws(*student)
        g = matching_gradient(d.x, guided(d.noisy, d.t), d.fake)
        matched = d.slopes(g)
        a, b = student
        z = TrainingRandom(5, 0, 0, ROWS).normal("first noise", (DIM,))
        target = first_velocity(teacher(), z, rows(), 5, 30)
        u = z - (a * z + b)  # At t = 1 the velocity is noise less estimate.
        error = 2 * (u - target) / u.numel()
        regressed = ((-error * z).sum().item(), -error.sum().item())
        expected = [m + 0.3 * r for m, r in zip(matched, regressed, strict=True)]
        assert slopes(*student, first_step_weight=0.3) == pytest.approx(expected, abs=1e-9)


AT_REST = {
    "decoupled": dict(guidance_time="below"),
    "guidance below": dict(guidance_below=0.6),
    "projected": dict(projection=True),
    "random lengths": dict(longest=4),
    **{
        name: dict(divergence=name, gan=True, generator_gan_weight=0.0)
        for name in DIVERGENCES
        if name != "reverse-kl"
    },
}


@pytest.mark.parametrize("name", AT_REST)
def test_without_guidance_the_teachers_distribution_is_at_rest(name):
    given = slopes(0.4, 1.0, w=1.0, **AT_REST[name])
    assert max(map(abs, given)) < 1e-9
    if name not in ("projected", "random lengths"):
        moved = slopes(0.4, 1.0, w=W, **AT_REST[name])
        assert max(map(abs, moved)) > 1e-3, "guidance pulls elsewhere"


class TestDecoupled:
    def test_at_equal_times_and_noise_it_is_the_guided_teacher(self):
        x, t = torch.randn(ROWS, DIM), torch.rand(ROWS) * 0.9 + 0.05
        of = teacher(low=0.2, high=0.7)
        found = decoupled_x0(of, x, t, x, t, rows())
        expected = flow.x0_from_velocity(x, of(x, t, rows()), t)
        assert torch.allclose(found, expected, atol=1e-12)

    def test_guidance_is_asked_below_the_trained_step(self):
        method, batch, context = setting(0.4, 1.0, nfe=4, guidance_time="below")
        asked = []
        field = context.teacher.field

        def noting(x, t, condition):
            asked.append((t, condition.labels))
            return field(x, t, condition)

        _, step = method.generate(batch, context)
        random, of = TrainingRandom(5, 0, 0, ROWS), context.teacher.bind(noting)
        context = Context(0, 0.0, random, of, context.networks, context.modules)
        next(method.training_step(batch, context))
        (plain, _), (both, labels) = asked
        assert len(plain) == ROWS and plain.max() > step[0] * 0.95
        assert len(both) == 2 * ROWS and (both <= step[0]).all()
        assert (labels[:ROWS] == 0).all() and (labels[ROWS:] != 0).all()


def test_below_keeps_an_interval_that_ends_sooner():
    assert below(teacher(high=0.5), 0.9).guidance == Guidance(W, 0.0, 0.5)
    assert below(teacher(), 0.9).guidance == Guidance(W, 0.0, 0.9)


def test_a_projection_on_nothing_is_none():
    g = torch.randn(4, 3)
    assert torch.equal(projected(g, torch.zeros(4, 3)), g)


class TestRatioWeights:
    def test_means_are_one_at_each_noise_level(self):
        torch.manual_seed(0)
        weights = RatioWeights("kl", decay=0.0)
        t, logits = torch.rand(4000), torch.randn(4000) + 1
        _, _, context = setting(0.4, 1.0)
        assert torch.equal(weights(logits, t, context), logits.clamp(-10, 10).exp().clamp(0.1, 20))
        again = weights(logits, t, context)
        for low in torch.arange(10) / 10:
            some = (t >= low) & (t < low + 0.1)
            assert again[some].mean().item() == pytest.approx(1, abs=1e-5)

    def test_a_row_weighs_the_same_however_the_batch_is_divided(self):
        t, logits = torch.rand(64), torch.randn(64)
        _, _, whole = setting(0.4, 1.0)
        random, networks, modules = whole.random, whole.networks, whole.modules
        first = Context(0, 0.0, random, whole.teacher, networks, modules, last=False)
        one, other = RatioWeights("js"), RatioWeights("js")
        for _ in range(2):
            at_once = one(logits, t, whole)
            parts = [other(logits[:40], t[:40], first), other(logits[40:], t[40:], whole)]
            assert torch.equal(at_once, torch.cat(parts))
        assert torch.allclose(one.means, other.means, atol=1e-12)


class TestFirstStep:
    def test_the_first_velocity_leads_to_where_the_teacher_went(self):
        noise = torch.randn(ROWS, DIM)
        u = first_velocity(teacher(w=1.0), noise, rows(), 500, 1000)
        there = noise - 0.5 * u
        one, half = torch.ones(ROWS), torch.full((ROWS,), 0.5)
        exact = gaussian.flow_map(noise, one, half, **CLASS)
        assert torch.allclose(there, exact, atol=2e-3)

    def test_later_steps_are_matched_along_the_ode(self):
        method, batch, _ = setting(0.4, 1.0, nfe=4, first_step_weight=0.05)
        seen = set()
        for step in range(12):
            _, _, context = setting(0.4, 1.0, nfe=4, step=step, first_step_weight=0.05)
            x, at = method.generate(batch, context)
            seen.add(at[0].item())
            # Its estimate is one of the noise it came from: the ODE's path keeps that.
            z = TrainingRandom(5, step, 0, ROWS).normal("noise", (DIM,))
            state = z
            for t in (1.0, 0.75, 0.5, 0.25):
                estimate = 0.4 * state + 1.0
                if t == at[0].item():
                    assert torch.allclose(x, estimate)
                state = estimate + (state - estimate) * (t - 0.25) / t
        assert seen == {0.75, 0.5, 0.25}

    def test_its_samples_need_no_fresh_noise(self):
        assert not DMD2(Config(first_step_weight=0.05)).facts_for().stochastic
        assert DMD2(Config()).facts_for().stochastic


def test_schedules_of_random_lengths():
    lengths = set()
    for step in range(60):
        method, _, context = setting(0.4, 1.0, step=step, longest=4)
        times = method.schedule(context)
        lengths.add(len(times))
        assert times[0] == 1 and (times.diff() < 0).all()
        assert ((times[1:] >= 0.25) & (times[1:] <= 0.95)).all()
    assert lengths == {1, 2, 3, 4}


def test_one_training_of_a_number_of_steps_serves_every_number():
    """Its path in training has those steps, whatever it is asked for later."""
    assert DMD2(Config(steps=4)).facts_for().elastic
    assert not DMD2(Config()).facts_for().elastic
    for settings, nfe, times in (({"steps": 4}, None, [1, 0.75, 0.5, 0.25]), ({}, 2, [1, 0.5])):
        method, _, context = setting(0.4, 1.0, **settings)
        given = Teacher(Field(), MLP(2, dim=16, depth=1), Guidance(W), closed_form=True)
        method.build(given, Spec((2,), nfe, 4, lambda: nn.Linear(1, 1), rows(4)))
        assert method.schedule(context).tolist() == times


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(divergence="js", gan=False), "divergence=js: its ratios are the GAN's"),
        (dict(first_steps=31), "first_steps=31: at most first_grid"),
        (dict(longest=4, first_step_weight=0.1), "longest: has no first step"),
        (dict(longest=4, steps=4), "longest: schedules are of other lengths"),
        (dict(inner_low=0.9, inner_high=0.5), "inner_low=0.9: must be below inner_high"),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


def test_weights_of_divergences_by_hand():
    found = {name: h(torch.tensor(4.0)).item() for name, h in DIVERGENCES.items()}
    assert found == pytest.approx(
        {
            "reverse-kl": 1,
            "kl": 4,
            "js": 0.8,
            "softened-reverse-kl": 0.2,
            "squared-hellinger": 2,
            "jeffreys": 5,
            "neyman": 0.25,
        }
    )


def test_guidance_holds_by_the_time_at_which_it_is_asked():
    x, t, at = torch.randn(8, 3), torch.full((8,), 0.3), torch.full((8,), 0.8)
    plain = gaussian.posterior_mean(x, t, **CLASS)
    for high, same in ((0.5, True), (0.9, False)):
        found = decoupled_x0(teacher(low=0.2, high=high), x, t, 2 * x, at, rows(8))
        assert torch.allclose(found, plain) is same
    found = decoupled_x0(teacher(low=0.5, high=0.9), x, t, 2 * x, at, rows(8))
    assert not torch.allclose(found, plain)


def test_both_players_of_the_gan_by_hand():
    a, b = 1.2, -0.4
    given = {"gan": True, "generator_gan_weight": 0.3, "fake_gan_weight": 0.7}
    method, batch, context = setting(a, b, 1.0, **given)
    batch = Batch(batch.x0 + 0.5, batch.condition, (DIM,))

    def logits(name, x):
        t = TrainingRandom(5, 0, 0, ROWS).uniform(f"{name} time")
        noise = TrainingRandom(5, 0, 0, ROWS).normal(f"{name} noise", (DIM,))
        noisy = flow.interpolate(x, noise, t)
        return Judge(a, b)(noisy, t, rows(), None, judge=True).detach()

    x = a * TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,)) + b
    deceiving = softplus(-logits("generator", x)).mean()
    judged = softplus(logits("judged", x)).mean() + softplus(-logits("real", batch.x0)).mean()
    for update in method.training_step(batch, context):
        context.thaw()
        told = update.scalars
        if update.optimizer == "student":
            expected = told["loss"] / 2 + 0.3 * deceiving
        else:
            t = TrainingRandom(5, 0, 0, ROWS).uniform("fake time")
            noise = TrainingRandom(5, 0, 0, ROWS).normal("fake noise", (DIM,))
            found = gaussian.velocity(flow.interpolate(x, noise, t), t, mu=b, s=a)
            expected = (found - (noise - x)).square().mean() + 0.7 * judged
        assert update.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_pairs_are_regressed_by_the_one_step_estimate():
    a, b = 1.2, -0.4
    method, batch, context = setting(a, b, 1.0, regression_weight=0.5)
    buffer = PairBuffer(ROWS, 0.1, 1, (DIM,), rows(1))
    context.modules["pairs"] = buffer
    update = next(method.training_step(batch, context))
    error = a * buffer.states[:, 0] + b - buffer.states[:, -1]
    expected = update.scalars["loss"] / 2 + 0.5 * error.square().mean()
    assert int(buffer.solved) == ROWS
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-9)
