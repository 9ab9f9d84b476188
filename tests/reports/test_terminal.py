"""What `run` prints at its end: the page's numbers and sentences, whole at any width."""

import io
import re

import pytest
from piflow_reports import page, terminal
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from rich.console import Console

from tests.reports import synthetic


def printed(folder, width):
    console = Console(width=width, record=True, file=io.StringIO())
    terminal.print_results(console, folder)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("seeds", [1, 5])
def test_no_line_breaks_an_interval_or_is_too_long(width, seeds, tmp_path):
    names = ("piflow-gm8", "piflow-dx", "dmd2", "meanflow")
    folder = synthetic.write(tmp_path, seeds=seeds, students=names, failed=False)
    lines = printed(folder, width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for line in lines:
        assert line.count("[") == line.count("]"), line


def test_sentences_and_values_are_the_pages(five_seeds):
    context = page.section(inputs.read(five_seeds), "").context
    flat = " ".join(printed(five_seeds, 100).split())
    for verdict in context["verdicts"]:
        assert " ".join(" ".join(verdict.sentences).split()) in flat
    for several in context["rankings"].values():
        for group in several[0].groups:
            for row in group.rows:
                cell = row.cells[0]
                assert ("failed" if cell.hole else cell.text) in flat and cell.span in flat


def test_the_best_comes_first_and_teacher_and_ceiling_stand_apart(five_seeds):
    text = printed(five_seeds, 100)
    for nfe in (1, 4):
        table = text.partition(f"\n{nfe} NFE")[2].partition("\nAt ")[0]
        heads = [line.strip() for line in table.splitlines() if re.match(r"\S", line)]
        kinds = [h for h in heads if h in ("Distilled", "Teacher, few steps", "Not ranked")]
        assert kinds == ["Distilled", "Teacher, few steps", "Not ranked"]
        students = table.partition("Distilled")[2].partition("From scratch")[0]
        values = [float(v) for v in re.findall(r"\s([\d.]+)[▲▼ ]\s*\[", students)[::2]]
        assert len(values) >= 3 and values == sorted(values)
        assert "teacher-converged" in table.partition("Not ranked")[2]
    assert "FD ↓" in text and "Recall ↑" in text


def test_a_failed_student_is_a_word_not_a_number(five_seeds):
    run = inputs.read(five_seeds)
    assert (frames.final(run.results)["status"] == "failed").any()
    assert "failed" in printed(five_seeds, 100) and "nan" not in printed(five_seeds, 100).lower()
