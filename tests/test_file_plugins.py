"""Plugins that are files: modules beside them, several folders, edits."""

import sys
from pathlib import Path

import pytest

import piflow_bench
from piflow_bench import file_plugins, registry
from piflow_bench.api import Method
from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.errors import OK, UserError
from piflow_bench.file_plugins import places
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.sources import lies_beside, source_digest

METHOD = """
{first}
import copy
from piflow_bench.api import Built, Facts, Method, Optimizer, Student, Update, flow, setting, solve
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    lr: float = setting(1e-3, above=0)


@dataclass
class OneStep(Student):
    network: object

    def sample(self, noise, condition, nfe, random, **settings):
        return flow.euler(lambda x, t: self.network(x, t, condition), noise, flow.time_grid(nfe))


class {name}(Method):
    Config = Config
    facts = Facts(family="regression")

    def build(self, teacher, spec):
        network = copy.deepcopy(teacher.network).requires_grad_(True)
        optimizer = Optimizer(("student",), self.config.lr)
        return Built(OneStep(network), {{"student": network}}, {{"student": optimizer}})

    def training_step(self, batch, context):
        {late}
        noise = context.random.normal("noise", batch.shape)
        end = solve(context.teacher, noise, batch.condition, STEPS, "euler")
        u = context.networks["student"](noise, noise.new_ones(len(noise)), batch.condition)
        yield Update("student", (noise - u - end).square().mean())
"""
WAYS = {
    "from _common import STEPS": ("_common.py",),
    "from ._common import STEPS": ("_common.py",),
    "import _common\nSTEPS = _common.STEPS": ("_common.py",),
    "from _other import STEPS": ("_other.py", "_common.py"),
    "from parts.numbers import STEPS": ("parts/__init__.py", "parts/numbers.py"),
    "import parts.numbers\nSTEPS = parts.numbers.STEPS": ("parts/__init__.py", "parts/numbers.py"),
    "from parts import numbers\nSTEPS = numbers.STEPS": ("parts/__init__.py", "parts/numbers.py"),
}
HELPERS = {
    "_common.py": "STEPS = 2\n",
    "_other.py": "from _common import STEPS\n",
    "parts/__init__.py": "",
    "parts/numbers.py": "STEPS = 2\n",
    "json.py": "raise RuntimeError('hides what Python itself has')\n",
}


def write(folder, name="mine", first="from _common import STEPS", late="", helpers=HELPERS):
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for helper, text in helpers.items():
        (folder / helper).write_text(text)
    text = METHOD.format(first=first, late=late, name=name.title())
    (folder / f"{name}.py").write_text(text)
    return folder


def got(folder, name="mine"):
    return registry.get("method", name, [str(folder)])


@pytest.mark.parametrize("way", WAYS)
def test_a_plugin_imports_what_lies_beside_it(way, tmp_path):
    path = [*sys.path]
    cls = got(write(tmp_path, first=f"import json\n{way}"))
    assert sys.modules[cls.__module__].STEPS == 2
    assert sys.path == path
    assert not {"_common", "_other", "parts", "mine"} & {*sys.modules}


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_beside_it_is_another_plugin(way, tmp_path):
    first = got(write(tmp_path, first=way))
    for name in HELPERS:
        digest, edited = source_digest(got(tmp_path)), tmp_path / name
        edited.write_text(HELPERS[name].replace("2", "3") + "# edited\n")
        again = got(tmp_path)
        assert (source_digest(again) != digest) == (name in WAYS[way]), name
    assert sys.modules[again.__module__].STEPS == 3
    assert sys.modules[first.__module__].STEPS == 2  # It goes on with what it was loaded with.


def test_helpers_of_one_name_stay_apart(tmp_path):
    for name, steps in (("one", 2), ("two", 5)):
        late = "from _common import STEPS"
        write(tmp_path / name, name, "", late, {"_common.py": f"STEPS = {steps}\n"})
    folders = [str(tmp_path / name) for name in ("one", "two")]
    classes = [registry.get("method", name, folders) for name in ("one", "two")]
    for cls, steps in zip(classes, (2, 5), strict=True):
        source = vars(sys.modules[cls.__module__])
        exec("def late():\n    from _common import STEPS\n    return STEPS", source)
        assert source["late"]() == steps


@pytest.mark.parametrize("given", ["a,b", "[a,b]", "[a, b]", "a,b/two.py", "['a','b']"])
def test_several_folders(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("a"), "one")
    write(Path("b"), "two")
    (tmp_path / "a" / "json.py").unlink()
    (tmp_path / "b" / "json.py").unlink()
    assert main(["list", "methods", f"plugins={given}"]) == OK
    out = capsys.readouterr().out
    assert "\n  one " in out and "\n  two " in out
    (config,) = compose([f"plugins={given}", "add=[one,two]", "only=[one,two]", "profile=smoke"])
    assert {v.name for v in make_plan(config).variants} == {"one", "two"}
    assert main(["show", "one", f"plugins={given}"]) == OK
    with pytest.raises(UserError, match="given twice; several are plugins=a,b"):
        compose(["plugins=a", "plugins=b"])


def test_which_places_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a,b", "[a]"):
        (tmp_path / name).mkdir()
    assert places(None) == [] and places(["x", Path("y")]) == ["x", "y"]
    assert places("a,b") == ["a,b"] and places("[a]") == ["[a]"]  # They are there as they are.
    assert places("b,a") == ["b", "a"] and places("[b]") == ["b"]
    assert places("a,nowhere") == ["a", "nowhere"]
    assert places("no,where") == ["no,where"]
    with pytest.raises(UserError, match="plugins=3: must be a file, a folder"):
        places(3)


def test_a_file_named_twice_is_one_plugin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a"), helpers={"_common.py": "STEPS = 2\n"})
    assert "mine" in registry.find("method", ["a", "./a", "a/mine.py", str(tmp_path / "a")])


@pytest.mark.parametrize(
    ("helper", "words"),
    [
        ("STEPS = 2 +\n", r"SyntaxError: invalid syntax \(_common.py:1\)"),
        ("\nraise RuntimeError('no luck')\n", r"RuntimeError: no luck \(_common.py:2\)"),
        ("import nowhere_to_be_found\n", r"No module named 'nowhere_to_be_found'"),
        ("", r"cannot import name 'STEPS'"),
    ],
)
def test_what_is_wrong_with_a_helper_is_said(helper, words, tmp_path):
    write(tmp_path, helpers={"_common.py": helper})
    for _ in range(2):
        with pytest.raises(registry.PluginError, match=words):
            got(tmp_path)


def test_a_dot_in_the_files_name_is_refused(tmp_path):
    write(tmp_path, "mine", helpers={"_common.py": "STEPS = 2\n"})
    (tmp_path / "mine.py").rename(tmp_path / "mine.v2.py")
    with pytest.raises(registry.PluginError, match="has a dot"):
        registry.get("method", "mine.v2", [str(tmp_path)])


@pytest.mark.slow
def test_a_helper_decides_what_is_made_in_every_process(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write(tmp_path / name, name, helpers={"_common.py": "STEPS = 2\n"})
    assert main(["check", "one", "plugins=one,two"]) == OK
    given = {
        "plugins": ["one", "two"], "add": ["one", "two"], "only": ["one", "two"], "nfes": [1],
        "profile": "smoke", "protocol": {"extractors": ["digits"]},
    }  # fmt: skip
    run = piflow_bench.run(**given, launcher={"workers": 2}, name="here")
    table = run.results
    assert set(table["status"]) == {"ok"} and {"one", "two"} <= {*table["variant"]}
    monkeypatch.chdir("/")
    assert len(run.student("two", 1)(0, n=3)) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two" / "_common.py").write_text("STEPS = 3\n")
    capfd.readouterr()
    again = piflow_bench.run(**given, launcher="debug", name="here").results
    trained = {(t["variant"], t["artifact"]) for _, t in again.iterrows()}
    same = trained & {(t["variant"], t["artifact"]) for _, t in table.iterrows()}
    assert {"one"} < {v for v, _ in same} and "two" not in {v for v, _ in same}


def test_a_folder_that_is_a_package_imports_what_is_installed(tmp_path):
    """Its own __init__.py is beside everything, and is nothing that an import names."""
    (tmp_path / "__init__.py").write_text("")
    assert not lies_beside(tmp_path, "torch.nn") and not lies_beside(tmp_path, "numpy")
    (tmp_path / "_common.py").write_text("")
    assert lies_beside(tmp_path, "_common") and lies_beside(tmp_path, "_common.x")


def test_the_harness_beside_a_plugin_is_the_one_that_runs(tmp_path):
    """A plugin in a clone's first folder: a copy of the harness's types would be other types."""
    (tmp_path / "piflow_bench").symlink_to(Path(piflow_bench.__file__).parent)
    file = tmp_path / "mine.py"
    file.write_text(METHOD.format(first="STEPS = 2", name="Mine", late=""))
    assert issubclass(file_plugins.load(file), Method)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.py").write_text(file.read_text())
    assert file_plugins.source(file) == file_plugins.source(outside / "mine.py")
    metrics = tmp_path / "several.py"
    metrics.write_text(METRICS)
    assert len(file_plugins.load(metrics, "metric")) == 2


METRICS = """
import piflow_bench.api as api
from piflow_bench.api import Metric
from piflow_bench.evaluation.metrics.built_in import METRICS as _theirs

FD = _theirs[0]
FIRST = Metric("first", "First", True, "other", ("generated",))
SECOND: Metric = api.Metric("second", "Second", True, "other", ("generated",))
NUMBER = int("3")


def made():
    inner = Metric("inner", "Inner", True, "other", ("generated",))
    return inner
"""


class TestMetrics:
    def test_a_file_has_those_that_it_assigns(self, tmp_path):
        file = tmp_path / "several.py"
        file.write_text(METRICS)
        assert file_plugins.kinds(file) == {"metric": "FIRST"}
        assert [m.name for m in file_plugins.load(file, "metric")] == ["first", "second"]

    def test_a_metric_may_lie_beside_a_class(self, tmp_path):
        file = tmp_path / "both.py"
        file.write_text(
            "from piflow_bench.api import ExtractorPlugin, Metric\n"
            "class Look(ExtractorPlugin):\n    pass\n"
            "OWN = Metric('own', 'Own', True, 'other', ('generated',))\n"
        )
        assert file_plugins.kinds(file) == {"extractor": "Look", "metric": "OWN"}
        assert file_plugins.load(file, "extractor").__name__ == "Look"

    def test_what_only_is_called_so_is_none(self, tmp_path):
        file = tmp_path / "other.py"
        file.write_text("Metric = dict\nOWN = Metric(name='own')\n")
        with pytest.raises(TypeError, match="OWN is dict, not .*Metric"):
            file_plugins.load(file, "metric")


@pytest.mark.parametrize(
    "line, kind",
    [
        ("class Look(ExtractorPlugin):", {"extractor": "Look"}),
        ("class Taste(api.RewardPlugin):", {"reward": "Taste"}),
        ("OWN: api.Metric = api.Metric('own',", {"metric": "OWN"}),
        ("class Look(\n    Other,\n    ExtractorPlugin,\n):", {"extractor": "Look"}),
        ("class _Base(TeacherPlugin):\n    pass\nclass Mine(_Base):", {"method": ""}),
        ("class Look(SpacePlugin):\n    \0", {"space": "Look"}),
        ("class Mine(KD):", {"method": ""}),
        ("# class Look(ExtractorPlugin):", {"method": ""}),
    ],
)
def test_a_file_with_an_error_of_syntax_is_of_the_kind_it_says(line, kind, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(f"import api\n{line}\n    def load(self:\n")
    assert file_plugins.kinds(file) == kind
