"""Digests: each file is read once, however many a folder has."""

import os

from piflow_bench.files import digests


def long_ago(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10 * digests.TICK))


def test_a_folder_of_many_files_is_read_once(tmp_path, monkeypatch):
    """Every stage asks for it; a memory of the last few files would forget all of them."""
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(str(number))
        long_ago(tmp_path / f"{number}.txt")
    read = []
    whole = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path) or whole(path))
    first = digests.digest(tmp_path)
    assert len(read) == 300 and digests.digest(tmp_path) == first
    assert len(read) == 300
    (tmp_path / "7.txt").write_text("another")
    assert digests.digest(tmp_path) != first and len(read) == 301


def test_a_file_that_was_just_written_is_read_again(tmp_path):
    """Its next change may bear the same time and leave the same size."""
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first, now = digests.digest(path), path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))
    assert digests.digest(path) != first
