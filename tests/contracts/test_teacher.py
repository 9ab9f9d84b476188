"""The guided teacher: which rows are guided, and what they cost."""

import pytest
import torch
from torch import nn

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.teacher import Guidance, Teacher, solve
from piflow_bench.costs.flops import Handle, Meter

COUNT = 3


def field(x, t, condition):
    """Depends on every argument, row by row."""
    return (condition.labels[:, None] + 1.0) * x.sin() + t[:, None]


def make(guidance=None):
    meter = Meter()
    teacher = Teacher(field, nn.Linear(1, 1), guidance)
    return teacher.bind(Handle("teacher", field, meter)), meter


def rows_seen(meter):
    return sum(meter.rows.values())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.7, 0.8, 1.0])
    x = torch.randn(len(t), 2, generator=generator)
    return x, t, Classes(torch.arange(len(t)) % COUNT, COUNT)


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(0.0, 1.0, 7), (0.2, 0.7, 3), (0.3, 0.4, 0), (0.5, 0.5, 1), (0.75, 1.0, 2), (0.0, 0.15, 2)],
)
def test_guidance_acts_inside_its_interval_only(batch, low, high, inside):
    x, t, condition = batch
    teacher, meter = make(Guidance(2.5, low, high))
    u = teacher(x, t, condition)
    plain = field(x, t, condition)
    full = flow.guide(plain, field(x, t, condition.null()), 2.5)
    mask = (t >= low) & (t <= high)
    assert int(mask.sum()) == inside
    torch.testing.assert_close(u[mask], full[mask])
    assert torch.equal(u[~mask], plain[~mask])
    # Two evaluations inside, one outside.
    assert rows_seen(meter) == len(x) + inside


def test_guidance_does_not_depend_on_the_other_rows(batch):
    x, t, condition = batch
    teacher, _ = make(Guidance(2.5, 0.2, 0.7))
    whole = teacher(x, t, condition)
    for i in range(len(x)):
        torch.testing.assert_close(teacher(x[[i]], t[[i]], condition[[i]])[0], whole[i])


@pytest.mark.parametrize("guidance", [None, Guidance(1.0), Guidance(1.0, 0.2, 0.7)])
def test_scale_one_is_one_evaluation(batch, guidance):
    x, t, condition = batch
    teacher, meter = make(guidance)
    assert torch.equal(teacher(x, t, condition), field(x, t, condition))
    assert rows_seen(meter) == len(x)


def test_conditional_is_never_guided(batch):
    x, t, condition = batch
    teacher, meter = make(Guidance(2.5))
    assert torch.equal(teacher.conditional(x, t, condition), field(x, t, condition))
    assert rows_seen(meter) == len(x)


def test_guided_and_bind_make_copies(batch):
    x, t, condition = batch
    teacher, _ = make(Guidance(2.5))
    other = teacher.guided(Guidance(1.0))
    assert teacher.guidance.scale == 2.5 and other.guidance.scale == 1.0
    bound = teacher.bind(lambda x, t, condition: torch.zeros_like(x))
    assert (bound(x, t, condition) == 0).all()
    assert (teacher(x, t, condition) != 0).any()


def test_the_teacher_is_frozen_and_gives_no_gradient(batch):
    x, t, condition = batch
    network = nn.Linear(1, 1)
    teacher = Teacher(field, network, Guidance(2.5))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert not teacher(x.requires_grad_(), t, condition).requires_grad
    assert not teacher.conditional(x, t, condition).requires_grad


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 4), ("heun", 7), ("unipc", 4)])
def test_solve_integrates_the_guided_field(batch, solver, evaluations):
    x, _, condition = batch
    teacher, meter = make(Guidance(2.5))
    end = solve(teacher, x, condition, 4, solver)
    assert end.shape == x.shape and end.isfinite().all()
    assert rows_seen(meter) == 2 * evaluations * len(x)


def test_solve_passes_the_options_of_the_solver(batch):
    x, _, condition = batch
    teacher, meter = make()
    solve(teacher, x, condition, 4, "heun", euler_first=True)
    assert rows_seen(meter) == 6 * len(x)
