"""Whether the labels of samples follow the law that a dataset states."""

from __future__ import annotations

import torch
from torch import Tensor

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset

SAMPLES = 2000
"""Labels that are looked at, of one seed; of many classes three of each."""
MOST = 20_000
RARE = 1e-6
"""Chance of what is found, below which the law is not believed."""


def against_law(dataset: Dataset, law: str) -> str:
    """What speaks against a law ("balanced", "uniform", "as data"); empty where nothing does.

    Balanced labels are held to every first n. Drawn ones are tested: their counts by Pearson's
    chi-squared, of uniform ones both ends of it (counts that are too even were not drawn), and how
    often a label repeats the one before it.
    """
    count = dataset.train_condition.count  # type: ignore[attr-defined]
    n = min(max(SAMPLES, 3 * count), MOST)
    given = dataset.conditions(0, range(n))
    assert isinstance(given, Classes)
    if law == "balanced":
        return _uneven(given.labels, count)
    if law == "uniform":
        return _not_uniform(given.labels, count)
    assert isinstance(dataset.train_condition, Classes)
    return _not_alike(given.labels, dataset.train_condition.labels, count)


def _uneven(labels: Tensor, count: int) -> str:
    counts = torch.nn.functional.one_hot(labels, count).cumsum(0)
    spread = counts.amax(1) - counts.amin(1)
    bad = (spread > 1).nonzero()
    if not len(bad):
        return ""
    n = int(bad[0]) + 1
    least, most = int(counts[n - 1].min()), int(counts[n - 1].max())
    return (
        f"label_law is 'balanced', but of the first {n} labels one class has {most} and another "
        f"{least}"
    )


def _not_uniform(labels: Tensor, count: int) -> str:
    from scipy.stats import binomtest, chi2

    if count < 2:
        return ""
    n = len(labels)
    expected = n / count
    statistic = float(
        (torch.bincount(labels, minlength=count) - expected).square().sum() / expected
    )
    if chi2.sf(statistic, count - 1) < RARE:
        return f"label_law is 'uniform', but of {n} labels the classes have very different numbers"
    repeats = int((labels[1:] == labels[:-1]).sum())
    even = chi2.cdf(statistic, count - 1) < RARE
    if even or binomtest(repeats, n - 1, 1 / count).pvalue < RARE:
        return (
            f"label_law is 'uniform', but of {n} labels {repeats} repeat the one before, "
            f"{(n - 1) / count:.0f} would if each were drawn for itself"
        )
    return ""


def _not_alike(labels: Tensor, data: Tensor, count: int) -> str:
    from scipy.stats import chi2

    a, b = (torch.bincount(y, minlength=count).double() for y in (labels, data))
    only = (a > 0) & (b == 0)
    if only.any():
        return f"label_law is 'as data', but the data have no class {int(only.nonzero()[0])}"
    n, m = len(labels), len(data)
    seen = (a + b) > 0
    a, b = a[seen], b[seen]
    statistic = float(((m / n) ** 0.5 * a - (n / m) ** 0.5 * b).square().div(a + b).sum())
    if chi2.sf(statistic, max(len(a) - 1, 1)) < RARE:
        return "label_law is 'as data', but the classes have other shares than in the training set"
    return ""
