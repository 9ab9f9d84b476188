"""What is said of a teacher by its loss on real samples, in its own and in other readings."""

import re
from dataclasses import replace

import pytest
import torch

from piflow_bench import flow
from piflow_bench.conformance.teacher import TIMES, look_at
from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.contracts.teacher import Guidance, Teacher
from tests.world import world


@pytest.fixture(scope="module")
def digits():
    """The data and the network that was trained on them."""
    runtime = world("digits")
    return runtime.dataset(), runtime.teacher().network


def shifted(offset):
    return lambda u: lambda x, t, c: u(x, t, Classes((c.labels + offset) % 10, 10))


REVERSE = "teacher.reverse"
MISREADINGS = {
    "velocity to data": (lambda u: lambda x, t, c: -u(x, t, c), REVERSE),
    "time from noise to data": (lambda u: lambda x, t, c: u(x, 1 - t, c), REVERSE),
    "both, as SiT": (lambda u: lambda x, t, c: -u(x, 1 - t, c), "as its velocity does.*reverse"),
    "time over 0..1000": (lambda u: lambda x, t, c: u(x, t / 1000, c), r"teacher\.units=1000"),
    "noise": (
        lambda u: lambda x, t, c: flow.noise_from_velocity(x, u(x, t, c), t),
        r"predicts noise.*teacher\.predicts=eps",
    ),
    "data": (
        lambda u: lambda x, t, c: flow.x0_from_velocity(x, u(x, t, c), t),
        r"predicts data.*teacher\.predicts=x0",
    ),
    "labels that begin later": (shifted(1), r"its labels are these -1"),
    "labels that begin earlier": (shifted(-1), r"its labels are these \+1"),
    "labels three off": (shifted(-3), r"its labels are these \+3"),
}


@pytest.mark.parametrize("name", MISREADINGS)
def test_each_misreading_is_named_with_what_mends_it(name, digits):
    data, network = digits
    wrap, words = MISREADINGS[name]
    found = look_at(data, Teacher(wrap(network), network))
    assert found.problem, found
    assert re.search(words, found.problem), found.problem


@pytest.mark.parametrize("factor", [0.18215, 1 / 0.18215, 0.5, 2.0])
def test_another_scale_of_the_data_is_named(factor, digits):
    data, network = digits
    found = look_at(replace(data, train=factor * data.train), Teacher(network, network))
    assert f"its data are {1 / factor:.4g} times these" in found.problem


def test_the_right_one_is_passed_in_silence(digits):
    data, network = digits
    found = look_at(data, Teacher(network, network))
    assert (found.problem, found.note) == ("", "") and found.times == TIMES
    assert sum(found.loss) < 0.8 * sum(found.known)
    assert sum(found.shuffled) > 1.05 * sum(found.loss)


def test_losses_are_relative_to_predicting_nothing(digits):
    """And beside them stand those of the least that can be known, by each pixel's variance."""
    data, network = digits
    nothing = look_at(data, Teacher(lambda x, t, c: torch.zeros_like(x), network))
    assert nothing.loss == pytest.approx([1.0] * len(TIMES))
    variance = float(data.train.var(0).mean())
    whole = 1 + float(data.train.square().mean())
    expected = [variance / ((1 - t) ** 2 * variance + t**2) / whole for t in TIMES]
    assert nothing.known == pytest.approx(expected, rel=0.1)


def test_a_closed_form_is_right():
    data = world("mixture2d").dataset()
    exact = Teacher(lambda x, t, c: data.truth.velocity(x, t), torch.nn.Identity())
    found = look_at(data, exact)
    assert (found.problem, found.note, found.shuffled) == ("", "", ())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_are_no_misreading(seed, digits):
    """There is nothing in them that another reading would show; that they know little is noted."""
    torch.manual_seed(seed)
    data, network = digits
    fresh = world("digits").teacher_plugin().fresh_network(data)
    for parameter in fresh.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    found = look_at(data, Teacher(fresh, fresh))
    assert found.problem == "" and "less of these data than their mean" in found.note


def test_an_untrained_network_is_noted(digits):
    data = digits[0]
    fresh = world("digits", untrained=True).teacher()
    found = look_at(data, fresh)
    assert found.problem == "" and found.note


def test_labels_that_change_nothing_are_noted(digits):
    data, network = digits

    def unheard(x, t, c):
        return network(x, t, Classes(torch.full_like(c.labels, 10), 10))

    found = look_at(data, Teacher(unheard, network))
    assert found.problem == "" and "labels of other samples serve it as well" in found.note
    assert found.shuffled == found.loss


def test_without_labels_none_are_tried(digits):
    data, network = digits
    unlabelled = replace(data, train_condition=Unconditional(len(data.train)))

    def any_label(x, t, c):
        return network(x, t, Classes(torch.full((len(x),), 10), 10))

    found = look_at(unlabelled, Teacher(any_label, network))
    assert (found.problem, found.shuffled) == ("", ())


def test_values_that_are_not_finite_are_named(digits):
    data, network = digits
    broken = Teacher(lambda x, t, c: x / (t - 0.5).view(-1, 1, 1, 1), network)
    found = look_at(data, broken)
    assert found.problem == "gives values that are not finite"


def test_guidance_is_not_measured(digits):
    data, network = digits
    plain = look_at(data, Teacher(network, network))
    assert look_at(data, Teacher(network, network, Guidance(4.0))) == plain
