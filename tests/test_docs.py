"""Every command and every program of README and docs does what its page says of it.

A page's code blocks are taken as they are written. Each command line is of one kind in ``LINES``:
one that runs here, one whose settings compose (what it would need is not here), or one of
installing and testing, which ``.ci/run`` does. A line of no kind fails.
"""

import csv
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from piflow_reports import results_page
from PIL import Image
from sklearn.datasets import load_digits

from piflow_bench.cli import main
from piflow_bench.commands.evaluate import parse
from piflow_bench.conformance.method import described
from piflow_bench.networks.checkpoints.flow_maps import LAYOUTS
from piflow_bench.registry import find
from piflow_bench.settings import build_dataclass
from tests.pipeline.harness import call, forget

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page, kind):
    return [text for found, text in BLOCK.findall(page.read_text("utf-8")) if found == kind]


def lines(page):
    """The command lines of a page, without what is said beside them."""
    whole = "\n".join(blocks(page, "bash"))
    stripped = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in whole.splitlines())
    return [line for line in stripped if line]


def write_named(folder, kind):
    """Write the blocks of a kind that begin with a file's name, of all pages; the names."""
    names = set()
    for text in (text for page in PAGES for text in blocks(page, kind)):
        if named := re.match(r"# (\S+)\n", text):
            (folder / named.group(1)).write_text(text)
            names.add(named.group(1))
    return names


def write_plugins(folder, name):
    (folder / "plugins").mkdir()
    for code in blocks(page(name), "python"):
        if named := re.match(r"# (\S+\.py)\n", code):
            (folder / named.group(1)).write_text(code)


def page(name):
    return ROOT / name


COMMANDS = [(p.relative_to(ROOT).as_posix(), line) for p in PAGES for line in lines(p)]
LINES = {
    "installs": r"python3 -m venv \.venv && \. \.venv/bin/activate && pip install -e ",
    "fetches": r"pip install (efficientnet|-e \"\.\[)",
    "develops": r"(ruff|pytest) |mypy$|python -m (tests|piflow_reports|piflow_bench\.pipeline)\.",
    "scores": r"python -m piflow_bench (evaluate|report) (?!.*(adm-|elsewhere=))",
    "leaves a run": r"python -m piflow_bench (export |report .*elsewhere=)",
    "makes a classifier": r"python -m piflow_bench prepare classifier ",
    "adm": r"python -m piflow_bench evaluate protocol=adm-imagenet256",
    "writes a plugin": r"python -m piflow_bench (new \w+|check) |.* plugins=plugins",
    "looks at the store": r"python -m piflow_bench store (ls|verify|gc)",
    "tunes": r"python -m piflow_bench tune ",
    "reads what was chosen": r"python -m piflow_bench run .*tuned=runs/",
    "composes": r"python -m piflow_bench (run|show|doctor)\b(?!.*(plugins=|tuned=runs/))",
}

BRIEF = (
    "profile=smoke launcher=debug only=[kd,teacher-euler] nfes=[1] protocol.questions=[imitation] "
    "protocol.samples=20 protocol.curve_samples=20 protocol.reference_samples=40"
)
ALONE = "teacher.threads=1"
"""For a teacher that is trained: other tests run beside it."""


def kind_of(line):
    return [kind for kind, pattern in LINES.items() if re.match(pattern, line)]


def of_kind(kind, *names):
    chosen = names or sorted({name for name, _ in COMMANDS})
    return [line for name, line in COMMANDS if name in chosen and kind_of(line) == [kind]]


def run(command, folder):
    """A command in a process of its own: those of the README."""
    environment = {**os.environ, "PIFLOW_BENCH_STORE": str(folder / "store")}
    command = command.replace("python -m", f"{sys.executable} -m", 1)
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )


def called(command, folder):
    """The same command in this process, where all libraries are at hand and no inputs loaded."""
    forget()
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "piflow_bench"]
    return call(*words[3:], cwd=folder, PIFLOW_BENCH_STORE=str(folder / "store"))


def in_its_way(name):
    """How the commands of a page are given: the README's as they are typed."""
    return run if name == "README.md" else called


def test_every_line_is_of_one_kind():
    assert COMMANDS and not [(n, line) for n, line in COMMANDS if len(kind_of(line)) != 1]


def test_the_readme_is_short_and_installs_in_one_line():
    text = page("README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 130
    first, second = of_kind("installs", "README.md")
    assert first.endswith("pip install -e . && python -m piflow_bench run")
    assert second.endswith(
        "&& " + next(p for p in ci() if p.startswith("pytest")).partition(" --j")[0]
    )


def test_what_is_developed_with_is_there():
    for line in of_kind("develops"):
        for path in re.findall(r"tests/[\w/.]+|docs/\w+", line):
            assert (ROOT / path).exists(), line
        for module in re.findall(r"-m (tests[\w.]+)", line):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line


def test_the_store_is_looked_at(tmp_path):
    made = called(
        "python -m piflow_bench run profile=smoke launcher=debug only=[teacher-euler] nfes=[1]",
        tmp_path,
    )
    assert made.returncode == 0, made.stderr
    for line in of_kind("looks at the store"):
        done = called(line, tmp_path)
        assert done.returncode == 0, (line, done.stderr)


def test_chosen_settings_are_read_where_they_were_written(tmp_path):
    (line,), (reading,) = of_kind("tunes"), of_kind("reads what was chosen")
    brief = "profile=smoke only=[kd] trials=2 launcher=debug name=digits_tuning"
    done = called(f"{re.sub('trials=.', '', line)} {brief}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = called(reading.replace(" run ", " show ", 1), tmp_path)
    assert shown.returncode == 0 and "best of 2 trials of 2 settings at 1 NFE" in shown.stdout


def ci():
    return [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]


@pytest.mark.parametrize("line", sorted(set(of_kind("composes"))))
def test_settings_compose(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written = write_named(tmp_path, "yaml")
    words = [word for word in shlex.split(line)[4:] if word != "--plan"]
    assert main(["show", *words]) == 0, capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == written


@pytest.fixture
def images(tmp_path):
    """Enlarged digits: folders ``real`` and ``generated``, and ``other.npz`` with classes."""
    digits = load_digits()
    rows = np.kron(digits.images, np.ones((1, 4, 4)))[:90]
    rows = np.repeat((rows * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    for name, part in (("generated", rows[:30]), ("real", rows[30:60])):
        (tmp_path / name).mkdir()
        for i, row in enumerate(part):
            Image.fromarray(row).save(tmp_path / name / f"{i:02d}.png")
    np.savez(tmp_path / "other.npz", arr_0=rows[60:], arr_1=np.arange(30) % 2)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """Enlarged digits in class folders below ``pictures``."""
    digits = load_digits()
    for i, (row, label) in enumerate(zip(digits.images[:60], digits.target[:60], strict=True)):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        image = np.kron(row * 255 / 16, np.ones((2, 2))).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["README.md", "docs/evaluate.md"])
def test_samples_are_scored_as_it_says(name, images):
    printed = []
    for command in of_kind("scores", name):
        done = in_its_way(name)(command, images)
        assert done.returncode == 0, (command, done.stderr)
        printed.append(done.stdout)
    assert all(word in printed[0] for word in ("fd", "recall", "mind", "30 / 30"))
    assert (images / "runs/scores/generated-default/report.html").is_file()
    if len(printed) > 1:
        assert "class" in printed[1] and (images / printed[2].strip()).is_file()
        written = {path.name for path in (images / "scores").iterdir()}
        assert {"scores.parquet", "scores.json", "report.html"} <= written


def test_what_leaves_a_run_asks_for_nothing_but_the_run(tmp_path):
    lines = of_kind("leaves a run")
    assert len(lines) >= 2
    for line in lines:
        done = called(line, tmp_path)
        assert done.returncode == 2 and "results.parquet" in done.stderr, (line, done.stderr)
        assert not list(tmp_path.iterdir())


def test_the_adm_command_is_understood():
    (command,) = of_kind("adm")
    settings, metrics = parse(command.partition(" evaluate ")[2].split())
    assert settings.protocol == "adm-imagenet256" and settings.device == "cuda" and not metrics


def test_pythons_blocks_run_one_after_the_other(tmp_path):
    (tmp_path / "blocks.py").write_text("\n".join(blocks(page("docs/python.md"), "python")))
    done = run("python -m blocks", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stages computed" in done.stdout and (tmp_path / "exported" / "samples").is_dir()
    for command in of_kind("composes", "docs/python.md"):
        assert called(f"{command} launcher=debug", tmp_path).returncode == 0, command


@pytest.mark.parametrize("name", ["README.md", "docs/add-a-method.md"])
def test_a_method_is_checked_and_stands_beside_the_built_ins(name, tmp_path):
    write_plugins(tmp_path, name)
    given = in_its_way(name)
    commands = of_kind("writes a plugin", name)
    experiments = [command for command in commands if " run " in command]
    for command in commands:
        if command not in experiments:
            done = given(command, tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
    launcher = "launcher=local" if given is run else "launcher=debug"
    for experiment in experiments:
        own = re.search(r"(?:add=\[|variants\.)(\w+)", experiment).group(1)
        only = f"profile=smoke {launcher} only=[{own},kd,teacher-euler] runs=out"
        done = given(f"{experiment} {only}", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        last = tmp_path / done.stdout.strip().splitlines()[-1]
        assert last.name == "report.html" and own in last.read_text()


@pytest.mark.parametrize("kind", ["dataset", "teacher"])
def test_a_dataset_and_a_teacher_are_checked_and_used(kind, tmp_path):
    name = f"docs/add-a-{kind}.md"
    write_plugins(tmp_path, name)
    *before, experiment = of_kind("writes a plugin", name)
    assert [line for line in before if f"check {kind} " in line]
    for command in before:
        done = called(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    settings = {"dataset": f"{BRIEF} {ALONE}", "teacher": BRIEF}[kind]
    done = called(f"{experiment} {settings} runs=out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_classifier_of_ones_own_pictures_describes_and_judges(pictures):
    (line,) = of_kind("makes a classifier", "docs/add-a-dataset.md")
    done = called(line, pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    (scored,) = [line for line in of_kind("composes") if "classifier.weights" in line]
    done = called(f"{scored} {BRIEF} {ALONE}", pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    (page_of_it,) = pictures.glob("runs/*/report.html")
    assert "classifier" in page_of_it.read_text("utf-8")


def test_pictures_need_no_python_and_their_teacher_serves_again(pictures):
    (first,) = {line for line in of_kind("composes", "README.md") if "dataset.folder=" in line}
    assert first in of_kind("composes", "docs/add-a-dataset.md")
    done = called(f"{first} {BRIEF} {ALONE}", pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    (export,) = [
        code for code in blocks(page("docs/add-a-teacher.md"), "python") if "export" in code
    ]
    (pictures / "blocks.py").write_text(export)
    done = run("python -m blocks", pictures)
    assert done.returncode == 0, done.stderr
    (again,) = [line for line in of_kind("composes") if "checkpoint=earlier" in line]
    done = called(f"{again} {BRIEF} name=again --plan", pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train_teacher" not in done.stdout and "teacher_check" in done.stdout


def test_every_verb_of_the_table_exists(tmp_path):
    verbs = set(re.findall(r"\| `python -m piflow_bench (\w+)", page("docs/start.md").read_text()))
    done = run("python -m piflow_bench --help", tmp_path)
    offered = set(re.findall(r"^    (\w+)  ", done.stdout, re.MULTILINE))
    assert verbs == offered


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    prose = BLOCK.sub("", path.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (path.parent / target).exists(), target


def test_the_page_of_methods_is_what_they_declare():
    found = (ROOT / "docs" / "methods.md").read_text("utf-8")
    assert found == described.page(ROOT / "docs" / "results"), (
        "python -m piflow_bench.conformance.method.described docs/results > docs/methods.md"
    )


def test_what_the_field_has_is_here_by_settings_that_exist():
    rows = list(csv.DictReader((ROOT / "docs" / "methods.csv").open(encoding="utf-8")))
    found = {name: plugin.load() for name, plugin in find("method").items()
             if plugin.source == "piflow-bench"}  # fmt: skip
    assert {row["method here"] for row in rows} == {*found, ""} - {"teacher"}
    papers = {row["paper"] for row in rows}
    assert {cls.facts.paper.removeprefix("arXiv:") for cls in found.values()} - {""} <= papers
    for row in rows:
        words = row["settings or why not"]
        if not row["method here"]:
            assert words.startswith("not")
            continue
        fields = {field.name for field in dataclasses.fields(found[row["method here"]].Config)}
        told = {a or b for a, b in re.findall(r"(\w+)=(?!$)|\b([a-z]+_[a-z_]+)\b", words)}
        assert told - {"checkpoint"} <= fields, row["method"]


def test_published_checkpoints_load_by_settings_that_exist_or_say_why_not():
    rows = list(csv.DictReader((ROOT / "docs" / "checkpoints.csv").open(encoding="utf-8")))
    method, layouts = find("method")["few-step"].load(), set()
    for row in rows:
        words, source = row["settings or why not"], row["layout read in"]
        if not words.startswith("layout="):
            assert words.startswith("not"), row["weights"]
            continue
        pairs = (pair.split("=") for pair in words.partition(";")[0].split())
        told = {key: yaml.safe_load(value) for key, value in pairs}
        build_dataclass(method.Config, told, row["weights"])
        layouts.add(told["layout"])
        read = re.match(r"\w[\w.-]*/[\w.-]+ [\w./, ]+ @[0-9a-f]{40}\b", source)
        assert read or source.startswith("as "), row["weights"]
    assert layouts == set(LAYOUTS)


def test_pages_of_results_are_what_the_command_writes():
    written = results_page.pages(ROOT / "docs" / "results")
    assert len(written) >= 4
    for path, text in written.items():
        assert path.read_text("utf-8") == text, f"{path}: python -m piflow_reports.results_page"
    names = {path.name for path in (ROOT / "docs" / "results").glob("*.md")}
    assert names == {path.name for path in written} | {"README.md"}
