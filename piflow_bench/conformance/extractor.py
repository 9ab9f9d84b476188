"""The contract of an extractor plugin as tests, on pictures or points of a few kinds.

Features stand for pictures wherever they are compared, and are extracted in whatever batches and
threads there are: a picture's must be its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from piflow_bench.conformance.plugin import asked, check_identity, check_requirements, open_plugin
from piflow_bench.conformance.results import (
    CheckResult,
    Failure,
    Skip,
    Test,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.extractor import (
    FEATURES,
    LOGITS,
    SPATIAL,
    Extractor,
    ExtractorPlugin,
)
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError

OUTPUTS = (FEATURES, LOGITS, SPATIAL)
SQUARES = (32, 8, 28, 64, 224, 256, 299, 512)
"""Sides of pictures, of which the first that an extractor takes is looked at."""
SIZES = ((24, 40), (40, 24), (17, 17), (7, 5), (300, 260))
"""Heights and widths that it may take or refuse."""
COUNT = 6
TOLERANCE = 1e-4
"""Share of an output's largest value: kernels of other batches add in another order."""
SAME = 1e-6
"""The same of one batch twice, and of what tells pictures apart."""
MISSING = "no-such-folder/no-such-weights.pth"


def check_extractor(name: str, arguments: Sequence[str]) -> list[CheckResult]:
    """Run the contract's tests on an extractor.

    Args:
        name: the extractor's registered name.
        arguments: its settings, ``plugins=``.

    Raises:
        UserError: for an unknown name or setting, and weights that are missing.
    """
    which = asked("extractor", name, arguments)
    opened = open_plugin(which)
    results = [opened.result]
    if opened.plugin is None:
        return results
    plugin, source = opened.plugin, opened.source
    loaded: list[Extractor] = []
    for test, function in (
        ("facts", partial(_facts, plugin)),
        ("requirements", lambda: check_requirements(plugin)),
        ("identity", lambda: check_identity(plugin)),
        ("missing weights", partial(_missing, plugin)),
        ("load", partial(_load, plugin, name, loaded)),
    ):
        results.append(attempt_given(test, function, source))
    if loaded:
        results += run_tests(_Looks(plugin, loaded[0]).tests(), source=source)
    return results


def _facts(plugin: ExtractorPlugin) -> str:
    outputs = plugin.outputs
    require(bool(plugin.rule), "rule is empty: say how pictures are resized and scaled")
    require(
        isinstance(outputs, tuple) and bool(outputs) and set(outputs) <= set(OUTPUTS),
        f"outputs is {outputs!r}: a tuple of {', '.join(OUTPUTS)}",
    )
    return ", ".join(outputs)


def _missing(plugin: ExtractorPlugin) -> str:
    """A file of weights that is not there is the user's to mend, and is named."""
    if "weights" not in [field.name for field in fields(plugin.config)]:
        raise Skip("it has no weights")
    other = type(plugin)(replace(plugin.config, weights=MISSING))
    try:
        other.file()
    except UserError as error:
        require(
            Path(MISSING).name in str(error),
            f"file() of weights that are missing does not name the file: {error}",
        )
        return str(error)
    except Exception as error:
        raise Failure(
            f"file() of weights that are missing raises {type(error).__name__}, not UserError"
        ) from error
    raise Failure(
        f"file() does not look at weights={MISSING}: a plugin that has none has Config = NoSettings"
    )


def _load(plugin: ExtractorPlugin, name: str, loaded: list[Extractor]) -> str:
    found = plugin.load(name, Place())
    require(isinstance(found, Extractor), f"load() gives {type(found).__name__}, not an Extractor")
    identity = plugin.identity()
    for key in ("rule", "weights"):
        require(
            getattr(found, key) == identity[key],
            f"load() states {key} {getattr(found, key)!r}, identity() {identity[key]!r}",
        )
    require(
        found.name == name and found.outputs == plugin.outputs,
        f"load() states {found.name}: {', '.join(found.outputs)}; it is asked for as {name}: "
        f"{', '.join(plugin.outputs)} (use self.loaded)",
    )
    loaded.append(found)
    return found.identity


class _Looks:
    """What a loaded extractor does with pictures, or with points."""

    def __init__(self, plugin: ExtractorPlugin, extractor: Extractor) -> None:
        self.plugin, self.extractor = plugin, extractor
        self.width: dict[str, int] = {}

    def tests(self) -> list[Test]:
        """Name, function and the tests that must have passed before, in order."""
        found: list[Test] = [
            ("outputs", self.outputs, ()),
            ("deterministic", self.deterministic, ("outputs",)),
            ("loaded again", self.again, ("outputs", "deterministic")),
            ("alone and in a batch", self.alone, ("outputs",)),
            ("prepared in threads", self.threads, ("outputs",)),
            ("different inputs", self.different, ("outputs", "deterministic")),
        ]
        if not self.plugin.of_points:
            found.append(("other sizes", self.sizes, ("outputs",)))
        return found

    def outputs(self) -> str:
        """Those that are declared, ``(n, d)`` and finite; the input stays as it is."""
        self.inputs = self._inputs()
        kept = self.inputs.copy()
        raw = self.extractor.network(self.extractor.prepare(self.inputs))
        require(
            isinstance(raw, dict) and set(raw) == set(self.plugin.outputs),
            f"network() gives {', '.join(raw) if isinstance(raw, dict) else type(raw).__name__}; "
            f"outputs are {', '.join(self.plugin.outputs)}",
        )
        found = self._checked(self.inputs)
        require(np.array_equal(self.inputs, kept), "prepare() changes what it is given")
        self.width = {name: values.shape[1] for name, values in found.items()}
        return ", ".join(f"{name} {values.shape}" for name, values in found.items())

    def deterministic(self) -> None:
        """The same again, whatever was looked at between."""
        first = self._checked(self.inputs)
        self._checked(self.inputs[::-1][:3].copy())
        self._compare(first, self._checked(self.inputs), SAME, "the same batch twice")

    def again(self) -> None:
        """Another process loads the same network."""
        other = self.plugin.load(self.extractor.name, Place())
        first, second = (_run(each, self.inputs) for each in (self.extractor, other))
        self._compare(first, second, SAME, "another load()")

    def alone(self) -> None:
        """Features of a picture are the same alone, in a batch, and among others."""
        whole = self._checked(self.inputs)
        order = np.array([3, 0, 5, 2, 4, 1])
        for what, places in (("in another order", order), ("in a smaller batch", order[:2])):
            part = self._checked(self.inputs[places])
            self._compare({k: v[places] for k, v in whole.items()}, part, TOLERANCE, what)
        single = [self._checked(self.inputs[i : i + 1]) for i in range(COUNT)]
        joined = {k: np.concatenate([each[k] for each in single]) for k in whole}
        self._compare(whole, joined, TOLERANCE, "alone")

    def threads(self) -> None:
        """``prepare`` may run in several threads at once."""
        parts = [self.inputs[i : i + 2] for i in range(0, COUNT, 2)] * 8
        expected = [self.extractor.prepare(part) for part in parts[:3]] * 8
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(self.extractor.prepare, parts))
        require(
            all(a.equal(b) for a, b in zip(expected, found, strict=True)),
            "prepare() in several threads gives something else than in one",
        )

    def different(self) -> None:
        """Inputs that differ do not have one description."""
        found = self._checked(self.inputs)
        for name, values in found.items():
            scale = float(np.abs(values).max())
            for i in range(1, COUNT):
                require(
                    float(np.abs(values[i] - values[0]).max()) > SAME * scale,
                    f"{name} of different inputs are the same: it does not look at them",
                )

    def sizes(self) -> str:
        """Pictures of other shapes are taken, or refused in words."""
        taken = []
        for height, width in SIZES:
            try:
                found = self._checked(_pictures(height, width))
            except UserError:
                continue
            except Failure:
                raise
            except Exception as error:
                words = " ".join(str(error).split())[:150]
                raise Failure(
                    f"pictures of {height}x{width} raise {type(error).__name__}, which must be a "
                    f"UserError in words of the user: {words}"
                ) from error
            given = {name: values.shape[1] for name, values in found.items()}
            require(
                given == self.width,
                f"pictures of {height}x{width} have features of {given}, others of {self.width}",
            )
            taken.append(f"{height}x{width}")
        return f"takes {', '.join(taken)}" if taken else "takes no other"

    def _inputs(self) -> np.ndarray:
        if self.plugin.of_points:
            return np.random.default_rng(0).normal(size=(COUNT, 2)).astype(np.float32)
        refused = ""
        for side in SQUARES:
            pictures = _pictures(side, side)
            try:
                self.extractor(pictures)
            except UserError as error:
                refused = str(error)
                continue
            return pictures
        raise Failure(f"pictures of {SQUARES} pixels a side are all refused: {refused}")

    def _checked(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs, which are arrays ``(n, d)`` without NaN."""
        found = _run(self.extractor, inputs)
        for name, values in found.items():
            require(
                values.ndim == 2 and len(values) == len(inputs) and values.shape[1] > 0,
                f"{name} of {len(inputs)} inputs have the shape {values.shape}, not (n, d)",
            )
            bad = int((~np.isfinite(values)).any(1).sum())
            require(not bad, f"{name} of {bad} of {len(inputs)} inputs are not finite")
        return found

    def _compare(
        self, a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float, what: str
    ) -> None:
        for name, values in a.items():
            off = float(np.abs(values - b[name]).max())
            scale = max(float(np.abs(values).max()), float(np.abs(b[name]).max()))
            require(
                off <= tolerance * scale,
                f"{name} differ by {off / scale if scale else off:.1%} of the largest: {what}",
            )


def _run(extractor: Extractor, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of inputs of its own: what one call does to them no other sees."""
    return extractor(inputs.copy())


def _pictures(height: int, width: int) -> np.ndarray:
    """Six pictures ``(6, h, w, 3)`` uint8: noise, darkness, light, colours that run, squares."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    across, down = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    checks = 255.0 * ((x * 4 // width + y * 4 // height) % 2)
    drawn = [
        random.integers(0, 256, (height, width, 3)),
        np.full((height, width, 3), 20),
        np.full((height, width, 3), 230),
        np.stack([across, down, 255 - across], 2),
        np.stack([checks, checks, 255 - checks], 2),
        np.stack([255 - down, across / 2, checks], 2),
    ]
    return np.stack([each.astype(np.uint8) for each in drawn])
