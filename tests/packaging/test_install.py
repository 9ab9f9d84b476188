"""Installed in each of the usual ways, the default experiment runs from the installed code.

Each environment sees the packages of this one (torch among them) through a path file; a path file
does not process the path files it leads to, so this environment's own install stays invisible.
"""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITES = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
OURS = ("piflow_bench", "piflow_methods", "piflow_experiments", "piflow_reports")
SMOKE = ["run", "profile=smoke", "only=[piflow-gm8,teacher-euler]", "nfes=[1]"]
BRIEF = ["launcher=debug", "protocol.questions=[imitation]", "protocol.extractors=[digits]"]
"""The same with less to measure and no worker processes, where one whole run is made elsewhere."""

SETUPTOOLS = importlib.util.find_spec("setuptools") and version("setuptools").partition(".")[0]
OFFLINE = ("--no-build-isolation", "--no-index") if int(SETUPTOOLS or 0) >= 77 else ()
"""How to build: with the setuptools that is here, unless it is too old."""


def call(*arguments, cwd):
    done = subprocess.run(
        [str(a) for a in arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    ignored = shutil.ignore_patterns(
        ".git", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".venv", "venv"
    )
    folder.mkdir()
    for name in ("piflow_bench", "methods", "experiments", "reports"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    # Of a copy of its own: a build folder left in the checkout would hide a missing file.
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(checkout, source)
    out = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", *OFFLINE, "-w", out, source, cwd=out)
    (found,) = out.glob("*.whl")
    return found


def environment(folder, *what):
    """A virtual environment with the project installed; returns its python."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = Path(
        call(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    (site / "shared.pth").write_text("".join(f"{s}\n" for s in SITES))
    call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        *OFFLINE,
        *what,
        cwd=folder,
    )
    return python, site


def where(python, cwd):
    """The folders that our packages are imported from, by `python -m` started in ``cwd``."""
    code = f"import importlib\nfor n in {OURS!r}: print(importlib.import_module(n).__path__[0])"
    return dict(zip(OURS, call(python, "-c", code, cwd=cwd).splitlines(), strict=True))


def smoke(python, cwd, out, *settings):
    text = call(python, "-m", "piflow_bench", *SMOKE, *settings, f"runs={out}", cwd=cwd)
    assert "0 failed" in text
    for name in ("results.parquet", "report.html", "run.json"):
        assert (out / "digits-smoke" / name).is_file()
    assert "piflow" in call(python, "-m", "piflow_bench", "list", cwd=cwd)


def test_editable(checkout, tmp_path):
    source = tmp_path / "checkout"
    shutil.copytree(checkout, source)
    python, _ = environment(tmp_path / "venv", "-e", source)
    empty = tmp_path / "empty"
    empty.mkdir()
    found = where(python, empty)
    assert {n: Path(p) for n, p in found.items()} == {
        "piflow_bench": source / "piflow_bench",
        "piflow_methods": source / "methods",
        "piflow_experiments": source / "experiments",
        "piflow_reports": source / "reports",
    }
    smoke(python, empty, tmp_path / "runs", *BRIEF)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("wheel venv") / "venv", wheel)


def test_wheel_from_an_empty_folder(installed, tmp_path):
    python, site = installed
    empty = tmp_path / "empty"
    empty.mkdir()
    assert where(python, empty) == {name: str(site / name) for name in OURS}
    smoke(python, empty, tmp_path / "runs")
    assert not list(empty.iterdir())
    program = python.parent / "piflow-bench"
    assert "digits" in call(program, "list", "experiments", cwd=empty)


def test_wheel_from_the_root_of_the_checkout(installed, checkout, tmp_path):
    python, site = installed
    found = where(python, checkout)
    # The current folder comes first, so the harness is the checkout's; the rest is the wheel's.
    assert found.pop("piflow_bench") == str(checkout / "piflow_bench")
    assert found == {name: str(site / name) for name in found}
    smoke(python, checkout, tmp_path / "runs", *BRIEF)
    assert not (checkout / "runs").exists()


def test_the_wheel_holds_what_the_checkout_holds(wheel, checkout):
    import zipfile

    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    folders = {
        "methods": "piflow_methods",
        "experiments": "piflow_experiments",
        "reports": "piflow_reports",
        "piflow_bench": "piflow_bench",
    }
    expected = {
        "/".join(
            (folders[path.relative_to(checkout).parts[0]], *path.relative_to(checkout).parts[1:])
        )
        for path in checkout.rglob("*")
        if path.is_file()
        and path.relative_to(checkout).parts[0] in folders
        and "__pycache__" not in path.parts  # Left by the run in the checkout's root.
    }
    assert names == expected
