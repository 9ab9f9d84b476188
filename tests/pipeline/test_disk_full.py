"""A full disk stops the run in one line; with more space the same command goes on."""

import re
import subprocess

import pytest

from piflow_bench.cli import main
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.harness import SMALL, bits, places, results, run


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: ``disk(size)`` makes or resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        options = f"size={size}" if not folder.is_mount() else f"remount,size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert main(["run", *SMALL, "launcher=debug", *places(folder)]) == 0
    return bits(results(folder))


def artifacts(store):
    return {p.name for p in (store / "artifacts").iterdir()}


def one_line(error):
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert "free space" in error


# What the store needs is 5 to 6 MB: features, states of the training, its weights, samples.
@pytest.mark.parametrize(
    "size",
    [
        "600k",
        pytest.param("2m", marks=pytest.mark.thorough),
        "3m",
        pytest.param("4500k", marks=pytest.mark.thorough),
    ],
)
def test_stops_and_goes_on(disk, size, tmp_path, capsys, expected):
    store = disk(size)
    arguments = ["run", *SMALL, "launcher=debug", "save_seconds=0"]
    arguments += [f"store={store}", f"runs={tmp_path / 'runs'}"]
    assert main(arguments) == 2
    one_line(capsys.readouterr().err)
    assert Store(store).broken() == []
    finished = artifacts(store)
    assert main(arguments) == 2
    one_line(capsys.readouterr().err)
    assert finished <= artifacts(store)
    finished = artifacts(store)
    disk("64m")
    assert main(arguments) == 0
    found = re.search(r"(\d+) found in the store", capsys.readouterr().out)
    assert int(found[1]) == len(finished)
    assert Store(store).broken() == []
    assert bits(results(tmp_path)) == expected


def test_worker_processes(disk, tmp_path):
    store = disk("2m")
    arguments = (*SMALL, f"store={store}", f"runs={tmp_path / 'runs'}", "launcher.workers=2")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    one_line(done.stderr)
    assert Store(store).broken() == []


def test_results_stay_whole(disk, tmp_path, capsys):
    folder = disk("64m")
    arguments = ["run", *SMALL, "launcher=debug", *places(tmp_path)]
    arguments[-2] = f"runs={folder}"
    assert main(arguments) == 0
    capsys.readouterr()
    before = (folder / "digits-smoke" / "results.parquet").read_bytes()
    with (folder / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
        while True:
            ballast.write(bytes(1 << 16))
    assert main(arguments) == 0, "nothing changed, so nothing is written"
    capsys.readouterr()
    assert main([*arguments, "title=Another"]) == 2
    one_line(capsys.readouterr().err)
    assert (folder / "digits-smoke" / "results.parquet").read_bytes() == before
    assert not list((folder / "digits-smoke").glob("*.tmp"))
