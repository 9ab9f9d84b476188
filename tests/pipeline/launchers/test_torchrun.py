"""Training stages in several processes: real ones, started by torchrun below the pipeline."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline.forked import Forked
from tests.pipeline.harness import call, forget

SETTINGS = [
    "experiment=digits",
    "profile=smoke",
    "only=[kd]",
    "nfes=[1]",
    "protocol.questions=[imitation]",
    "variants.kd.settings.pair_steps=2",
    "training.precision=fp64",
]


def arguments(folder, *settings):
    return ["run", *SETTINGS, f"runs={folder}", *settings]


def run(folder, *settings):
    """Stages in this process, from which torchrun starts those of a training."""
    forget()
    return call(*arguments(folder, *settings), "launcher=debug", cwd=folder)


def students(folder):
    from safetensors.torch import load_file

    (path,) = Path(folder).glob("store/artifacts/distill-*")
    return json.loads((path / "checkpoints.json").read_text()), load_file(
        path / "checkpoint_1.safetensors"
    )


def test_two_processes_train_what_one_does_under_the_same_key(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        result = run(tmp_path / name, f"scale.processes={processes}")
        assert result.returncode == 0, result.stdout + result.stderr
    (a, one), (b, two) = (students(tmp_path / n) for n in ("one", "two"))
    for key in ("step", "images", "tfe", "rows"):
        assert a[-1][key] == pytest.approx(b[-1][key])
    for key, value in one.items():
        assert (value - two[key]).abs().max() < 1e-9, key
    names = [
        sorted(p.name for p in (tmp_path / n / "store/artifacts").iterdir()) for n in ("one", "two")
    ]
    assert names[0] == names[1], "the number of processes is part of no key"
    tables = [
        pd.read_parquet(tmp_path / n / "digits-smoke" / "results.parquet") for n in ("one", "two")
    ]
    for x, y in zip(tables[0].value, tables[1].value, strict=True):
        assert x == pytest.approx(y, rel=1e-4)


def test_an_error_in_one_process_is_the_cells_reason(tmp_path):
    result = run(tmp_path, "scale.processes=2", "variants.kd.settings.lr=1e30", "training.clip=0")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "diverged" in result.stdout
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert not left.strip()


def test_no_process_outlives_a_killed_run_and_the_next_one_goes_on(tmp_path):
    settings = ["scale.processes=2", "budget={unit: images, amount: 960}", "save_seconds=0.1"]
    process = Forked(arguments(tmp_path, *settings), tmp_path)
    deadline = time.time() + 240
    while not list(tmp_path.glob("store/work/distill-*/state/facts.json")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.time() + 20
    while subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).stdout:
        assert time.time() < deadline, "processes are left"
        time.sleep(0.2)
    (facts,) = tmp_path.glob("store/work/distill-*/state/facts.json")
    reached = json.loads(facts.read_text())["step"]
    assert reached > 0
    result = run(tmp_path, *settings)  # Where a worker began, this process goes on.
    assert result.returncode == 0, result.stdout + result.stderr
    rows, _ = students(tmp_path)
    assert rows[-1]["step"] == 60 > reached


@pytest.mark.parametrize(
    "setting, words",
    [
        ("scale.processes=3", "multiple of 3 processes"),
        ("scale.parallel=zero", "must be ddp or fsdp"),
        ("scale.device=tpu", "must be cpu or cuda"),
        ("scale.micro_batch=0", "at least 1"),
        ("training.optimizer=adamw8bit", "pip install bitsandbytes"),
    ],
)
def test_impossible_layouts_are_refused(tmp_path, setting, words):
    result = call(*arguments(tmp_path, setting), cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
