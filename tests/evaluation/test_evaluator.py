"""Scores of images that come batch by batch."""

import numpy as np
import pytest
import torch

import piflow_bench
from piflow_bench.errors import UserError
from piflow_bench.evaluation import evaluator, score
from piflow_bench.evaluation.extractors.extractor import Extractor
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.protocols import load_protocol
from piflow_bench.evaluation.references.statistics import Statistics, save_statistics

METRICS = ["fd", "kid_exact", "recall", "vendi"]


def network(x):
    pooled = torch.nn.functional.adaptive_avg_pool2d(x.double(), 3).flatten(1)
    return {"features": pooled, "logits": pooled[:, :5]}


def prepare(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255


QUICK = Extractor("quick", "0" * 64, "as it is", ("features", "logits"), prepare, network)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small extractor in the place of the plugins, whose features do not depend on the batch."""
    for module in (score, evaluator):
        monkeypatch.setattr(module, "get_extractor", lambda *recipe: QUICK)


def pictures(seed, n=120, side=8):
    random = np.random.default_rng(seed)
    return (90 + 30 * random.standard_normal((n, side, side, 3))).clip(0, 255).astype(np.uint8)


X, Y = pictures(0), pictures(1, 90)


def as_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("labelled", [False, True])
def test_scores_and_hash_are_those_of_evaluate(labelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(120) % 4 if labelled else None
    found = piflow_bench.Evaluator(Y, metrics=METRICS)
    for part in np.split(np.arange(120), [7, 50, 51]):
        found.update(X[part], None if labels is None else torch.from_numpy(labels[part]))
    assert len(found) == 120
    table = found.compute()
    assert not list(tmp_path.iterdir())  # Nothing on disk.
    same = piflow_bench.evaluate(X, Y, metrics=METRICS, labels=labels, cache=False)
    for column in ("metric", "value", "ci_low", "ci_high", "n", "protocol_hash", "estimator"):
        assert table[column].tolist() == same[column].tolist(), column


def test_layouts_and_floats_are_the_same_images():
    tables = []
    for each in (X, as_torch(X), as_torch(X).double() / 255, torch.from_numpy(X)):
        found = piflow_bench.Evaluator(Y, metrics=["fd"])
        found.update(each)
        tables.append(found.compute()["value"].item())
    assert len(set(tables)) == 1


def test_compute_goes_on_and_reset_begins_anew():
    found = piflow_bench.Evaluator(Y, metrics=["fd"])
    found.update(X[:60])
    first = found.compute()
    found.update(X[60:])
    assert found.compute()["n"].tolist() == [120]
    found.reset()
    assert len(found) == 0
    found.update(X[:60])
    assert found.compute().equals(first)


def test_statistics_serve_as_reference(tmp_path):
    moments = Moments.from_features(np.random.default_rng(0).random((50, 27)))
    save_statistics(tmp_path / "s.npz", Statistics("", moments, None, QUICK.identity, 50))
    found = piflow_bench.Evaluator(tmp_path / "s.npz", metrics=["fd"])
    found.update(X)
    assert np.isfinite(found.compute()["value"].item())


def test_a_folder_keeps_the_references_features_alone(tmp_path):
    piflow_bench.Evaluator(Y, metrics=["fd"], cache=tmp_path).update(X)
    assert len(list(tmp_path.iterdir())) == 1


REFUSED = {
    "a metric of the teacher": (
        lambda: piflow_bench.Evaluator(Y, metrics=["teacher_mse"]), "needs more than the features"
    ),
    "a metric of images": (
        lambda: piflow_bench.Evaluator(Y, metrics=["lpips_within"]), "piflow_bench.evaluate"
    ),
    "no such metric": (lambda: piflow_bench.Evaluator(Y, metrics=["fdd"]), "no such metric"),
    "no reference": (lambda: piflow_bench.Evaluator(metrics=["fd"]), "needs reference="),
    "a reference that is not there": (lambda: piflow_bench.Evaluator("nowhere"), "no such file"),
    "an unknown setting": (lambda: piflow_bench.Evaluator(Y, metrics=["fd"], kk=3), "kk"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_once(case):
    call, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        call()


UPDATES = {
    "no images": (lambda: ("text", None), "no such file"),
    "floats out of range": (lambda: (X[:4] * 1.0, None), r"\[0, 1\]"),
    "another size": (lambda: (pictures(3, 4, 16), None), "of 16x16 pixels, those before are 8x8"),
    "labels for some": (lambda: (X[:4], [0, 1, 2, 3]), "for some images and not for others"),
    "too few labels": (lambda: (X[:4], [0, 1]), "2 for 4 images"),
    "labels that are none": (lambda: (X[:4], np.zeros((4, 2))), "whole numbers or names"),
}


@pytest.mark.parametrize("case", UPDATES)
def test_what_is_not_like_the_images_before_is_refused_and_nothing_added(case):
    make, words = UPDATES[case]
    found = piflow_bench.Evaluator(Y, metrics=["fd"])
    found.update(X)
    with pytest.raises(UserError, match=words):
        found.update(*make())
    assert len(found) == 120 and found.compute()["n"].item() == 120


def test_too_few_images_are_refused_and_kept():
    found = piflow_bench.Evaluator(Y, metrics=["fd"])
    with pytest.raises(UserError, match="0 images so far"):
        found.compute()
    found.update(X[:1])
    with pytest.raises(UserError, match="1 images so far"):
        found.compute()
    found.update(X[1:9])
    assert found.compute()["n"].item() == 9


def test_a_protocol_of_a_number_of_images_waits_for_them():
    import dataclasses

    rules = dataclasses.replace(
        load_protocol("default"), metrics=["fd"], samples=100, fixed=True, name="hundred"
    )
    found = piflow_bench.Evaluator(Y, rules)
    found.update(X[:60])
    with pytest.raises(UserError, match="60 images so far, protocol 'hundred' is of 100"):
        found.compute()
    found.update(X[60:])
    table = found.compute()
    same = piflow_bench.evaluate(X, Y, rules, cache=False)
    assert table["n"].item() == 100 and table["value"].item() == same["value"].item()
