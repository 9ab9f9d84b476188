"""The step of continuous-time consistency (arXiv 2410.11081), which sCM and rCM share."""

from __future__ import annotations

from typing import Any

from piflow_methods.parts.derivatives import normalised, ramp
from piflow_methods.parts.trigflow import tangent, trig_velocity
from torch import Tensor

from piflow_bench.api import Condition, Context, flow


def consistency_error(
    student: Any,
    x: Tensor,
    a: Tensor,
    moved: Tensor,
    condition: Condition,
    context: Context,
    *,
    deviation: float,
    warmup: float,
    floor: float,
    precision: str,
    rooted: bool = False,
) -> Tensor:
    """``G - sg(G + g)``, g the bounded direction in which the estimate of the data changes.

    Args:
        student: the flow's velocity network, ``student(x, t, condition)``.
        x: TrigFlow's states ``(B, *sample)`` at angles a ``(B,)``.
        a: see x.
        moved: dx/da ``(B, *sample)`` along the path.
        condition: the samples' conditions.
        context: the training step's.
        deviation: of the data.
        warmup: share of the training over which the derivative is ramped up; 0: none.
        floor: beside the norm that divides g.
        precision: of the products in the derivative.
        rooted: see :func:`tangent`.

    Returns:
        Errors ``(B, *sample)``, of the size of g, with a gradient in the student's weights.
    """

    def answer(x: Tensor, a: Tensor) -> Tensor:
        return trig_velocity(lambda x, t: student(x, t, condition), x, a, deviation)

    part = ramp(context.progress, warmup)
    both = a.cos() * a.sin()
    given = (flow.expand(both, x) * moved, both)
    found, slope = context.jvp(answer, (x, a), given, precision)
    g = normalised(tangent(found, slope, moved, x, a, part, rooted), floor)
    return answer(x, a) - found - g
