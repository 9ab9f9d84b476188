"""The look at a teacher on a GPU: no device is mixed, and it sees what it sees on the CPU."""

import pytest

from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.dataset import teacher_problems
from piflow_bench.conformance.teacher import look_at
from tests.devices.gpu import gpu, on_gpu


@pytest.mark.parametrize("stand_in", [standins.images, standins.points])
def test_a_teacher_is_looked_at_where_it_lies(stand_in):
    made = stand_in()
    here = look_at(made.dataset, made.teacher(0))
    with gpu():
        teacher = made.teacher(0).to("cuda")
        assert all(on_gpu(p) for p in teacher.network.parameters())
        assert teacher_problems(made.dataset, teacher, "cuda") == []
        there = look_at(made.dataset, teacher, "cuda")
    assert there.loss == pytest.approx(here.loss) and there.problem == here.problem
