"""README's commands and its plugin are run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_every_verb_of_the_table_exists(tmp_path):
    verbs = set(re.findall(r"\| `python -m piflow_bench (\w+)", README))
    done = run("python -m piflow_bench --help", tmp_path)
    offered = set(re.findall(r"^    (\w+)  ", done.stdout, re.MULTILINE))
    assert verbs == offered
