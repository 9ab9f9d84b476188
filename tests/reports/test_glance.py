"""The first screen as data: the verdict in a few words, what it rests on, whose samples it has."""

import numpy as np
import pytest
from piflow_reports import first_screen as glance
from piflow_reports import summary
from piflow_reports.data.run import Grid
from piflow_reports.format import styles
from piflow_reports.sections.verdicts import Verdict

from tests.reports import synthetic


def verdict(tied=(), better=(), worse=(), **facts):
    """A verdict of the leader 'lead' in FD."""
    tone = "behind" if better else "open" if not worse else "partly" if tied else "clear"
    usual = {"nfe": 1, "track": "distilled", "name": "fd", "metric": "FD", "role": "Quality",
             "leader": "lead", "value": "2.0", "span": "[1.5, 2.5]", "sentences": [],
             "tone": tone, "best": "lead", "seeds": 5, "of_methods": True}  # fmt: skip
    return Verdict(
        tied=list(tied), better=list(better), worse=list(worse), **{**usual, **facts}
    )  # fmt: skip


@pytest.mark.parametrize("said, text", [
    (verdict(worse=["a", "b"]), "Better than a and b."),
    (verdict(better=["a"]), "Behind a."),
    (verdict(better=["a"], worse=["b"], tied=["c"]),
     "Behind a. Better than b. Not told apart from c."),
    (verdict(tied=["a", "b"], best="b"),
     "Not told apart from a and b. The lowest value is that of b."),
    (verdict(tied=["a"], best="a"), "Not told apart from a."),
    (verdict(tied=["a", "b"], best="a", higher=True),
     "Not told apart from a and b. The highest value is that of a."),
    (verdict(worse=["a"], untested=["b"]), "Better than a. Not tested against b."),
    (verdict(worse=["a"], weak=True), "Better than a. Near the ceiling, where tests see little."),
    (verdict(tone="described"), "The lowest value. Described, not tested."),
    (verdict(worse=list("abcdefghi")), "Better than a, b, c and 6 others."),
    (verdict(worse=list("abcd")), "Better than a, b, c and d."),
])  # fmt: skip
def test_a_verdict_in_a_few_words(said, text):
    assert said.short == text


@pytest.mark.parametrize("said, text", [
    ([verdict()], "Of methods as trained here: 5 train seeds each."),
    ([verdict(), verdict(of_methods=False, seeds=1)],
     "Of checkpoints (1 train seed), not of methods."),
    ([verdict(of_methods=False, seeds=0)], "Of checkpoints, not of methods."),
    ([verdict(tone="described")], ""),
    ([], ""),
])  # fmt: skip
def test_what_the_verdict_rests_on(said, text):
    assert glance._basis(said) == text


def test_short_and_long_verdict_name_the_same(five_seeds):
    found = summary.read(five_seeds)
    assert found.verdicts
    for v in found.verdicts:
        whole = " ".join(v.sentences)
        for name in (*v.tied, *v.better, *v.worse, *v.untested):
            assert name in v.short and name in whole
        assert ("not told apart" in v.short.lower()) == ("not told apart from" in whole)


def grid(count, size, students=("a", "b"), points=False, teacher="teacher-converged"):
    rows, arrays = [], {}
    names = [(teacher, None, "control"), *((name, 4, "student") for name in students)]
    for i, (name, nfe, role) in enumerate(names):
        key = str(i)
        rows.append({"key": key, "variant": name, "series": name, "nfe": nfe, "role": role,
                     "train_seed": 0 if role == "student" else None})  # fmt: skip
        shape = (count, 2) if points else (count, size, size, 3)
        arrays[key] = np.random.default_rng(i).integers(0, 255, shape).astype(np.uint8)
    return Grid(np.zeros(count, int), np.arange(count), rows, arrays)


LOOKS = styles.assign({name: name for name in "abcdefghi"}, {})


@pytest.mark.parametrize("size, height", [(8, 40), (28, 28), (32, 32), (64, 48), (512, 48)])
def test_samples_are_small_and_alike(size, height):
    found = glance.samples(grid(40, size), 4, ["b", "a"], LOOKS)
    assert [row.series for row in found.rows] == ["teacher-converged", "b", "a"], "best first"
    assert {row.height for row in found.rows} == {height} and found.count == 24
    gap = height // min(size, 48)
    assert all(row.width == 24 * found.step - gap for row in found.rows)
    lossy = size > 32
    assert all(row.uri.startswith("data:image/webp") == lossy for row in found.rows)


def test_many_students_are_the_best_of_them():
    names = list("abcdefghi")
    found = glance.samples(grid(8, 8, names), 4, names[::-1], LOOKS)
    assert [row.series for row in found.rows[1:]] == list("ihgfed") and found.left_out == 3
    assert glance.samples(grid(8, 8, names), 1, names, LOOKS).rows[0].role == "control"
    assert glance.samples(None, 4, names, LOOKS) is None
    panels = glance.samples(grid(50, 0, points=True), 4, ["a"], LOOKS)
    assert panels.kind == "points" and {row.width for row in panels.rows} == {160}


def test_without_a_comparison_the_best_values_are_shown(tmp_path):
    folder = synthetic.write(tmp_path, students=("dmd2",), failed=False)
    found = summary.read(folder)
    (first, *_) = glance.glances(found, [], LOOKS, "")
    ((track, claims),) = first.tracks
    assert track == "" and [c.series for c in claims] == ["dmd2", "dmd2"]
    assert claims[0].text.startswith("There are no two students") and claims[1].text == ""
    assert claims[0].ceiling and claims[0].value != claims[0].ceiling
