"""Precision, recall, density, coverage, AuthPct and their replicates against brute force."""

import numpy as np
import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.pairs import tiles
from piflow_bench.evaluation.pairs.passes import squared_radii

NAMES = ["precision", "recall", "density", "coverage"]


def score(name, x, y, k=3, comparator="le"):
    (found,) = evaluate_with_replicates(x, y, [name], k=k, comparator=comparator, intervals=False)
    return found.value


def knn_radii(x, k):
    return np.sqrt(squared_radii(torch.from_numpy(x), k).numpy())


@pytest.fixture(params=["float64 strips", "float32 strips"], autouse=True)
def strips(request, monkeypatch):
    if request.param == "float32 strips":
        monkeypatch.setattr(tiles, "_FLOAT64_PAIRS", 0)


def exact(x, y):
    return np.array([((row - y) ** 2).sum(1) for row in x])


def brute(x, y, k, comparator):
    def radii(z):
        d = exact(z, z)
        np.fill_diagonal(d, np.inf)
        return np.sort(d, axis=1)[:, k - 1]

    def within(d, r):
        return d <= r if comparator == "le" else d < r

    cross = exact(x, y)
    real = within(cross, radii(y)[None])
    return {
        "precision": real.any(1).mean(),
        "recall": within(cross, radii(x)[:, None]).any(0).mean(),
        "density": real.sum() / (k * len(x)),
        "coverage": real.any(0).mean(),
    }


def brute_auth(x, y):
    own = exact(y, y)
    np.fill_diagonal(own, np.inf)
    cross = exact(x, y)
    return 100 * np.mean(cross.min(1) > own.min(1)[cross.argmin(1)])


def normal(r, n, shift=0.0):
    return r.normal(shift, 1.0, (n, 5))


def clusters(r, n, shift=0.0):
    """Clusters that are blocks but for 2 points: all their neighbours leave with one block."""
    x = np.repeat(np.arange(4), n // 4)[:, None] * 9.0 + r.normal(shift, 0.5, (n, 2))
    return np.roll(x, 2, axis=0)


def grid(r, n, shift=0.0):
    return r.integers(0, 4, (n, 2)) + float(shift)


def collapsed(r, n, shift=0.0):
    """Half of the points are copies of one: radii of 0 and ties everywhere."""
    x = r.normal(shift, 1.0, (n, 3))
    x[: n // 2] = x[0]
    return x


def outliers(r, n, shift=0.0):
    x = r.normal(shift, 0.01, (n, 3))
    x[::10] *= 1e4
    return x


SHAPES = [normal, clusters, grid, collapsed, outliers]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("comparator", ["le", "lt"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_values_and_replicates_equal_brute_force(shape, comparator, k):
    r = np.random.default_rng(0)
    x, y = shape(r, 80, 0.4 if shape is not grid else 0), shape(r, 100)
    blocks = np.arange(80) * 4 // 80
    settings = {"k": k, "comparator": comparator, "block_ids": blocks, "block": 17}
    found = {m.metric: m for m in evaluate_with_replicates(x, y, NAMES, **settings)}
    expected = brute(x, y, k, comparator)
    left = [brute(x[blocks != b], y, k, comparator) for b in range(4)]
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        np.testing.assert_allclose(
            found[name].replicates, [each[name] for each in left], atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_authpct_equals_brute_force(shape):
    r = np.random.default_rng(1)
    x, y = shape(r, 60, 0.3), shape(r, 100)
    blocks = np.arange(60) % 5
    (found,) = evaluate_with_replicates(x, y, ["authpct"], block_ids=blocks)
    assert found.value == pytest.approx(brute_auth(x, y))
    np.testing.assert_allclose(
        found.replicates, [brute_auth(x[blocks != b], y) for b in range(5)], atol=1e-10
    )


def test_golden(golden):
    v, one_gen, one_ref = golden.values, 1 / 500 + 1e-6, 1 / 600 + 1e-6
    x, y = golden.gen, golden.ref
    assert score("precision", x, y, 3, "le") == pytest.approx(v["precision_k3"], abs=one_gen)
    assert score("recall", x, y, 3, "le") == pytest.approx(v["recall_k3"], abs=one_ref)
    assert score("precision", x, y, 5, "lt") == pytest.approx(v["precision_prdc_k5"], abs=one_gen)
    assert score("recall", x, y, 5, "lt") == pytest.approx(v["recall_prdc_k5"], abs=one_ref)
    assert score("density", x, y, 5, "lt") == pytest.approx(v["density_prdc_k5"], abs=one_gen)
    assert score("coverage", x, y, 5, "lt") == pytest.approx(v["coverage_prdc_k5"], abs=one_ref)
    assert score("authpct", x, y) == pytest.approx(v["authpct_train_is_ref"], abs=100 * one_gen)


def test_precision_and_recall_equal_torch_fidelity():
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    r = np.random.default_rng(8)
    x, y = r.normal(0.5, 1, (90, 6)), r.normal(size=(120, 6))
    theirs = metric.prc_features_to_metric(
        torch.tensor(x),
        torch.tensor(y),
        prc_neighborhood=3,
        prc_batch_size=1000,
        save_cpu_ram=False,
        verbose=False,
    )
    assert score("precision", x, y) == pytest.approx(theirs["precision"], abs=1e-6)
    assert score("recall", x, y) == pytest.approx(theirs["recall"], abs=1e-6)


def test_radii():
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(knn_radii(x, 1), [1, 1, 2, 4])
    np.testing.assert_array_equal(knn_radii(x, 2), [3, 2, 3, 6])
    with pytest.raises(ValueError, match="4 neighbours of 3 points"):
        knn_radii(x, 4)


def test_duplicates():
    """Copies of one point: balls of radius 0 hold it under <=, and nothing under <."""
    x = np.ones((10, 2))
    assert score("precision", x, x, comparator="le") == score("recall", x, x, comparator="le") == 1
    assert score("coverage", x, x, comparator="lt") == score("density", x, x, comparator="lt") == 0
    assert (knn_radii(x, 3) == 0).all()


def test_identical_sets():
    x = np.random.default_rng(2).normal(size=(50, 3))
    assert score("precision", x, x) == score("recall", x, x) == score("coverage", x, x) == 1
    assert score("authpct", x, x) == 0
    assert score("density", x, x, 3, "le") > 1
    twice = np.repeat(x, 2, axis=0)
    assert score("authpct", twice, twice) == 0


def test_disjoint_sets():
    x = np.random.default_rng(2).normal(size=(50, 3))
    assert (
        score("precision", x, x + 99)
        == score("recall", x, x + 99)
        == score("density", x, x + 99)
        == 0
    )
    assert score("authpct", x, x + 99) == 100


def test_comparator_is_checked():
    with pytest.raises(UserError, match="comparator=ge: must be le or lt"):
        score("precision", np.zeros((9, 1)), np.zeros((9, 1)), 3, "ge")


def test_order_of_samples_does_not_matter():
    r = np.random.default_rng(3)
    x, y = normal(r, 40, 0.5), normal(r, 60)
    for name in (*NAMES, "authpct"):
        assert score(name, x[::-1], y[::-1]) == pytest.approx(score(name, x, y))
