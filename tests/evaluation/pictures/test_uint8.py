"""Every rule between uint8 and floats: what is on a level stays there, and what lies between."""

import numpy as np
import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.uint8 import by_rule, for_the_eye, of_levels, of_unit, signed

ALL = torch.arange(256, dtype=torch.uint8)


def test_all_levels_go_to_floats_and_back():
    x = signed(ALL)
    assert x.dtype == torch.float32 and (x[0], x[255]) == (-1, 1)
    assert np.array_equal(of_levels(x.reshape(1, 1, 1, 256))[0, 0, :, 0], ALL)
    assert np.array_equal(for_the_eye(x.numpy()), ALL)
    assert np.array_equal(of_unit(ALL.numpy() / 255), ALL)
    assert np.array_equal(by_rule(x.reshape(1, 1, 1, 256), "round")[0, 0, :, 0], ALL)


def test_what_is_shown_is_clipped_and_what_is_no_number_is_black():
    x = np.array([-3, np.nan, -1 + 0.9 / 255, 1 - 0.9 / 255, np.inf])
    assert for_the_eye(x).tolist() == [0, 0, 0, 255, 255]
    kept = np.array([3, 250], np.uint8)
    assert for_the_eye(kept) is kept


def test_decoded_pixels_are_truncated_or_rounded():
    x = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert by_rule(x, "adm")[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
    assert by_rule(x, "round")[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    with pytest.raises(UserError, match="no such rule"):
        by_rule(x, "floor")


def test_rounding_of_floats():
    assert of_unit(np.array([0.0, 0.5 / 255, 0.499 / 255, 1.0])).tolist() == [0, 1, 0, 255]
