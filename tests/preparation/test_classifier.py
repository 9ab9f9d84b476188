"""A classifier of an experiment's own pictures: it learns, goes on after a kill, and describes."""

import re

import numpy as np
import pytest
import torch

from piflow_bench import cli
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import extractor_plugin
from piflow_bench.files.weights import read_state
from piflow_bench.preparation import classifier
from piflow_bench.preparation.classifier import ClassifierTraining, _moved, train_classifier
from tests.pipeline.harness import forget
from tests.stripes import class_folders, stripes
from tests.world import world

CLASSES = 4


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("own") / "pictures", CLASSES, 40)


def prepare(pictures, out, *more):
    return cli.main(
        ["prepare", "classifier", "experiment=images", f"dataset.folder={pictures}", f"out={out}",
         f"runs={out.parent}", "batch=32", "shift=1", "mirror=false", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "classifier.safetensors"
    assert prepare(pictures, out, "epochs=12") == 0
    return out


def loaded(path):
    return extractor_plugin("classifier", {"weights": str(path)}).load("classifier", Place())


def unseen(count=25):
    images = [stripes(label * np.pi / CLASSES, count, seed=5) for label in range(CLASSES)]
    return np.concatenate(images), np.repeat(np.arange(CLASSES), count)


def test_it_knows_the_classes_of_pictures_it_never_saw(made):
    images, labels = unseen()
    found = loaded(made)(images)
    assert found["features"].shape == (100, 128) and found["logits"].shape == (100, CLASSES)
    assert (found["logits"].argmax(1) == labels).mean() > 0.9
    assert not made.with_name(f"{made.name}.training").exists()


def test_what_it_says_of_a_picture_does_not_depend_on_the_others(made):
    images, _ = unseen()
    extractor = loaded(made)
    whole, one = extractor(images)["features"], extractor(images[7:8])["features"]
    np.testing.assert_allclose(whole[7:8], one, atol=1e-5)


def test_its_accuracy_is_that_of_held_out_pictures(pictures, tmp_path, capsys):
    assert prepare(pictures, tmp_path / "c.safetensors", "epochs=1") == 0
    told = capsys.readouterr().out
    (share,) = re.findall(r"([\d.]+)% of 16 held-out pictures right", told)
    assert f"extractors.classifier.weights={tmp_path}/c.safetensors" in told
    assert (float(share) / 100 * 16) % 1 == pytest.approx(0, abs=0.01)


def test_one_that_is_killed_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    dataset, settings = world("digits").dataset(), ClassifierTraining(epochs=3, batch=480)
    outs = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    train_classifier(dataset, settings, outs[0], lambda *_: None)
    seen = []

    def killed(what, done, total):
        seen.append(done)
        if done > 1.5 * total / 3 and len(seen) < 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(dataset, settings, outs[1], killed)
    assert not outs[1].exists()
    begun = len(seen)
    train_classifier(dataset, settings, outs[1], killed)
    assert seen[begun] < seen[begun - 1] + 1 and min(seen[begun:]) > 1437, "one epoch was kept"
    first, second = (read_state(out, "x") for out in outs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_of_other_settings_is_refused(tmp_path):
    dataset, out = world("digits").dataset(), tmp_path / "a.safetensors"

    def killed(what, done, total):
        if done > 1500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(dataset, ClassifierTraining(epochs=3, batch=480), out, killed)
    with pytest.raises(UserError, match=r"a.safetensors.training is of other data or settings"):
        train_classifier(dataset, ClassifierTraining(epochs=2, batch=480), out, killed)


def test_what_a_killed_training_left_may_be_damaged(tmp_path):
    out = tmp_path / "a.safetensors"
    out.with_name(f"{out.name}.training").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"a.safetensors.training is damaged; remove it"):
        train_classifier(
            world("digits").dataset(), ClassifierTraining(epochs=1), out, lambda *_: None
        )


def test_pictures_move_by_whole_pixels_and_keep_their_content():
    x = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    still = _moved(x, ClassifierTraining(shift=0, mirror=False), np.random.default_rng(0))
    assert torch.equal(still, x)
    flipped = torch.cat(
        [_moved(x, ClassifierTraining(shift=0), np.random.default_rng(i)) for i in range(8)]
    )
    assert {torch.equal(f, x[i % 2]) for i, f in enumerate(flipped)} == {True, False}
    assert all(torch.equal(f, x[i % 2]) or torch.equal(f, x[i % 2].flip(2))
               for i, f in enumerate(flipped))  # fmt: skip
    x[:, :, 2:4, 2:4] = 1000
    moved = _moved(x, ClassifierTraining(shift=2, mirror=False), np.random.default_rng(1))
    assert ((moved == 1000).sum((2, 3)) == 4).all()
    assert {tuple((m[0] == 1000).nonzero()[0].tolist()) for m in moved} != {(2, 2)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=digits"], "needs out=FILE"),
        (["experiment=digits", "out=x.pt"], "out=x.pt: must be a file whose name ends in"),
        (["experiment=analytic", "out=x.safetensors"], "of one experiment, not of 2"),
        (["experiment=analytic_mixture2d", "out=x.safetensors"], "are points, no pictures"),
        (["experiment=digits", "out=x.safetensors", "batch=1"], "batch=1: must be at least 2"),
        (["experiment=digits", "out=x.safetensors", "epoch=1"], "epoch: no such setting"),
        (["experiment=digits", "out=/proc/no/x.safetensors"], "out=/proc/no: cannot be written"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert cli.main(["prepare", "classifier", *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_pictures_without_classes_have_no_classifier(pictures, tmp_path, capsys):
    out = tmp_path / "c.safetensors"
    assert prepare(pictures, out, "dataset.labels=none") == 2
    assert "images has no classes to tell apart" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "extractors.classifier.weights: not given; piflow_bench prepare classifier"),
        ({"weights": "none.safetensors"}, "no such file"),
    ],
)
def test_without_weights_it_says_how_they_are_made(settings, words):
    with pytest.raises(UserError, match=words):
        extractor_plugin("classifier", settings).identity()


def test_weights_and_pictures_of_other_things_are_refused(made, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="was trained on 16x16 pictures, and these are 8x16"):
        loaded(made)(np.zeros((1, 16, 8, 3), np.uint8))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, other)
    with pytest.raises(UserError, match="no classifier that `prepare classifier` made"):
        loaded(other)
    state = read_state(made, "x")
    state["stages.1.0.weight"][0] = float("nan")
    save_file(state, other)
    with pytest.raises(UserError, match="values of stages.1.0.weight are not finite"):
        loaded(other)


def test_a_grey_one_sees_the_mean_of_channels(tmp_path):
    out = tmp_path / "grey.safetensors"
    train_classifier(world("digits").dataset(), ClassifierTraining(epochs=1), out, lambda *_: None)
    extractor = loaded(out)
    grey = np.random.default_rng(0).integers(0, 80, (3, 8, 8, 1), dtype=np.uint8)
    three = np.repeat(grey, 3, 3)
    tinted = three + np.array([9, 0, -9]).astype(np.uint8)
    tinted = np.where(three > 10, tinted, three)
    np.testing.assert_allclose(
        extractor(three)["features"], extractor(tinted.astype(np.uint8))["features"], atol=1e-5
    )
    assert classifier.LEAST <= 8
