"""Samples of a run's store are the pictures that the run's own space makes of them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import piflow_bench
from piflow_bench import registry
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.pictures import stored
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.evaluation.pictures.stored import RECORD
from piflow_bench.evaluation.references.from_images import reference_statistics
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.pipeline.store.store import META
from piflow_bench.settings import build_dataclass
from tests.preparation.conftest import small_autoencoder
from tests.stored import GREY, PIXELS, artifact

ROWS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
FLOATS = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 3, 6, 6)).astype(np.float32)


def everything(images):
    return images.read(0, len(images))


def space(name, size, **settings):
    cls = registry.get("space", name)
    return cls(build_dataclass(cls.Config, settings, "space")).load(size, Place())


# ------------------------------------------------------------------ pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recorded", [PIXELS, GREY, {"name": "pixels", "settings": {"levels": 4}}])
def test_pixels_are_in_the_levels_of_their_space(recorded, channels, tmp_path):
    x = FLOATS[:, :channels]
    expected = space(recorded["name"], (6, 6, channels), **recorded["settings"]).pictures(
        torch.from_numpy(x)
    )
    images = open_images(artifact(tmp_path, x, recorded))
    assert (len(images), images.height, images.width) == (5, 6, 6)
    found = everything(images)
    assert np.array_equal(found, expected.repeat(3 // channels, axis=3))
    assert len(np.unique(found)) <= recorded["settings"]["levels"]
    assert np.array_equal(images.take(np.array([4, 0])).read(0, 2), found[[4, 0]])


def test_their_file_is_read_as_they_are(tmp_path):
    folder = artifact(tmp_path / "x", FLOATS)
    found, expected = open_images(folder / "samples.npy"), open_images(folder)
    assert np.array_equal(everything(found), everything(expected))
    assert found.digest() == expected.digest()
    (folder / RECORD).unlink()
    with pytest.raises(UserError, match="must be uint8"):
        open_images(folder / "samples.npy")


def test_their_record_has_the_stores_name():
    assert RECORD == META


def test_the_digest_tells_samples_and_spaces_apart(tmp_path):
    digests = [
        open_images(artifact(tmp_path / name, x, recorded)).digest()
        for name, x, recorded in (
            ("a", FLOATS, PIXELS), ("b", FLOATS, PIXELS), ("c", FLOATS, GREY), ("d", -FLOATS, GREY),
        )
    ]  # fmt: skip
    assert digests[0] == digests[1] and len(set(digests)) == 3


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"files": {"x": "0"}}', '{"a": 1}'])
def test_a_folder_of_images_may_hold_arrays_of_its_own(record, tmp_path):
    for i, row in enumerate(ROWS):
        Image.fromarray(row).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "samples.npy", FLOATS)
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    images = open_images(tmp_path)
    assert np.array_equal(everything(images), ROWS)
    assert "1 .npy" in images.warnings[0] and "left out" in images.warnings[0]


@pytest.mark.parametrize("x", [FLOATS, ROWS, (FLOATS.clip(-1, 1) + 1) / 2], ids="abc")
def test_arrays_alone_are_named_as_files(x, tmp_path):
    np.save(tmp_path / "samples.npy", x)
    with pytest.raises(UserError, match=r"1 .npy file \(samples.npy\).*given as a file"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["0.png", "pictures/0.jpg"])
def test_images_beside_an_artifacts_samples_are_refused(name, tmp_path):
    path = artifact(tmp_path / "x", FLOATS) / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(ROWS[0]).save(path)
    with pytest.raises(UserError, match=f"also holds 1 images, such as {name}; give"):
        open_images(tmp_path / "x")


POINTS = {"name": "points", "settings": {}}


@pytest.mark.parametrize(
    ("x", "recorded", "words"),
    [
        (FLOATS, None, "record names no space"),
        (FLOATS, {"name": "pixels"}, "record names no space"),
        (FLOATS[:, 0, :2, 0], POINTS, "points of the space 'points', which have no pictures"),
        (FLOATS[:, :2], PIXELS, r"samples of shape \(2, 6, 6\) are no images"),
        (ROWS, PIXELS, "uint8 of shape .* are no samples"),
        (FLOATS[:0], PIXELS, "are no samples"),
        (FLOATS, {"name": "pixel", "settings": {}}, "did you mean 'pixels'"),
        (FLOATS, {**PIXELS, "source": "0123456789abcdef"}, "0123456789ab and not ours; .*plugins="),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(x, recorded, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        open_images(artifact(tmp_path, x, recorded))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ latents


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    return small_autoencoder(tmp_path_factory.mktemp("space") / "autoencoder")


def latents(coder, **settings):
    """The record of the space of an autoencoder."""
    cls = registry.get("space", "latents")
    plugin = cls(build_dataclass(cls.Config, {"autoencoder": str(coder), **settings}, "space"))
    return {"name": "latents", "settings": dict(plugin.identity())}


Z = np.random.default_rng(1).normal(size=(37, 4, 4, 6)).astype(np.float32)


@pytest.fixture
def decoded(monkeypatch):
    """How many latents were decoded at a time."""
    counts, decode = [], Autoencoder.decode
    monkeypatch.setattr(
        Autoencoder, "decode", lambda self, z: counts.append(len(z)) or decode(self, z)
    )
    return counts


@pytest.mark.parametrize("uint8", ["adm", "round"])
def test_latents_are_decoded_as_in_their_run(uint8, coder, tmp_path):
    folder = artifact(tmp_path / "a", Z, latents(coder, uint8=uint8))
    images = open_images(folder, look=Look({"autoencoder": str(coder)}))
    assert (len(images), images.height, images.width) == (37, 8, 12)
    expected = space("latents", (8, 12, 3), autoencoder=str(coder), uint8=uint8)
    expected = expected.pictures(torch.from_numpy(Z))
    assert np.array_equal(everything(images), expected)
    some = np.array([36, 3, 17, 16])
    assert np.array_equal(images.take(some).read(0, 4), expected[some])


def test_what_was_decoded_is_kept_and_not_decoded_again(coder, tmp_path, decoded):
    folder = artifact(tmp_path / "a", Z, latents(coder))
    look = Look({"autoencoder": str(coder)}, cache=tmp_path / "cache")
    first = open_images(folder, look=look).read(17, 20)
    assert decoded == [16], "a part that holds them"
    whole = everything(open_images(folder, look=look))
    assert decoded == [16, 16, 5] and np.array_equal(whole[17:20], first)
    assert np.array_equal(everything(open_images(folder, look=look)), whole) and len(decoded) == 3
    (kept,) = (tmp_path / "cache").iterdir()
    said = json.loads((kept / "about.json").read_text())
    assert said == {"label": str(folder), "kind": "pictures"}
    damaged = sorted(kept.glob("*.npz"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert np.array_equal(everything(open_images(folder, look=look)), whole)
    assert decoded[3:] == [16]
    # Other samples, and the same ones of another space, are decoded on their own.
    artifact(tmp_path / "b", -Z, latents(coder))
    artifact(tmp_path / "c", Z, latents(coder, uint8="round"))
    for name in "bc":
        everything(open_images(tmp_path / name, look=look))
    assert len(decoded) == 10 and len(list((tmp_path / "cache").iterdir())) == 3


def test_without_a_cache_a_part_is_decoded_once_for_small_batches(coder, tmp_path, decoded):
    images = open_images(
        artifact(tmp_path / "a", Z, latents(coder)), look=Look({"autoencoder": str(coder)})
    )
    rows = np.concatenate(list(images.batches(4)))
    assert decoded == [16, 16, 5] and len(rows) == 37


def test_another_autoencoder_is_refused_by_both_digests(coder, tmp_path):
    recorded = latents(coder)
    folder = artifact(tmp_path / "a", Z, recorded)
    shutil.copytree(coder, tmp_path / "other")
    config = json.loads((coder / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    mine, theirs = (
        each["settings"]["autoencoder"][:12] for each in (latents(tmp_path / "other"), recorded)
    )
    look = Look({"autoencoder": str(tmp_path / "other")})
    with pytest.raises(UserError, match=f"of digest {mine}, but .* made with {theirs}") as error:
        open_images(folder, look=look)
    assert str(error.value).startswith(f"space.autoencoder={tmp_path / 'other'}: ")
    assert "\n" not in str(error.value)
    shutil.copytree(coder, tmp_path / "moved")
    open_images(folder, look=Look({"autoencoder": str(tmp_path / "moved")}))


def test_an_autoencoder_that_is_not_given_is_asked_for(coder, tmp_path, monkeypatch):
    recorded = latents(coder)
    folder = artifact(tmp_path / "a", Z, recorded)
    monkeypatch.setattr("piflow_bench.evaluation.pictures.spaces.in_cache", lambda source: None)
    digest = recorded["settings"]["autoencoder"][:12]
    words = rf"the space 'latents'; give .* space\.autoencoder=PATH \(of digest {digest}\)"
    with pytest.raises(UserError, match=words) as error:
        open_images(folder)
    assert "\n" not in str(error.value)
    asked = []
    monkeypatch.setattr(
        "piflow_bench.evaluation.pictures.spaces.in_cache",
        lambda source: asked.append(source) or coder,
    )
    assert len(everything(open_images(folder))) == 37
    assert asked == ["hf://stabilityai/sd-vae-ft-ema"]


def test_what_the_record_says_is_not_said_otherwise(coder, tmp_path):
    folder = artifact(tmp_path / "a", Z, latents(coder))
    look = Look({"autoencoder": str(coder), "dtype": "float16"})
    with pytest.raises(UserError, match=r"space\.dtype=float16: .*float32; only files are given"):
        open_images(folder, look=look)
    # Of several sets some are of a space without these files.
    open_images(artifact(tmp_path / "b", FLOATS), look=Look({"autoencoder": str(coder)}))


def test_values_that_are_not_finite_are_named(coder, tmp_path):
    z = np.where(np.arange(37)[:, None, None, None] == 20, np.nan, Z)
    images = open_images(
        artifact(tmp_path / "a", z, latents(coder)), look=Look({"autoencoder": str(coder)})
    )
    images.read(0, 16)
    with pytest.raises(UserError, match=r"samples=.*: values that are not finite"):
        images.read(16, 17)


@pytest.mark.parametrize("processes", [1, 2])
def test_latents_are_scored_from_python(processes, coder, tmp_path, monkeypatch):
    monkeypatch.setattr("piflow_bench.evaluation.extraction.SHARD", 10)
    z = np.concatenate([Z, Z[:, :, ::-1]])[:, :, :, :4]
    recorded = latents(coder)
    folder = artifact(tmp_path / "a", z, recorded)
    other = artifact(tmp_path / "b", np.ascontiguousarray(z[..., ::-1]), recorded)
    found = piflow_bench.evaluate(
        folder, other, "digits", metrics=["fd", "teacher_mse"], teacher=other, processes=processes,
        space={"autoencoder": str(coder)}, cache=tmp_path / "cache",
    )  # fmt: skip
    decoded = space("latents", (8, 8, 3), autoencoder=str(coder)).pictures
    pictures = [decoded(torch.from_numpy(np.load(f / "samples.npy"))) for f in (folder, other)]
    expected = piflow_bench.evaluate(
        pictures[0], pictures[1], "digits", metrics=["fd", "teacher_mse"], teacher=pictures[1],
        cache=False,
    )  # fmt: skip
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
    statistics = reference_statistics(
        other, "digits", cache=tmp_path / "cache", space={"autoencoder": str(coder)}
    )
    again = piflow_bench.Evaluator(
        other, "digits", metrics=["fd"], space={"autoencoder": str(coder)}
    )
    again.update(pictures[0])
    assert statistics.count == len(z)
    assert again.compute().value[0] == pytest.approx(found.value[0], rel=1e-6)


# ------------------------------------------------------------------ spaces of one's own


HALVES = '''
import torch
from piflow_bench.api import Space, SpacePlugin


class Halves(SpacePlugin):
    """Samples of half the size of their pictures."""

    def load(self, pictures, place):
        height, width, channels = pictures

        def look(x):
            large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            pixels = (large.clamp(-1, 1) + 1) * 127.5
            return pixels.round().byte().permute(0, 2, 3, 1).numpy()

        return Space((channels, height // 2, width // 2), look)
'''
SAYS = """
    def pictures_of(self, shape):
        channels, height, width = shape
        return 2 * height, 2 * width, channels
"""


def test_a_space_of_ones_own_says_how_large_its_pictures_are(tmp_path):
    file = tmp_path / "halves.py"
    file.write_text(HALVES + SAYS)
    source = registry.find("space", [str(file)])["halves"].foreign_source()
    recorded = {"name": "halves", "settings": {}, "source": source}
    folder = artifact(tmp_path / "a", FLOATS, recorded)
    images = open_images(folder, look=Look(plugins=(str(file),)))
    assert (images.height, images.width) == (12, 12)
    whole = everything(open_images(artifact(tmp_path / "b", FLOATS)))
    assert np.array_equal(everything(images)[:, 1::2, ::2], whole)
    with pytest.raises(UserError, match="no space is called 'halves'"):
        open_images(folder)
    file.write_text(HALVES)
    edited = registry.find("space", [str(file)])["halves"].foreign_source()
    with pytest.raises(UserError, match=f"{source[:12]} and not {edited[:12]}; give the run's own"):
        open_images(folder, look=Look(plugins=(str(file),)))
    artifact(tmp_path / "a", FLOATS, recorded | {"source": edited})
    words = re.escape("samples of 3x6x6, but pictures of 6x6x3, which space 'halves' says")
    with pytest.raises(UserError, match=words):
        open_images(folder, look=Look(plugins=(str(file),)))


# ------------------------------------------------------------------ shards


def cell(folder, edges=((0, 2), (2, 4), (4, 5)), names="cab", **config):
    """FLOATS in shards, whose names are in no order."""
    for name, (start, stop) in zip(names, edges, strict=True):
        artifact(
            folder / f"sample-{name}", FLOATS[start:stop], start=start, stop=stop,
            **{"nfe": 1, **config},
        )  # fmt: skip
    return folder


def test_a_folder_of_shards_is_one_set_in_the_order_of_their_samples(tmp_path):
    expected = everything(open_images(artifact(tmp_path / "whole", FLOATS)))
    images = open_images(cell(tmp_path / "cell"))
    assert len(images) == 5 and np.array_equal(everything(images), expected)
    some = np.array([4, 0, 3, 1])
    assert np.array_equal(images.take(some).read(0, 4), expected[some])
    links = tmp_path / "links"
    links.mkdir()
    for path in (tmp_path / "cell").iterdir():
        (links / f"x{path.name}").symlink_to(path)
    (links / ".hidden").touch()
    again = open_images(links)
    assert np.array_equal(everything(again), expected) and again.digest() == images.digest()


def test_shards_of_latents_share_what_was_decoded_alone(coder, tmp_path, decoded):
    recorded = latents(coder)
    for i, (start, stop) in enumerate(((0, 20), (20, 37))):
        artifact(tmp_path / f"cell/{i}", Z[start:stop], recorded, start=start, stop=stop)
    look = Look({"autoencoder": str(coder)}, cache=tmp_path / "cache")
    alone = everything(open_images(tmp_path / "cell" / "1", look=look))
    whole = everything(open_images(tmp_path / "cell", look=look))
    assert np.array_equal(whole[20:], alone) and decoded == [16, 1, 16, 4]
    network = get_extractor("digits-pixels")
    square = cell(tmp_path / "pixels")
    with pytest.raises(UserError, match="8x8"):
        extract(open_images(square), network, None)


@pytest.mark.parametrize(
    ("edges", "config", "words"),
    [
        (((0, 2), (3, 4), (4, 5)), {}, "sample-c ends at sample 2 and sample-a begins at 3"),
        (((0, 2), (1, 4), (4, 5)), {}, "sample-c ends at sample 2 and sample-a begins at 1"),
        (((0, 2), (0, 2), (2, 5)), {}, "ends at sample 2 and sample-c begins at 0"),
    ],
)
def test_shards_with_a_gap_or_twice_are_refused(edges, config, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        open_images(cell(tmp_path, edges, **config))
    assert "\n" not in str(error.value)


def test_shards_of_two_cells_are_no_set(tmp_path):
    cell(tmp_path)
    artifact(tmp_path / "sample-a", FLOATS[2:4], start=2, stop=4, nfe=4)
    with pytest.raises(UserError, match=r"are of two cells \(nfe: 1 and 4\); .*samples=\[FOLDER"):
        open_images(tmp_path)
    cell(tmp_path)
    path = tmp_path / "sample-a" / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"distill": ["x"]}}))
    with pytest.raises(UserError, match=r"two cells \(inputs: \{\} and \{'distill': \['x'\]\}\)"):
        open_images(tmp_path)
    artifact(tmp_path / "sample-a", FLOATS)
    with pytest.raises(UserError, match="sample-a is no shard of several; give it alone"):
        open_images(tmp_path)
    assert stored.shards_of(tmp_path / "sample-a") == [] and stored.shards_of(tmp_path / "x") == []
