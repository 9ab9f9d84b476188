"""Agreement of aligned sets, sample by sample."""

import warnings

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.agreement import cosines, psnr, squared_errors

RNG = np.random.default_rng(5)


def images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


class TestSquaredErrors:
    def test_equals_the_definition_on_floats_in_0_1(self):
        a, b = images(6, 9, 7, 3), images(6, 9, 7, 3)
        expected = ((a / 255.0 - b / 255.0) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(squared_errors(a, b), expected, rtol=1e-12)

    def test_ends_of_the_range_in_either_order(self):
        black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
        assert squared_errors(black, white) == squared_errors(white, black) == 1
        assert squared_errors(white, white) == 0

    def test_of_no_samples_there_are_none(self):
        assert squared_errors(images(0, 4, 4, 3), images(0, 4, 4, 3)).shape == (0,)

    def test_what_is_not_aligned_or_not_8_bit_is_refused(self):
        a = images(3, 4, 4, 3)
        with pytest.raises(UserError, match=r"\(3, 4, 4, 3\) beside \(1, 4, 4, 3\)"):
            squared_errors(a, a[:1])
        for pair in ((a / 255, a), (a, a / 255)):
            with pytest.raises(UserError, match="float64"):
                squared_errors(*pair)


class TestPsnr:
    def test_known_values(self):
        np.testing.assert_allclose(psnr(np.array([1, 0.1, 1e-3])), [0, 10, 30], atol=1e-12)

    def test_one_level_everywhere_is_48_decibels(self):
        a = images(1, 8, 8, 3) // 2
        assert psnr(squared_errors(a, a + 1))[0] == pytest.approx(20 * np.log10(255))

    def test_equal_images_are_infinite_without_a_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(psnr(np.array([0.0, 1.0])), [np.inf, 0])


class TestCosines:
    def test_equals_scipys_row_by_row(self):
        from scipy.spatial.distance import cosine

        a, b = RNG.normal(size=(5, 8)), RNG.normal(size=(5, 8))
        expected = [1 - cosine(x, y) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(cosines(a, b), expected, atol=1e-12)

    def test_lengths_do_not_matter_and_signs_do(self):
        a = RNG.normal(size=(4, 3)).astype(np.float32)
        scales = np.array([1, 1e-6, -2, 1e6])[:, None]
        np.testing.assert_allclose(cosines(a, a * scales), [1, 1, -1, 1], atol=1e-12)

    def test_what_has_no_partner_or_direction_is_refused(self):
        a = np.eye(3)
        with pytest.raises(UserError, match="aligned"):
            cosines(a, a[:2])
        with pytest.raises(ValueError, match="row 1"):
            cosines(a, np.diag([1.0, 0, 1]))
