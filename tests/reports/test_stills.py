"""Every figure as a file: by an installed browser alone; a line says what is missing."""

import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from piflow_bench.cli import main
from tests.reports import synthetic
from tests.reports.browser import CHROMIUM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose page has few figures."""
    students = ("dmd2", synthetic.HOSTILE)
    folder = tmp_path_factory.mktemp("stills")
    synthetic.write(folder, students=students, nfes=(1,), failed=False)
    for name in ("curves.parquet", "breakdown.parquet", "selections.npz"):
        (folder / name).unlink()
    return folder


def call(folder, *before, **environment):
    command = [*before, sys.executable, "-m", "piflow_bench", "report", str(folder), "--figures"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.browser
def test_every_figure_is_written_without_a_network(folder):
    if not CHROMIUM:
        pytest.skip("chromium is not installed: apt install chromium chromium-driver")
    alone = ["unshare", "-n"]
    allowed = shutil.which("unshare") and not subprocess.run([*alone, "true"]).returncode
    done = call(folder, *(alone if allowed else []))
    assert done.returncode == 0, done.stderr
    written = sorted((folder / "exports" / "figures").iterdir())
    names = {path.stem for path in written}
    assert {"trade-1", "cost-train_tfe", "compute-fd-1"} <= names
    assert len(written) == 2 * len(names) > 8
    for path in written:
        if path.suffix == ".svg":
            tree = ElementTree.fromstring(path.read_text("utf-8"))
            text = " ".join(t for e in tree.iter() if (t := "".join(e.itertext()).strip()))
            paths = [e for e in tree.iter() if e.tag.endswith("path")]
            assert len(paths) > 3, path
            if path.stem == "trade-1":
                assert "Quality and diversity at 1 NFE" in text and "95 % intervals" in text
                assert "dmd2" in text and "<script>alert" in text
        else:
            image = Image.open(path).convert("RGB")
            assert image.width == 1640 and image.height > 150
            assert image.getpixel((2, 2)) == (255, 255, 255)
            assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 3, path


def test_without_a_browser_one_line_says_what_is_needed(folder, monkeypatch, capsys):
    chromium = pytest.importorskip("choreographer.browsers.chromium")
    page = folder / "report.html"
    page.unlink(missing_ok=True)
    monkeypatch.setattr(chromium.Chromium, "find_browser", lambda skip_local: None)
    assert main(["report", str(folder), "--figures"]) == 2
    error = capsys.readouterr().err.strip()
    assert "chromium" in error and "BROWSER_PATH" in error and len(error.splitlines()) == 1
    assert page.is_file()


def test_without_kaleido_one_line_says_what_is_needed(folder, tmp_path):
    (tmp_path / "kaleido.py").write_text("raise ImportError('not here')")
    done = call(folder, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'piflow_bench[figures]'")
