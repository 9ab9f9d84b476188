"""The verb store: sizes and uses, digests recomputed, and what no run uses is removed."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from piflow_bench.cli import main
from piflow_bench.evaluation.cache import PICTURES, about, shard_folder
from piflow_bench.files.atomic import write_arrays
from piflow_bench.pipeline.store.store import Store
from piflow_bench.pipeline.store.uses import record_use, uses
from tests.pipeline.tasks import stage_of

OLD = time.time() - 30 * 86400


def fill(store, stage, size=1000):
    work = store.work(stage)
    work.mkdir(parents=True)
    (work / "samples.npy").write_bytes(b"x" * size)


def made(store, n, size=1000):
    stage = stage_of("draw", n, label=f"draw {n}")
    fill(store, stage, size)
    store.commit(stage, {})
    os.utime(store.path(stage), (OLD, OLD))
    return stage


@pytest.fixture
def store(tmp_path):
    """Three artifacts: two of a run that exists, the second shared, the third of one that went."""
    store = Store(tmp_path / "store")
    store.prepare()
    stages = [made(store, n, size=1000 * n) for n in (1, 2, 3)]
    for name, part in (("here", stages[:2]), ("too", stages[1:2]), ("gone", stages[1:])):
        if name != "gone":
            (tmp_path / name).mkdir()
        record_use(store, tmp_path / name, part, "")
    (record,) = [u.record for u in uses(store) if u.run.name == "gone"]
    record.write_text(json.dumps({**json.loads(record.read_text()), "began": OLD}))
    store.stages = stages
    return store


def call(store, *arguments, code=0):
    assert main(["store", *arguments, f"store={store.root}"]) == code


def test_ls_tells_sizes_and_users(store, capsys):
    call(store, "ls")
    out = capsys.readouterr().out
    assert "1 of 1" in out and "KB" in out and "gone)" in out
    call(store, "ls", "--verbose")
    lines = capsys.readouterr().out.splitlines()
    third = store.stages[2].name
    (line,) = [text for text in lines if third in text]
    assert "draw 3" in line and line.endswith("gone")
    assert [n for text in lines for n in (1, 2, 3) if f"  draw {n};" in text] == [3, 2, 1]


def test_verify_names_what_differs(store, capsys):
    call(store, "verify")
    assert "3 artifacts, 0 files of evaluate, 0 broken" in capsys.readouterr().out
    first, second, third = (store.path(s) for s in store.stages)
    (first / "samples.npy").write_bytes(b"y" * 1000)
    (second / "more.txt").touch()
    (third / "samples.npy").unlink()
    call(store, "verify", code=4)
    out = " ".join(capsys.readouterr().out.split())
    for folder, words in (
        (first, "samples.npy was changed"),
        (second, "more.txt was added"),
        (third, "samples.npy is missing"),
    ):
        assert f"{folder.name}: {words}" in out


def test_gc_removes_what_no_run_uses_and_only_when_told(store, capsys):
    begun = stage_of("distill", 9)
    fill(store, begun)
    os.utime(store.work(begun), (OLD, OLD))
    call(store, "gc")
    out = capsys.readouterr().out
    assert out.count("would remove") == 2 and "by --delete" in out
    assert store.has(store.stages[2]) and store.begun(begun)
    call(store, "gc", "--delete")
    assert [store.has(s) for s in store.stages] == [True, True, False]
    assert not store.begun(begun)
    assert {u.run.name for u in uses(store)} == {"here", "too"}
    assert not (store.root / "trash").exists()
    call(store, "verify")


@pytest.mark.parametrize("text", ["", '{"run": "x"', "[]", '{"run": "x", "artifacts": 3}', "null"])
def test_a_record_of_a_run_that_was_cut_is_named_and_keeps_gc_from_guessing(store, capsys, text):
    (store.root / "uses" / "cut.json").write_text(text)
    assert len(uses(store)) == 3
    call(store, "ls")
    assert "damaged: " in capsys.readouterr().out
    call(store, "gc")
    call(store, "gc", "--delete", code=2)
    error = capsys.readouterr().err
    assert "cut.json: cannot be read" in error and error.count("\n") == 1
    assert all(store.has(s) for s in store.stages)


@pytest.fixture
def cached(store):
    """What `evaluate` and a profile leave: features in the store, generated inputs beside it."""
    features = shard_folder(store.root / "features", "0a1b")
    about(features, "some images: some network")
    write_arrays(features / "00000000.npz", {"features": np.ones((2, 3))})
    inputs = store.root.parent / "inputs" / "imagenet"
    inputs.mkdir(parents=True)
    (inputs / "made.json").write_text("{}")
    mine = store.root.parent / "inputs" / "mine"
    mine.mkdir()
    for folder in (features, inputs, mine):
        os.utime(folder, (OLD, OLD))
    return features, inputs, mine


def test_ls_and_gc_see_features_and_generated_inputs_and_nothing_of_the_users(
    store, cached, capsys
):
    features, inputs, mine = cached
    call(store, "ls")
    out = capsys.readouterr().out
    assert "features of evaluate" in out and "generated inputs" in out
    call(store, "gc")
    out = capsys.readouterr().out
    assert f"features/{features.name}" in out and "inputs/imagenet" in out and "mine" not in out
    assert features.exists() and inputs.exists()
    call(store, "gc", "--delete")
    assert not features.exists() and not inputs.exists() and mine.exists()


def test_ls_tells_decoded_pictures_and_features_apart_and_when_they_were_used(
    store, cached, capsys
):
    pictures = shard_folder(store.root / "features", "2c3d")
    about(pictures, "runs/store/artifacts/sample-1", PICTURES)
    write_arrays(pictures / "00000000.npz", {"pictures": np.ones((2, 8, 8, 3), np.uint8)})
    (store.root / "features" / "x").mkdir()  # Of an earlier version, say.
    call(store, "ls", "--verbose")
    out = capsys.readouterr().out
    assert [line.split()[5] for line in out.splitlines() if "features of evaluate" in line] == ["2"]
    assert [line.split()[5] for line in out.splitlines() if "pictures of evaluate" in line] == ["1"]
    (line,) = [line for line in out.splitlines() if f"{pictures.name}  " in line]
    today = time.strftime("%Y-%m-%d")
    assert line.endswith(f"  runs/store/artifacts/sample-1; last used {today}")
    assert "some images: some network; last used " in out and "  without its record; last" in out
    os.utime(pictures, (OLD, OLD))
    about(pictures, "another word for it", PICTURES)  # Used again.
    call(store, "gc", "--delete")
    assert pictures.exists() and not cached[0].exists()


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_verify_reads_the_checksums_of_features(store, cached, capsys, how):
    file = cached[0] / "00000000.npz"
    (cached[0] / ".00000001.npz.77.tmp").write_bytes(b"half")  # In the making.
    call(store, "verify")
    assert "1 files of evaluate, 0 broken" in capsys.readouterr().out
    content = bytearray(file.read_bytes())
    content[content.index(np.ones(1).tobytes())] ^= 1
    file.write_bytes(content[:-30] if how == "cut" else content)
    call(store, "verify", code=4)
    assert "00000000.npz: " in capsys.readouterr().out


def test_a_store_of_features_alone_and_one_without_work(store, cached, capsys, tmp_path):
    shutil.rmtree(store.root / "work")
    for verb in (["ls"], ["verify"], ["gc", "--delete"]):
        call(store, *verb)
    alone = Store(tmp_path / "alone")
    (alone.root / "features" / "0a1b").mkdir(parents=True)
    os.utime(alone.root / "features" / "0a1b", (OLD, OLD))
    for verb in (["ls"], ["verify"], ["gc", "--delete"]):
        call(alone, *verb)
    assert not (alone.root / "features" / "0a1b").exists()


def test_gc_leaves_what_is_young_or_being_made(store, tmp_path):
    young = stage_of("draw", 7)
    fill(store, young)
    store.commit(young, {})
    busy = stage_of("distill", 8)
    fill(store, busy)
    os.utime(store.work(busy), (OLD, OLD))
    with store.lock(busy):
        call(store, "gc", "--delete")
    assert store.has(young) and store.begun(busy)
    call(store, "gc", "--delete", "days=0")
    assert not store.has(young) and not store.begun(busy)


def test_mistakes_are_one_line(tmp_path, store, capsys):
    assert main(["store", "ls", f"store={tmp_path / 'nothing'}"]) == 2
    assert "no store is there" in capsys.readouterr().err
    call(store, "ls", "kind=draw", code=2)
    assert "kind=: no such setting here" in capsys.readouterr().err
    call(store, "gc", "days=soon", code=2)
    assert "must be a number" in capsys.readouterr().err
