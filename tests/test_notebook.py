"""The notebook of docs/, executed as a notebook is."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_look.ipynb"


@pytest.mark.timeout(600)
def test_the_notebook_runs_and_shows_tables(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [each for each in shown if "<table" in each.get("data", {}).get("text/html", "")]
    assert len(tables) == 3  # The run, its rows, the Evaluator's scores.
    assert any("image/png" in each.get("data", {}) for each in shown)
    printed = "".join(each.get("text", "") for each in shown if each.get("name") == "stdout")
    assert "60 images:" in printed and "120 images:" in printed


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
