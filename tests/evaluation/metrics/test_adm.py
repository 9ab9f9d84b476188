"""The ADM protocol's own rules, each on a small fixture: neighbours, order, layout, reference."""

import numpy as np
import pytest
import torch

from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.metrics import adm
from piflow_bench.evaluation.protocols import load_protocol
from piflow_bench.evaluation.subsets import subset

RNG = np.random.default_rng(4)
# Of the scale of Inception's pooled features, whose squared lengths are some hundreds.
X = np.abs(RNG.normal(0.45, 0.4, (80, 300))).astype(np.float32)
Y = np.abs(RNG.normal(0.4, 0.45, (120, 300))).astype(np.float32)
BLOCKS = np.arange(80) * 8 // 80


def half_distances(u, v):
    """The evaluator's formula with numpy's float16, entry by entry; products summed in float32."""
    u, v = u.astype(np.float16), v.astype(np.float16)
    norms = [np.float16((x * x).astype(np.float32).sum(1)) for x in (u, v)]
    inner = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
    difference = norms[0][:, None] - np.float16(2) * inner
    assert difference.dtype == np.float16
    return np.maximum(difference + norms[1][None, :], np.float16(0)).astype(np.float32)


def brute_force(x, y, k):
    """ADM's manifold estimate: radii by partition, the point itself counted, then `<=`."""
    cross = half_distances(y, x)
    of_x, of_y = (np.sort(half_distances(z, z), axis=1)[:, k] for z in (x, y))
    return (cross <= of_y[:, None]).any(0).mean(), (cross <= of_x[None, :]).any(1).mean()


def test_distances_round_every_operation_to_half():
    """Sums of squares differ in the order of addition alone, which a half rarely shows."""
    ours = adm.half_squared(torch.from_numpy(X), torch.from_numpy(Y)).numpy()
    theirs = half_distances(X, Y)
    spacing = np.spacing(np.float16((X * X).sum(1).max()))
    assert np.mean(ours == theirs) > 0.99 and np.abs(ours - theirs).max() <= 2 * spacing
    exact = ((X[:, None].astype(np.float64) - Y[None]) ** 2).sum(-1)
    assert np.abs(ours - exact).max() > spacing / 2, "the rounding is there to be seen"


def test_what_does_not_fit_a_half_is_taken_in_float32():
    x, y = torch.from_numpy(60 * X), torch.from_numpy(60 * Y)
    exact = (x[:, None].double() - y[None].double()).square().sum(-1)
    assert torch.allclose(adm.half_squared(x, y).double(), exact, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("height", [None, 7])
def test_precision_and_recall_equal_brute_force(k, height):
    # The shift leaves shares away from 0 and 1.
    found = adm.precision_recall(torch.from_numpy(X), torch.from_numpy(Y), BLOCKS, k, height=height)
    values = (found["precision"].value, found["recall"].value)
    assert values == pytest.approx(brute_force(X, Y, k), abs=1 / 80)
    assert all(0.02 < value < 0.98 for value in values)


def test_replicates_equal_recomputation_without_the_block():
    few = np.repeat([0, 1], [70, 10])  # One block holds most neighbours: radii are searched anew.
    for blocks in (BLOCKS, few, RNG.permutation(BLOCKS)):
        found = adm.precision_recall(torch.from_numpy(X), torch.from_numpy(Y), blocks)
        for b in range(blocks.max() + 1):
            rest = X[blocks != b]
            one = np.zeros(len(rest), int)
            again = adm.precision_recall(torch.from_numpy(rest), torch.from_numpy(Y), one)
            for name in ("precision", "recall"):
                assert found[name].replicates[b] == pytest.approx(again[name].value)


def protocol_scores(metrics, **changes):
    settings = load_protocol("adm-imagenet256").settings | changes
    logits = RNG.normal(size=(80, 5))
    rows = evaluate_with_replicates(
        X, Y, metrics, generated_logits=logits, block_ids=BLOCKS, **settings
    )
    return {row.metric: row for row in rows}


def test_the_protocol_takes_its_distances_and_its_reference_rule():
    """10,000 reference images have balls, however many the statistics are of."""
    settings = load_protocol("adm-imagenet256").settings
    assert settings["neighbour_precision"] == "float16"
    assert settings["neighbour_reference"] == 10_000
    half = protocol_scores(["precision", "recall", "density"], neighbour_reference=50)
    expected = adm.precision_recall(
        torch.from_numpy(X), torch.from_numpy(Y[subset(len(Y), 50)]), BLOCKS
    )
    for name in ("precision", "recall"):
        assert half[name].value == expected[name].value
        assert np.array_equal(half[name].replicates, expected[name].replicates)
        assert half[name].ci_low < half[name].value < half[name].ci_high
    exact = protocol_scores(["density"], neighbour_precision="float64", neighbour_reference=50)
    assert half["density"] == exact["density"], "ADM has no density: it stays exact"
    swapped = protocol_scores(["density", "recall", "precision"], neighbour_reference=50)
    assert swapped == half, "in any order"


def test_coverage_is_at_equal_n_and_adms_own_metrics_see_all_samples():
    names = ["precision", "recall", "coverage"]
    found = protocol_scores(names, neighbour_samples=30)
    whole = protocol_scores(names)
    assert (found["precision"], found["recall"]) == (whole["precision"], whole["recall"])
    for scores, n in ((found, 30), (whole, 80)):
        equal = evaluate_with_replicates(X[subset(80, n)], Y[subset(120, n)], ["coverage"])
        assert scores["coverage"].value == equal[0].value and scores["coverage"].n == n


def test_inception_score_takes_samples_as_they_come():
    """Ten runs of the samples in order: sorted by class they score 1, however varied the whole."""
    protocol = load_protocol("adm-imagenet256")
    assert protocol.samples == 50_000 and protocol.settings["is_splits"] == 10
    logits = 9.0 * np.eye(10)[np.arange(200) // 20]

    def score(**changes):
        return evaluate_with_replicates(
            np.zeros((200, 1)), None, ["is"], generated_logits=logits,
            **protocol.settings | changes,
        )[0].value  # fmt: skip

    chunks = logits.reshape(10, 20, 10)
    p = np.exp(chunks) / np.exp(chunks).sum(-1, keepdims=True)
    by_hand = np.exp((p * np.log(p / p.mean(1, keepdims=True))).sum(-1).mean(-1)).mean()
    assert score() == pytest.approx(by_hand) == pytest.approx(1.0)
    assert score(is_shuffle=True) > 5
