"""One's own pictures as a dataset: split, classes of samples, mirror images, digest, cautions."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_bench.config.compose import compose
from piflow_bench.conformance.dataset import dataset_problems
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.data.images import EncodedRows, PictureRows
from piflow_bench.errors import UserError
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.preparation.picture_sizes import CROPS
from piflow_bench.randomness import TrainingRandom
from tests.pipeline.harness import forget
from tests.preparation.conftest import small_autoencoder
from tests.stripes import class_folders


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Classes of 40, 30 and 10 pictures."""
    root = tmp_path_factory.mktemp("own") / "pictures"
    class_folders(root, classes=3, each=40, height=8, width=12)
    for label, kept in ((1, 30), (2, 10)):
        for path in sorted((root / f"direction {label}").glob("*.png"))[kept:]:
            path.unlink()
    return root


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


def runtime(folder, inputs, space=None, **settings):
    return Runtime(
        given=Given({"name": "images", "folder": str(folder), **settings}, space=space or {}),
        inputs=str(inputs),
    )


def load(folder, inputs, **settings):
    return runtime(folder, inputs, **settings).dataset()


@pytest.fixture
def inputs(root):
    """Prepared once."""
    return root.parent / "inputs"


def pictures(rows):
    """All as bytes, to be found again."""
    return [x.numpy().tobytes() for x in rows.take(torch.arange(len(rows)), None)]


def test_a_share_of_every_class_is_held_out(root, inputs):
    data = load(root, inputs, held_out=0.2)
    assert (len(data.training_rows), len(data.held_out)) == (64, 16)
    assert data.train_condition.labels.bincount().tolist() == [32, 24, 8]
    assert data.test_condition.labels.bincount().tolist() == [8, 6, 2]
    assert not set(pictures(data.training_rows)) & set(pictures(data.held_out))
    assert len({*pictures(data.training_rows), *pictures(data.held_out)}) == 80
    assert data.shape == (3, 8, 12) and dataset_problems(data) == []


def test_samples_are_the_pictures_with_their_classes(root, inputs):
    data = load(root, inputs)
    known = {}
    for path in root.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        known[pixels.tobytes()] = int(path.parent.name[-1])
    for rows, condition in (
        (data.training_rows, data.train_condition),
        (data.held_out, data.test_condition),
    ):
        assert [known[x] for x in pictures(rows)] == condition.labels.tolist()


def test_a_number_may_be_held_out_and_the_split_has_a_seed(root, inputs):
    one, other = (load(root, inputs, held_out=12, split_seed=s) for s in (0, 1))
    assert len(one.held_out) == len(other.held_out) == 12
    assert set(pictures(one.held_out)) != set(pictures(other.held_out))
    forget()
    assert pictures(load(root, inputs, held_out=12).held_out) == pictures(one.held_out)


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (80, r"dataset\.held_out=80: must be a share below 1, or fewer than the 80 pictures"),
        (1.5, r"dataset\.held_out=1\.5: must be a share"),
        (0, r"dataset\.held_out=0: must be above 0"),
        (2, r"held_out=2: fewer than the 3 classes"),
    ],
)
def test_what_cannot_be_held_out_is_refused(held_out, words, root, inputs):
    with pytest.raises(UserError, match=words) as refused:
        load(root, inputs, held_out=held_out)
    assert "\n" not in str(refused.value)


def test_a_sources_own_test_part_is_held_out(root, tmp_path):
    for part, label, kept in (("train", 0, 30), ("test", 0, 10), ("train", 1, 20), ("test", 1, 10)):
        target = tmp_path / "parts" / part / str(label)
        target.mkdir(parents=True, exist_ok=True)
        files = sorted((root / f"direction {label}").glob("*.png"))
        for path in files[-kept:] if part == "test" else files[:kept]:
            shutil.copy(path, target)
    data = load(tmp_path / "parts", tmp_path / "inputs", held_out=0.5)
    assert (len(data.training_rows), len(data.held_out)) == (50, 20)


LAWS = {"balanced": [200, 200, 200], "uniform": [200, 200, 200], "as data": [300, 225, 75]}


@pytest.mark.parametrize("law", LAWS)
def test_samples_get_classes_by_their_index_alone(law, root, inputs):
    data = load(root, inputs, label_law=law)
    assert data.label_law == law
    whole = data.conditions(3, range(600)).labels
    assert torch.equal(data.conditions(3, [599, 5, 17]).labels, whole[[599, 5, 17]])
    counts = whole.bincount(minlength=3)
    if law == "balanced":
        assert counts.tolist() == LAWS[law]
        assert whole[:6].tolist() == [0, 1, 2, 0, 1, 2]
    else:
        assert (counts - torch.tensor(LAWS[law])).abs().max() < 50  # Four standard deviations.
        assert not torch.equal(whole, data.conditions(4, range(600)).labels)


def test_without_classes_there_is_no_law(root, inputs):
    data = load(root, inputs, labels="none")
    assert data.label_law is None
    for condition in (data.train_condition, data.test_condition, data.conditions(0, range(5))):
        assert isinstance(condition, Unconditional)
    assert len(data.conditions(0, range(5))) == 5 and dataset_problems(data) == []


def test_training_sees_mirror_images_and_nobody_else(root, inputs):
    data, plain = load(root, inputs, mirror=True), load(root, inputs)
    rows = torch.arange(40)
    x = plain.training_rows.take(rows, None)
    assert torch.equal(data.training_rows.take(rows, None), x)
    assert torch.equal(data.memorised(5), plain.memorised(5))
    seen = data.training_rows.take(rows, TrainingRandom(0, 0, 0, 40))
    same = (seen == x).flatten(1).all(1)
    assert torch.equal(seen[~same], x[~same].flip(3)) and 8 < int(same.sum()) < 32
    assert not torch.equal(data.training_rows.take(rows, TrainingRandom(0, 1, 0, 40)), seen)
    part = data.training_rows.take(rows[10:], TrainingRandom(0, 0, 10, 30))
    assert torch.equal(part, seen[10:]), "independent of how a batch is divided"
    assert torch.equal(plain.training_rows.take(rows, TrainingRandom(0, 0, 0, 40)), x)
    held = torch.arange(len(data.held_out))
    again = data.held_out.take(held, TrainingRandom(0, 0, 0, len(held)))
    assert torch.equal(again, plain.held_out.take(held, None))


def test_pictures_are_read_from_the_disk_as_they_are_needed(root, inputs):
    data = load(root, inputs)
    assert isinstance(data.training_rows.images, np.memmap) and len(data.train) == 0
    rows = torch.tensor([7, 0, 7])
    x = data.training_rows.take(rows, None)
    assert x.dtype == torch.float32 and torch.equal(x[0], x[2])
    assert torch.equal(x[1], data.training_rows.take(torch.tensor([0]), None)[0])
    assert torch.equal(data.space.encode(data.space.pictures(x)), x)


# ------------------------------------------------------------------ identity and digest

DECIDES = {
    "held_out": 0.3, "split_seed": 1, "mirror": True, "label_law": "uniform", "labels": "none",
    "size": [4, 6],
}  # fmt: skip


def keys(folder, inputs, **settings):
    forget()
    found = runtime(folder, inputs, **settings)
    return found.dataset().digest, dict(found.dataset_plugin().identity())


@pytest.mark.parametrize("key", DECIDES)
def test_the_digest_changes_with_what_decides(key, root, inputs):
    base, other = keys(root, inputs), keys(root, inputs, **{key: DECIDES[key]})
    assert other[0] != base[0]


def test_the_rule_of_cropping_decides_where_something_is_cropped(root, inputs):
    found = {c: keys(root, inputs, size=6, crop=c)[0] for c in CROPS if c != "pad"}
    assert len(set(found.values())) > 1
    framed = keys(root, inputs, size=[16, 16], crop="pad")[0]
    assert framed not in {keys(root, inputs, size=[16, 16])[0], keys(root, inputs)[0]}
    assert len({keys(root, inputs, crop=c)[0] for c in CROPS}) == 1, "nothing is cropped"


def test_the_place_of_files_decides_nothing_and_their_names_no_split(root, inputs, tmp_path):
    base, held = keys(root, inputs), set(pictures(load(root, inputs).held_out))
    copy = shutil.copytree(root, tmp_path / "copied, elsewhere")
    assert keys(copy, tmp_path / "inputs") == base and str(tmp_path) not in str(base)
    for i, path in enumerate(sorted(copy.rglob("*.png"))):
        path.rename(path.with_name(f"renamed {97 * i % 1000:03d}.png"))
    forget()
    assert set(pictures(load(copy, tmp_path / "inputs").held_out)) == held


def test_a_changed_pixel_or_class_decides(root, inputs, tmp_path):
    base = keys(root, inputs)
    for name in ("pixel", "class"):
        folder = tmp_path / name
        shutil.copytree(root, folder)
        path = folder / "direction 0" / "3.png"
        if name == "pixel":
            pixels = np.array(Image.open(path))
            pixels[0, 0, 0] ^= 1
            Image.fromarray(pixels).save(path)
        else:
            path.rename(folder / "direction 1" / "other.png")
        assert keys(folder, tmp_path / "in")[0] != base[0]


def test_what_prepare_made_is_taken_as_it_is(root, tmp_path):
    data = load(root, tmp_path / "inputs")
    (made,) = (p for p in (tmp_path / "inputs" / "images").iterdir() if p.is_dir())
    again = load(made, tmp_path / "unused")
    assert again.digest == data.digest and not (tmp_path / "unused").exists()


def test_latents_are_encoded_once_when_they_are_asked_for(root, tmp_path, monkeypatch):
    autoencoder = small_autoencoder(tmp_path / "autoencoder")
    space = {"name": "latents", "autoencoder": str(autoencoder)}

    def encoded():
        forget()
        return runtime(root, tmp_path / "in", space, size=16).dataset()

    data = encoded()
    rows = data.training_rows
    assert isinstance(rows, EncodedRows) and data.shape == (4, 8, 8)
    assert not (tmp_path / "in" / "latents").exists(), "to look at what there is encodes nothing"
    assert data.digest != load(root, tmp_path / "in", size=16).digest
    x = rows.take(torch.tensor([5, 0]), None)
    assert torch.equal(x[0], data.memorised(len(rows))[5]) and x.isfinite().all()
    file = rows.path.read_bytes()
    again = encoded()
    monkeypatch.setattr(PictureRows, "take", lambda *a: pytest.fail("encoded again"))
    assert torch.equal(again.training_rows.take(torch.tensor([5, 0]), None), x)
    assert rows.path.read_bytes() == file


def test_cautions_of_preparation_are_those_of_the_data(root, inputs, tmp_path):
    assert load(root, inputs).cautions == ()
    shutil.copytree(root, tmp_path / "twice")
    for path in sorted((tmp_path / "twice" / "direction 0").glob("*.png"))[:5]:
        shutil.copy(path, path.with_name(f"again {path.name}"))
    data = load(tmp_path / "twice", tmp_path / "in")
    assert any("equal" in words or "twice" in words for words in data.cautions), data.cautions
    assert all("\n" not in words for words in data.cautions)
    held = set(pictures(data.held_out))
    assert not held & set(pictures(data.training_rows)), "equal pictures stay on one side"


def test_a_folder_that_is_not_there_says_how_it_is_had(tmp_path, inputs):
    gone = tmp_path / "gone"
    with pytest.raises(UserError, match=f"dataset.folder={gone}: no such .*; apt-get install them"):
        load(gone, inputs, install="apt-get install them")
    (found,) = runtime(gone, inputs, install="apt-get install them").dataset_plugin().requirements()
    assert found.mend == "apt-get install them"


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("digits-pixels", "dataset.judge=digits-pixels: gives no logits of classes"),
        ("classifyer", "did you mean 'classifier'"),
        ("classifier", "extractors.classifier.weights: not given; piflow_bench prepare classifier"),
    ],
)
def test_who_cannot_judge_is_refused_in_the_plan(judge, words, root, inputs):
    settings = [f"dataset.folder={root}", f"runs={inputs}", f"dataset.judge={judge}"]
    (config,) = compose(["experiment=images", "profile=smoke", *settings])
    with pytest.raises(UserError, match=words):
        make_plan(config)


def test_a_judge_is_named_and_how_to_install_is_no_part_of_the_data(root, inputs):
    plugin = runtime(root, inputs, judge="classifier").dataset_plugin()
    assert plugin.judge == "classifier" and runtime(root, inputs).dataset_plugin().judge is None
    assert keys(root, inputs, judge="classifier", install="how") == keys(root, inputs)
