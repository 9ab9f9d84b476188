"""Few-step teachers spend exactly the evaluations they are asked for."""

from functools import partial

import pytest
import torch
from piflow_methods.parts.spending import spent
from piflow_methods.teacher import Config, TeacherSampler, plan

from piflow_bench.api import Guidance, Teacher, Unconditional, flow

WHOLE, PART = Guidance(2.0), Guidance(2.0, 0.0, 0.7)


@pytest.mark.parametrize("solver", list(flow.SOLVERS))
@pytest.mark.parametrize("guidance", [Guidance(), WHOLE])
@pytest.mark.parametrize("nfe", [2, 4, 6, 8])
def test_a_plan_spends_what_was_asked(solver, guidance, nfe):
    steps, options = plan(solver, nfe, guidance)
    assert spent(solver, steps, options, guidance, 1.0) == nfe


def test_guidance_on_a_part_of_time_costs_two_only_there():
    # Euler's 4 steps evaluate at 1, .75, .5 and .25: the last two are guided.
    assert spent("euler", 4, {}, PART, 1.0) == 6
    assert plan("euler", 6, PART) == (4, {})
    # One step is at t = 1, outside guidance; two steps cost three: nothing costs two.
    with pytest.raises(ValueError, match="exactly 2 evaluations"):
        plan("euler", 2, PART)


@pytest.mark.parametrize("solver", list(flow.SOLVERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_planned_is_spent_where_a_step_lies_at_the_edge(solver, dtype):
    """Steps at tenths, guidance that begins or ends at one of them."""
    for edge in range(11):
        for guidance in (Guidance(2.0, 0.0, edge / 10), Guidance(2.0, edge / 10, 1.0)):
            rows = 0

            def field(x, t, condition):
                nonlocal rows
                rows += len(x)
                return torch.zeros_like(x)

            teacher = Teacher(field, torch.nn.Identity(), guidance)
            times = flow.time_grid(10, dtype=torch.float64)
            noise, condition = torch.zeros(3, 2, dtype=dtype), Unconditional(3)
            flow.SOLVERS[solver](partial(teacher, condition=condition), noise, times)
            assert rows == 3 * spent(solver, 10, {}, guidance, 1.0), (edge, guidance)


def test_heun_takes_an_euler_step_first_for_even_numbers():
    assert plan("heun", 7) == (4, {})
    assert plan("heun", 4) == (3, {"euler_first": True})


@pytest.mark.parametrize(
    ("settings", "sampling", "nfe", "guidance", "words"),
    [
        ({}, {}, 1, Guidance(2.0), None),
        ({}, {"guidance": 1.5}, 2, Guidance(2.0), "guided=true"),
        ({"guided": True}, {"guidance": 1.5}, 2, Guidance(2.0), None),
        (
            {"guided": True},
            {},
            2,
            Guidance(2.0, 0.0, 0.5),
            "no number of euler steps spends exactly 2",
        ),
        ({"guided": True}, {}, 4, Guidance(2.0, 0.0, 0.5), None),
        ({"guided": True}, {"guidance": 1.0}, 2, Guidance(2.0, 0.0, 0.5), None),
    ],
)
def test_what_cannot_be_spent_is_known_before_it_is_sampled(
    settings, sampling, nfe, guidance, words
):
    refused = TeacherSampler(Config(**settings)).samples_with(sampling, nfe, guidance)
    assert (refused is None) if words is None else words in refused
