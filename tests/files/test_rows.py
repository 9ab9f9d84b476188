"""Rows that survive a stop: kept whole, gone on with, and the same as without one."""

import numpy as np
import pytest

from piflow_bench import interruption
from piflow_bench.files.rows import Parts


@pytest.fixture(autouse=True)
def unasked():
    yield
    interruption.forget()


def batch(low, high):
    return {"x": np.arange(low, high, dtype=np.float32)[:, None], "cost": [float(high)]}


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_arrays_grow_by_rows(tmp_path, seconds):
    for folder in (None, tmp_path / "parts"):
        parts = Parts(folder, seconds)
        parts.add(3, **batch(0, 3))
        parts.add(2, **batch(3, 5))
        found = parts.arrays()
        assert parts.rows == 5
        assert found["x"].tolist() == [[0], [1], [2], [3], [4]]
        assert found["cost"].tolist() == [3.0, 5.0]
        parts.forget()
    assert not (tmp_path / "parts").exists()


def test_another_process_goes_on_after_what_was_kept(tmp_path):
    parts = Parts(tmp_path, 0)
    parts.add(3, **batch(0, 3))
    parts.seconds = 1e9
    parts.add(2, **batch(3, 5))  # Lost with its process.
    (tmp_path / ".000000000005.npz.tmp").write_bytes(b"half")
    again = Parts(tmp_path, 0)
    assert again.rows == 3
    again.add(1, **batch(3, 4))
    assert again.arrays()["x"].ravel().tolist() == [0, 1, 2, 3]


def test_a_part_with_a_flipped_byte_is_made_again(tmp_path):
    parts = Parts(tmp_path, 0)
    parts.add(3, **batch(0, 3))
    parts.add(2, **batch(3, 5))
    first, second = sorted(tmp_path.glob("*.npz"))
    content = bytearray(second.read_bytes())
    content[content.index(np.float32(4).tobytes())] ^= 1
    second.write_bytes(content)
    again = Parts(tmp_path, 0)
    assert again.rows == 3 and not second.exists() and first.exists()


def test_asked_to_stop_it_keeps_what_it_has(tmp_path):
    parts = Parts(tmp_path, 1e9)
    parts.add(3, **batch(0, 3))
    assert not list(tmp_path.iterdir())
    interruption.ask()
    with pytest.raises(interruption.Stopped):
        parts.add(2, **batch(3, 5))
    interruption.forget()
    assert Parts(tmp_path).rows == 5
