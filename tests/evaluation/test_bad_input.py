"""The command evaluate: bad inputs get one line and no output, unusual good ones are scored.

Inputs are digits and the extractor is their classifier, which comes with the package, but for the
comparison of a set with itself.
"""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from piflow_bench.cli import main
from piflow_bench.data.digits import ASSETS
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.references.statistics import Statistics, save_statistics
from tests.stored import artifact


@cache
def digits():
    """80 grey images ``(80, 8, 8)`` uint8."""
    return (load_digits().images[:80] * 15).astype(np.uint8)


def rgb(grey):
    return grey[..., None].repeat(3, -1)


@cache
def moments():
    return Moments.from_features(get_extractor("digits")(rgb(digits()))["features"])


# ------------------------------------------------------------------ writers of inputs under t


def folder(t, images=None, suffix=".png"):
    path = t / "pictures"
    path.mkdir()
    for i, image in enumerate(digits() if images is None else images):
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(path / f"{i:03d}{suffix}")
    return path


def folder_with(t, content, name="007.png"):
    return file(folder(t), name, content).parent


def file(t, name, content):
    (t / name).write_bytes(content)
    return t / name


def npz(t, *arrays, **named):
    np.savez(t / "x.npz", *arrays, **named)
    return t / "x.npz"


def compressed(t, *arrays, **named):
    np.savez_compressed(t / "x.npz", *arrays, **named)
    return t / "x.npz"


def npy(t, array):
    np.save(t / "x.npy", array)
    return t / "x.npy"


def stored(t, array):
    """A folder of the store."""
    return artifact(t, array)


def circle(path):
    path.symlink_to(path)
    return path


def renamed(path, name):
    return path.rename(path.with_name(name))


def zipped(path, *arrays, name="arr_0.npy"):
    """An npz whose members all have one name."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for array in arrays:
            archive.writestr(name, array if isinstance(array, bytes) else announced(array))
    return path


def announced(array, rows=None):
    """A npy file's bytes whose header speaks of another number of rows."""
    handle = io.BytesIO()
    shape = (len(array) if rows is None else rows, *array.shape[1:])
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
    return handle.getvalue() + array.tobytes()


def pipe(path):
    os.mkfifo(path)
    return path


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_picture(t, suffix):
    return cut(folder(t, rgb(digits()), suffix) / f"007{suffix}").parent


def damaged(path):
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 40)
    data[middle] = bytes(255 - byte for byte in data[middle])
    path.write_bytes(bytes(data))
    return path


def unknown_compression(path):
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 10] = 99
    path.write_bytes(bytes(data))
    return path


def png(colour_type, channels, side=8, bits=16):
    """A PNG as Pillow writes none: 16 bits a channel in colour, or of any size in its header."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    row = b"\0" + np.arange(8 * channels, dtype=">u2").tobytes()
    header = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(8 * row)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickled(t):
    content = pickle.dumps(Bomb(t / "exploded"))
    pickle.loads(content)
    (t / "exploded").unlink()  # So reading it would be noticed.
    return content


def objects(t):
    return np.array([Bomb(t / "exploded")] * 80, dtype=object)


def statistics(t, **changes):
    arrays = {"mu": moments().mean, "sigma": moments().covariance} | changes
    return {"reference": compressed(t, **arrays), "metrics": "[fd]"}


def statistics_of_inception(t):
    known = Statistics("", moments(), None, "inception (its rule; weights 012)")
    save_statistics(t / "x.npz", known)
    return {"reference": t / "x.npz", "metrics": "[fd]"}


def weights(t, change):
    state = {k: change(v) for k, v in load_file(ASSETS / "digits_classifier.safetensors").items()}
    save_file(state, t / "w.safetensors")
    return {"extractor.weights": t / "w.safetensors"}


# ------------------------------------------------------------------ what is refused

DEEP = ["007.png", "more than 8 bits", "convert"]
BY_RULE = ["uint8", "numpy.uint8(255 * x + 0.5)"]
OBJECTS = ["Python objects", "not read"]
NAN = np.full((80, 3, 8, 8), np.nan, np.float32)
IMAGES = {
    "nothing there": (lambda t: t / "none", ["none", "no such file or folder"]),
    "empty folder": (lambda t: folder(t, []), ["pictures", "no images in it", ".png"]),
    "folder of text": (lambda t: file(t, "a.txt", b"a").parent, ["no images in it", ".png"]),
    "text": (lambda t: file(t, "a.txt", b"a"), ["a.txt", "folder of images", ".npz", ".npy"]),
    "one image": (lambda t: folder(t, digits()[:1]), ["1", "at least 2"]),
    "one image in an array": (lambda t: npz(t, digits()[:1]), ["1", "at least 2"]),
    "links in a circle": (lambda t: circle(t / "x.npz"), ["x.npz", "no such file or folder"]),
    "folder links in a circle": (lambda t: circle(t / "x"), ["x", "no such file or folder"]),
    "pipe": (lambda t: pipe(t / "x.npz"), ["x.npz", "no file"]),
    "one picture": (
        lambda t: folder(t) / "007.png",
        ["007.png", "one image; give the folder"],
    ),
    "no zip of pictures": (lambda t: file(t, "x.zip", b"PK"), ["x.zip", "cannot be read whole"]),
    "no tar": (lambda t: file(t, "x.tar.gz", b""), ["x.tar.gz", "cannot be read whole"]),
    "another archive": (
        lambda t: file(t, "x.7z", b"7z"),
        ["x.7z", "unpack it, or pack it as .zip"],
    ),
    "zip called npz": (
        lambda t: zipped(t / "x.npz", b"picture", name="0.png"),
        ["x.npz", "no array 'arr_0' in it, nor another one"],
    ),
    "npy called npz": (lambda t: renamed(npy(t, digits()), "x.npz"), ["not a whole npz file"]),
    "npz called npy": (
        lambda t: renamed(npz(t, digits()), "x.npy"),
        ["x.npy", "an npz file by its content; call it x.npz"],
    ),
    "an array twice": (
        lambda t: zipped(t / "x.npz", digits(), digits()[:40]),
        ["x.npz", "arr_0.npy is there twice"],
    ),
    "fewer rows than announced": (
        lambda t: zipped(t / "x.npz", announced(digits(), 90)),
        ["x.npz", "cannot be read whole (5120 bytes, but its shape (90, 8, 8) is of 5760)"],
    ),
    "more rows than announced": (
        lambda t: zipped(t / "x.npz", announced(digits(), 50)),
        ["x.npz", "cannot be read whole (5120 bytes"],
    ),
    "more rows than announced in npy": (
        lambda t: file(t, "x.npy", announced(digits(), 50)),
        ["x.npy", "cannot be read whole (5120 bytes"],
    ),
    "rows below none": (
        lambda t: zipped(t / "x.npz", announced(digits(), -80)),
        ["x.npz", "cannot be read whole", "(-80, 8, 8)"],
    ),
    "no pixels": (
        lambda t: npz(t, np.zeros((80, 8, 0, 3), np.uint8)),
        ["x.npz", "(80, 8, 0, 3): images without pixels"],
    ),
    "mixed sizes": (
        lambda t: folder(t, [*digits()[:20], digits()[20, :6]]),
        ["pictures", "000.png is 8x8", "020.png is 8x6", "resize"],
    ),
    "truncated png": (lambda t: cut_picture(t, ".png"), ["007.png", "truncated"]),
    "truncated jpg": (lambda t: cut_picture(t, ".jpg"), ["007.jpg", "read"]),
    "truncated webp": (lambda t: cut_picture(t, ".webp"), ["007.webp", "read"]),
    "empty file": (lambda t: folder_with(t, b""), ["007.png", "not a readable image"]),
    "text as png": (lambda t: folder_with(t, b"text"), ["007.png", "not a readable image"]),
    "endless png": (
        lambda t: folder_with(t, png(2, 3, side=10**5, bits=8)),
        ["007.png", "exceeds limit"],
    ),
    "16-bit grey": (lambda t: folder_with(t, png(0, 1)), DEEP),
    "16-bit colour": (lambda t: folder_with(t, png(2, 3)), DEEP),
    "16-bit alpha": (lambda t: folder_with(t, png(6, 4)), DEEP),
    "no zip": (lambda t: file(t, "x.npz", b"PK junk"), ["x.npz", "not a whole npz"]),
    "empty npz": (lambda t: file(t, "x.npz", b""), ["x.npz", "not a whole npz"]),
    "npz cut short": (lambda t: cut(npz(t, digits())), ["x.npz", "not a whole npz"]),
    "damaged npz": (lambda t: damaged(npz(t, digits())), ["x.npz", "arr_0 is damaged"]),
    "damaged compression": (
        lambda t: damaged(compressed(t, rgb(digits()))),
        ["x.npz", "arr_0 is damaged"],
    ),
    "damaged classes": (
        lambda t: damaged(npz(t, digits(), np.array(["x" * 100] * 80))),
        ["x.npz", "arr_1 is damaged"],
    ),
    "unknown compression": (
        lambda t: unknown_compression(npz(t, digits())),
        ["x.npz", "compression method"],
    ),
    "npy cut short": (lambda t: cut(npy(t, digits())), ["x.npy", "cannot be read whole"]),
    "npy header cut short": (lambda t: cut(npy(t, digits()), 0.01), ["x.npy", "read whole"]),
    "npy header torn": (
        lambda t: file(t, "x.npy", npy(t, digits()).read_bytes().replace(b")", b" ", 1)),
        ["x.npy", "cannot be read whole"],
    ),
    "another key": (lambda t: npz(t, images=digits()), ["x.npz", "'arr_0'", "only images"]),
    "no rows": (lambda t: npz(t, digits()[:0]), ["x.npz", "no images in it"]),
    "flat rows": (
        lambda t: npz(t, digits().reshape(80, -1)),
        ["x.npz", "(80, 64)", "(n, height, width, 3) is meant"],
    ),
    "five channels": (
        lambda t: npz(t, digits()[..., None].repeat(5, -1)),
        ["x.npz", "(80, 8, 8, 5)", "(n, height, width, 3) is meant"],
    ),
    "floats": (lambda t: npz(t, digits() / 255), ["x.npz", "float64", *BY_RULE]),
    "floats out of range": (
        lambda t: npy(t, rgb(digits()).astype(np.float32)),
        ["x.npy", "float32", *BY_RULE],
    ),
    "NaN": (lambda t: npy(t, NAN), ["x.npy", "float32", *BY_RULE]),
    "wide integers": (lambda t: npz(t, digits().astype(int)), ["x.npz", "int64", "uint8"]),
    "NaN in the store": (lambda t: stored(t, NAN), ["not finite"]),
    "objects in the store": (lambda t: stored(t, objects(t)), OBJECTS),
    "objects in npz": (lambda t: npz(t, objects(t)), ["x.npz", "Python objects", "not read"]),
    "objects in npy": (lambda t: npy(t, objects(t)), ["x.npy", *OBJECTS]),
    "pickle called npz": (lambda t: file(t, "x.npz", pickled(t)), ["x.npz", "not a whole npz"]),
    "pickle called npy": (lambda t: file(t, "x.npy", pickled(t)), ["x.npy", *OBJECTS]),
    "pickle": (lambda t: file(t, "x.pkl", pickled(t)), ["x.pkl", "pickle", "numpy.savez("]),
    "torch file": (lambda t: file(t, "x.pt", pickled(t)), ["x.pt", "pickle", "numpy.savez("]),
}
SETTINGS = {
    "statistics of another dimension": (
        lambda t: statistics(t, mu=np.zeros(3), sigma=np.eye(3)),
        ["64 columns", "reference 3", "one extractor"],
    ),
    "statistics of another extractor": (
        statistics_of_inception,
        ["reference=", "x.npz", "inception (its rule", "digits (17 grey levels"],
    ),
    "statistics without covariance": (
        lambda t: {"reference": npz(t, mu=np.zeros(64)), "metrics": "[fd]"},
        ["reference=", "x.npz", "only mu"],
    ),
    "statistics with NaN": (
        lambda t: statistics(t, sigma=np.full((64, 64), np.nan)),
        ["reference=", "x.npz", "sigma", "not finite"],
    ),
    "statistics of two shapes": (
        lambda t: statistics(t, sigma=np.eye(5)),
        ["reference=", "x.npz", "(64,)", "(5, 5)"],
    ),
    "negative variances": (
        lambda t: statistics(t, sigma=-np.eye(64)),
        ["reference=", "x.npz", "sigma", "negative"],
    ),
    "statistics of one image": (
        lambda t: statistics(t, n=np.asarray(1)),
        ["reference=", "x.npz", "n=1", "2 images at least"],
    ),
    "statistics of two counts": (
        lambda t: statistics(t, n=np.arange(2)),
        ["reference=", "x.npz", "size 1"],
    ),
    "impossible covariances": (
        lambda t: statistics(t, sigma=np.eye(64) + 5 * (1 - np.eye(64))),
        ["reference=", "x.npz", "beyond what its variances allow"],
    ),
    "statistics of objects": (
        lambda t: statistics(t, mu=objects(t)),
        ["reference=", "x.npz", *OBJECTS],
    ),
    "damaged statistics": (
        lambda t: {"reference": damaged(statistics(t)["reference"])},
        ["reference=", "x.npz", "cannot be read whole"],
    ),
    "pickled statistics": (
        lambda t: {"reference": file(t, "fid.pkl", pickled(t))},
        ["reference=", "fid.pkl", "numpy.savez('stats.npz', mu="],
    ),
    "statistics for recall": (
        lambda t: statistics(t) | {"metrics": "[recall]"},
        ["'recall'", "needs reference images", "fd"],
    ),
    "NaN features": (lambda t: weights(t, lambda v: v * np.nan), ["80 of 80", "not finite"]),
    "weights of another network": (
        lambda t: weights(t, lambda v: v[:1]),
        ["extractor.weights=", "w.safetensors", "another network"],
    ),
    "pickled weights": (
        lambda t: {"extractor.weights": file(t, "w.pth", pickled(t))},
        ["extractor.weights=", "w.pth", "plain tensors"],
    ),
    "missing weights": (
        lambda t: {"extractor.weights": t / "none.pth"},
        ["extractor.weights=", "none.pth", "no such file"],
    ),
    "labels of objects": (lambda t: {"labels": npy(t, objects(t))}, ["labels=", "x.npy"]),
    "one label": (lambda t: {"labels": npy(t, np.array(3))}, ["labels", "one a sample, not ()"]),
    "a number as labels": (
        lambda t: {"labels": file(t, "l.json", b"3")},
        ["labels", "one a sample, not ()"],
    ),
    "labels of lists": (
        lambda t: {"labels": file(t, "l.json", json.dumps([[1], [2, 3]] * 40).encode())},
        ["labels", "one a sample, not lists"],
    ),
    "labels of pairs": (
        lambda t: {"labels": file(t, "l.json", json.dumps([[1, 2]] * 80).encode())},
        ["labels", "one a sample, not (80, 2)"],
    ),
    "labels of nothing": (
        lambda t: {"labels": file(t, "l.json", json.dumps([None, 1] * 40).encode())},
        ["labels", "one a sample, not (80,) object"],
    ),
    "labels of lists by name": (
        lambda t: {
            "samples": folder(t),
            "labels": file(
                t, "l.json", json.dumps({f"{i:03d}": [1] * (i % 2) for i in range(80)}).encode()
            ),
        },
        ["labels", "one a sample, not lists"],
    ),
    "labels in an npz": (
        lambda t: {"labels": npz(t, np.arange(80))},
        ["labels=", "x.npz", "save its labels alone"],
    ),
    "few labels": (lambda t: {"labels": npy(t, np.arange(3))}, ["3 labels", "80 samples"]),
    "n below k": (lambda t: {"n": 3, "k": 5}, ["k=5", "more than 5 points", "not "]),
    "n=1": (lambda t: {"n": 1}, ["n=1", "at least 2"]),
    "n=0": (lambda t: {"n": 0}, ["n=0", "at least 1"]),
    "n above the set": (lambda t: {"n": 81}, ["samples", "80 images", "81", "n=80"]),
    "protocol's n above the set": (
        lambda t: {"protocol": "adm-imagenet256", "metrics": "[fd]"},
        ["samples", "80 images", "50000", "n=80"],
    ),
    "subsets above the set": (
        lambda t: {"metrics": "[kid]"},
        ["kid_subset_size=1000", "80 samples", "kid_subset_size=80"],
    ),
    "protocol": (lambda t: {"protocol": "defalt"}, ["protocol=defalt", "'default'"]),
    "metric": (lambda t: {"metrics": "[precison]"}, ["metrics=precison", "'precision'"]),
    "metric outside a list": (lambda t: {"metrics": "fd"}, ["metrics=fd", "list"]),
    "unfinished list": (lambda t: {"metrics": "[fd"}, ["metrics=[fd", "[a,b]"]),
    "metric without its input": (
        lambda t: {"metrics": "[teacher_mse]"},
        ["'teacher_mse'", "teacher=PATH"],
    ),
    "metric of another output": (lambda t: {"metrics": "[sfd]"}, ["'sfd'", "spatial", "digits"]),
    "extractor": (lambda t: {"extractor": "digit"}, ["extractor", "'digit'", "'digits'"]),
    "setting": (lambda t: {"comparater": "lt"}, ["comparater", "'comparator'"]),
    "value of a setting": (lambda t: {"comparator": "<"}, ["comparator=<", "not readable"]),
    "type of a setting": (lambda t: {"k": "three"}, ["k=three", "int, at least 1"]),
    "no samples": (lambda t: {"samples": None}, ["samples=PATH"]),
    "no reference": (lambda t: {"reference": None}, ["'fd'", "reference=PATH"]),
    "images of a size the network cannot see": (
        lambda t: {"samples": npz(t, np.zeros((20, 16, 16, 3), np.uint8))},
        ["extractor=digits", "8x8", "16x16"],
    ),
    "GPU": (lambda t: {"device": "cuda:99"}, ["device=cuda:99", "device=cpu"]),
    "device": (lambda t: {"device": "mps"}, ["device=mps", "cpu, cuda"]),
    "store within a file": (
        lambda t: {"store": file(t, "f", b"") / "deeper"},
        ["store=", "cannot be written"],
    ),
    "store where nothing can be made": (
        lambda t: {"store": "/proc/nowhere"},
        ["store=/proc/nowhere", "cannot be written", "choose another store=PATH"],
    ),
    "store below a link to nowhere": (
        lambda t: (t / "link").symlink_to(t / "none") or {"store": t / "link" / "deeper"},
        ["store=", "cannot be written"],
    ),
    "store of too long a name": (
        lambda t: {"store": t / ("a" * 300)},
        ["store=", "File name too long"],
    ),
    "out within a file": (
        lambda t: {"out": file(t, "f", b"") / "deeper"},
        ["out=", "cannot be written"],
    ),
}


def command(t, **changes):
    """The command's arguments: two good sets, and ``changes`` (None leaves a setting out)."""
    np.savez(t / "a.npz", rgb(digits()))
    np.savez(t / "b.npz", rgb(digits()[::-1]))
    settings = {
        "samples": t / "a.npz",
        "reference": t / "b.npz",
        "extractor": "digits",
        "metrics": "[fd,precision,recall]",
        "out": t / "out",
        "store": t / "store",
    }
    return ["evaluate", *[f"{k}={v}" for k, v in (settings | changes).items() if v is not None]]


def check_refused(t, capsys, write, words):
    (t / "source").mkdir()
    arguments = command(t, **write(t / "source"))

    def files():
        return {path for path in t.rglob("*") if t / "store" not in [path, *path.parents]}

    before = files()
    code = main(arguments)
    printed, message = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert files() == before, "nothing is written, nothing unpickled"
    for word in words:
        assert word in message.replace(str(t), ""), message


@pytest.mark.parametrize("side", ["samples", "reference"])
@pytest.mark.parametrize("case", IMAGES)
def test_bad_images(tmp_path, capsys, case, side):
    write, words = IMAGES[case]
    check_refused(tmp_path, capsys, lambda t: {side: write(t)}, [side, *words])


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings(tmp_path, capsys, case):
    check_refused(tmp_path, capsys, *SETTINGS[case])


# ------------------------------------------------------------------ what is accepted


def score(arguments):
    assert main(arguments) == 0
    out = next(a.removeprefix("out=") for a in arguments if a.startswith("out="))
    return pd.read_parquet(Path(out) / "scores.parquet").set_index("metric")["value"]


def in_colour():
    """17 colours."""
    grey = digits()
    return np.stack([grey, grey // 2, 255 - grey], -1)


def palette(rows):
    colours, index = np.unique(rows.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(index.reshape(8, 8).astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    return image


def with_alpha(rows):
    alpha = np.arange(rows[..., 0].size, dtype=np.uint8).reshape(*rows.shape[:-1], 1)
    return np.concatenate([rows, alpha], -1)


MODES = {
    "L": lambda: (digits(), rgb(digits())),
    "1": lambda: (digits() > 99, rgb(np.uint8(digits() > 99) * 255)),
    "LA": lambda: (with_alpha(digits()[..., None]), rgb(digits())),
    "RGBA": lambda: (with_alpha(in_colour()), in_colour()),
    "P": lambda: ([palette(rows) for rows in in_colour()], in_colour()),
}


@pytest.mark.filterwarnings("error:Palette images with Transparency")
@pytest.mark.parametrize(
    ("mode", "transparent"), [(m, False) for m in MODES] + [("L", True), ("1", True), ("P", True)]
)
def test_other_modes_have_the_features_of_their_colours(tmp_path, mode, transparent):
    images, colours = MODES[mode]()
    samples = folder(tmp_path, images)
    for path in sorted(samples.iterdir()) if transparent else []:
        with Image.open(path) as image:
            assert image.mode == mode
            image.save(path, transparency=bytes(range(17)) if mode == "P" else 0)
    score(command(tmp_path, samples=samples, reference=npz(tmp_path, colours)))
    ours, theirs = [np.load(p)["features"] for p in (tmp_path / "store").rglob("*.npz")]
    assert ours.shape == (80, 64) and np.array_equal(ours, theirs)


def test_covariances_rounded_to_float32_are_taken(tmp_path):
    short = moments().covariance.astype(np.float32)
    assert score(command(tmp_path, **statistics(tmp_path, sigma=short)))["fd"] < 1e-3


@pytest.mark.parametrize("name", ["x.NPZ", "x.Npz", "x.NPY"])
def test_suffixes_in_capitals(tmp_path, name):
    path = npy(tmp_path, rgb(digits())) if "Y" in name else npz(tmp_path, rgb(digits()))
    values = score(command(tmp_path, samples=renamed(path, name)))
    assert values.equals(score(command(tmp_path)))
    given = statistics(tmp_path)
    given["reference"] = renamed(given["reference"], "s.NPZ")
    assert score(command(tmp_path, **given))["fd"] < 1e-6


@pytest.mark.parametrize("odd", [b"\xff", b"a\nb", b"\xc3\xa9", b"\x1b[31m"])
def test_names_of_any_bytes_are_scored_and_written(tmp_path, odd):
    """As a folder, a class, an image and a file that is left out."""
    whole = tmp_path / "whole"
    for name, rows in ((os.fsdecode(b"a" + odd), digits()[:40]), ("b", digits()[40:])):
        (whole / name).mkdir(parents=True)
        for i, row in enumerate(rows):
            Image.fromarray(row).save(whole / name / f"{i}.png")
    path = whole / os.fsdecode(b"a" + odd) / "0.png"
    path.rename(path.with_name(os.fsdecode(odd + b".png")))
    path.with_name(os.fsdecode(odd + b".txt")).write_text("")
    given = command(
        tmp_path, samples=whole.rename(tmp_path / os.fsdecode(b"x" + odd)),
        reference=npz(tmp_path, digits()[:40]), per_class="[vendi]",
    )  # fmt: skip
    score(given)
    found = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert len(set(found["group"])) == 3 and found["warnings"][0].count("\n") == 2
    assert all(text.isprintable() for text in found["group"])


def test_samples_of_a_file_with_other_arrays(tmp_path):
    """ADM's keys of statistics are known, all other arrays might be what is meant."""
    moments_too = {"mu": moments().mean, "sigma": moments().covariance}
    for more, told in (({"images": digits()}, "images, uint8 (80, 8, 8), is left out"),
                       ({"arr_2": np.arange(3)}, "arr_2, int64 (3,), is left out"),
                       (moments_too, None)):  # fmt: skip
        samples = npz(tmp_path, rgb(digits()), **more)
        score(command(tmp_path, samples=samples))
        text = pd.read_parquet(tmp_path / "out" / "scores.parquet")["warnings"][0]
        assert (told in text) if told else "left out" not in text


def test_statistics_in_fortran_order(tmp_path):
    columns = np.asfortranarray(moments().covariance)
    assert score(command(tmp_path, **statistics(tmp_path, sigma=columns)))["fd"] < 1e-6


def test_paths_of_any_characters(tmp_path):
    odd = tmp_path / "a b=c, [d,e] {f} (g) 'h' $i"
    odd.mkdir()
    changes = {
        "samples": folder(odd),
        "reference": npz(odd, digits()[:40]),
        "out": odd / "out, [1]=",
        "store": odd / "store = [2]",
        **weights(odd, lambda v: v),
    }
    usual = score(command(tmp_path, reference=npz(tmp_path, digits()[:40])))
    assert score(command(tmp_path, **changes)).equals(usual)
    assert [p.name for p in (odd / "store = [2]").iterdir()] == ["features"]


@pytest.mark.parametrize("extractor", ["digits", "efficientnet-lite0"])
def test_a_set_against_itself(tmp_path, extractor):
    """Fewer images than features, so both covariances are singular."""
    path = folder(tmp_path, digits()[:30])
    arguments = command(tmp_path, samples=path, reference=path, extractor=extractor)
    values = score([*arguments, "intervals=false"])
    assert abs(values["fd"]) < 1e-5  # Rounding, of traces of hundreds.
    assert values["precision"] == values["recall"] == 1
