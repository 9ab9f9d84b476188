"""The page of the schema."""

from pathlib import Path

from piflow_bench.pipeline.results.described import PAGE, page
from piflow_bench.pipeline.results.schema import TABLES

ROOT = Path(__file__).parents[3]


def test_the_page_is_of_this_schema():
    again = "python -m piflow_bench.pipeline.results.described"
    assert (ROOT / PAGE).read_text("utf-8") == page(), f"{again} > {PAGE}"


def test_every_column_has_a_line():
    sections = page().split("\n## ")[1:]
    assert [s.splitlines()[0] for s in sections] == [table.file for table in TABLES]
    for section, table in zip(sections, TABLES, strict=True):
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == table.names
        assert all(row.count("|") == 5 for row in rows)
    assert "without `variant`, `metric`, `value` is refused" in sections[0]
    assert "`role` student" in sections[0] and "(ok, failed, pending)" in sections[0]
    assert "loss, grad_norm" in sections[1]
