"""Parts that are trained in turn come evenly."""

import pytest
from piflow_methods.parts.turns import turn


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("first", [0, 17, 1000])
def test_a_part_has_its_share_of_any_stretch_of_steps(share, first):
    for count in (4, 10, 50, 200):
        met = sum(turn(step) < share for step in range(first, first + count))
        assert abs(met - share * count) <= 2


def test_the_first_step_is_the_first_parts():
    assert turn(0) == 0 and all(0 <= turn(step) < 1 for step in range(100))
