"""`new KIND`: what it writes works, and it never overwrites."""

import ast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from piflow_bench.cli import main
from piflow_bench.commands.new import KINDS, new_plugin
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.kinds import check
from piflow_bench.conformance.method.suite import check_method
from piflow_bench.conformance.results import FAILED, SKIPPED
from piflow_bench.errors import OK, USER_ERROR, UserError
from piflow_bench.registry import get


@pytest.mark.parametrize("name", ["my_method2", "none"])
def test_a_new_method_passes_check(tmp_path, name):
    folder = tmp_path / "a new [folder], x=1"
    assert main(["new", "method", name, f"out={folder}"]) == OK
    results = check_method(name, ["teacher_steps=2"], str(folder))
    assert [r for r in results if r.status in (FAILED, SKIPPED)] == []


@pytest.mark.parametrize("kind", ["extractor", "metric"])
def test_a_new_plugin_of_another_kind_passes_check(kind, tmp_path):
    assert main(["new", kind, "my_own2", f"out={tmp_path}"]) == OK
    results = check(kind, "my_own2", [f"plugins={tmp_path}"])
    assert [r for r in results if r.status == FAILED] == []
    skipped = {r.test for r in results if r.status == SKIPPED}
    assert skipped == {"missing weights" if kind == "extractor" else "collapse"}


@pytest.mark.parametrize("kind", ["dataset", "teacher", "space"])
def test_new_plugins_of_other_kinds_pass_check(kind, tmp_path):
    folder = tmp_path / "a new [folder], x=1"
    assert main(["new", kind, "my_own2", f"out={folder}"]) == OK
    results = check(kind, "my_own2", [f"plugins={folder}"])
    assert [r for r in results if r.status == FAILED] == []
    skipped = {r.test.split(": ")[-1] for r in results if r.status == SKIPPED}
    # Of a network that is nothing but called, the parts that some methods need are said to lack.
    assert skipped == (
        {"heads", "duration", "guidance input", "features"} if kind == "teacher" else set()
    )


def test_a_new_dataset_teacher_and_space_go_together(tmp_path):
    """The teacher on the dataset, in the space, all of them new."""
    for kind in ("dataset", "teacher", "space"):
        new_plugin(kind, f"own_{kind}", str(tmp_path))
    beside = ["dataset=own_dataset", "dataset.made=100", "space=own_space", "space.mean=0.4"]
    results = check("teacher", "own_teacher", [*beside, "guidance=2", f"plugins={tmp_path}"])
    assert [r for r in results if r.status == FAILED] == []
    assert "own_dataset: guidance" in {r.test for r in results}


def test_a_new_dataset_reads_a_folder(tmp_path):
    path = new_plugin("dataset", "own", str(tmp_path))
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 10, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(60) % 5)
    given = [f"folder={folder}", "held_out=0.5", f"plugins={path}"]
    results = {r.test: r for r in check("dataset", "own", given)}
    assert not [r for r in results.values() if r.status == FAILED]
    assert results["load"].reason == "30 samples of 3x6x10, 30 held out"
    np.save(folder / "images.npy", images / 255)
    with pytest.raises(UserError, match=r"images.npy is float64 \(60, 6, 10, 3\)"):
        check("dataset", "own", given)
    (folder / "images.npy").unlink()
    with pytest.raises(UserError, match="dataset.folder=.*No such file"):
        check("dataset", "own", given)


def test_a_new_teacher_reads_its_checkpoint(tmp_path):
    """Weights of another network are refused, its own are taken."""
    path = new_plugin("teacher", "own", str(tmp_path))
    plugin = get("teacher", "own", [str(path)])
    dataset = standins.images().dataset
    small = plugin(plugin.Config(width=16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state = small.fresh_network(dataset).state_dict()
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    taken = plugin(plugin.Config(width=16, checkpoint=str(file)))
    found = taken.load(dataset).network.state_dict()
    assert all(torch.equal(found[k], state[k]) for k in state)
    assert taken.identity()["checkpoint"] != str(file)
    with pytest.raises(UserError, match="teacher.checkpoint=.*weights of another network"):
        plugin(plugin.Config(width=24, checkpoint=str(file))).load(dataset)


@pytest.mark.parametrize("kind", KINDS)
def test_it_imports_the_public_interface_only(kind, tmp_path):
    tree = ast.parse(new_plugin(kind, "fresh", str(tmp_path)).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m for m in modules if m.startswith("piflow")} == {"piflow_bench.api"}
    assert "NAME" not in ast.unparse(tree) and "CLASS" not in ast.unparse(tree)
    assert "CONSTANT" not in ast.unparse(tree) and "LABEL" not in ast.unparse(tree)


def test_it_does_not_overwrite(tmp_path, capsys):
    path = new_plugin("method", "fresh", str(tmp_path))
    path.write_text("mine")
    assert main(["new", "method", "fresh", f"out={tmp_path}"]) == USER_ERROR
    assert "fresh.py exists" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a-b", "a b", "../up", "_x", "a\n", "é"])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="name"):
        new_plugin("method", name, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_built_in_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="'kd' is a method of piflow-bench already"):
        new_plugin("method", "kd", str(tmp_path))
    with pytest.raises(UserError, match="'dit' is a teacher of piflow-bench already"):
        new_plugin("teacher", "dit", str(tmp_path))
    assert new_plugin("dataset", "kd", str(tmp_path)).name == "kd.py"  # Of another kind.


def test_out_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        new_plugin("method", "fresh", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written|exists"):
        new_plugin("method", "fresh", str(tmp_path / "file" / "deeper"))
