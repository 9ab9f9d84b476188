"""Plugins are found by name without being imported; one that is broken breaks no other."""

import os
import sys
from pathlib import Path

import pytest

from piflow_bench import registry
from piflow_bench.cli import main
from piflow_bench.commands.new import new_plugin
from piflow_bench.errors import OK, USER_ERROR, UserError

PLUGINS = str(Path(__file__).parent / "plugins")
BUILT_IN = {"teacher", "piflow", "meanflow", "dmd2", "kd"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    (tmp_path / "_helper.py").write_text("raise RuntimeError('never imported')\n")
    new_plugin("method", "fine", str(tmp_path))
    return tmp_path


def test_built_in_methods_are_registered():
    assert set(registry.find("method")) >= BUILT_IN


def test_installed_ones_are_read_once_and_anew_when_another_is_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    asked, read = [], registry.entry_points
    monkeypatch.setattr(
        registry, "entry_points", lambda **given: asked.append(given) or read(**given)
    )
    before = [set(registry.find("method")) for _ in range(3)]
    assert len(asked) == 1 and before[0] == before[2]
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[piflow_bench.methods]\nnew = theirs:New\n")
    os.utime(tmp_path, (1, 1))  # Another time than before, however coarse its clock is.
    assert set(registry.find("method")) == before[0] | {"new"}


def test_names_are_listed_without_importing(folder, capsys):
    assert main(["list", "methods", f"plugins={folder}"]) == OK
    out = capsys.readouterr().out
    names = {line.split()[0] for line in out.splitlines()[1:]}
    assert names >= BUILT_IN | {"broken", "fine"} and "_helper" not in names
    loaded = {getattr(m, "__file__", None) for m in sys.modules.values()}
    assert not {str(folder / "broken.py"), str(folder / "fine.py")} & loaded
    assert "BROKEN" not in out


def test_verbose_marks_what_is_broken_and_goes_on(folder, capsys):
    assert main(["list", "--verbose", "methods", f"plugins={folder}"]) == OK
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "BROKEN" in lines["broken"]
    assert "RuntimeError: broken on purpose (broken.py:1)" in lines["broken"]
    assert "trajectory imitation; track distilled" in lines["fine"]
    assert "arXiv:2101.02388" in lines["kd"]


def test_a_broken_plugin_says_why_when_it_is_asked_for(folder):
    assert registry.get("method", "fine", [str(folder)]).__name__ == "FineMethod"
    with pytest.raises(registry.PluginError, match=r"'broken' .*broken on purpose"):
        registry.get("method", "broken", [str(folder)])
    with pytest.raises(registry.PluginError):  # No half-imported module is left behind.
        registry.get("method", "broken", [str(folder)])


def test_two_of_one_name_are_an_error_that_names_both(folder, tmp_path, capsys):
    (folder / "kd.py").write_text("")
    assert main(["list", "methods", f"plugins={folder}"]) == USER_ERROR
    error = capsys.readouterr().err
    assert "two methods are called 'kd'" in error
    assert "piflow-bench" in error and str(folder / "kd.py") in error


def test_two_files_of_one_name_in_two_folders(folder, tmp_path):
    other = tmp_path / "other"
    new_plugin("method", "fine", str(other))
    with pytest.raises(UserError) as caught:
        registry.find("method", [str(folder), str(other)])
    assert str(folder / "fine.py") in str(caught.value)
    assert str(other / "fine.py") in str(caught.value)


@pytest.mark.parametrize("arguments", [["list", "methods"], ["check", "kd"]])
def test_a_missing_folder_is_a_user_error(arguments, tmp_path, capsys):
    assert main([*arguments, f"plugins={tmp_path / 'nowhere'}"]) == USER_ERROR
    assert "no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["with space", "[brackets]", "a,b", "a=b", "{x}: $y 'q' é"])
def test_any_path_can_hold_plugins(name, tmp_path, capsys):
    path = new_plugin("method", "fine", str(tmp_path / name))
    for where in (path.parent, path):
        assert main(["list", "methods", f"plugins={where}"]) == OK
        assert str(path) in capsys.readouterr().out
        assert registry.get("method", "fine", [str(where)]).__name__ == "FineMethod"


def test_a_file_must_define_one_method(tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "two.py").write_text(
        "from piflow_bench.api import Method\nclass A(Method): pass\nclass B(Method): pass\n"
    )
    for name, count in (("empty", 0), ("two", 2)):
        with pytest.raises(registry.PluginError, match=f"exactly one .* found {count}"):
            registry.get("method", name, [str(tmp_path)])


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UserError, match="did you mean 'meanflow'"):
        registry.get("method", "meanflw")
    with pytest.raises(UserError, match="no dataset is called"):
        registry.get("dataset", "nothing")


OWN = """
from dataclasses import dataclass

from piflow_bench.contracts.extractor import ExtractorPlugin
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data.digits import Digits
from piflow_bench.contracts import data, teacher


class Own(data.DatasetPlugin):
    '''Data of its own.'''

    load = Digits.load


class Field(teacher.TeacherPlugin):
    '''A field of its own.'''


class Grid(SpacePlugin):
    '''A space of its own.'''


class Look(ExtractorPlugin):
    '''A look of its own.'''
"""
KINDS = {"dataset": "Own", "teacher": "Field", "space": "Grid", "extractor": "Look"}


@pytest.mark.parametrize("kind", KINDS)
def test_plugins_of_every_kind_may_be_in_one_file(kind, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    folders = [str(tmp_path)]
    assert "mine" not in registry.find("method", folders)
    assert registry.find(kind, folders)["mine"].summary().endswith(" of its own")
    assert str(file) not in {getattr(m, "__file__", None) for m in sys.modules.values()}
    assert registry.get(kind, "mine", folders).__name__ == KINDS[kind]
    with pytest.raises(UserError, match=f"no {kind} is called 'mine'"):
        registry.get(kind, "mine")


def test_a_dataset_that_is_a_file_is_composed_by_name(tmp_path):
    from piflow_bench.config.compose import compose

    (tmp_path / "mine.py").write_text(OWN)
    (config,) = compose([f"plugins={tmp_path}", "dataset=mine"])
    assert config.dataset == {"name": "mine"}


@pytest.mark.parametrize("kind", ["dataset", "teacher", "space", "extractor"])
def test_every_plugin_that_comes_with_the_package_is_a_class_of_its_kind(kind):
    for plugin in registry.find(kind).values():
        cls = plugin.load()
        assert cls.kind == kind and cls(cls.Config()).config == cls.Config()
