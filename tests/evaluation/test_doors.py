"""One set of samples, scored as files, as features and in a run: the same bits."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import piflow_bench
from piflow_bench.evaluation import score
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.extractors.extractor import Extractor
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.subsets import subset

CLASSES, N, M = 5, 100, 150
METRICS = ["fd", "kid", "kid_exact", "energy_distance", "vendi", "coverage", "pairwise_within"]
SUBSETS = {"kid_subsets": 4, "kid_subset_size": 40}
COLUMNS = ["metric", "value", "ci_low", "ci_high", "n", "estimator"]


@pytest.fixture(autouse=True)
def means_of_channels(monkeypatch):
    """An extractor of 12 features: the means of channels over four quarters of an image."""

    def prepare(images):
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255

    def network(x):
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return {"features": pooled, "logits": 20 * pooled[:, :4]}

    loaded = Extractor("means", "0" * 64, "", ("features", "logits"), prepare, network, "cpu")
    monkeypatch.setattr(score, "get_extractor", lambda *recipe: loaded)


def pictures(labels, seed):
    """Images whose colours tell their class."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(0).uniform(60, 190, (CLASSES, 1, 1, 3))
    return (
        (colours[labels] + 25 * rng.normal(size=(len(labels), 8, 8, 3))).clip(0, 255).astype("u1")
    )


def folder(path, images, labels):
    """A folder of class folders, whose files are named by their place."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (path / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"class {label}" / f"{i:04d}.png")
    return path


def features(images):
    return score.get_extractor()(images)["features"]


@pytest.mark.parametrize("design", ["balanced", "drawn"])
def test_files_arrays_and_features_give_the_same_bits(design, tmp_path):
    rng = np.random.default_rng(3)
    labels, others = np.arange(N) * CLASSES // N, np.arange(M) * CLASSES // M
    if design == "drawn":
        labels, others = np.sort(rng.integers(CLASSES, size=N)), rng.integers(CLASSES, size=M)
    x, y = pictures(labels, 1), pictures(others, 2)
    np.savez(tmp_path / "x.npz", arr_0=x, arr_1=labels)
    np.savez(tmp_path / "y.npz", arr_0=y, arr_1=others)
    direct = piflow_bench.evaluate_features(
        features(x), features(y), METRICS, labels=labels, reference_labels=others, **SUBSETS
    )
    for samples, given in (
        (folder(tmp_path / "x", x, labels), {}), (tmp_path / "x.npz", {}), (x, {"labels": labels})
    ):  # fmt: skip
        found = piflow_bench.evaluate(
            samples, tmp_path / "y.npz", metrics=METRICS, cache=tmp_path / "c", **given, **SUBSETS
        )
        pd.testing.assert_frame_equal(found[COLUMNS], direct[COLUMNS], check_exact=True)
    how = {"balanced": "stratified by 5 classes", "drawn": "U-statistic"}[design]
    pairs = direct[direct.metric.isin(["kid", "kid_exact", "energy_distance"])]
    assert set(pairs["estimator"]) == {how}


@pytest.mark.parametrize("design", ["balanced", "drawn"])
@pytest.mark.parametrize("n", [60, N])
def test_n_of_samples_are_scored_by_how_they_were_taken(design, n, tmp_path):
    """A part keeps the shares of classes in all, whose own law decides what is chance in them."""
    labels = np.random.default_rng(3).choice(CLASSES, N, p=[0.35, 0.3, 0.2, 0.1, 0.05])
    labels = np.arange(N) % CLASSES if design == "balanced" else labels
    x, y, others = pictures(labels, 1), pictures(np.arange(M) % CLASSES, 2), np.arange(M) % CLASSES
    np.savez(tmp_path / "y.npz", arr_0=y, arr_1=others)
    places = subset(N, n, labels)
    direct = evaluate_with_replicates(
        features(x[places]), features(y), METRICS, reference_labels=others,
        extras=Extras(labels=labels[places], design=Design.part(places, labels)), **SUBSETS,
    )  # fmt: skip
    found = piflow_bench.evaluate(
        x, tmp_path / "y.npz", metrics=METRICS, labels=labels, n=n, cache=tmp_path / "c", **SUBSETS
    )
    for name in ("value", "ci_low", "ci_high", "estimator"):
        np.testing.assert_array_equal(found[name], [getattr(each, name) for each in direct])
    pairs = found[found.metric.isin(["kid_exact", "energy_distance"])]
    decided = design == "balanced" or n < N
    how = "stratified by 5 classes"
    assert set(pairs["estimator"]) == {
        how if decided else f"samples not stratified, reference {how}"
    }


def test_laws_of_labels_part_what_they_change_alone(tmp_path):
    """Files without classes, with drawn and with balanced ones: one protocol, pairs told apart."""
    labels = np.arange(N) % CLASSES
    x, y = pictures(labels, 1), pictures(np.arange(M) % CLASSES, 2)
    drawn = np.random.default_rng(3).integers(CLASSES, size=N)
    tables = [
        piflow_bench.evaluate(x, y, metrics=METRICS[:-1], labels=each, cache=tmp_path, **SUBSETS)
        for each in (None, labels, drawn)
    ]
    assert len({table.protocol_hash[0] for table in tables}) == 1
    estimators = pd.concat(tables).groupby("metric")["estimator"].nunique()
    assert set(estimators[estimators > 1].index) == {
        "kid", "kid_std", "kid_exact", "energy_distance"
    }  # fmt: skip


def test_sorted_samples_have_the_intervals_of_mixed_ones(tmp_path):
    """A folder of class folders is read class by class: its intervals were ten times too wide."""
    labels = np.arange(N) % CLASSES
    x, y = pictures(labels, 1), pictures(np.arange(M) % CLASSES, 2)
    order = np.argsort(labels, kind="stable")
    widths = {}
    for name, rows in (("mixed", np.arange(N)), ("sorted", order)):
        np.savez(tmp_path / f"{name}.npz", arr_0=x[rows], arr_1=labels[rows])
        found = piflow_bench.evaluate(
            tmp_path / f"{name}.npz", y, metrics=["fd", "kid_exact", "vendi"], cache=tmp_path / "c"
        )
        widths[name] = (found.ci_high - found.ci_low).to_numpy()
    # Other blocks of 5 samples: chance makes them differ by some tens of per cent.
    ratios = widths["sorted"] / widths["mixed"]
    assert (ratios > 0.5).all() and (ratios < 2).all()


def test_an_inception_score_in_the_order_given_says_so_where_samples_come_sorted(tmp_path):
    """ADM's value stays. The classes are those that the logits tell: files need not state them."""

    def told(images, protocol):
        found = piflow_bench.evaluate(
            images, None, protocol, metrics=["is"], n=N, cache=tmp_path, is_splits=5
        ).iloc[0]
        return found["value"], found["warnings"]

    rng = np.random.default_rng(0)
    labels = np.arange(N) % 4
    images = rng.integers(0, 3, size=(N, 8, 8, 3)).astype("u1")
    # The first four features, which stand for logits here, are of the red channel's quarters.
    for i, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        images[i, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4, 0] = 250
    mixed, warning = told(images, "adm-imagenet256")
    assert "sorted" not in warning
    order = np.argsort(labels, kind="stable")
    value, warning = told(images[order], "adm-imagenet256")
    assert value < 0.6 * mixed
    assert "samples come sorted by class and the Inception score takes them in the order" in warning
    assert f"{value:.3g}; in a mixed order" in warning
    assert "sorted" not in told(images[order], "torch-fidelity")[1]
