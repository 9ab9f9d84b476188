"""Pixels as pictures and back: nothing moves that is on a level, all else goes to the nearest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench import registry
from piflow_bench.contracts.plugin import Place
from piflow_bench.data.digits import images
from piflow_bench.data.digits_extractor import grey_levels
from piflow_bench.errors import UserError
from piflow_bench.settings import build_dataclass
from tests.world import world


def space(name, size, **settings):
    cls = registry.get("space", name)
    return cls(build_dataclass(cls.Config, settings, "space")).load(size, Place())


def test_pixels_are_the_pictures_of_256_levels():
    pixels = space("pixels", (4, 64, 3))
    assert pixels.shape == (3, 4, 64) and pixels.bounded
    pictures = np.arange(4 * 64 * 3).reshape(1, 4, 64, 3).astype(np.uint8)
    x = pixels.encode(pictures)
    assert x.shape == (1, 3, 4, 64) and x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(pixels.pictures(x), pictures)
    assert torch.equal(x[0, :, 1, 2], torch.from_numpy(pictures[0, 1, 2]) / 127.5 - 1)


def test_samples_go_to_the_nearest_level_and_stay_inside():
    pixels = space("pixels", (1, 5, 1))
    x = torch.tensor([-3.0, -1 + 0.9 / 255, 1.1 / 255 - 1, 0.999, 7.0]).reshape(1, 1, 1, 5)
    assert pixels.pictures(x)[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]
    few = space("pixels", (1, 5, 1), levels=3)
    x = torch.tensor([-2.0, -0.51, -0.49, 0.49, 0.51]).reshape(1, 1, 1, 5)
    assert few.pictures(x)[0, 0, :, 0].tolist() == [0, 0, 128, 128, 255]


def test_grey_levels_go_to_pictures_and_back_exactly():
    """Through pictures the digits' extractors see the very pixels."""
    grey = space("grey-levels", (8, 8, 1))
    levels = torch.arange(17) / 8 - 1
    pictures = grey.pictures(levels.reshape(17, 1, 1, 1))
    assert np.diff(pictures[:, 0, 0, 0].astype(int)).min() == 15  # 17 that are apart, 0 to 255.
    assert (pictures.min(), pictures.max()) == (0, 255)
    assert np.array_equal(grey.pictures(grey.encode(pictures)), pictures)
    for x in (images()[0], images()[2]):
        seen = grey.pictures(x)
        assert seen.shape == (len(x), 8, 8, 1) and seen.dtype == np.uint8
        assert torch.equal(grey_levels(np.repeat(seen, 3, axis=3)), x)


def test_samples_of_digits_are_seen_in_the_levels_of_the_real_ones():
    grey = space("grey-levels", (8, 8, 1))
    x = 1.5 * torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rounded = ((x.clamp(-1, 1) + 1) * 8).round() / 8 - 1
    assert torch.equal(grey_levels(np.repeat(grey.pictures(x), 3, axis=3)), rounded)


@pytest.mark.parametrize("levels", [1, 257, 2.5])
def test_impossible_levels_are_refused(levels):
    for name in ("pixels", "grey-levels"):
        with pytest.raises(UserError, match=rf"space\.levels={levels}: must be"):
            space(name, (8, 8, 1), levels=levels)


def test_a_datasets_own_space_is_taken_where_none_is_given():
    runtime = world()
    assert runtime.space_name == "grey-levels"
    other = replace(runtime, given=replace(runtime.given, space={"name": "pixels"}))
    x = torch.full((1, 1, 8, 8), 0.01)
    seen = [r.dataset().space.pictures(x)[0, 0, 0, 0] for r in (runtime, other)]
    assert seen == [128, 129]
    settings = replace(runtime, given=replace(runtime.given, space={"levels": 3}))
    assert settings.space_name == "grey-levels" and settings.space_plugin().config.levels == 3


def test_its_identity_is_its_levels():
    assert world().space_plugin().identity() == {"levels": 17}
    assert world("mixture2d").space_plugin().identity() == {}


def test_points_have_no_pictures():
    points = space("points", (1, 1, 2))
    assert points.shape == (2,) and not points.bounded
    assert points.pictures is None and points.encode is None
