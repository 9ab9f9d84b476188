"""A command that is given again when nothing has changed needs no plan; otherwise it has one."""

import json
import os
import shutil
from importlib.resources import files

import pytest

from piflow_bench.cli import main
from piflow_bench.pipeline import plan as planning
from piflow_bench.pipeline import repeated
from piflow_bench.pipeline.repeated import RECORD, TooMany, look

RUN = ["run", "profile=smoke", "launcher=debug", "only=[teacher-euler]", "nfes=[1]"]


class Planned(Exception):
    """A plan was made."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert main(RUN) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy; what is recorded is of the copy."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    assert main(RUN) == 0  # Records this place.
    return folder


def no_plan(monkeypatch):
    def refuse(*arguments, **settings):
        raise Planned

    monkeypatch.setattr(planning, "make_plan", refuse)
    monkeypatch.setattr("piflow_bench.pipeline.runner.make_plan", refuse)


def test_the_same_command_needs_no_plan_and_prints_the_same(place, monkeypatch, capsys):
    capsys.readouterr()
    (place / "runs" / "digits-smoke" / RECORD).unlink()
    assert main(RUN) == 0
    planned = capsys.readouterr().out
    no_plan(monkeypatch)
    assert main(RUN) == 0
    assert capsys.readouterr().out == planned and "0 stages computed" in planned


def artifact(place, kind):
    return next((place / "runs" / "store" / "artifacts").glob(f"{kind}-*"))


def write(path, text):
    path.write_text(text)


CHANGES = {
    "an artifact cut short": lambda place, patch: os.truncate(
        artifact(place, "sample") / "samples.npy", 500
    ),
    "an artifact edited": lambda place, patch: write(
        artifact(place, "metrics") / "metrics.json", "[]"
    ),
    "an artifact gone": lambda place, patch: (
        artifact(place, "metrics") / "artifact.json"
    ).unlink(),
    "results gone": lambda place, patch: (place / "runs/digits-smoke/results.parquet").unlink(),
    "a page edited": lambda place, patch: write(place / "runs/digits-smoke/report.html", "mine"),
    "a variable": lambda place, patch: patch.setenv("PIFLOW_BENCH_WEIGHTS", str(place)),
    "a version": lambda place, patch: patch.setattr(repeated, "versions", lambda: {"torch": "1"}),
    "a damaged record": lambda place, patch: write(place / "runs/digits-smoke" / RECORD, "{"),
    "a record of another kind": lambda place, patch: write(
        place / "runs/digits-smoke" / RECORD,
        json.dumps({"command": repeated._command(RUN[1:]), "stages": 1}),
    ),
    "another folder": lambda place, patch: patch.chdir(place.parent),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_planned(change, place, monkeypatch):
    CHANGES[change](place, monkeypatch)
    no_plan(monkeypatch)
    with pytest.raises(Planned):
        main(RUN)


@pytest.mark.parametrize("further", ["--plan", "--force", "sample_batch=249"])
def test_other_flags_and_settings_are_planned(further, place, monkeypatch):
    no_plan(monkeypatch)
    with pytest.raises(Planned):
        main([*RUN, further])


def test_files_that_settings_name_are_watched(place, monkeypatch):
    """An experiment of one's own and what it builds on, a protocol, a plugin and what it imports.

    An edit is seen even where it changes nothing: what it means only a plan can say.
    """
    (place / "base").mkdir()
    (place / "base" / "own.yaml").write_text("defaults: [digits]\n")
    (place / "own.yaml").write_text("defaults: [./base/own.yaml]\nname: own\n")
    rules = (files("piflow_experiments.protocol") / "digits.yaml").read_text()
    (place / "rules.yaml").write_text(rules)
    (place / "plugins").mkdir()
    (place / "plugins" / "_helper.py").write_text("")
    command = ["run", "experiment=./own.yaml", "protocol=./rules.yaml", "plugins=plugins", *RUN[1:]]
    assert main(command) == 0
    changes = (
        lambda: (place / "own.yaml").write_text("defaults: [digits]\nname: own\ntitle: new\n"),
        lambda: (place / "own.yaml").write_text("defaults: [base/own.yaml]\nname: own\n"),
        lambda: (place / "base" / "own.yaml").write_text("defaults: [digits]\ntitle: new\n"),
        lambda: (place / "rules.yaml").write_text(f"{rules}# Nothing else.\n"),
        lambda: (place / "plugins" / "_helper.py").write_text("x = 1\n"),
        lambda: (place / "plugins" / "_another.py").write_text(""),
    )
    for change in changes:
        assert repeated.unchanged(command[1:]) is not None
        change()
        assert repeated.unchanged(command[1:]) is None
        assert main(command) == 0


def test_a_package_that_is_edited_is_planned(place, monkeypatch, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("")
    monkeypatch.setattr(repeated, "_packages", lambda: [package])
    (place / "runs" / "digits-smoke" / RECORD).unlink()
    assert main(RUN) == 0
    assert repeated.unchanged(RUN[1:]) is not None
    (package / "module.py").write_text("x = 1\n")
    assert repeated.unchanged(RUN[1:]) is None


def test_a_run_whose_sources_were_edited_meanwhile_is_not_remembered(place, monkeypatch, tmp_path):
    record = place / "runs" / "digits-smoke" / RECORD
    record.unlink()
    looks = iter(range(100))
    monkeypatch.setattr(repeated, "look", lambda paths: str(next(looks)))
    assert main(RUN) == 0
    assert not record.exists()


def test_runs_that_failed_or_had_something_to_say_are_not_remembered(place, capsys):
    failing = ["run", "profile=smoke", "launcher=debug", "only=[kd,teacher-euler]", "nfes=[1]",
               "name=failing", "variants.kd.settings.lr=1e12"]  # fmt: skip
    assert main(failing) == 3
    assert not (place / "runs" / "failing" / RECORD).exists()
    assert main([*RUN, "budget.amount=61", "sample_seed=5"]) == 0  # Beside what is there.
    assert "keeps the results of other settings" in capsys.readouterr().out
    assert repeated.unchanged([*RUN[1:], "budget.amount=61", "sample_seed=5"]) is None


def test_what_is_looked_at_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(repeated, "MOST", 3)
    for i in range(3):
        (tmp_path / f"{i}").touch()
    seen = look([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").touch()
    assert look([tmp_path]) == seen
    (tmp_path / "3").touch()
    with pytest.raises(TooMany):
        look([tmp_path])


def test_what_is_on_the_hub_is_always_planned(tmp_path):
    from piflow_bench.config.compose import compose

    (config,) = compose(["profile=smoke", "teacher.checkpoint=hf://owner/name/teacher.safetensors"])
    assert repeated.Watch([], config).looked is None
    (config,) = compose(["profile=smoke"])
    assert repeated.Watch([], config).looked is not None


def test_what_links_and_variables_lead_to_is_watched(tmp_path, monkeypatch):
    from piflow_bench.config.compose import compose

    far = tmp_path / "far"
    (far / "deep").mkdir(parents=True)
    (far / "deep" / "weights").write_text("a")
    near = tmp_path / "near"
    near.mkdir()
    (near / "folder").symlink_to(far)
    (near / "file").symlink_to(far / "deep" / "weights")
    monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(near))
    (config,) = compose(["profile=smoke"])
    before = repeated.Watch([], config).looked
    (far / "deep" / "weights").write_text("another")
    assert before is not None and repeated.Watch([], config).looked != before


def test_data_of_another_projects_dataset_is_always_planned(monkeypatch):
    from piflow_bench.config.compose import compose

    monkeypatch.setattr(repeated, "OURS", ())
    (config,) = compose(["profile=smoke"])
    assert repeated.Watch([], config).looked is None
