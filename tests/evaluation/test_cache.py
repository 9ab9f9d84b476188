"""Features are kept in shards of fixed rows, which any part of a set shares."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.evaluation import extraction
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.pictures.opening import open_images

ROWS = np.random.default_rng(0).integers(0, 256, (53, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def computed(monkeypatch):
    """How many images were computed so far, and shards of seven rows."""
    monkeypatch.setattr(extraction, "SHARD", 7)
    counts, one = [], extraction._outputs

    def counted(images, extractor, rows, *rest):
        counts.append(len(rows))
        return one(images, extractor, rows, *rest)

    monkeypatch.setattr(extraction, "_outputs", counted)
    return counts


def some(*places, source=ROWS):
    return open_images(source).take(np.array(places))


EXPECTED = {}


@pytest.fixture(scope="module", autouse=True)
def expected():
    EXPECTED.update(extract(open_images(ROWS), get_extractor("digits"), None, batch=4))


def check(found, places):
    assert np.array_equal(found["digests"], EXPECTED["digests"][places])
    for name in ("features", "logits"):
        assert np.allclose(found[name], EXPECTED[name][places], atol=1e-5)


def test_any_part_takes_from_the_same_shards(tmp_path, computed):
    network = get_extractor("digits")
    random = np.random.default_rng(1)
    known: set[int] = set()
    for n in (5, 20, 3, 40, 53, 30):
        places = np.sort(random.permutation(53)[:n])
        before = sum(computed)
        found = extract(open_images(ROWS).take(places), network, tmp_path, batch=4)
        assert sum(computed) - before == len(set(places.tolist()) - known)
        known |= set(places.tolist())
        check(found, places)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(list(tmp_path.rglob("*.npz"))) == 8
    shard = np.load(sorted(tmp_path.rglob("*.npz"))[0])
    assert "rows" not in shard and len(shard["digests"]) == 7


def test_parts_in_any_order_and_twice(tmp_path, computed):
    network = get_extractor("digits")
    places = [50, 3, 3, 17, 0, 50]
    check(extract(some(*places), network, tmp_path, batch=4), places)
    assert sum(computed) == 4
    check(extract(some(*places[::-1]), network, None, batch=4), places[::-1])


def test_few_rows_of_many_shards_share_batches(tmp_path, computed):
    seen, network = [], get_extractor("digits")
    one = type(network).__call__

    class Counting(type(network)):
        def __call__(self, images):
            seen.append(len(images))
            return one(self, images)

    object.__setattr__(network, "__class__", Counting)
    extract(some(0, 8, 15, 22, 30, 36), network, tmp_path, batch=3)
    assert seen == [3, 3]


@pytest.mark.parametrize("processes", [1, 2])
def test_without_a_cache_nothing_is_written(tmp_path, monkeypatch, computed, processes):
    monkeypatch.chdir(tmp_path)
    network = get_extractor("digits")
    found = extract(open_images(ROWS), network, None, batch=4, processes=processes)
    check(found, np.arange(53))
    check(extract(some(9, 1, 52), network, None, processes=processes), [9, 1, 52])
    assert not list(tmp_path.iterdir())


def test_a_stopped_call_goes_on(tmp_path, computed):
    network, images = get_extractor("digits"), open_images(ROWS).take(np.arange(0, 53, 2))

    def stop(done, total):
        if done >= 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(images, network, tmp_path, batch=4, report=stop)
    kept = sum(len(np.load(p)["digests"]) for p in tmp_path.rglob("*.npz"))
    assert 0 < kept < 27
    computed.clear()
    told = []
    check(
        extract(images, network, tmp_path, batch=4, report=lambda *seen: told.append(seen)),
        np.arange(0, 53, 2),
    )
    assert sum(computed) == 27 - kept and told[0] == (kept, 27) and told[-1] == (27, 27)


@pytest.mark.parametrize("harm", [b"", b"PK", "other", "rows"])
def test_harm_costs_a_shard_and_no_more(tmp_path, computed, harm):
    network, places = get_extractor("digits"), np.arange(0, 53, 2)
    images = open_images(ROWS).take(places)
    extract(images, network, tmp_path, batch=4)
    path = sorted(tmp_path.rglob("*.npz"))[2]
    if harm == "other":
        np.savez(path, scores=np.zeros(3))
    elif harm == "rows":
        np.savez(path, **{k: v[:1] for k, v in np.load(path).items()})
    else:
        path.write_bytes(harm)
    computed.clear()
    check(extract(images, network, tmp_path, batch=4), places)
    assert 0 < sum(computed) <= 4


def test_shards_of_before_are_taken(tmp_path, computed):
    """They held all of their rows, and did not say which."""
    network = get_extractor("digits")
    extract(open_images(ROWS), network, tmp_path, batch=4)
    for path in tmp_path.rglob("*.json"):
        path.unlink()
    computed.clear()
    check(extract(some(1, 33, 52), network, tmp_path, batch=4), [1, 33, 52])
    assert not computed


def folder(path, rows):
    path.mkdir()
    for i, row in enumerate(rows):
        Image.fromarray(row).save(path / f"{i:03d}.png")


class TestCommand:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder(tmp_path / "x", ROWS)

    ARGUMENTS = ("evaluate", "samples=x", "extractor=digits", "metrics=[vendi]")

    def test_a_larger_n_computes_what_is_new(self, computed):
        for n, new in ((20, 20), (40, 20), (30, 0), (53, 13)):
            computed.clear()
            assert main([*self.ARGUMENTS, f"n={n}", f"out=o{n}"]) == 0
            assert abs(sum(computed) - new) <= 1, n

    def test_cache_false_keeps_nothing(self, tmp_path):
        with_teacher = ["teacher=x", "metrics=[vendi,teacher_mse]"]
        command = ["evaluate", "samples=x", "extractor=digits", *with_teacher]
        assert main([*command, "out=a", "cache=false", "store=/proc/none"]) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "x"]
        assert main([*command, "out=b"]) == 0
        assert (tmp_path / "runs" / "store" / "features").is_dir()
        a, b = (pd.read_parquet(tmp_path / out / "scores.parquet") for out in "ab")
        pd.testing.assert_frame_equal(a, b)
        c = piflow_bench.evaluate("x", extractor="digits", metrics=["vendi"], cache=False)
        assert c.value[0] == a.value[0]

    def test_the_store_sees_them_and_when_they_were_used(self, tmp_path, capsys):
        assert main(self.ARGUMENTS) == 0
        (kept,) = (tmp_path / "runs" / "store" / "features").iterdir()
        long_ago = 1.6e9
        os.utime(kept, (long_ago, long_ago))
        capsys.readouterr()
        assert main(["store", "ls", "--verbose"]) == 0
        printed = capsys.readouterr().out
        assert "x: digits" in printed and "last used 2020-09-13" in printed
        assert main([*self.ARGUMENTS, "n=20", "out=o"]) == 0
        assert kept.stat().st_mtime > long_ago + 1e6, "use is noted"
        assert main(["store", "gc", "--delete"]) == 0 and kept.is_dir()
        os.utime(kept, (long_ago, long_ago))
        assert main(["store", "gc", "--delete"]) == 0 and not kept.exists()
        assert json.loads((tmp_path / "o" / "scores.json").read_text())
