"""What a teacher's evaluations cost, and one whose evaluations are booked."""

from __future__ import annotations

import torch

from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.costs.flops import Handle, Meter, count_all_flops


@torch.no_grad()
def teacher_forward_flops(teacher: Teacher, shape: tuple[int, ...], condition: Condition) -> float:
    """FLOPs of one forward pass of the teacher's network for one sample."""
    like = next(teacher.network.parameters(), torch.zeros(()))  # A formula has none.
    x, rows = like.new_zeros((1, *shape)), condition[torch.arange(1)].to(like.device)
    with count_all_flops() as counter:
        teacher.network(x, x.new_full((1,), 0.5), rows)
    return float(counter.get_total_flops())


def counted_teacher(teacher: Teacher, meter: Meter, unit_flops: float) -> Teacher:
    """The teacher with its evaluations booked; a closed form costs one network forward a row."""
    fixed = unit_flops if teacher.closed_form else None
    return teacher.bind(Handle("teacher", teacher.field, meter, flops_per_row=fixed))
