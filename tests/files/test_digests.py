"""Digests: each file is read once, however many a folder has."""

from piflow_bench.files import digests


def test_a_folder_of_many_files_is_read_once(tmp_path, monkeypatch):
    """Every stage asks for it; a memory of the last few files would forget all of them."""
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(str(number))
    read = []
    whole = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path) or whole(path))
    first = digests.digest(tmp_path)
    assert len(read) == 300 and digests.digest(tmp_path) == first
    assert len(read) == 300
    (tmp_path / "7.txt").write_text("another")
    assert digests.digest(tmp_path) != first and len(read) == 301
