"""Improved MeanFlow on Gaussian data: at rest at the exact map of every guidance."""

import re
from math import log

import pytest
import torch
from piflow_methods.imf import Config, ImprovedMeanFlow
from piflow_methods.parts.flow_maps import interval_times
from piflow_methods.parts.guidances import GuidedFlowMapStudent, inputs, teacher_guided_by
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    flow,
)
from piflow_bench.networks.mlp import MLP
from tests.methods import gaussian

MEANS = torch.tensor([-0.4, 0.7, 0.1])
"""Of the two classes, and of no label."""


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mean_of(condition, scale=None):
    """Velocities are affine in the mean: a guided Gaussian flow is that of a mean further off."""
    own = MEANS.to(torch.get_default_dtype())[condition.labels][:, None]
    if scale is None:
        return own
    return MEANS[2] + flow.expand(scale, own) * (own - MEANS[2])


def field(x, t, condition):
    return gaussian.velocity(x, t, mu=mean_of(condition))


def average(x, t, r, mean):
    span = flow.expand(t - r, x)
    moving = span > 1e-12
    moved = (x - gaussian.flow_map(x, t, r, mean)) / torch.where(moving, span, 1.0)
    return torch.where(moving, moved, gaussian.velocity(x, t, mu=mean))


class Exact(nn.Module):
    """theta times the exact map of what it is told, where guidance holds always."""

    def __init__(self, theta=1.0, off=0.0, follows=1.0):
        super().__init__()
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))
        self.follows = nn.Parameter(torch.tensor(follows))

    def forward(self, x, t, condition, duration, guidance):
        scale = 1 / (1 - self.follows * guidance[:, 0])
        mean = mean_of(condition, scale)
        return self.theta * average(x, t, t - duration, mean) + self.off


class Always(ImprovedMeanFlow):
    """Of the whole interval alone, of which the exact map has a closed form."""

    def guidances(self, moving, context):
        scale, low, high = super().guidances(moving, context)
        return scale, 0 * low, torch.ones_like(high)


def setting(network, rows=256, step=0):
    labels = torch.arange(rows) % 2
    generator = torch.Generator().manual_seed(1)
    x0 = MEANS[labels][:, None] + gaussian.S * torch.randn(rows, 2, generator=generator)
    teacher = Teacher(field, nn.Linear(1, 1), Guidance(3.0), closed_form=True)
    random, networks = TrainingRandom(5, step, 0, rows), {"student": network}
    batch = Batch(x0, Classes(labels, 2), (2,))
    return batch, Context(step, 0.0, random, teacher, networks, networks)


def update(network, method=Always, rows=256, step=0, **settings):
    (found,) = method(Config(**settings)).training_step(*setting(network, rows, step))
    return found.loss


def slopes(network, **settings):
    loss = update(network, **settings)
    return [abs(float(g)) for g in torch.autograd.grad(loss, list(network.parameters()))]


def test_at_rest_at_the_exact_map_of_every_scale_and_at_no_other():
    assert update(Exact()) < 1e-12
    assert max(slopes(Exact())) < 1e-6
    assert slopes(Exact(theta=1.05))[0] > 1e-2
    assert slopes(Exact(off=0.05))[1] > 1e-2
    assert slopes(Exact(follows=0.9))[2] > 1e-3


def test_where_no_interval_is_left_the_velocity_is_learned():
    assert max(slopes(Exact(), instant_share=1.0)) < 1e-6
    assert slopes(Exact(follows=0.9), instant_share=1.0)[2] > 1e-3


class Learning(nn.Module):
    """The exact guided velocity over no time, as its own estimate; no derivative is asked."""

    def __init__(self, theta=1.0, follows=1.0):
        super().__init__()
        self.theta, self.follows = (nn.Parameter(torch.tensor(v)) for v in (theta, follows))

    def forward(self, x, t, condition, duration, guidance):
        scale = 1 / (1 - self.follows * guidance[:, 0])
        return self.theta * gaussian.velocity(x, t, mu=mean_of(condition, scale))


def errors(network, steps=50, rows=2048, **settings):
    """The mean gradient's ratio to its standard error, by steps."""
    found = []
    for step in range(steps):
        method = Always(Config(distill=False, instant_share=1.0, weight_floor=1e6, **settings))
        labels = torch.arange(rows) % 2
        generator = torch.Generator().manual_seed(1000 + step)
        x0 = MEANS[labels][:, None] + gaussian.S * torch.randn(rows, 2, generator=generator)
        _, context = setting(network, rows, step)
        (told,) = method.training_step(Batch(x0, Classes(labels, 2), (2,)), context)
        grads = torch.autograd.grad(told.loss, list(network.parameters()))
        found.append(torch.stack(grads))
    found = torch.stack(found)
    return found.mean(0) / (found.std(0) / steps**0.5)


def test_from_scratch_the_teacher_guided_by_is_at_rest_in_expectation():
    """Of 1e5 draws: v + (1 - 1/w)(v_w - v_0) has the mean v_w, and what is off is told apart.

    A floor far above the errors makes the adaptive weight even: unevenly weighted rows would rest
    elsewhere than at a mean.
    """
    assert errors(Learning(), class_dropout=0.0).abs().max() < 3
    assert errors(Learning(theta=1.05), class_dropout=0.0)[0] > 5
    assert errors(Learning(follows=0.9), class_dropout=0.0)[1].abs() > 5


def test_from_scratch_labels_are_left_out():
    class Seen(Learning):
        def forward(self, x, t, condition, duration, guidance):
            self.labels = condition.labels
            return super().forward(x, t, condition, duration, guidance)

    network = Seen()
    update(network, distill=False, instant_share=1.0, class_dropout=0.3, rows=4096)
    assert (network.labels == 2).double().mean() == pytest.approx(0.3, abs=0.03)


def test_the_derivative_is_taken_along_the_own_velocity():
    """From scratch the map of a Gaussian is at rest, too, but for the noise of its data."""
    batch, context = setting(Exact(), rows=4096)
    method = Always(Config(distill=False, instant_share=0.0))
    condition, t = batch.condition, torch.full((4096,), 0.8)
    told = inputs(torch.full_like(t, 2.0), 0 * t, torch.ones_like(t))
    x = flow.interpolate(batch.x0, torch.randn(4096, 2), t)
    velocity, empty = method._own(x, t, told, condition, context)
    torch.testing.assert_close(velocity, gaussian.velocity(x, t, mu=mean_of(condition, 2 + 0 * t)))
    torch.testing.assert_close(empty, gaussian.velocity(x, t, mu=MEANS[2]))
    drift = method._drift(x, t, t / 2, velocity, told, condition, context)
    exact = velocity - average(x, t, t / 2, mean_of(condition, 2 + 0 * t))
    torch.testing.assert_close(drift, exact)


def test_guidance_is_of_scales_and_intervals_of_its_law():
    method = ImprovedMeanFlow(Config())
    _, context = setting(Exact(), rows=20_000)
    moving = torch.arange(20_000) < 10_000
    scale, low, high = method.guidances(moving, context)
    assert scale.min() >= 1 and scale.max() <= 8
    assert scale.log().mean() == pytest.approx(log(8) / 2, abs=0.02)
    assert (low[~moving] == 0).all() and (high[~moving] == 1).all()
    for value, span in ((low, (0, 0.5)), (high, (0.5, 1))):
        own = value[moving]
        assert span[0] <= own.min() and own.max() <= span[1]
        assert own.mean() == pytest.approx(sum(span) / 2, abs=0.01)


def test_times_are_sorted_and_logit_normal():
    _, context = setting(Exact(), rows=20_000)
    t, r = interval_times(context, -0.4, 0.7, Config().instant_share)
    assert (t >= r).all() and (t == r).double().mean() == pytest.approx(0.5, abs=0.02)
    _, context = setting(Exact(), rows=20_000, step=1)
    t, r = interval_times(context, -0.4, 0.7, 0.0)
    both = torch.cat([t, r]).logit()
    assert both.mean() == pytest.approx(-0.4, abs=0.02)
    assert both.std() == pytest.approx(0.7, abs=0.02)


def test_a_step_is_at_the_times_of_its_settings():
    class Seen(Exact):
        def forward(self, x, t, condition, duration, guidance):
            self.asked = t.detach(), duration.detach()
            return super().forward(x, t, condition, duration, guidance)

    network = Seen()
    update(network, time_mean=-1.2, time_std=0.7, instant_share=0.3)
    t, r = interval_times(setting(Exact())[1], -1.2, 0.7, 0.3)
    assert torch.equal(network.asked[0], t) and torch.equal(network.asked[1], t - r)


def test_the_teachers_guidance_is_each_rows_own_and_costs_what_it_guides():
    _, context = setting(Exact())
    asked = []

    def counted(x, t, condition):
        asked.append(len(x))
        return field(x, t, condition)

    teacher, x = context.teacher.bind(counted), torch.randn(8, 2)
    t, scale = torch.linspace(0.1, 0.9, 8), torch.linspace(1.0, 4.0, 8)
    inside, condition = torch.arange(8) % 2 == 0, Classes(torch.arange(8) % 2, 2)
    found = teacher_guided_by(teacher, x, t, scale, inside, condition)
    assert asked == [8 + 3], "a scale of 1 is none"
    for k in range(8):
        guidance = Guidance(float(scale[k]) if inside[k] else 1.0)
        alone = teacher.guided(guidance)(x[k : k + 1], t[k : k + 1], condition[k : k + 1])
        torch.testing.assert_close(found[k : k + 1], alone)


def test_it_keeps_the_norm_where_the_teachers_rule_does():
    def images(x, t, condition):
        return x * (1 + condition.labels[:, None, None, None] / 2)  # guided: -1 and 0.5 times x

    teacher = Teacher(images, nn.Linear(1, 1), Guidance(3.0, rule="norm-rescaled"))
    x, t = torch.randn(4, 1, 4, 4), torch.full((4,), 0.5)
    condition, inside = Classes(torch.tensor([0, 1, 0, 1]), 2), torch.ones(4) > 0
    found = teacher_guided_by(teacher, x, t, torch.full((4,), 3.0), inside, condition)
    torch.testing.assert_close(found, teacher(x, t, condition))


@pytest.mark.parametrize("nfe", [1, 4])
def test_the_sampler_is_the_flow_of_the_guidance_that_it_is_told(nfe):
    noise, condition = torch.randn(5, 2), Classes(torch.tensor([0, 1, 0, 1, 0]), 2)
    student = GuidedFlowMapStudent(Exact(), teachers=Guidance(3.0), most=8.0)
    random = SampleRandom(0, range(5))
    ones = torch.ones(5)
    for settings, scale in (({}, 3.0), ({"guidance": 1.5}, 1.5)):
        found = student.sample(noise, condition, nfe, random, **settings)
        exact = gaussian.flow_map(noise, ones, 0 * ones, mean_of(condition, scale * ones))
        torch.testing.assert_close(found, exact)


def test_it_tells_the_interval_as_training_does():
    told = []

    def network(x, t, condition, duration, guidance):
        told.append(guidance)
        return x

    student = GuidedFlowMapStudent(network, teachers=Guidance(2.0, 0.1, 0.8), most=8.0)
    given = torch.randn(3, 2), Classes(torch.zeros(3, dtype=torch.long), 2), 2
    student.sample(*given, SampleRandom(0, range(3)), guidance_high=0.6)
    expected = torch.tensor([[0.5, 0.1, 0.6]] * 3)
    assert all(torch.allclose(g, expected) for g in told) and len(told) == 2
    with pytest.raises(ValueError, match="guidance=9: .* 1 to 8 were trained"):
        student.sample(*given, SampleRandom(0, range(3)), guidance=9.0)


TEACHERS = Guidance(2.0)


def built(teacher_guidance=TEACHERS, **settings):
    network = MLP(2, dim=16, depth=2, classes=2)
    condition = Classes(torch.zeros(1, dtype=torch.long), 2)
    spec = Spec((2,), None, 8, lambda: MLP(2, dim=16, depth=2, classes=2), condition)
    teacher = Teacher(network, network, teacher_guidance)
    return teacher, ImprovedMeanFlow(Config(**settings)).build(teacher, spec)


def test_it_starts_as_the_teacher_whatever_it_is_told():
    teacher, made = built()
    x, t = torch.randn(6, 2), torch.rand(6)
    condition = Classes(torch.arange(6) % 2, 2)
    student = made.modules["student"]
    found = student(x, t, condition, duration=t / 2, guidance=torch.rand(6, 3))
    torch.testing.assert_close(found, teacher.network(x, t, condition))
    teacher, fresh = built(distill=False)
    own, first = fresh.modules["student"], teacher.network.blocks[0].inner.weight
    assert not torch.equal(own.blocks[0].inner.weight, first)


def test_the_teachers_own_scale_is_trained():
    for given, most in ((2.0, 4.0), (5.0, 5.0)):
        _, made = built(Guidance(given), guidance_most=4.0)
        assert made.student.most == most
    method, (_, context) = ImprovedMeanFlow(Config(guidance_most=2.0)), setting(Exact(), rows=5000)
    scale, _, _ = method.guidances(torch.ones(5000) > 0, context)
    assert 2.9 < scale.max() <= 3, "that of the teacher of these tests"
    with pytest.raises(ValueError, match="teacher.guidance=0.5: scales of at least 1"):
        built(Guidance(0.5))


@pytest.mark.parametrize(
    ("sampling", "teachers", "words"),
    [
        ({"guidance": 4.0}, Guidance(2.0), None),
        ({"guidance": 4.5}, Guidance(2.0), "guidance=4.5: scales of 1 to 4 are trained"),
        ({"guidance": 4.5}, Guidance(5.0), None),  # Of a teacher of more, more is trained.
        ({"guidance": 5.5}, Guidance(5.0), "scales of 1 to 5 are trained"),
        ({}, Guidance(5.0), None),
        ({}, Guidance(0.5), "guidance=0.5: scales of 1 to 4"),
        ({"guidance_low": 0.5, "guidance_high": 0.5}, Guidance(2.0), None),
        ({"guidance_low": 0.6}, Guidance(2.0), r"guidance in \[0.6, 1\]: intervals around t = 0.5"),
        ({"guidance_high": 0.4}, Guidance(2.0), "intervals around"),
        ({"guidance_low": 0.8, "guidance_high": 0.2}, Guidance(2.0), "intervals around"),
        ({}, Guidance(2.0, 0.6, 0.9), "intervals around"),
        ({"guidance_low": 0.1}, Guidance(2.0, 0.6, 0.9), None),
    ],
)
def test_it_samples_under_the_guidances_that_it_trains(sampling, teachers, words):
    refused = ImprovedMeanFlow(Config(guidance_most=4.0)).samples_with(sampling, 1, teachers)
    assert (refused is None) if words is None else re.search(words, refused)


def test_facts_say_what_it_is():
    facts = ImprovedMeanFlow(Config(distill=False)).facts_for()
    assert facts.track == "from scratch" and not facts.needs_teacher
    facts = ImprovedMeanFlow(Config()).facts_for()
    assert facts.guidance == "at inference" and facts.needs_teacher


def test_guidance_is_asked_in_its_interval_alone():
    class Within(ImprovedMeanFlow):
        def guidances(self, moving, context):
            one = torch.ones(len(moving))
            return 3 * one, 0.4 * one, 0.6 * one

    asked = []

    def noting(x, t, condition):
        asked.append((t, condition.labels))
        return field(x, t, condition)

    batch, context = setting(Exact())
    random, networks = context.random, context.networks
    context = Context(0, 0.0, random, context.teacher.bind(noting), networks, networks)
    next(Within(Config()).training_step(batch, context))
    ((t, labels),) = asked
    own, guided = t[: len(batch)], t[len(batch) :]
    assert torch.equal(guided, own[(own >= 0.4) & (own <= 0.6)]) and (own < 0.4).any()
    assert (labels[len(batch) :] == 2).all()


def test_errors_have_the_adaptive_weight():
    (found,) = Always(Config(instant_share=1.0)).training_step(*setting(Exact(off=0.3)))
    squared = 2 * 0.3**2
    assert found.loss.item() == pytest.approx(squared / (squared + 0.01))
