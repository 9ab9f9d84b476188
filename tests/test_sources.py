"""A plugin's digest is over all modules that it is made of, and over no others."""

import importlib
import sys

import pytest
from piflow_methods.dmd2 import DMD2
from piflow_methods.kd import KD
from piflow_methods.meanflow.method import MeanFlow
from piflow_methods.piflow.method import PiFlow

from piflow_bench import registry
from piflow_bench.sources import closure, is_file_plugin, packages, source_digest

PLUGIN = """
from piflow_bench.api import Method
from _beside import helper


class Mine(Method):
    "Nothing."
"""


def names(plugin):
    file = sys.modules[plugin.__module__].__file__
    from pathlib import Path

    return {p.name for p in closure([Path(file)], packages("piflow_methods"))}


def test_the_built_in_methods_are_made_of_the_modules_that_they_import():
    assert {"method.py", "policies.py", "heads.py", "fused.py", "kernels.py"} <= names(PiFlow)
    assert {"kd.py", "pairs.py"} <= names(KD) and "dmd2.py" not in names(KD)
    assert {"dmd2.py", "pairs.py"} <= names(DMD2)
    assert "policies.py" not in names(MeanFlow)
    digests = {source_digest(m) for m in (PiFlow, KD, DMD2, MeanFlow)}
    assert len(digests) == 4 and all(digests)
    assert not is_file_plugin(KD)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that imports in every way, below a folder on the path."""
    folder = tmp_path / "madeup"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "main.py").write_text(
        "from . import relative\nfrom madeup import named\nimport madeup.deep.inner\nimport json\n"
        "class Plugin:\n    def late(self):\n        from .deep import late\n"
    )
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "inner.py").write_text("from ..upper import x\n")
    for name in ("relative", "named", "upper", "deep/late", "unused"):
        (folder / f"{name}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == "madeup"]:
        del sys.modules[name]


def fresh_digest():
    for name in [n for n in sys.modules if n.partition(".")[0] == "madeup"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return source_digest(importlib.import_module("madeup.main").Plugin)


USED = ["main", "relative", "named", "upper", "deep/__init__", "deep/inner", "deep/late"]


@pytest.mark.parametrize("edited", [*USED, "unused"])
def test_an_edit_of_any_module_that_is_imported_however_far_changes_it(package, edited):
    before = fresh_digest()
    with (package / f"{edited}.py").open("a") as file:
        file.write("# edited\n")
    assert (fresh_digest() != before) == (edited in USED)


def test_a_file_plugin_is_its_file_and_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "_beside.py").write_text("def helper(): return 1\n")
    (tmp_path / "other.py").write_text("x = 1\n")

    def digest():
        found = registry.get("method", "mine", [str(tmp_path)])
        assert is_file_plugin(found)
        source_digest.cache_clear()
        return source_digest(found)

    before = digest()
    (tmp_path / "other.py").write_text("x = 2\n")
    assert digest() == before
    (tmp_path / "_beside.py").write_text("def helper(): return 2\n")
    assert digest() != before
    (tmp_path / "_beside.py").write_text("def helper(): return 1\n")
    assert digest() == before, "by content alone"
    (tmp_path / "mine.py").write_text(PLUGIN + "# edited\n")
    assert digest() != before
    sys.modules.pop("_beside", None)


def test_what_a_process_has_loaded_is_what_it_reports(tmp_path):
    """An edit under a process that goes on with the old code is not taken for what it runs."""
    (tmp_path / "mine.py").write_text(PLUGIN.replace("from _beside import helper\n", ""))
    found = registry.get("method", "mine", [str(tmp_path)])
    before = source_digest(found)
    (tmp_path / "mine.py").write_text("# edited\n")
    assert source_digest(found) == before
