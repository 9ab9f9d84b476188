"""The contract of a reward plugin as tests, on striped pictures or on a dataset that is given.

Every process of a training scores its own rows in batches of its own, and a training that goes on
loads its reward again: a picture's number must be its own, and the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from piflow_bench.conformance.dataset_suite import dataset_beside
from piflow_bench.conformance.plugin import (
    asked,
    check_identity,
    check_requirements,
    open_plugin,
)
from piflow_bench.conformance.results import (
    CheckResult,
    Failure,
    Skip,
    Test,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.reward import RewardPlugin, Score
from piflow_bench.contracts.space import Space
from piflow_bench.errors import UserError

BESIDE = ("dataset", "space")
SIDE, CLASSES, TRAIN, TEST = 16, 3, 90, 12
COUNT = 12
TOLERANCE = 1e-4
"""Of the spread of all scores: kernels of other batches add in another order."""


def check_reward(name: str, arguments: Sequence[str]) -> list[CheckResult]:
    """Run the contract's tests on a reward.

    Args:
        name: the reward's registered name.
        arguments: its settings, ``plugins=``, and ``dataset=NAME dataset.key=value`` of the data
            that it is tried on.

    Raises:
        UserError: for an unknown name or setting, and files that are missing.
    """
    which = asked("reward", name, arguments, BESIDE)
    opened = open_plugin(which)
    results = [opened.result]
    if opened.plugin is None:
        return results
    plugin, source = opened.plugin, opened.source
    dataset = dataset_beside(which) if "dataset" in which.beside else striped()
    loaded: list[Score] = []
    for test, function in (
        ("rule", partial(_rule, plugin)),
        ("requirements", lambda: check_requirements(plugin)),
        ("identity", lambda: check_identity(plugin)),
        ("load", partial(_load, plugin, dataset, loaded)),
    ):
        results.append(attempt_given(test, function, source))
    if loaded:
        results += run_tests(_Scores(plugin, dataset, loaded[0]).tests(), source=source)
    return results


def striped() -> Dataset:
    """Noisy stripes across, down and slanting, which are the classes."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    along = np.stack([y, x, x + y]) * (2 * np.pi / 5)
    random = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[torch.Tensor, Classes]:
        labels = torch.arange(count) % CLASSES
        phase = 6.28 * torch.rand(count, 1, 1, generator=random)
        waves = (torch.from_numpy(along).float()[labels] + phase).sin()
        grain = 0.3 * torch.randn(count, SIDE, SIDE, generator=random)
        return (0.7 * waves + grain).clamp(-1, 1)[:, None], Classes(labels, CLASSES)

    def look(samples: torch.Tensor) -> np.ndarray:
        pixels = ((samples.clamp(-1, 1) + 1) * 127.5).round().byte()
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    train, train_condition = drawn(TRAIN)
    test, test_condition = drawn(TEST)
    return Dataset(
        name="striped pictures",
        space=Space((1, SIDE, SIDE), look),
        train=train,
        train_condition=train_condition,
        test=test,
        test_condition=test_condition,
        conditions=lambda seed, rows: Classes(torch.tensor(list(rows)) % CLASSES, CLASSES),
        digest="striped",
    )


def _rule(plugin: RewardPlugin) -> str:
    require(
        isinstance(plugin.rule, str) and bool(plugin.rule), "rule is empty: say what its number is"
    )
    return plugin.rule


def _load(plugin: RewardPlugin, dataset: Dataset, loaded: list[Score]) -> str:
    if dataset.space.pictures is None:
        raise UserError(f"dataset: samples of {dataset.name} are points, rewards are of pictures")
    lack = plugin.lacks(dataset)
    require(
        lack is None or (isinstance(lack, str) and bool(lack)),
        f"lacks() gives {lack!r}: what the data have not, in words, or None",
    )
    if lack:
        raise Skip(f"needs {lack}, which {dataset.name} have not: dataset=NAME names others")
    score = plugin.load(dataset, Place())
    require(callable(score), f"load() gives {type(score).__name__}, not a function that scores")
    loaded.append(score)
    return f"of {dataset.name}"


class _Scores:
    """What a loaded reward says of pictures."""

    def __init__(self, plugin: RewardPlugin, dataset: Dataset, score: Score) -> None:
        self.plugin, self.dataset, self.score = plugin, dataset, score
        look = dataset.space.pictures
        assert look is not None
        rows = torch.arange(min(COUNT, len(dataset.held_out)))
        seen = look(dataset.held_out.take(rows, None))
        # Held-out pictures, and what a student makes that is not trained.
        noise = np.random.default_rng(0).integers(0, 256, seen.shape).astype(np.uint8)
        self.pictures = np.concatenate([seen, noise])
        known: Condition = dataset.test_condition[rows]
        self.condition = known.cat(known)

    def tests(self) -> list[Test]:
        """Name, function and the tests that must have passed before, in order."""
        return [
            ("scores", self.scores, ()),
            ("deterministic", self.deterministic, ("scores",)),
            ("alone and in a batch", self.alone, ("scores",)),
            ("held-out pictures", self.held_out, ("scores", "deterministic")),
        ]

    def scores(self) -> str:
        """A finite number for each picture, not one for all; the pictures stay as they are."""
        kept = self.pictures.copy()
        found = np.asarray(self.score(self.pictures, self.condition))
        require(np.array_equal(self.pictures, kept), "it changes the pictures that it is given")
        count = len(self.pictures)
        require(
            found.shape == (count,) and np.issubdtype(found.dtype, np.floating),
            f"{count} pictures have scores of {found.dtype} {found.shape}; numbers (b,) are needed",
        )
        bad = int((~np.isfinite(found)).sum())
        require(not bad, f"scores of {bad} of {count} pictures are not finite")
        self.found, self.spread = found, float(np.ptp(found))
        require(self.spread > 0, "all pictures have one score: there is nothing to please")
        return f"{found.min():.3g} to {found.max():.3g}"

    def deterministic(self) -> None:
        """The same to the bit again, and loaded by another process."""
        again = self.plugin.load(self.dataset, Place())
        for what, score in (("the same pictures twice", self.score), ("another load()", again)):
            found = np.asarray(score(self.pictures, self.condition))
            require(np.array_equal(found, self.found), f"scores differ: {what}")

    def alone(self) -> None:
        """A picture's score depends on no other of the batch."""
        found = [
            np.asarray(self.score(self.pictures[i : i + 1], self.condition[torch.tensor([i])]))
            for i in range(len(self.pictures))
        ]
        off = float(np.abs(np.concatenate(found) - self.found).max())
        if off > TOLERANCE * self.spread:
            raise Failure(
                f"scores differ by {off / self.spread:.1%} of their spread: alone and in a batch"
            )

    def held_out(self) -> None:
        """It learns nothing from pictures that evaluate."""
        other = replace(self.dataset, test=-self.dataset.test)
        found = np.asarray(self.plugin.load(other, Place())(self.pictures, self.condition))
        require(
            np.array_equal(found, self.found),
            "other held-out pictures give other scores: it may learn from training data alone",
        )
