"""What is taken from folders, tars and parquet files, and what is refused."""

import gzip
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.preparation.sources.opening import IMAGENET_COUNT, open_source, synsets
from piflow_bench.preparation.sources.source import ReadError
from piflow_bench.preparation.sources.spool import is_scattered, spooled
from tests.preparation.conftest import contents


def parquet(path, rows, group=2):
    """A shard of (bytes, name, label) rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": data, "path": name} for data, name, _ in rows]
    table = pa.table({"image": images, "label": [label for *_, label in rows]})
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture(scope="module")
def rows(inputs):
    names = sorted({f.parent.name for f in inputs.files})
    return [(f.read_bytes(), f.name, names.index(f.parent.name)) for f in inputs.files]


@pytest.fixture
def hub(rows, tmp_path):
    """A repository as the hub has them: shuffled shards, three splits side by side."""
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = [rows[i] for i in order]
    for shard in range(2):
        parquet(
            tmp_path / "hub" / "data" / f"train-{shard:05d}-of-00002.parquet", mixed[shard::2], 5
        )
    parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", rows[:5])
    unlabelled = [(data, name, -1) for data, name, _ in rows[:5]]
    parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", unlabelled)
    return tmp_path / "hub"


def add(tar, name, data=None):
    facts = tarfile.TarInfo(name)
    if data is None:
        facts.type = tarfile.DIRTYPE
    facts.size = len(data or b"")
    tar.addfile(facts, io.BytesIO(data or b""))


def archive(path, inputs, prefix=""):
    with tarfile.open(path, "w") as tar:
        for file in inputs.files:
            add(tar, f"{prefix}{file.parent.name}/{file.name}", file.read_bytes())
    return path


# ------------------------------------------------------------------ what is taken


def test_a_shuffled_hub_repository_gives_the_bytes_of_the_folder(inputs, whole, hub, tmp_path):
    assert is_scattered(open_source(hub, 10))
    made = contents(inputs.make(tmp_path / "out", hub))
    expected = contents(whole)
    assert sorted(made) == sorted(expected), "the passing copy is gone"
    del made["latents.json"], expected["latents.json"]
    assert made == expected


def test_tars_and_sorted_parquet_give_the_bytes_of_the_folder(inputs, whole, rows, tmp_path):
    flat = archive(tmp_path / "flat.tar", inputs, "ILSVRC/train/")
    with tarfile.open(tmp_path / "nested.tar", "w") as outer:
        for place in sorted({f.parent for f in inputs.files}):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for file in sorted(place.iterdir()):
                    add(tar, file.name, file.read_bytes())
            add(outer, f"{place.name}.tar", inner.getvalue())
    parquet(tmp_path / "images.parquet", rows)
    assert not is_scattered(open_source(tmp_path / "images.parquet", 10))
    expected = {k: v for k, v in contents(whole).items() if k != "latents.json"}
    for source in (flat, tmp_path / "nested.tar", tmp_path / "images.parquet"):
        made = contents(inputs.make(tmp_path / f"of-{source.name}", source))
        made.pop("latents.json")
        assert made == expected, source.name


def test_reading_from_threads_and_from_a_pickle(inputs, hub, rows, tmp_path):
    sources = [
        open_source(inputs.images, 10),
        open_source(archive(tmp_path / "a.tar", inputs), 10),
        open_source(hub, 10),
    ]
    sources.append(spooled(sources[-1], tmp_path / "copy.bin"))
    wanted = np.random.default_rng(1).integers(0, len(rows), 500)
    for source in [*sources, *(pickle.loads(pickle.dumps(s)) for s in sources)]:
        assert source.count == len(rows) and source.labels == [label for *_, label in rows]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i, s=source: s.read(int(i)), wanted))
        assert found == [rows[i][0] for i in wanted]


def test_a_copy_that_was_interrupted_is_made_anew(hub, rows, tmp_path):
    path = tmp_path / "copy.bin"
    path.write_bytes(b"x")  # Killed before its index was there.
    source = spooled(open_source(hub, 10), path)
    assert [source.read(i) for i in range(len(rows))] == [data for data, *_ in rows]
    before = path.stat().st_mtime_ns
    assert spooled(open_source(hub, 10), path).read(3) == rows[3][0]
    assert path.stat().st_mtime_ns == before


def test_hidden_files_and_other_splits_are_not_images(copy, tmp_path):
    (copy.images / ".cache").mkdir()
    (copy.images / "class00" / "._0000.JPEG").write_bytes(b"x")
    assert len(open_source(copy.images, 10)) == 30
    path = archive(tmp_path / "a.tar", copy, "data/train/")
    with tarfile.open(path, "a") as tar:
        add(tar, "data/val/ILSVRC2012_val_00000001.JPEG", b"x")
        add(tar, "data/train/class00/._0000.JPEG", b"x")
    source = open_source(path, 10)
    assert len(source) == 30 and source.classes == [f"class{i:02d}" for i in range(10)]


# ------------------------------------------------------------------ what is refused


def test_damaged_and_compressed_tars(inputs, tmp_path):
    path = archive(tmp_path / "a.tar", inputs)
    data = path.read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    with tarfile.open(tmp_path / "inner.tar", "w") as outer:
        add(outer, "class00.tar", data[: len(data) // 2])
    for name in ("a.tar.gz", "cut.tar", "inner.tar"):
        with pytest.raises(UserError, match="compressed or damaged"):
            open_source(tmp_path / name, 10)
    source = open_source(path, 10)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ReadError, match="ends early"):
        source.read(29)


def test_a_class_folder_of_a_tar_without_images(inputs, tmp_path):
    path = archive(tmp_path / "a.tar", inputs, "train/")
    with tarfile.open(path, "a") as tar:
        add(tar, "train/class055")
    with pytest.raises(UserError, match="class055 has no images"):
        open_source(path, 11)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: rows[3:], "class 0 has no images"),
        (lambda rows: rows[:-3], "class 9 has no images"),
        (lambda rows: [(*rows[0][:2], -1), *rows], "label -1, but labels are 0 to 9"),
        (lambda rows: [(*rows[0][:2], 10), *rows], "label 10, but labels are 0 to 9"),
    ],
)
def test_labels_of_parquet_files(rows, tmp_path, change, words):
    parquet(tmp_path / "a.parquet", change(rows))
    with pytest.raises(UserError, match=words):
        open_source(tmp_path / "a.parquet", 10)


def test_parquet_files_of_another_make(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"jpg": [b"x"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"needs columns image .* and label .*jpg"):
        open_source(tmp_path, 1)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="needs columns image"):
        open_source(tmp_path, 1)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """ImageNet's class folders, one empty file in each."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("thousand")
    for name in synsets():
        (folder / name).mkdir()
        (folder / name / "a.JPEG").touch()
    return folder


def test_a_part_of_imagenet_is_taken_only_when_asked(thousand):
    with pytest.raises(UserError, match=f"1,000 images, .* {IMAGENET_COUNT:,}; .*partial=true"):
        open_source(thousand, 1000)
    assert len(open_source(thousand, 1000, partial=True)) == 1000


def test_unknown_and_missing_synsets_are_named(thousand):
    known = thousand / "n02110185"
    try:
        known.rename(thousand / "husky")
        with pytest.raises(UserError, match="first n02110185; 1 are none .* first husky"):
            open_source(thousand, 1000, partial=True)
    finally:
        (thousand / "husky").rename(known)


def test_a_missing_class_of_parquet_files_is_named(tmp_path):
    names = synsets()
    parquet(tmp_path / "a.parquet", [(b"", f"{i}", i) for i in range(1000) if i != 250], 500)
    with pytest.raises(UserError, match=rf"class 250 \({names[250]}\) has no images"):
        open_source(tmp_path, 1000)
