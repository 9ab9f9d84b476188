"""Classes: from files of labels, and as numbers."""

import json

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.preparation.picture_labels import numbered, read_labels
from piflow_bench.preparation.pictures import prepare_pictures
from tests.preparation import own_pictures as own

NAMES = ("a/1.png", "a/2.png", "b/x y.png")
WANTED = ("cat", "dog", "red fox")


def file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


class TestFiles:
    FORMS = {
        "pairs.csv": "a/1.png,cat\na/2.png,dog\nb/x y.png,red fox\n",
        "shuffled.csv": "b/x y.png,red fox\na/1.png,cat\na/2.png,dog\n",
        "head.csv": "\ufefffile_name,split,Label\nx y.png,t,red fox\n1.png,t,cat\n2.png,t,dog\n",
        "quoted.csv": '"id","label"\n"1","cat"\n"2","dog"\n"x y","red fox"\n',
        "tabs.tsv": "label\tfile\ncat\t./a/1.png\ndog\ta\\2.png\nred fox\tb/x y.png\n\n",
        "place.csv": "cat\ndog\nred fox\n",
        "place with head.csv": "label\ncat\ndog\nred fox\n",
        "place.txt": "cat\ndog\nred fox\n",
        "mapping.json": json.dumps(dict(zip(NAMES, WANTED, strict=True))),
        "pairs.json": json.dumps({"labels": [list(p) for p in zip(NAMES, WANTED, strict=True)]}),
        "list.json": json.dumps(list(WANTED)),
    }

    @pytest.mark.parametrize("name", FORMS)
    def test_all_forms_say_the_same(self, name, tmp_path):
        assert read_labels(file(tmp_path, name, self.FORMS[name]), NAMES, False) == WANTED

    def test_lines_of_names_and_labels(self, tmp_path):
        text = "a/1.png 3\nb/x y.png 10\na/2.png 3\n"
        assert read_labels(file(tmp_path, "x.txt", text), NAMES, False) == ("3", "3", "10")

    def test_arrays(self, tmp_path):
        np.save(tmp_path / "x.npy", np.eye(3)[[2, 0, 1]])
        own.idx(tmp_path / "labels-idx1-ubyte", np.array([2, 0, 1]))
        for name in ("x.npy", "labels-idx1-ubyte"):
            assert read_labels(tmp_path / name, NAMES, True) == ("2", "0", "1")

    @pytest.mark.parametrize(
        "name, text, message",
        [
            ("x.csv", "cat\ndog\n", "2 labels for 3 images; one an image is needed"),
            ("x.csv", "1.png,a\n2.png,b\n", "1 of 3 images have no label, first b/x y.png"),
            ("x.csv", "1.png,a\n3.png,b\n9,b\n", "2 of 3 names are no image's, first 3.png; images "
             "are called as a/1.png"),
            ("x.csv", "1.png,a\na/1.png,b\n2,a\nx y,a\n", "a/1.png is a and b; keep one of them"),
            ("x.csv", "1.png,a,b\n2.png,b,b\n", "which column holds labels"),
            ("x.csv", "file,label\n1.png,a\n2.png\n", "lines of 1 to 2 columns"),
            ("x.csv", "1.png,a\n2.png,\nx y,b\n", "entry 2 has no label"),
            ("x.csv", "", "0 labels for 3 images"),
            ("x.txt", "", "0 labels for 3 images"),
            ("x.json", "{", "no JSON"),
            ("x.json", "[1.5, 2, 3]", "1.5 is no label"),
            ("x.json", '{"a/1.png": null}', "is no label"),
            ("x.json", "7", "is no label"),
            ("x.xml", "<a/>", "is no file of labels"),
        ],
    )  # fmt: skip
    def test_mistakes_are_refused(self, name, text, message, tmp_path):
        with pytest.raises(UserError, match=f"labels=.*{name}: .*{message}"):
            read_labels(file(tmp_path, name, text), NAMES, True)

    def test_names_that_may_be_two_images_are_unknown(self, tmp_path):
        path = file(tmp_path, "x.csv", "1.png,a\na/1.png,b\n")
        with pytest.raises(UserError, match="1 of 2 names are no image's, first 1.png"):
            read_labels(path, ("a/1.png", "b/1.png"), False)

    def test_places_need_one_order(self, tmp_path):
        path, names = file(tmp_path, "x.txt", "a\nb\n"), ("2.png", "10.png")
        with pytest.raises(UserError, match="by number .2.png. and in another by letters .10.png."):
            read_labels(path, names, False)
        assert read_labels(path, names, True) == ("a", "b")


class TestNumbers:
    def test_names_are_in_the_order_people_count_in(self):
        labels, names, cautions = numbered(["c10", "c2", "c2", "c10", "a", "a"], folders=True)
        assert names == ("a", "c2", "c10") and labels.tolist() == [2, 1, 1, 2, 0, 0]
        assert labels.dtype == np.int64
        assert len(cautions) == 1 and "by letters, as torchvision's ImageFolder" in cautions[0]
        assert not numbered(["c10", "c2", "c2", "c10"])[2]

    def test_whole_numbers_stay_where_they_are_those_from_0(self):
        values = [str(k) for k in range(12) for _ in range(2)]
        labels, names, cautions = numbered(values)
        assert labels.tolist() == [int(v) for v in values] and not cautions

    def test_other_numbers_are_mapped_and_keep_their_names(self):
        labels, names, cautions = numbered(["7", "-1", "100", "7", "-1", "100"])
        assert names == ("-1", "7", "100") and labels.tolist() == [1, 0, 2, 1, 0, 2]
        assert cautions == ["labels are not 0 to 2: -1 to 100 became these, in order"]

    def test_an_order_that_is_given_stays_with_its_empty_classes(self):
        labels, names, cautions = numbered(["b", "a", "b", "a"], ["b", "none", "a"])
        assert names == ("b", "none", "a") and labels.tolist() == [0, 2, 0, 2]
        assert cautions == ["1 of 3 classes have fewer than 2 images: none (0)"]

    def test_small_classes_are_named(self):
        values = [f"c{i}" for i in range(10)] + ["many"] * 4
        assert numbered(values)[2] == [
            "10 of 11 classes have fewer than 2 images: c0 (1), c1 (1), c2 (1), c3 (1), c4 (1), "
            "c5 (1) and 4 others"
        ]


class TestPictures:
    def test_a_file_stands_before_folders_and_arrays(self, tmp_path):
        array = own.pixels()
        source = own.folder(tmp_path / "x", array)
        text = "file,label\n" + "".join(f"{i},{i % 3}\n" for i in range(24))
        file(tmp_path / "x", "labels.csv", text)
        np.savez(tmp_path / "x.npz", arr_0=array, arr_1=np.zeros(24, int))
        file(tmp_path, "places.txt", "".join(f"{i % 3}\n" for i in range(24)))
        # By its name beside the images, too.
        given = [(source, "labels.csv"), (tmp_path / "x.npz", tmp_path / "places.txt")]
        for at, labels in given:
            found = prepare_pictures(at, tmp_path / f"out{at.name}", labels=labels)
            assert found.labels.tolist() == [i % 3 for i in range(24)]
            assert found.classes == ("0", "1", "2")
        found = prepare_pictures(source, tmp_path / "out")
        assert found.classes == own.CLASSES and found.facts["left_out"] == {".csv": 1}
        assert any("1 .csv file (labels.csv) is left out" in text for text in found.cautions)

    def test_folders_alone_have_an_order_by_letters(self, tmp_path):
        array = own.pixels()
        own.folder(tmp_path / "x", array, [f"{i // 2}/{i}.png" for i in range(24)])
        np.savez(tmp_path / "x.npz", arr_0=array, arr_1=np.arange(24) // 2)
        for name, cautions in (("x", 1), ("x.npz", 0)):
            found = prepare_pictures(tmp_path / name, tmp_path / f"out{name}")
            assert found.labels.tolist() == [i // 2 for i in range(24)]
            assert sum("ImageFolder" in text for text in found.cautions) == cautions

    @pytest.mark.parametrize("form", ["folder", "npz", "parquet"])
    def test_none_drops_them(self, form, tmp_path):
        array = own.pixels()
        if form == "folder":  # Loose images are none the worse then.
            source = own.folder(tmp_path / "x", array, ["loose.png", *own.names()[1:]])
        elif form == "npz":
            source = tmp_path / "x.npz"
            np.savez(source, arr_0=array, arr_1=np.full((24, 5), 0.3))
        else:
            source = own.parquet(tmp_path / "x.parquet", array, [-1] * 24)
        found = prepare_pictures(source, tmp_path / "out", labels="none")
        assert found.labels is None and len(found) == 24

    def test_columns_of_parquet_files(self, tmp_path):
        import pyarrow.parquet as pq

        array = own.pixels()
        path = own.parquet(tmp_path / "x.parquet", array, [i % 2 for i in range(24)], column="img")
        table = pq.read_table(path)
        table = table.append_column("colour", [[f"c{i % 3}" for i in range(24)]])
        pq.write_table(table, path)
        found = [
            prepare_pictures(path, tmp_path / f"out{labels}", labels=labels)
            for labels in (None, "label", "colour")
        ]
        assert [each.classes for each in found] == [own.CLASSES] * 2 + [("c0", "c1", "c2")]
        assert found[0].labels.tolist() == found[1].labels.tolist() == [0, 1] * 12
        with pytest.raises(UserError, match="labels=colr: no such file, nor column of x.parquet"):
            prepare_pictures(path, tmp_path / "out", labels="colr")

    def test_columns_without_what_datasets_writes_beside_them(self, tmp_path):
        labels = [5] * 12 + [3] * 12
        path = own.parquet(tmp_path / "x.parquet", own.pixels(), labels, stated=False)
        found = prepare_pictures(path, tmp_path / "out")
        assert found.classes == ("3", "5") and found.labels.tolist() == [1] * 12 + [0] * 12
