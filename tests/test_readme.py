"""README's commands and its plugin are run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from piflow_bench.scoring import parse

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def run(command, folder):
    environment = {**os.environ, "PIFLOW_BENCH_STORE": str(folder / "store")}
    command = command.replace("python -m", f"{sys.executable} -m", 1)
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def plugin_folder(tmp_path):
    code = next(text for kind, text in BLOCKS if kind == "python")
    path = tmp_path / re.match(r"# (\S+)", code).group(1)
    path.parent.mkdir()
    path.write_text(code)
    return tmp_path


def plugin_commands():
    block = next(t for k, t in BLOCKS if k == "bash" and "check one_euler" in t)
    return block.strip().splitlines()


def test_plugin_passes_check_and_runs_beside_the_built_ins(plugin_folder):
    check, experiment = plugin_commands()
    done = run(check, plugin_folder)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(
        experiment + " profile=smoke only=[one_euler,kd,teacher-euler] runs=out", plugin_folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1] == "out/digits/report.html"
    page = (plugin_folder / "out/digits/report.html").read_text()
    assert "one_euler" in page


def test_example_settings_compose(tmp_path):
    block = next(t for k, t in BLOCKS if k == "bash" and "experiment=digits_full" in t)
    for line in block.strip().splitlines():
        command = line.partition("#")[0].strip().replace(" run ", " show ")
        done = run(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["experiment=imagenet_1nfe profile", "launcher=slurm"])
def test_imagenets_and_the_clusters_commands_compose(words, tmp_path):
    for line in block_with(words):
        command = line.partition("  #")[0].strip().replace(" run ", " show ")
        done = run(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert not list(tmp_path.iterdir())


def block_with(words):
    blocks = [t for k, t in BLOCKS if k == "bash" and words in t]
    assert blocks
    return [line for block in blocks for line in block.strip().splitlines()]


def test_samples_are_scored_as_it_says(tmp_path):
    """On enlarged digits: folders ``real`` and ``generated``, and ``other.npz`` with classes."""
    digits = load_digits()
    images = np.kron(digits.images, np.ones((1, 4, 4)))[:90]
    images = np.repeat((images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    for name, rows in (("generated", images[:30]), ("real", images[30:60])):
        for i, row in enumerate(rows):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(row).save(tmp_path / name / f"{i:02d}.png")
    np.savez(tmp_path / "other.npz", arr_0=images[60:], arr_1=np.arange(30) % 2)
    printed = []
    for command in block_with("samples=generated"):
        done = run(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        printed.append(done.stdout)
    assert all(name in printed[0] for name in ("fd", "recall", "mind", "30 / 30"))
    assert "class" in printed[1]
    assert (tmp_path / printed[2].strip()).is_file()
    assert {"scores.parquet", "scores.json", "report.html"} <= {
        path.name for path in (tmp_path / "scores").iterdir()
    }


def test_the_adm_command_is_understood():
    (command,) = block_with("adm-imagenet256")
    settings, metrics = parse(command.partition(" evaluate ")[2].split())
    assert settings.protocol == "adm-imagenet256" and settings.device == "cuda" and not metrics


def test_every_verb_of_the_table_exists(tmp_path):
    verbs = set(re.findall(r"\| `python -m piflow_bench (\w+)", README))
    done = run("python -m piflow_bench --help", tmp_path)
    offered = set(re.findall(r"^    (\w+)  ", done.stdout, re.MULTILINE))
    assert verbs == offered
