"""Arrows point one way, files are short, packages match the tree, nothing heavy comes too early."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
OURS = ("piflow_bench", "piflow_methods", "piflow_experiments", "piflow_reports")
LAZY = {
    "piflow_bench/commands/evaluate.py",
    "piflow_bench/commands/report.py",
    "piflow_bench/commands/run.py",
    "piflow_bench/pipeline/runner.py",
    "piflow_bench/runs/run.py",
}
"""Files that may import the report, inside a function."""
OURS_IN = tuple(SETUPTOOLS["package-dir"].values())
"""Folders of the product."""


def files(folder):
    return sorted(p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.py"))


def imports(path, types=True):
    """(module, imported inside a function) of every import of one of our packages."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            node.body = []
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from package import module` imports the module.
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            if name.partition(".")[0] in OURS:
                yield name, id(node) in inner


ROOMS = [
    "errors",
    "tracks",
    "laws",
    "garbage",
    "interruption",
    "places",
    "sources",
    "meanings",
    "threads",
    "randomness",
    "flow",
    "precision",
    "forward_mode",
    "provenance",
    "progress_bar",
    "files",
    "settings",
    "search",
    "costs",
    "contracts",
    "file_plugins",
    "registry",
    "evaluation",
    "training",
    "networks",
    "api",
    "sampling",
    "preparation",
    "spaces",
    "data",
    "teachers",
    "rewards",
    "config",
    "conformance",
    "pipeline",
    "tuning",
    "machine",
    "runs",
    "commands",
    "cli",
]
"""What lies in piflow_bench, from the ground up: imports go down, those inside functions too."""


def graph(packages=("piflow_bench", "reports", "methods")):
    """Module -> modules that it imports, anywhere but for types alone."""
    names = {
        "piflow_bench": "piflow_bench",
        "reports": "piflow_reports",
        "methods": "piflow_methods",
    }
    modules = {}
    for package in packages:
        for path in files(package):
            parts = [names[package], *path.relative_to(package).with_suffix("").parts]
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for module, path in modules.items():
        targets = {
            t if t in modules else t.rpartition(".")[0] for t, _ in imports(path, types=False)
        }
        found[module] = {t for t in targets if t in modules and t != module}
    return found


def test_no_file_imports_in_a_circle():
    list(TopologicalSorter(graph()).static_order())  # CycleError names the circle.


def test_rooms_stand_on_each_other():
    for module, targets in graph(["piflow_bench"]).items():
        room = module.split(".")[1:2]
        if not room or room == ["__main__"]:
            continue
        for target in targets:
            below = target.split(".")[1:2]
            if below and below != room:
                assert ROOMS.index(below[0]) < ROOMS.index(room[0]), f"{module} -> {target}"


def test_rooms_of_the_reports_are_in_no_circle():
    rooms = {}
    for module, targets in graph(["reports"]).items():
        room = module.split(".")[1] if "." in module else ""
        above = {t.split(".")[1] for t in targets if "." in t}
        rooms.setdefault(room, set()).update(above - {room})
    list(TopologicalSorter(rooms).static_order())


def within(name, allowed):
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


@pytest.mark.parametrize("path", files("methods"), ids=str)
def test_methods_import_the_api_alone(path):
    for name, _ in imports(path):
        assert within(name, ["piflow_bench.api", "piflow_methods"]), name


@pytest.mark.parametrize("path", files("reports"), ids=str)
def test_reports_import_results_and_statistics_alone(path):
    allowed = [
        "piflow_bench.contracts.citation",
        "piflow_bench.errors",
        "piflow_bench.evaluation",
        "piflow_bench.files.atomic",  # Files that are written whole or not at all.
        "piflow_bench.pipeline.results.elsewhere",
        "piflow_bench.pipeline.results.frames",
        "piflow_bench.pipeline.results.schema",
        "piflow_bench.tuning.choice",  # What trials chose: of results alone.
        "piflow_bench.tracks",  # The names in a column of results.
        "piflow_reports",
    ]
    for name, _ in imports(path):
        assert within(name, allowed), name


@pytest.mark.parametrize("path", files("piflow_bench"), ids=str)
def test_the_harness_imports_no_method_and_no_report(path):
    for name, lazy in imports(path):
        if within(name, ["piflow_reports"]) and lazy and str(path) in LAZY:
            continue
        assert within(name, ["piflow_bench"]), name


LONGEST = 350
"""Lines of a file that needs no reason to be long."""


@pytest.mark.parametrize("path", [p for f in OURS_IN for p in files(f)], ids=str)
def test_a_file_is_short_or_says_why_it_is_long(path):
    """A long one states the reason in its first docstring: "long because ..."."""
    text = (ROOT / path).read_text()
    words = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    lines = len(text.splitlines())
    assert lines <= LONGEST or re.search(r"\blong because \w", words), (
        f"{lines} lines: divide them by what they are for, or say why not"
    )


UNTESTED = {"plan/cell.py"}  # Fields alone: nothing that could be wrong by itself.


def test_every_module_of_the_pipeline_has_a_test_file_of_its_name():
    pipeline = Path("piflow_bench/pipeline")
    modules = [p.relative_to(pipeline) for p in files(pipeline) if p.name != "__init__.py"]
    lacking = {
        str(module)
        for module in modules
        if not (ROOT / "tests/pipeline" / module.with_name(f"test_{module.name}")).is_file()
    }
    assert lacking == UNTESTED


def test_experiments_hold_yaml_and_weights_alone():
    for path in (ROOT / "experiments").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            weights = "weights" in path.parts and path.suffix in (".safetensors", ".json")
            assert path.suffix == ".yaml" or path.name == "__init__.py" or weights, path
            if path.name == "__init__.py":
                body = ast.parse(path.read_text()).body
                assert all(isinstance(n, ast.Expr) for n in body), path


def folders():
    """Import name -> folder, of every package in the tree."""
    found = {}
    for name, folder in SETUPTOOLS["package-dir"].items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            parts = init.parent.relative_to(ROOT / folder).parts
            found[".".join((name, *parts))] = init.parent
    return found


def test_packages_are_those_of_the_tree():
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders())


def test_every_folder_with_modules_or_yaml_is_a_package():
    packages = set(folders().values())
    for folder in SETUPTOOLS["package-dir"].values():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                assert path.parent in packages, path


def tracked(folder):
    """Files below a folder that belong to the project: not what Python or a tool left there."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / p for p in listed.stdout.splitlines() if (ROOT / p).is_file()]


def test_every_other_file_is_package_data():
    data = SETUPTOOLS["package-data"]
    packages = folders()
    for folder in SETUPTOOLS["package-dir"].values():
        for path in tracked(folder):
            if path.suffix == ".py":
                continue
            patterns = [
                (path.relative_to(packages[name]), pattern)
                for name, many in data.items()
                for pattern in many
                if path.is_relative_to(packages[name])
            ]
            matched = any(
                fnmatch.fnmatch(str(relative), pattern.replace("**/", ""))
                or fnmatch.fnmatch(str(relative), pattern)
                for relative, pattern in patterns
            )
            assert matched, f"{path} is in no package-data"


def test_entry_points_name_what_exists():
    packages = folders()
    for group in PROJECT["project"]["entry-points"].values():
        for target in group.values():
            module, _, attribute = target.partition(":")
            if module in packages:
                continue
            parent, _, name = module.rpartition(".")
            path = packages[parent] / f"{name}.py"
            body = ast.parse(path.read_text()).body
            names = {n.name for n in body if hasattr(n, "name")}
            names |= {n.target.id for n in body if isinstance(n, ast.AnnAssign)}
            assert attribute in names, target


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list"], ["list", "methods"]],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_before_it_is_needed(arguments, tmp_path):
    code = (
        "import sys\n"
        "from piflow_bench.cli import main\n"
        "try:\n"
        f"    code = main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "heavy = {'torch', 'pandas', 'plotly', 'numpy', 'hydra', 'sklearn', 'pyarrow'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_importing_the_package_is_light(tmp_path):
    code = "import piflow_bench, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
