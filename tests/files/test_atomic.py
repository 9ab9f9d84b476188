"""Files and folders appear whole or not at all, whatever interrupts their writing."""

import json

import numpy as np
import pandas as pd
import pytest

from piflow_bench.files.atomic import (
    exchange,
    write_array,
    write_arrays,
    write_atomically,
    write_json,
    write_parquet,
    write_text,
)
from piflow_bench.files.digests import digest, file_digest

ROWS = np.arange(6.0).reshape(2, 3)
WRITERS = {
    "a.json": (lambda p: write_json(p, {"a": 1}), lambda p: json.loads(p.read_text()) == {"a": 1}),
    "sub/a.txt": (lambda p: write_text(p, "é\n"), lambda p: p.read_bytes() == "é\n".encode()),
    "a.npy": (lambda p: write_array(p, ROWS), lambda p: np.array_equal(np.load(p), ROWS)),
    "a.npz": (
        lambda p: write_arrays(p, {"x": ROWS}, sync=True),
        lambda p: np.array_equal(np.load(p)["x"], ROWS),
    ),
    "sub/a.parquet": (
        lambda p: write_parquet(p, pd.DataFrame({"x": [1, 2]}, index=[7, 8])),
        lambda p: pd.read_parquet(p).equals(pd.DataFrame({"x": [1, 2]})),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read_and_nothing_else_lies_there(name, tmp_path):
    write, holds = WRITERS[name]
    path = tmp_path / name
    for _ in range(2):  # Also over what is there.
        write(path)
        assert holds(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")

    def half(temporary):
        temporary.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("names", [{"folder"}, {"old"}, {"folder", "old"}, set()])
def test_a_folder_is_exchanged_whatever_an_earlier_exchange_left(names, tmp_path):
    for name in {*names, "fresh"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(*(tmp_path / name for name in ("fresh", "folder", "old")))
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == [
        "folder",
        "folder/fresh",
    ]


def test_an_exchange_that_is_killed_leaves_one_whole_folder(tmp_path, monkeypatch):
    """Killed between its renames it has the one before aside, and takes it away when it ends."""
    import os

    fresh, folder, old = (tmp_path / name for name in ("fresh", "folder", "old"))
    for each in (fresh, folder):
        each.mkdir()
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            exchange(fresh, folder, old)
    assert old.is_dir() and fresh.is_dir() and not folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            exchange(fresh, folder, old)
    assert old.is_dir(), "as long as it is the only whole one"
    exchange(fresh, folder, old)
    assert folder.is_dir() and not old.exists()


def test_a_digest_is_of_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1.
    assert file_digest(path) == digest(path) == known
    assert digest(tmp_path) != known
    path.write_bytes(b"abcd")
    assert file_digest(path) == digest(path) != known
