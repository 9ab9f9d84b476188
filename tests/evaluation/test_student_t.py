"""Student's t against scipy and closed forms."""

import math

import pytest

from piflow_bench.evaluation.student_t import quantile, two_sided


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 7, 19, 49, 1000])
def test_tails_and_quantiles_equal_scipys(dof):
    special = pytest.importorskip("scipy.special")
    for t in (0.0, 1e-6, 0.01, 0.3, 1.0, 2.0, 8.0, 100.0):
        assert two_sided(t, dof) == pytest.approx(2 * special.stdtr(dof, -t), rel=1e-10, abs=1e-290)
        assert two_sided(-t, dof) == two_sided(t, dof)
    for confidence in (0.5, 0.9, 0.95, 0.999):
        expected = special.stdtrit(dof, 0.5 + confidence / 2)
        assert quantile(confidence, dof) == pytest.approx(expected, rel=1e-10)


def test_cauchy_and_two_degrees():
    assert two_sided(1.0, 1) == pytest.approx(0.5)
    assert two_sided(3.0, 1) == pytest.approx(1 - 2 / math.pi * math.atan(3.0))
    assert two_sided(3.0, 2) == pytest.approx(1 - 3.0 / math.sqrt(11.0))
    assert quantile(0.95, 1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-10)
