"""`new method`: what it writes works, and it never overwrites."""

import ast

import pytest

from piflow_bench.cli import main
from piflow_bench.commands.new import new_method
from piflow_bench.conformance.suite import FAILED, SKIPPED, check_method
from piflow_bench.errors import OK, USER_ERROR, UserError


@pytest.mark.parametrize("name", ["my_method2", "none"])
def test_a_new_method_passes_check(tmp_path, name):
    folder = tmp_path / "a new [folder], x=1"
    assert main(["new", "method", name, f"out={folder}"]) == OK
    results = check_method(name, ["teacher_steps=2"], str(folder))
    assert [r for r in results if r.status in (FAILED, SKIPPED)] == []


def test_it_imports_the_public_interface_only(tmp_path):
    tree = ast.parse(new_method("fresh", str(tmp_path)).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m for m in modules if m.startswith("piflow")} == {"piflow_bench.api"}
    assert "NAME" not in ast.unparse(tree) and "CLASS" not in ast.unparse(tree)


def test_it_does_not_overwrite(tmp_path, capsys):
    path = new_method("fresh", str(tmp_path))
    path.write_text("mine")
    assert main(["new", "method", "fresh", f"out={tmp_path}"]) == USER_ERROR
    assert "fresh.py exists" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a-b", "a b", "../up", "_x", "a\n", "é"])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="name"):
        new_method(name, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_built_in_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="'kd' is a method of piflow-bench already"):
        new_method("kd", str(tmp_path))


def test_out_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        new_method("fresh", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written|exists"):
        new_method("fresh", str(tmp_path / "file" / "deeper"))
