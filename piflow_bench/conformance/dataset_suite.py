"""The contract of a dataset plugin as tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from piflow_bench.conformance.dataset import GROUPS, LOOK, dataset_findings
from piflow_bench.conformance.labels import against_law
from piflow_bench.conformance.pictures import check_pictures
from piflow_bench.conformance.plugin import (
    Asked,
    asked,
    check_identity,
    check_requirements,
    open_plugin,
)
from piflow_bench.conformance.results import (
    FAILED,
    OK,
    CheckResult,
    Failure,
    Skip,
    Test,
    attempt,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.contracts.condition import Classes, Prompts
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.errors import UserError
from piflow_bench.laws import BY_PROMPT
from piflow_bench.randomness import TrainingRandom

MOST = 50_000
"""Training rows that held-out ones are sought among."""
REPEATED = 0.01
"""Share of held-out rows that may equal a training row: small pictures of few levels do."""


def check_dataset(name: str, arguments: list[str]) -> list[CheckResult]:
    """Run the contract's tests on a dataset, in its own space or the one given.

    Args:
        name: the dataset's registered name.
        arguments: its settings, ``space=NAME``, ``space.key=value``, ``plugins=``.

    Raises:
        UserError: for unknown names and settings, and files that are missing.
    """
    which = asked("dataset", name, arguments, ("space",))
    opened = open_plugin(which)
    results = [opened.result]
    if opened.plugin is None:
        return results
    plugin, source = opened.plugin, opened.source
    for test, check in (("requirements", check_requirements), ("identity", check_identity)):
        results.append(attempt_given(test, lambda check=check: check(plugin), source))  # type: ignore[misc]
    loaded: list[Dataset] = []

    def load() -> str:
        dataset = plugin.load(space_of(which, plugin), Place())
        require(
            isinstance(dataset, Dataset), f"load() gives {type(dataset).__name__}, not a Dataset"
        )
        loaded.append(dataset)
        shape = "x".join(map(str, dataset.shape))
        return f"{len(dataset.training_rows)} samples of {shape}, {len(dataset.test)} held out"

    results.append(attempt_given("load", load, source))
    if results[-1].status != OK:
        return results
    (dataset,) = loaded
    results.append(attempt("digest", lambda: _digest(dataset, plugin, which), source))
    results += _findings(dataset, source)
    return results + run_tests(_tests(dataset), source=source)


def space_of(which: Asked, plugin: DatasetPlugin) -> SpacePlugin:
    """The space that is given beside a dataset, else its own."""
    beside = {"name": plugin.space, **which.beside.get("space", {})}
    made: SpacePlugin = Asked("", "", {}, {"space": beside}, which.folders).plugin_beside("space")
    return made


def dataset_beside(which: Asked) -> Dataset:
    """The dataset that is given beside a plugin, in the space that is, or in its own."""
    plugin = which.plugin_beside("dataset")
    dataset: Dataset = plugin.load(space_of(which, plugin), Place())
    return dataset


def _findings(dataset: Dataset, source: str) -> Iterator[CheckResult]:
    """Results of the looks that every run takes, of each group one a line."""
    found: dict[str, list[str]] = {}
    looked = attempt("samples", lambda: found.update(dataset_findings(dataset)), source)
    if looked.status == FAILED:
        yield looked
        return
    for group in GROUPS:
        yield from (CheckResult(group, FAILED, line) for line in found[group])
        if not found[group]:
            yield CheckResult(group, OK)


def _tests(dataset: Dataset) -> list[Test]:
    return [
        ("rows without draws", lambda: _plain_rows(dataset), ()),
        ("rows with draws", lambda: _drawn_rows(dataset), ("rows without draws",)),
        ("label law", lambda: _label_law(dataset), ()),
        ("held-out rows", lambda: _held_out(dataset), ("rows without draws",)),
        ("pictures", lambda: _pictures(dataset), ("rows without draws",)),
    ]


def _digest(dataset: Dataset, plugin: DatasetPlugin, which: Asked) -> str:
    """There is one, and another load has the same."""
    require(
        isinstance(dataset.digest, str) and bool(dataset.digest),
        f"digest is {dataset.digest!r}: a sha256 of the data is needed, by which results are kept",
    )
    try:
        again = plugin.load(space_of(which, plugin), Place()).digest
    except UserError as error:
        raise Failure(f"load() fails the second time: {error}") from error
    require(again == dataset.digest, "two loads have other digests: results would never be found")
    return dataset.digest[:12]


def _some(dataset: Dataset, n: int) -> Tensor:
    """Indices of training rows, evenly spread."""
    count = len(dataset.training_rows)
    return torch.linspace(0, count - 1, min(n, count)).round().long()


def _plain_rows(dataset: Dataset) -> None:
    """Without draws the same rows always, whatever is taken beside them."""
    if not len(dataset.training_rows):
        raise Skip("prompts alone")
    rows, take = _some(dataset, 8), dataset.training_rows.take
    whole = take(rows, None)
    require(
        torch.equal(whole, take(rows, None)),
        "take() without `random` gives other samples when called again: draws come from `random`",
    )
    part = take(rows[3:], None)
    require(
        torch.equal(whole[3:], part), "take() depends on what is taken beside a row: batches differ"
    )
    mixed = take(rows.flip(0), None).flip(0)
    require(torch.equal(whole, mixed), "take() does not give the rows in the order asked for")


def _drawn_rows(dataset: Dataset) -> str:
    """With draws they depend on seed, step and row of the batch alone."""
    rows, take = _some(dataset, 8), dataset.training_rows.take
    n = len(rows)

    def drawn(first: int, step: int = 3) -> Tensor:
        return take(rows[first:], TrainingRandom(5, step, first, n - first))

    whole = drawn(0)
    require(
        whole.shape == take(rows, None).shape,
        f"take() gives {tuple(whole.shape)} with draws, {tuple(take(rows, None).shape)} without",
    )
    require(
        torch.equal(whole, drawn(0)),
        "take() gives other samples for one seed, step and rows: draws come from `random` alone",
    )
    require(
        torch.equal(whole[n // 2 :], drawn(n // 2)),
        "take() with draws depends on the batch a row is in: a batch that is divided differs",
    )
    return "" if torch.equal(whole, take(rows, None)) else "views or noise are drawn"


def _label_law(dataset: Dataset) -> str:
    """Conditions of samples follow the law that is stated."""
    law, classes = dataset.label_law, isinstance(dataset.train_condition, Classes)
    if isinstance(dataset.train_condition, Prompts):
        require(law == BY_PROMPT, f"label_law is '{law}'; of prompts it is '{BY_PROMPT}'")
        return BY_PROMPT
    require(
        classes or law is None,
        f"label_law is '{law}', but the conditions are {type(dataset.train_condition).__name__}",
    )
    if not classes:
        raise Skip("no labels")
    if law is None:
        raise Skip("label_law is not stated: intervals take the least they can know")
    problem = against_law(dataset, law)
    require(not problem, problem)
    return law


def _held_out(dataset: Dataset) -> str:
    """They are not rows of the training set."""
    if dataset.reference is not None or not len(dataset.test):
        raise Skip("the reference is a file")
    rows = _some(dataset, MOST)
    known = set()
    for part in rows.split(LOOK * 8):
        known |= set(_bytes(dataset.training_rows.take(part, None)))
    repeated = sum(row in known for row in _bytes(dataset.test))
    words = f"{repeated} of {len(dataset.test)} equal a training row"
    require(repeated <= REPEATED * len(dataset.test), f"{words}: the data question would be void")
    return words if repeated else ""


def _bytes(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(x.float().cpu().numpy())]


def _pictures(dataset: Dataset) -> str:
    """Real samples can be looked at."""
    if dataset.space.pictures is None:
        raise Skip("points: nothing to look at")
    x = dataset.training_rows.take(_some(dataset, 8), None)
    return check_pictures(dataset.space.pictures, x)
