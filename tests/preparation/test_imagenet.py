"""Images to latents: every source alike, killed and gone on, damaged and refused."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation import stand_ins as generated
from piflow_bench.preparation.imagenet import prepare
from piflow_bench.preparation.latents import Latents
from piflow_bench.preparation.pixels import centre_crop, decode
from piflow_bench.preparation.sources.opening import open_source
from piflow_bench.training.readahead import ReadAhead

SETTINGS = {"size": 64, "classes": 10, "shard": 16, "batch": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Class folders of JPEGs, the same in tars and parquet, and an autoencoder."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    generated.images(folder / "images", per_class=4)
    generated.autoencoder(folder / "autoencoder")
    files = sorted((folder / "images").rglob("*.JPEG"))
    with tarfile.open(folder / "flat.tar", "w") as tar:
        for file in reversed(files):  # A tar's own order must not matter.
            tar.add(file, f"train/{file.parent.name}/{file.name}")
    with tarfile.open(folder / "nested.tar", "w") as outer:
        for place in sorted({f.parent for f in files}):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for file in sorted(place.iterdir()):
                    tar.add(file, file.name)
            facts = tarfile.TarInfo(f"{place.name}.tar")
            facts.size = inner.tell()
            inner.seek(0)
            outer.addfile(facts, inner)
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "parquet").mkdir()
    names = sorted({f.parent.name for f in files})
    for half in range(2):
        rows = files[half::2]
        table = pa.table(
            {
                "image": [{"bytes": f.read_bytes(), "path": f.name} for f in rows],
                "label": [names.index(f.parent.name) for f in rows],
            }
        )
        pq.write_table(table, folder / "parquet" / f"{half}.parquet", row_group_size=7)
    return folder


def make(inputs, out, source="images", **settings):
    options = {**SETTINGS, **settings}
    prepare(str(inputs / source), str(out), str(inputs / "autoencoder"), **options)
    return out


@pytest.fixture(scope="module")
def latents(inputs, tmp_path_factory):
    return make(inputs, tmp_path_factory.mktemp("made") / "latents")


def shards(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("shard-*.npy"))}


@pytest.mark.parametrize("source", ["flat.tar", "nested.tar", "parquet"])
def test_every_source_gives_the_same_shards(inputs, latents, tmp_path, source):
    assert len(shards(latents)) == 6
    assert shards(make(inputs, tmp_path / "out", source)) == shards(latents)


@torch.no_grad()
def test_latents_are_the_autoencoders_of_the_cropped_image_and_its_mirror(inputs, latents):
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(inputs / "autoencoder")
    source, found = open_source(inputs / "images", 10), Latents(latents)
    assert len(found) == 40 and found.shape == (4, 8, 8) and found.classes == 10
    assert found.labels.tolist() == [i // 4 for i in range(40)]
    rows = torch.tensor([33, 2, 17, 2])
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for view in (0, 1):
        drawn = found.take(rows, torch.full((4,), view), noise)
        mean = found.take(rows, torch.full((4,), view), None)
        for i, row in enumerate(rows.tolist()):
            pixels = np.asarray(centre_crop(decode(source.read(row)), 64))
            x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
            posterior = model.encode(x.flip(-1) if view else x).latent_dist
            scale = model.config.scaling_factor
            expected = posterior.mean[0] * scale
            assert (mean[i] - expected).abs().max() < 2e-3  # float16
            expected = expected + posterior.std[0] * scale * noise[i]
            assert (drawn[i] - expected).abs().max() < 5e-3
    assert torch.equal(
        found.take(rows, None, noise), found.take(rows, torch.zeros(4).long(), noise)
    )


def test_what_is_stored_follows_the_settings(inputs, tmp_path):
    sample = Latents(make(inputs, tmp_path / "a", kind="sample", flip=False, dtype="float32"))
    again = Latents(
        make(inputs, tmp_path / "b", kind="sample", flip=False, dtype="float32", batch=7)
    )
    rows = torch.arange(40)
    assert (sample.take(rows, None, None) - again.take(rows, None, None)).abs().max() < 1e-4
    other = Latents(
        make(inputs, tmp_path / "c", kind="sample", flip=False, dtype="float32", seed=1)
    )
    assert (sample.take(rows, None, None) - other.take(rows, None, None)).abs().max() > 1e-2
    assert len({sample.digest, other.digest}) == 2
    assert sample.facts["class_counts"] == [4] * 10 and sample.views == 1


def command(inputs, out, *settings):
    return [
        sys.executable, "-m", "piflow_bench", "prepare", "imagenet",
        f"source={inputs / 'images'}", f"out={out}", f"autoencoder={inputs / 'autoencoder'}",
        *(f"{k}={v}" for k, v in SETTINGS.items()), "device=cpu", *settings,
    ]  # fmt: skip


def prepared(inputs, out, *settings):
    """The exit code of the command in this process, with as many threads as one of its own has."""
    return main(command(inputs, out, *settings)[3:])


def test_killed_and_restarted_it_ends_with_the_same_bytes(inputs, latents, tmp_path, capsys):
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(inputs, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 240
    while not (out / "shard-00000.json").is_file():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if (out / "latents.json").is_file():
        pytest.skip("it was faster than the kill")
    with pytest.raises(UserError, match="not finished"):
        Latents(out)
    first = (out / "shard-00000.npy").stat().st_mtime_ns
    assert prepared(inputs, out) == 0
    assert capsys.readouterr().out.strip().endswith("out")
    assert len(shards(latents)) == 6 and shards(out) == shards(latents)
    assert (out / "shard-00000.npy").stat().st_mtime_ns == first, "a whole shard is kept"
    names = sorted(p.name for p in out.iterdir())
    assert names == sorted([*shards(out), "latents.json"]), "nothing else is left"


def test_a_finished_folder_is_kept_and_other_settings_refused(inputs, latents):
    before = {p.name: p.stat().st_mtime_ns for p in latents.iterdir()}
    make(inputs, latents)
    assert {p.name: p.stat().st_mtime_ns for p in latents.iterdir()} == before
    with pytest.raises(UserError, match="kind=mean-std, not sample"):
        make(inputs, latents, kind="sample")


# ------------------------------------------------------------------ refusals


@pytest.fixture
def images(inputs, tmp_path):
    """A copy of the class folders, to be damaged."""
    import shutil

    shutil.copytree(inputs / "images", tmp_path / "images")
    shutil.copytree(inputs / "autoencoder", tmp_path / "autoencoder")
    return tmp_path


def test_a_corrupt_image_is_named_and_skipped_only_when_asked(images, capsys):
    damaged = images / "images" / "class03" / "0001.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert prepared(images, images / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("class03/0001.JPEG", "skip_corrupt=true"):
        assert words in error
    assert not (images / "out" / "latents.json").exists()
    found = Latents(make(images, images / "other", skip_corrupt=True))
    assert len(found) == 39 and found.facts["skipped"] == ["class03/0001.JPEG"]
    assert found.facts["class_counts"][3] == 3


def test_missing_and_empty_classes_are_refused(images):
    import shutil

    empty = images / "images" / "class05"
    for file in empty.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="class05 has no images"):
        make(images, images / "out")
    shutil.rmtree(empty)
    with pytest.raises(UserError, match="9 classes, 10 expected"):
        make(images, images / "out")
    assert not (images / "out").exists()


def test_a_missing_synset_is_named(tmp_path):
    timm = pytest.importorskip("timm.data")
    names = list(timm.ImageNetInfo("imagenet-1k").label_names())
    for name in names:
        if name != "n02110185":
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match="1 classes are missing, first n02110185"):
        open_source(tmp_path, 1000)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["kind=both"], "mean-std or sample"),
        (["size=60"], "multiple of 8"),
        (["shards=3"], "did you mean"),
        (["shard=many"], "shard"),
        (["device=tpu"], "must be cpu, cuda or"),
    ],
)
def test_bad_settings_are_one_line(inputs, tmp_path, capsys, settings, words):
    assert prepared(inputs, tmp_path / "out", *settings) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_bad_sources_folders_and_autoencoders_are_named(inputs, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        make(inputs, tmp_path / "out", "nowhere")
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        make(inputs, tmp_path)
    with pytest.raises(UserError, match=r"no config\.json"):
        Autoencoder.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="a UNet2DModel, not"):
        Autoencoder.load(str(tmp_path))
    with pytest.raises(UserError, match="holds no latents"):
        Latents(tmp_path)


# ------------------------------------------------------------------ decoding, reading ahead


@torch.no_grad()
def test_decoding_is_diffusers_own_and_independent_of_the_batch(inputs):
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(inputs / "autoencoder")
    coder = Autoencoder.load(str(inputs / "autoencoder"))
    z = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = model.decode(z / model.config.scaling_factor).sample
    assert (coder.decode(z, batch=2) - expected).abs().max() < 1e-5
    assert (coder.factor, coder.channels) == (8, 4) and len(coder.digest) == 64


def test_reading_ahead_keeps_order_and_raises_where_asked():
    seen = []

    def read(step):
        seen.append(step)
        if step == 5:
            raise ValueError("row 5")
        return 10 * step

    reader = ReadAhead(read, depth=2)
    assert [reader.get(step) for step in range(4)] == [0, 10, 20, 30]
    assert reader.get(4) == 40
    with pytest.raises(ValueError, match="row 5"):
        reader.get(5)
    assert reader.get(9) == 90, "steps may be passed over"
    reader.close()
    assert seen == sorted(seen) and seen[0] == 0
    assert ReadAhead(lambda step: -step, depth=0).get(3) == -3
