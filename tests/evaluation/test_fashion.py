"""The command evaluate on real images and without a network: Fashion-MNIST as Debian packages it.

Measured against the first 500 test images with EfficientNet-Lite0, with 95 % intervals:

====================  =================  =================  =================  =================
the first of train    fd                 precision          recall             vendi
====================  =================  =================  =================  =================
500, unchanged        32.2 [30.2, 34.1]  0.79 [0.75, 0.82]  0.86 [0.82, 0.90]  17.3 [16.6, 18.1]
250, unchanged        44.1 [41.5, 46.7]  0.81 [0.75, 0.87]  0.85 [0.78, 0.92]  15.4 [14.7, 16.2]
250, blurred          166 [161, 171]     0.04 [0.01, 0.07]  0.00 [-0.01, 0.01]  7.8 [7.4, 8.3]
250, shifted          63 [60.5, 65.5]    0.55 [0.48, 0.62]  0.59 [0.48, 0.70]  15.7 [14.9, 16.5]
250, of five classes  69.9 [67.5, 72.2]  0.80 [0.74, 0.86]  0.56 [0.51, 0.62]  11.5 [10.8, 12.1]
====================  =================  =================  =================  =================
"""

import gzip
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

DATA = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="apt install dataset-fashion-mnist")
FEW, MANY = 250, 500
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""For speed alone: glibc would give memory back after every batch."""
NO_NETWORK = """
import socket

def refuse(*arguments, **keywords):
    raise OSError("there is no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def read(name):
    """The array of an idx file."""
    with gzip.open(DATA / f"{name}.gz") as handle:
        data = handle.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def rgb(grey):
    return grey[..., None].repeat(3, -1)


def blurred(image):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))


def shifted(images):
    """By 4 pixels down and to the right."""
    return np.pad(images, ((0, 0), (4, 0), (4, 0)))[:, :-4, :-4]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Paths of the sets: png files in a folder, and npz files."""
    root = tmp_path_factory.mktemp("sets")
    images, labels = read("train-images-idx3-ubyte"), read("train-labels-idx1-ubyte")
    arrays = {
        "test": read("t10k-images-idx3-ubyte")[:MANY],
        "blurred": np.stack([blurred(image) for image in images[:FEW]]),
        "shifted": shifted(images[:FEW]),
        "five classes": images[labels < 5][:FEW],
    }
    for name, array in arrays.items():
        np.savez(root / f"{name}.npz", rgb(array))
    (root / "train").mkdir()
    for i, image in enumerate(images[:MANY]):
        Image.fromarray(rgb(image)).save(root / "train" / f"{i:04d}.png")
    return {"train": root / "train"} | {name: root / f"{name}.npz" for name in arrays}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Runs Python where no network can be reached: sockets refuse, and lead nowhere if possible."""
    home = tmp_path_factory.mktemp("home")
    (home / "sitecustomize.py").write_text(NO_NETWORK)
    path = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PIFLOW_BENCH")}
    environment = kept | KEEP_MEMORY
    environment |= {"HOME": str(home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    cut_off = ["unshare", "--net"]
    try:
        subprocess.run([*cut_off, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        cut_off = []

    def run(*arguments):
        command = [*cut_off, sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def scored(sets, offline, tmp_path_factory):
    """Scores by metric of a set, all of it or the first n, against the test images."""
    root = tmp_path_factory.mktemp("scored")

    @cache
    def score(name, n):
        ran = offline(
            *("-m", "piflow_bench", "evaluate", f"samples={sets[name]}", f"n={n}"),
            *(f"reference={sets['test']}", "extractor=efficientnet-lite0", "batch=2"),
            "metrics=[fd,kid_exact,precision,recall,density,coverage,vendi]",
            *(f"store={root / 'store'}", f"out={root / name}-{n}"),
        )
        assert ran.returncode == 0, ran.stderr
        return pd.read_parquet(root / f"{name}-{n}" / "scores.parquet").set_index("metric")

    return SimpleNamespace(of=score, store=root / "store")


def moved(scores, unchanged):
    """Metrics whose interval lies above and below that of the unchanged images."""
    up = scores.ci_low > unchanged.ci_high
    down = scores.ci_high < unchanged.ci_low
    return set(scores.index[up]), set(scores.index[down])


def test_no_network_can_be_reached(offline):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        reach = f"import socket; socket.create_connection({address}, 5)"
        subprocess.run([sys.executable, "-c", reach], check=True)
        assert "OSError" in offline("-c", reach).stderr


def test_train_images_resemble_test_images(scored):
    scores = scored.of("train", MANY)
    assert set(scores.n) == set(scores.n_reference) == {MANY}
    assert (scores.ci_low <= scores.value).all() and (scores.value <= scores.ci_high).all()
    assert scores.ci_low["kid_exact"] < 0.0005 and scores.ci_high["kid_exact"] < 0.002
    assert scores.value["precision"] > 0.7 and scores.value["recall"] > 0.7
    assert scores.value["density"] > 0.8 and scores.value["coverage"] > 0.8
    assert scores.value["vendi"] > 10, "there are ten classes"


def test_blur_is_a_loss_of_quality(scored):
    scores, unchanged = scored.of("blurred", FEW), scored.of("train", FEW)
    up, down = moved(scores, unchanged)
    assert up == {"fd", "kid_exact"}
    assert down == {"precision", "recall", "density", "coverage", "vendi"}
    assert scores.value["fd"] > 3 * unchanged.value["fd"]
    assert scores.value["precision"] < unchanged.value["precision"] / 2


@pytest.mark.thorough
def test_a_shift_is_a_loss_of_quality_alone(scored):
    scores, unchanged = scored.of("shifted", FEW), scored.of("train", FEW)
    up, down = moved(scores, unchanged)
    assert up == {"fd", "kid_exact"}
    assert down == {"precision", "recall", "density", "coverage"}
    assert scores.value["vendi"] == pytest.approx(unchanged.value["vendi"], rel=0.1)


@pytest.mark.thorough
def test_missing_classes_are_a_loss_of_diversity_alone(scored):
    scores, unchanged = scored.of("five classes", FEW), scored.of("train", FEW)
    up, down = moved(scores, unchanged)
    assert up - {"precision", "density"} == {"fd", "kid_exact"}
    assert down == {"recall", "coverage", "vendi"}
    assert scores.value["precision"] > unchanged.value["precision"] - 0.03


def test_features_are_computed_once(scored):
    for name in ("train", "blurred"):
        scored.of(name, FEW)
    rows = [len(np.load(path)["features"]) for path in scored.store.rglob("*.npz")]
    assert rows.count(MANY) <= 2, "of the reference, and of the train images where all were scored"
