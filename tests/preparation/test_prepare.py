"""Killed, shared, damaged and resumed: the folder ends with the same bytes or says why not."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.preparation import imagenet as prepare_imagenet
from piflow_bench.preparation import reference as made_reference
from piflow_bench.preparation import unfinished
from piflow_bench.preparation.latents import Latents
from piflow_bench.preparation.sources.source import ReadError
from tests.pipeline.forked import SERVER
from tests.preparation.conftest import Inputs, contents


def work(folder, out, settings):
    """What a process of its own does."""
    torch.set_num_threads(1)
    Inputs(folder).make(out, **settings)


@pytest.fixture(scope="module")
def start():
    """Starts processes that have PyTorch at hand; each has its own memory and can be killed."""

    def run(inputs, out, **settings):
        process = SERVER.Process(target=work, args=(inputs.folder, out, settings))
        process.start()
        return process

    return run


def wait_for(what, process=None, seconds=300):
    deadline = time.time() + seconds
    while not what():
        assert time.time() < deadline, "it takes too long"
        if process is not None and not process.is_alive():
            return
        time.sleep(0.001)


def test_killed_again_and_again_it_ends_with_the_same_bytes(inputs, whole, start, tmp_path):
    """Once after each of the first shards, then at odd moments."""
    out = tmp_path / "out"
    kills = 0
    for shard in (0, 1, 2, 3):
        process = start(inputs, out)
        wait_for((out / f"shard-{shard:05d}.json").is_file, process)
        time.sleep(0.004 * shard)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if not (out / "latents.json").is_file():
            with pytest.raises(UserError, match="not finished"):
                Latents(out)
    for shard in (0, 4):  # Of a shard that is whole by now, and of one that may not be.
        (out / f".shard-{shard:05d}.npy.99999.tmp").write_bytes(b"of a killed process")
    process = start(inputs, out)
    process.join()
    assert process.exitcode == 0 and kills >= 2
    assert contents(out) == contents(whole)


def test_a_process_waits_for_the_shards_of_another_call(inputs, whole, start, tmp_path):
    out = tmp_path / "out"
    calls = [start(inputs, out) for _ in range(3)]
    for process in calls:
        process.join()
    assert [p.exitcode for p in calls] == [0, 0, 0]
    made = contents(out)
    for name, data in contents(whole).items():
        assert made[name] == data


@pytest.mark.parametrize("moment", ["claims", "has encoded a shard", "has finished"])
def test_another_call_is_never_taken_for_other_files(inputs, whole, tmp_path, monkeypatch, moment):
    """A call that begins sees the folder as another call changes it, at any moment of that."""
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{unfinished.UNFINISHED}.99999.tmp").write_text("{")
    task = Latents(whole).facts["task"]
    read = unfinished.read_json

    def meanwhile(path):
        """What the other call does after the names were read and before the marks are."""
        if moment == "has encoded a shard" and not (out / unfinished.UNFINISHED).exists():
            (out / unfinished.UNFINISHED).write_text(json.dumps(task))
        if moment == "has finished":
            shutil.copytree(whole, out, dirs_exist_ok=True)
        return read(path)

    monkeypatch.setattr(unfinished, "read_json", meanwhile)
    if moment != "claims":
        (out / "shard-00000.lock").touch()
    inputs.make(out)
    assert contents(out) == contents(whole) or moment == "has finished"
    assert Latents(out).facts == Latents(whole).facts


def test_two_processes_make_the_bytes_of_one(inputs, whole, tmp_path, capsys):
    assert main(inputs.arguments(tmp_path / "out", "processes=2")) == 0
    assert capsys.readouterr().out.strip().endswith(str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(whole)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_end_with_the_call_that_started_them(inputs, start, tmp_path):
    process = start(inputs, tmp_path / "out", processes=2)
    # Once there is a shard, a worker is at the next ones; multiprocessing's own helper is a child.
    wait_for((tmp_path / "out" / "shard-00000.json").is_file, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: not any(runs(pid) for pid in workers), seconds=20)


# ------------------------------------------------------------------ damaged images and settings


def test_the_fix_that_a_corrupt_image_is_told_works_where_it_was_told(copy, tmp_path):
    damaged = copy.images / "class04" / "0001.JPEG"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:300])
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"class04/0001\.JPEG: .*skip_corrupt=true"):
        copy.make(out)
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*.npy")}
    assert sorted(kept) == [f"shard-0000{i}{s}.npy" for i in (0, 1) for s in (".labels", "")]
    found = Latents(copy.make(out, skip_corrupt=True))
    assert found.facts["skipped"] == ["class04/0001.JPEG"] and len(found) == 29
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert found.labels.tolist() == [i // 3 for i in range(30) if i != 13]
    with pytest.raises(UserError, match=r"lacks class04/0001\.JPEG; set skip_corrupt=true"):
        copy.make(out)


def test_an_unfinished_folder_with_gaps_is_no_folder_without(copy, tmp_path, monkeypatch):
    (copy.images / "class00" / "0001.JPEG").write_bytes(b"")

    def stop(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_imagenet, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        copy.make(tmp_path / "out", skip_corrupt=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"lacks class00/0001\.JPEG"):
        copy.make(tmp_path / "out")
    assert len(Latents(copy.make(tmp_path / "out", skip_corrupt=True))) == 29


def test_a_shard_of_nothing_but_corrupt_images(copy, tmp_path):
    for label in (2, 3):  # The second shard.
        for file in (copy.images / f"class{label:02d}").iterdir():
            file.write_bytes(b"no JPEG")
    found = Latents(copy.make(tmp_path / "out", skip_corrupt=True))
    assert len(found) == 24 and [s["rows"] for s in found.facts["shards"]] == [6, 0, 6, 6, 6]
    assert found.take(torch.arange(24), None, None).isfinite().all()
    assert found.labels.tolist() == [i // 3 for i in range(30) if i // 3 not in (2, 3)]


def test_what_cannot_be_read_is_never_taken_for_corrupt(copy, tmp_path, monkeypatch):
    def gone(self, i):
        raise ReadError("images/x.JPEG: Input/output error")

    monkeypatch.setattr("piflow_bench.preparation.sources.folders.Files.__call__", gone)
    with pytest.raises(UserError, match="source: cannot be read: .*Input/output error"):
        copy.make(tmp_path / "out", skip_corrupt=True)


def test_two_processes_tell_of_a_corrupt_image(copy, tmp_path, capsys):
    (copy.images / "class04" / "0001.JPEG").write_bytes(b"no JPEG")
    assert main(copy.arguments(tmp_path / "out", "processes=2")) == 2
    error = capsys.readouterr().err
    assert "class04/0001.JPEG" in error and error.count("\n") == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "change", [{"size": 64}, {"kind": "sample"}, {"flip": False}, {"dtype": "float32"},
               {"shard": 7}, {"seed": 1}]
)  # fmt: skip
def test_settings_of_an_unfinished_folder_are_its_own(inputs, tmp_path, monkeypatch, change):
    def stop(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_imagenet, "encode_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        inputs.make(tmp_path / "out")
    key, value = next(iter(change.items()))
    with pytest.raises(UserError, match=f"begun with {key}=.*, not {value}"):
        inputs.make(tmp_path / "out", **change)


def test_a_full_disk(inputs, tmp_path, monkeypatch):
    import errno

    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"GB of latents, 0\.0 GB free"):
        inputs.make(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()

    def full(*rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="No space left on device; free space, then run"):
        inputs.make(tmp_path / "out")


def test_a_gpu_that_is_not_there(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda: no GPU"):
        inputs.make(tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ reference statistics


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from piflow_bench.evaluation.extractors.inception import FILE
    from piflow_bench.preparation import stand_ins as generated

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generated.inception(folder / FILE)
    return folder


def test_statistics_are_those_of_the_cropped_images(
    inputs, whole, weights, tmp_path, monkeypatch, capsys
):
    from PIL import Image

    from piflow_bench.evaluation.references.from_images import reference_statistics
    from piflow_bench.evaluation.references.statistics import load_statistics
    from piflow_bench.preparation.pixels import centre_crop, decode
    from piflow_bench.preparation.sources.opening import open_source

    monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(weights))
    out, reference = tmp_path / "out", tmp_path / "a, b: [c] #d=e" / "stats.npz"
    arguments = inputs.arguments(out, f"reference={reference}", "protocol=adm-imagenet256")

    # Stopped after two shards, it goes on with the third.
    write, seen = made_reference._write_partial, []

    def stopping(path, key, shards, moments):
        write(path, key, shards, moments)
        seen.append(shards)
        if seen == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(made_reference, "_write_partial", stopping)
    assert main(arguments) == 130
    assert main(arguments) == 0 and seen == [1, 2, 3, 4, 5], capsys.readouterr().err
    assert sorted(p.name for p in reference.parent.iterdir()) == ["stats.npz"]
    assert {p.name for p in out.iterdir()} == {*contents(whole), "reference.json"}

    source = open_source(inputs.images, 10)
    (tmp_path / "png").mkdir()
    for i in range(30):
        Image.fromarray(np.array(centre_crop(decode(source.read(i)), 32))).save(
            tmp_path / "png" / f"{i:03d}.png"
        )
    expected = reference_statistics(tmp_path / "png", "inception", cache=tmp_path / "cache")
    found = load_statistics(reference)
    assert found.count == 30 and found.extractor == expected.extractor
    for a, b in ((found.pooled, expected.pooled), (found.spatial, expected.spatial)):
        scale = np.abs(b.covariance).max()
        assert np.abs(a.mean - b.mean).max() < 1e-5 * np.abs(b.mean).max()
        assert np.abs(a.covariance - b.covariance).max() < 1e-4 * scale

    before = reference.stat().st_mtime_ns
    assert main(arguments) == 0 and reference.stat().st_mtime_ns == before
    reference.write_bytes(b"another's")
    assert main(arguments) == 2
    assert "was not made from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, words",
    [
        (["reference=a.npz"], "given together"),
        (["reference=a.pkl", "protocol=adm-imagenet256"], "ends in .npz"),
        (["reference=a.npz", "protocol=adm-imagnet256"], "did you mean 'adm-imagenet256'"),
        (["partiel=true"], "did you mean 'partial'"),
        (["referense=a.npz"], "did you mean 'reference'"),
    ],
)
def test_bad_settings_are_refused_before_any_work(inputs, tmp_path, capsys, settings, words):
    assert main(inputs.arguments(tmp_path / "out", *settings)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
