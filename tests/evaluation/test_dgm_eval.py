"""dgm-eval's neighbours through the protocol of its name: equally many rows of both sides."""

import numpy as np
import pytest

from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.protocols import load_protocol
from piflow_bench.evaluation.subsets import subset

NAMES = ["precision", "recall", "density", "coverage"]
RNG = np.random.default_rng(5)


def distances(a, b):
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def prdc(real, fake, k):
    """Precision, recall, density and coverage by their definitions, strict comparison."""
    near = lambda x: np.sort(distances(x, x), axis=1)[:, k]  # noqa: E731
    real_radii, fake_radii, across = near(real), near(fake), distances(real, fake)
    inside = across < real_radii[:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (across < fake_radii[None]).any(1).mean(),
        "density": inside.sum(0).mean() / k,
        "coverage": (across.min(1) < real_radii).mean(),
    }


def scores(x, y, **changes):
    settings = load_protocol("dgm-eval").settings | changes
    return {row.metric: row for row in evaluate_with_replicates(x, y, NAMES, **settings)}


@pytest.mark.parametrize(
    ("n", "m", "most", "used"), [(150, 210, 60, 60), (150, 40, 60, 40), (30, 90, 60, 30)]
)
def test_both_sides_are_reduced_to_equally_many_rows(n, m, most, used):
    x, y = RNG.normal(0.2, 1, (n, 5)), RNG.normal(size=(m, 5))
    found = scores(x, y, neighbour_samples=most)
    expected = prdc(y[subset(m, used)], x[subset(n, used)], 5)
    for name in NAMES:
        assert found[name].value == pytest.approx(expected[name], rel=1e-12)
        assert found[name].n == used
        assert found[name].ci_low <= found[name].value <= found[name].ci_high
    if used < n:
        whole = scores(x, y, neighbour_samples=None)
        assert any(whole[name].value != found[name].value for name in NAMES)


def test_the_draw_keeps_the_shares_of_classes():
    labels = np.repeat([0, 1], [900, 100])
    x = RNG.normal(size=(1000, 3)) + 50 * labels[:, None]
    y = RNG.normal(size=(1000, 3))
    settings = load_protocol("dgm-eval").settings | dict(neighbour_samples=200)
    (row,) = evaluate_with_replicates(x, y, ["precision"], labels=labels, **settings)
    assert row.value <= 0.9 and row.value > 0.75


def test_the_protocol_is_its_own():
    protocol = load_protocol("dgm-eval")
    assert protocol.settings["neighbour_samples"] == 10_000 and protocol.settings["k"] == 5
    assert "vendi" not in protocol.metrics, "dgm-eval's is the mean over classes"
    for name in ("default", "digits", "torch-fidelity", "clean-fid", "adm-imagenet256"):
        assert not {"cmmd", "authpct"} & set(load_protocol(name).metrics)
