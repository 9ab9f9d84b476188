"""Pages of kept results: a run's, and one of the parts of a long experiment."""

import json
import shutil

import pandas as pd
import pytest
from piflow_reports import results_page, summary
from piflow_reports.data import read

from piflow_bench.errors import UserError
from tests.reports import synthetic


def named(folder, name, keep=None):
    """A finished run called ``name``, with the students ``keep`` alone."""
    info = json.loads((folder / "run.json").read_text())
    info |= {"name": name, "command": f"python -m piflow_bench run name={name}"}
    (folder / "run.json").write_text(json.dumps(info))
    if keep is not None:
        table = pd.read_parquet(folder / "results.parquet")
        kept = (table["role"] != "student") | table["variant"].isin(keep)
        table[kept].to_parquet(folder / "results.parquet")
    return folder


@pytest.fixture
def whole(tmp_path):
    return named(synthetic.write(tmp_path / "runs" / "whole", seeds=5), "whole")


@pytest.fixture
def parts(whole, tmp_path):
    students = list(synthetic.STUDENTS)
    halves = {"first": students[:1], "second": students[1:]}
    return [
        named(shutil.copytree(whole, tmp_path / "runs" / name), name, keep)
        for name, keep in halves.items()
    ]


def test_parts_that_are_kept_together_say_what_the_whole_says(whole, parts, tmp_path):
    kept = tmp_path / "kept"
    results_page.keep(whole, kept)
    for part in parts:
        results_page.keep(part, kept, "joined")
    assert {p.name for p in (kept / "joined").iterdir()} == {"first", "second"}
    texts = {path.name: text for path, text in results_page.pages(kept).items()}
    assert set(texts) == {"whole.md", "joined.md"}
    said = [text.partition("Declared")[2] for text in texts.values()]
    assert said[0] == said[1] and "| ---" in said[0]
    assert "name=first\npython -m piflow_bench run name=second" in texts["joined.md"]


def test_a_page_of_one_run_is_as_its_summary(whole, tmp_path):
    results_page.keep(whole, tmp_path / "kept")
    (text,) = results_page.pages(tmp_path / "kept").values()
    found = summary.of(read.read(whole))
    assert all(sentence in text for nfe in found.nfes for sentence in found.sentences(nfe))


def test_parts_of_other_rules_have_no_page(parts, tmp_path):
    table = pd.read_parquet(parts[1] / "results.parquet")
    table.assign(protocol="other").to_parquet(parts[1] / "results.parquet")
    for part in parts:
        results_page.keep(part, tmp_path / "kept", "joined")
    with pytest.raises(UserError, match="joined: parts of other rules"):
        results_page.pages(tmp_path / "kept")
