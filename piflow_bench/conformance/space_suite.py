"""The contract of a space plugin as tests, on pictures of a few sizes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from piflow_bench.conformance.pictures import check_pictures
from piflow_bench.conformance.plugin import (
    asked,
    check_identity,
    check_requirements,
    open_plugin,
)
from piflow_bench.conformance.results import (
    FAILED,
    SKIPPED,
    CheckResult,
    Skip,
    Test,
    attempt,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.errors import UserError

SIZES = ((8, 8, 1), (16, 24, 3), (64, 64, 3))
"""Height, width and channels of the pictures whose space is looked at."""
SAMPLES = 16


def check_space(name: str, arguments: list[str]) -> list[CheckResult]:
    """Run the contract's tests on a space.

    Args:
        name: the space's registered name.
        arguments: its settings, ``plugins=``.

    Raises:
        UserError: for an unknown name or setting, and files that are missing.
    """
    opened = open_plugin(asked("space", name, arguments))
    results = [opened.result]
    if opened.plugin is None:
        return results
    plugin, source = opened.plugin, opened.source
    results.append(attempt_given("requirements", lambda: check_requirements(plugin), source))
    results.append(attempt_given("identity", lambda: check_identity(plugin), source))
    refused = 0
    for size in SIZES:
        label = "x".join(map(str, size))
        spaces: list[Space] = []
        results.append(attempt(f"{label}: load", partial(_load, plugin, size, spaces), source))
        refused += results[-1].status == SKIPPED
        if spaces:
            results += run_tests(_tests(spaces[0], size), label, source)
    if refused == len(SIZES):
        results.append(CheckResult("sizes", FAILED, "load() refuses pictures of all these sizes"))
    return results


def _load(plugin: SpacePlugin, size: tuple[int, int, int], spaces: list[Space]) -> str:
    """The space of pictures of a size, and another load's has the same shape."""
    try:
        space = plugin.load(size, Place())
    except UserError as error:
        raise Skip(str(error)) from error
    require(isinstance(space, Space), f"load() gives {type(space).__name__}, not a Space")
    shape = space.shape
    require(
        isinstance(shape, tuple) and bool(shape) and all(type(n) is int and n > 0 for n in shape),
        f"shape is {shape!r}: a tuple of positive integers, (C, *spatial)",
    )
    again = plugin.load(size, Place()).shape
    require(again == shape, f"load() states {again} the second time, {shape} the first")
    if space.pictures is not None:
        shown = plugin.pictures_of(shape)
        # Grey pictures may come back in colour.
        require(
            tuple(shown[:2]) == size[:2] and plugin.load(shown, Place()).shape == shape,
            f"pictures_of({shape}) is {shown}, but these samples are of pictures of "
            f"{'x'.join(map(str, size))}: say there which size samples of a shape show",
        )
    spaces.append(space)
    return f"samples of {'x'.join(map(str, shape))}"


def _tests(space: Space, size: tuple[int, int, int]) -> list[Test]:
    return [
        ("pictures", lambda: _pictures(space, size), ()),
        ("outside the range", lambda: _outside(space), ("pictures",)),
        ("encode", lambda: _encode(space, size), ("pictures",)),
    ]


def _samples(space: Space) -> Tensor:
    """Samples as a generator might give them: all over [-1, 1], or normal."""
    generator = torch.Generator().manual_seed(0)
    if space.bounded:
        return 2 * torch.rand(SAMPLES, *space.shape, generator=generator) - 1
    return torch.randn(SAMPLES, *space.shape, generator=generator)


def _pictures(space: Space, size: tuple[int, int, int]) -> str:
    """Uint8, each of its own sample, of the size that was asked for."""
    if space.pictures is None:
        raise Skip("points: nothing to look at")
    x = _samples(space)
    words = check_pictures(space.pictures, x)
    height, width, channels = size
    found = space.pictures(x[:1]).shape[1:]
    # Grey pictures may come back in colour: an autoencoder knows no other.
    require(
        found[:2] == (height, width) and found[2] in (channels, 3),
        f"pictures() gives {words} for a space of pictures of {'x'.join(map(str, size))}",
    )
    return words


def _outside(space: Space) -> None:
    """What lies outside [-1, 1], as some of what is generated does, is clipped."""
    if not space.bounded:
        raise Skip("samples may lie anywhere")
    assert space.pictures is not None
    for edge in (-1.0, 1.0):
        at, beyond = (space.pictures(torch.full((1, *space.shape), e)) for e in (edge, 1.5 * edge))
        require(
            np.array_equal(at, beyond),
            f"pictures() of samples at {1.5 * edge:g} differ from those at {edge:g}: clip them, "
            "samples of a student leave [-1, 1]",
        )


def _encode(space: Space, size: tuple[int, int, int]) -> str:
    """Pictures as samples: of the stated shape; seen again they are the same within a level."""
    if space.encode is None:
        raise Skip("there is none")
    assert space.pictures is not None
    # Every level as often as another, in no order.
    order = np.random.default_rng(0).permutation(SAMPLES * int(np.prod(size)))
    pictures = (order % 256).astype(np.uint8).reshape(SAMPLES, *size)
    x = space.encode(pictures)
    require(
        isinstance(x, Tensor) and x.dtype == torch.float32 and x.shape == (SAMPLES, *space.shape),
        f"encode() gives {getattr(x, 'dtype', type(x).__name__)} {tuple(getattr(x, 'shape', ()))}; "
        f"samples are float32 {(SAMPLES, *space.shape)}",
    )
    require(bool(x.isfinite().all()), "encode() gives values that are not finite")
    seen = space.pictures(x)
    difference = np.abs(seen.astype(int) - pictures.astype(int))
    if not space.bounded:
        return f"pictures come back with a mean error of {difference.mean():.1f} of 255"
    low, high = float(x.min()), float(x.max())
    require(
        low >= -1 - 1e-3 and high <= 1 + 1e-3,
        f"encode() gives samples in [{low:g}, {high:g}], but `bounded` says [-1, 1]",
    )
    levels = len(np.unique(seen))
    level = 255 / max(levels - 1, 1)
    require(
        difference.max() <= level,
        f"pictures(encode(p)) is up to {difference.max()} of 255 from p, more than one of its "
        f"{levels} levels",
    )
    back = float((space.encode(seen) - x).abs().max())
    require(
        back <= 2 / max(levels - 1, 1) + 1e-5,
        f"encode(pictures(x)) is up to {back:.3g} from x, more than one of its {levels} levels",
    )
    return f"within one of {levels} levels"
