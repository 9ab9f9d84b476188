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


def test_a_large_file_is_read_by_one_process_of_all(tmp_path, monkeypatch):
    """Transformers of 24 GB: no plan and no status reads them again."""
    monkeypatch.setattr(digests, "LARGE", 10)
    monkeypatch.setattr(digests, "_kept", lambda: tmp_path / "kept")
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 100)
    long_ago(path)
    first = digests.digest(path)
    digests._known_digest.cache_clear()  # Another process.
    monkeypatch.setattr(digests, "file_digest", lambda path: "read again")
    assert digests.digest(path) == first
    os.utime(path, ns=(0, path.stat().st_mtime_ns - digests.TICK))
    assert digests.digest(path) == "read again", "a file of another time of change"
    for kept in (tmp_path / "kept").iterdir():
        kept.write_text("{damaged")
    digests._known_digest.cache_clear()
    assert digests.digest(path) == "read again"


def test_where_nothing_can_be_kept_it_is_read_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", 10)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(digests, "_kept", lambda: tmp_path / "file" / "kept")
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 100)
    long_ago(path)
    assert digests.digest(path) == digests.file_digest(path)
