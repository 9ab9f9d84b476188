"""The contract of a metric as tests, on features drawn from normal distributions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from piflow_bench import registry
from piflow_bench.config.paths import split_paths
from piflow_bench.conformance.results import (
    CheckResult,
    Failure,
    Skip,
    Test,
    attempt,
    require,
    run_tests,
)
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import (
    MetricValue,
    evaluate_features,
    evaluate_with_replicates,
)
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics.metric import Metric, all_metrics, use_plugins
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.file_plugins import places
from piflow_bench.settings import nested

NEEDS = ("generated", "reference", "spatial", "logits", "labels", "teacher", "prompts", "modes",
         "lpips")  # fmt: skip
ROLES = ("quality", "diversity", "agreement", "other")
NAME = re.compile(r"[a-z][a-z0-9_]*")
PLAIN = {"kid_subset_size": 100, "kid_subsets": 100, "mind_directions": 100, "is_splits": 5}
"""Settings for as few samples; those that are given come before."""
DIMENSIONS, CLASSES = 16, 4
SIZES = (200, 320)
REFERENCE = 240
SHIFT = 1.5
"""Of every coordinate, in standard deviations: the sample that is worse."""
NARROW = 0.01
"""Standard deviation of the sample that has collapsed."""
ROUNDING = 1e-6
"""Share of a value that sums in another order may differ by."""


def check_metric(name: str, arguments: Sequence[str]) -> list[CheckResult]:
    """Run the contract's tests on a metric.

    Args:
        name: the metric's name.
        arguments: settings of the metrics, ``plugins=``.

    Raises:
        UserError: for an unknown name or setting.
    """
    overrides, paths = split_paths(arguments)
    folders, given = places(paths.pop("plugins", None)), nested(overrides)
    for key in paths:
        raise UserError(f"{key}=: no setting of a metric")
    use_plugins(folders)
    make_settings(given)
    broken = _broken(name, folders)
    if broken is not None:
        return [broken]
    if name not in all_metrics():
        raise UserError(f"no metric is called '{name}'; {nearest(name, [*all_metrics()])}")
    metric = all_metrics()[name]
    source = (inspect.getsourcefile(metric.compute) or "") if metric.compute else ""
    return run_tests(_Metric(metric, {**PLAIN, **given}).tests(), source=source)


def _broken(name: str, folders: Sequence[str]) -> CheckResult | None:
    """Why there is no metric, where it is called as its file is and that cannot be loaded."""
    plugin = registry.find("metric", folders).get(name)
    if plugin is None or name in all_metrics():
        return None
    result = attempt("loads", lambda: plugin.load() and None)
    return None if result.status == "ok" else result


@dataclass(frozen=True)
class _Sample:
    """What a metric is computed from; rows of all arrays but the reference's are those of ``x``."""

    x: np.ndarray
    y: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    spatial: np.ndarray
    reference_spatial: np.ndarray
    scores: np.ndarray

    def taken(self, rows: np.ndarray, reference: np.ndarray | None = None) -> _Sample:
        """These rows, and these of the reference."""
        theirs = np.arange(len(self.y)) if reference is None else reference
        own = {n: getattr(self, n)[rows] for n in ("x", "logits", "labels", "spatial", "scores")}
        return _Sample(**own, y=self.y[theirs], reference_spatial=self.reference_spatial[theirs])

    def copy(self) -> _Sample:
        """The same in arrays of its own."""
        return self.taken(np.arange(len(self.x)))

    def same_as(self, other: _Sample) -> bool:
        """Whether all numbers are equal."""
        return all(np.array_equal(a, vars(other)[name]) for name, a in vars(self).items())


def _sample(n: int, shift: float = 0.0, width: float = 1.0) -> _Sample:
    """Samples of a normal distribution, and a reference of the standard one."""
    random = np.random.default_rng(n)
    x = random.normal(size=(n, DIMENSIONS)) * width + shift
    s = random.normal(size=(n, 3 * DIMENSIONS)) * width + shift
    theirs = np.random.default_rng(1)
    return _Sample(
        x,
        theirs.normal(size=(REFERENCE, DIMENSIONS)),
        3 * x @ np.random.default_rng(2).normal(size=(DIMENSIONS, 10)) / DIMENSIONS**0.5,
        np.arange(n) % CLASSES,
        s,
        theirs.normal(size=(REFERENCE, 3 * DIMENSIONS)),
        random.uniform(size=n),
    )


class _Metric:
    """A metric with the settings that it is computed with."""

    def __init__(self, metric: Metric, settings: Mapping[str, Any]) -> None:
        self.metric, self.settings = metric, settings
        self.spread = metric.name in {m.spread for m in all_metrics().values()}

    def tests(self) -> list[Test]:
        """Name, function and the tests that must have passed before, in order."""
        return [
            ("facts", self.facts, ()),
            ("value", self.value, ("facts",)),
            ("same again", self.again, ("value",)),
            ("inputs as they were", self.unchanged, ("value",)),
            ("range", self.range, ("value",)),
            ("order of rows", self.order, ("value", "same again")),
            ("replicates", self.replicates, ("value",)),
            ("without a block", self.left_out, ("value", "same again", "replicates")),
            ("direction", self.direction, ("value",)),
            ("collapse", self.collapse, ("value",)),
            ("evaluate_features", self.features, ("value", "same again")),
        ]

    def facts(self) -> str:
        """All that tables and pages say of it."""
        m = self.metric
        require(bool(NAME.fullmatch(m.name)), f"name is '{m.name}': a small letter, then a-z 0-9 _")
        require(bool(m.label.strip()), "label is empty: tables are headed by it")
        require(m.role in ROLES, f"role is '{m.role}': {nearest(m.role, list(ROLES))}")
        require(
            m.higher_is_better in (True, False, None)
            and (m.higher_is_better is not None or m.role == "other"),
            f"higher_is_better is {m.higher_is_better}: True or False of a metric of {m.role}",
        )
        require(bool(m.needs) and not isinstance(m.needs, str), "needs: a tuple of inputs")
        for need in m.needs:
            require(need in NEEDS, f"needs has '{need}'; {nearest(need, list(NEEDS))}")
        require(bool(m.summary), "meaning is empty, and compute() has no docstring")
        require(m.least < m.most, f"least={m.least} is not below most={m.most}")
        require(
            isinstance(m.version, int) and m.version > 0, f"version is {m.version}: 1, 2 and so on"
        )
        require(m.spread is None or m.spread in all_metrics(), f"spread: no metric is '{m.spread}'")
        return m.summary

    def value(self) -> str:
        """A finite number, of few and of more samples."""
        if self.metric.compute is None:
            raise Skip("it is measured elsewhere: it has no compute()")
        if "lpips" in self.metric.needs:
            raise Skip("it needs LPIPS distances between pictures")
        said = []
        for n in SIZES:
            value = self._value(_sample(n))
            require(bool(np.isfinite(value)), f"value of n={n} is {value}")
            said.append(f"n={n}: {value:.6g}")
        return ", ".join(said)

    def again(self) -> None:
        """Called again on equal features."""
        a, b = (self._scored(_sample(SIZES[0])) for _ in range(2))
        same = a.value == b.value and np.array_equal(a.replicates, b.replicates)
        require(same, f"{a.value!r} the first time, {b.value!r} the second: draws must be seeded")

    def unchanged(self) -> None:
        """Other metrics are computed from the same arrays."""
        given, kept = _sample(SIZES[0]), _sample(SIZES[0])
        self._scored(given)
        if not given.same_as(kept):
            names = [n for n, a in vars(given).items() if not np.array_equal(a, vars(kept)[n])]
            called = {"x": "generated features", "y": "reference features"}
            words = ", ".join(called.get(n, n) for n in names)
            raise Failure(f"compute() changes its inputs in place: {words}")

    def range(self) -> str:
        """No value beyond ``least`` and ``most``: good samples, bad ones, and few modes."""
        low, high = np.inf, -np.inf
        for shift, width in ((0, 1), (SHIFT, 1), (10, 1), (0, NARROW), (0, 10)):
            value = self._value(_sample(SIZES[0], shift, width))
            if np.isnan(value) and self.metric.optional:
                continue
            low, high = min(low, value), max(high, value)
            slack = ROUNDING * max(abs(value), 1)
            require(
                self.metric.least - slack <= value <= self.metric.most + slack,
                f"{value:.6g} for features of mean {shift} and deviation {width}: declared are "
                f"least={self.metric.least}, most={self.metric.most}",
            )
        return f"{low:.6g} to {high:.6g}"

    def order(self) -> str:
        """Sorted rows have the same value; that of drawn subsets within its interval."""
        sample, blocks = _sample(SIZES[0]), Design(SIZES[0]).blocks()
        before = self._scored(sample, blocks)
        rows, theirs = (np.argsort(each[:, 0], kind="stable") for each in (sample.x, sample.y))
        after = self._scored(sample.taken(rows, theirs), blocks[rows])
        off = abs(after.value - before.value)
        if off <= ROUNDING * max(abs(before.value), 1e-3):
            return ""
        if self.spread:
            raise Skip("it is the spread of a metric that draws rows")
        half = (before.ci_high - before.ci_low) / 2
        require(
            off <= half,
            f"{before.value:.6g}, and {after.value:.6g} where the same rows come in another order",
        )
        return f"draws rows: another order moves it by {off / half:.0%} of its half interval"

    def replicates(self) -> str:
        """One value without each block, finite, around the value."""
        blocks = Design(SIZES[0]).blocks()
        found, count = self._scored(_sample(SIZES[0]), blocks), int(blocks.max()) + 1
        if not found.replicates and (self.spread or self.metric.role == "other"):
            raise Skip("it has none, and no interval")
        require(
            len(found.replicates) == count,
            f"{len(found.replicates)} replicates of {count} blocks: one without each of them",
        )
        require(bool(np.isfinite(found.replicates).all()), "replicates are not finite")
        require(
            found.ci_low <= found.value <= found.ci_high,
            f"the interval {found.ci_low:.6g} to {found.ci_high:.6g} has no {found.value:.6g}",
        )
        return f"{count}, interval {found.ci_low:.6g} to {found.ci_high:.6g}"

    def left_out(self) -> None:
        """A replicate is the value of the samples without its block."""
        sample, blocks = _sample(SIZES[0]), Design(SIZES[0]).blocks()
        found = self._scored(sample, blocks)
        half = (found.ci_high - found.ci_low) / 2
        for b in (0, int(blocks.max())):
            alone = self._value(sample.taken(np.flatnonzero(blocks != b)))
            off = abs(alone - found.replicates[b])
            require(
                off <= max(half, ROUNDING * abs(alone)),
                f"replicate {b} is {found.replicates[b]:.6g}; without block {b} it is {alone:.6g}",
            )

    def direction(self) -> str:
        """Samples of the reference's distribution are no worse than shifted ones."""
        if self.metric.role != "quality" or not {"reference", "spatial"} & set(self.metric.needs):
            raise Skip("it tells no quality against a reference")
        good, bad = (self._value(_sample(SIZES[1], shift)) for shift in (0, SHIFT))
        slack = ROUNDING * max(abs(good), abs(bad))
        require(
            bad <= good + slack if self.metric.higher_is_better else good <= bad + slack,
            f"samples of the reference's distribution have {good:.6g}, shifted ones {bad:.6g}: "
            f"higher_is_better is {self.metric.higher_is_better}",
        )
        return f"{good:.6g}, shifted {bad:.6g}"

    def collapse(self) -> str:
        """Samples that are all alike are less diverse."""
        if self.metric.role != "diversity":
            raise Skip("it tells no diversity")
        good, bad = (self._value(_sample(SIZES[1], 1, width)) for width in (1, NARROW))
        require(
            bad < good if self.metric.higher_is_better else good < bad,
            f"samples of a normal distribution have {good:.6g}, samples that are all alike "
            f"{bad:.6g}: higher_is_better is {self.metric.higher_is_better}",
        )
        return f"{good:.6g}, collapsed {bad:.6g}"

    def features(self) -> None:
        """``piflow_bench.evaluate_features`` gives the same."""
        beyond = set(self.metric.needs) - {"generated", "reference", "logits", "labels"}
        if beyond:
            raise Skip(f"it needs {' and '.join(sorted(beyond))} beside features")
        sample = _sample(SIZES[0])
        table = evaluate_features(
            sample.x,
            sample.y if "reference" in self.metric.needs else None,
            [self.metric.name],
            generated_logits=sample.logits if "logits" in self.metric.needs else None,
            labels=sample.labels if "labels" in self.metric.needs else None,
            **self.settings,
        )
        found = table.set_index("metric")["value"][self.metric.name]
        value = self._value(_sample(SIZES[0]))
        require(abs(found - value) <= ROUNDING * abs(value), f"its table has {found}, not {value}")

    def _value(self, sample: _Sample) -> float:
        return self._scored(sample, intervals=False).value

    def _scored(
        self, sample: _Sample, blocks: np.ndarray | None = None, intervals: bool = True
    ) -> MetricValue:
        needs = set(self.metric.needs)
        extras = Extras(
            sample.logits if "logits" in needs else None,
            sample.labels if "labels" in needs else None,
            sample.spatial if "spatial" in needs else None,
            sample.reference_spatial if "spatial" in needs else None,
            {self.metric.name: sample.scores} if {"teacher", "prompts"} & needs else {},
        )
        try:
            found = evaluate_with_replicates(
                sample.x,
                sample.y if "reference" in needs else None,
                [self.metric.name],
                extras=extras,
                block_ids=blocks,
                **{**self.settings, "intervals": intervals},
            )
        except KeyError as error:
            if error.args != (self.metric.name,):
                raise
            raise Failure(f"compute() gives no value called '{self.metric.name}'") from error
        return next(each for each in found if each.metric == self.metric.name)
