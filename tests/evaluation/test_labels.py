"""Files of labels."""

import json

import numpy as np
import pytest
from PIL import Image

import piflow_bench
from piflow_bench.errors import UserError
from piflow_bench.evaluation.sources import open_given

CLASSES = ["a cat", "dog", "a cat", "7"]
NAMED = [f"{name},{label}" for name, label in zip("3210", CLASSES[::-1], strict=True)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x").mkdir()
    for i in range(4):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / "x" / f"{i}.png")
    return tmp_path / "x"


def read(folder, name, text):
    path = folder.parent / name
    path.write_text(text, "utf-8-sig" if name == "bom.csv" else "utf-8")
    return open_given(folder, None, [None], labels=path).labels.tolist()


@pytest.mark.parametrize(
    "name, text",
    [
        ("l.txt", "\n".join(CLASSES)),
        ("l.TXT", "\r\n".join(CLASSES) + "\n\n"),
        ("l.txt", "\n".join(f"{i}.png {label}" for i, label in enumerate(CLASSES))),
        ("l.csv", "\n".join(CLASSES)),
        ("l.csv", "label\n" + "\n".join(CLASSES)),
        ("l.csv", "file,label\n" + "\n".join(NAMED)),
        ("bom.csv", "Label,Name\n" + "\n".join(",".join(r.split(",")[::-1]) for r in NAMED)),
        ("l.csv", "filename,score,class\n" + "\n".join(r.replace(",", ".png,0.5,") for r in NAMED)),
        ("l.csv", "\n".join(f'x/{i}.png, "{c}"'.replace(", ", ",") for i, c in enumerate(CLASSES))),
        ("l.tsv", "file\tlabel\n" + "\n".join(NAMED).replace(",", "\t")),
        ("l.json", json.dumps(CLASSES)),
    ],
)
def test_ways_of_writing_them(folder, name, text):
    assert read(folder, name, text) == CLASSES


@pytest.mark.parametrize("labels", [np.eye(3)[[0, 1, 0, 2]], np.array([[0], [1], [0], [2]])])
def test_arrays(folder, labels):
    np.save(folder.parent / "l.npy", labels)
    for given in (labels, folder.parent / "l.npy"):
        found = open_given(folder, None, [None], labels=given).labels
        assert found.tolist() == ["0", "1", "0", "2"]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("l.txt", "", "no labels in it"),
        ("l.csv", "file,label\n", "no labels in it"),
        ("l.csv", "file,label\n0.png,\n", "line 2: 2 columns are needed, none of them empty"),
        ("l.csv", "file,label\n0.png,a\n\n0.png,b\n", "line 4: 0.png is there twice"),
        ("l.csv", "file,label\n0.png,a,b\n", "line 2: 2 columns are needed"),
        ("l.csv", "x,y\n1,2\n", "line 1: a header with the columns file and label is needed"),
        ("l.csv", "file,label\n" + "\n".join(f"{i}.jpg,a" for i in range(1, 5)), "sample 0.png"),
        ("l.csv", 'file,label\n"0.png,a', "not a readable npy, json, csv or txt file"),
        ("l.txt", "a\nb\n", "labels: 2 labels for 4 samples"),
    ],
)
def test_mistakes_name_the_line(folder, name, text, words):
    with pytest.raises(UserError, match=words) as error:
        read(folder, name, text)
    assert "\n" not in str(error.value)


def test_they_class_the_samples_of_an_archive(folder, tmp_path):
    import shutil

    shutil.make_archive(str(tmp_path / "y"), "zip", tmp_path, "x")
    (tmp_path / "l.csv").write_text(
        "file,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(4))
    )
    settings = dict(extractor="efficientnet-lite0", metrics="vendi", intervals=False)
    settings |= dict(per_class="vendi", labels=tmp_path / "l.csv", cache=tmp_path / "c")
    found = [piflow_bench.evaluate(tmp_path / name, **settings) for name in ("x", "y.zip")]
    assert found[0].drop(columns="samples").equals(found[1].drop(columns="samples"))
    assert found[0]["group"].tolist() == ["all", "0", "1"]
