"""Figures of ratios to a control, and of metrics against time."""

import json

import numpy as np
import pandas as pd
import pytest
from piflow_reports import summary
from piflow_reports.data import read
from piflow_reports.data import series as frames
from piflow_reports.figures import extractors, wall_time, within
from piflow_reports.format.styles import assign

from piflow_bench.evaluation.inference.ratios import mean_ratio
from piflow_bench.evaluation.inference.seeds import seed_interval
from piflow_bench.evaluation.uncertainty import jackknife_interval
from tests.reports import synthetic


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return summary.of(
        read.read(synthetic.write(tmp_path_factory.mktemp("run"), seeds=2, failed=False))
    )


@pytest.fixture(scope="module")
def looks(run):
    return assign({s: s for s in synthetic.STUDENTS}, {"teacher-euler": "teacher-euler"})


def named(rows):
    return pd.DataFrame(rows).assign(series=lambda r: r["variant"])


def rows_of(figure):
    return [dict(zip(figure.headers, row, strict=True)) for row in figure.rows]


def number(text):
    return float(text.lstrip("×").replace("−", "-"))


def ends(row):
    return tuple(number(end) for end in row["95 % interval"].strip("[]").split(", "))


# ------------------------------------------------------------------ within classes


def diversity(ratios, blocks=10, noise=0.0, seeds=(None,)):
    """Two classes: the teacher's 0.2 and 0.5, a student's ``ratios`` times that."""
    random = np.random.default_rng(0)
    rows = []
    shared = noise * random.standard_normal((2, blocks))
    cells = [("teacher-converged", "control", None, None, (1.0, 1.0))]
    cells += [("dmd2", "student", 1, s, ratios) for s in seeds]
    for name, role, nfe, seed, factors in cells:
        for c, (base, factor) in enumerate(zip((0.2, 0.5), factors, strict=True)):
            value = base * factor
            left = value * np.exp(shared[c])
            rows.append({"variant": name, "role": role, "nfe": nfe, "train_seed": seed,
                         "kind": "within", "group": str(c), "metric": "pairwise_distance",
                         "value": value, "n": 40, "replicates": left.tolist()})  # fmt: skip
    return named(rows)


def test_classes_beside_the_teachers_own_and_their_geometric_mean(looks):
    (figure,) = within.within(diversity((0.5, 2.0)), [1], looks, ["dmd2"], "r0-")
    table = rows_of(figure)
    assert [r["Class or prompt"] for r in table] == ["all, geometric mean", "0", "1"]
    assert [number(r["Ratio"]) for r in table] == pytest.approx([1.0, 0.5, 2.0])
    assert {r["95 % interval"] for r in table} == {"—"}, "without noise there is no interval"
    assert figure.id == "r0-within-1" and json.loads(figure.spec)["data"]


def test_noise_that_the_teacher_shares_cancels_and_a_students_own_does_not(looks):
    own = diversity((0.5, 0.5), noise=0.1)
    (figure,) = within.within(own, [1], looks, ["dmd2"], "")
    for row in rows_of(figure):
        assert ends(row) == pytest.approx((0.5, 0.5), abs=1e-9)
    random = np.random.default_rng(1)
    student = own["role"] == "student"
    own.loc[student, "replicates"] = own.loc[student, "replicates"].map(
        lambda left: (np.array(left) * np.exp(0.01 * random.standard_normal(len(left)))).tolist()
    )
    (figure,) = within.within(own, [1], looks, ["dmd2"], "")
    for row in rows_of(figure):
        low, high = ends(row)
        assert low < 0.5 < high < 0.6


def test_seeds_are_averaged_and_spread(looks):
    both = pd.concat([
        diversity((0.49, 0.49), noise=0.1, seeds=(0,)),
        diversity((0.51, 0.51), noise=0.1, seeds=(1,)).query("role == 'student'"),
    ])  # fmt: skip
    (figure,) = within.within(both, [1], looks, ["dmd2"], "")
    first = rows_of(figure)[0]
    half = 12.706 * np.log(0.51 / 0.49) / np.sqrt(2) / np.sqrt(2)
    assert number(first["Ratio"]) == 0.5
    assert ends(first) == pytest.approx((0.5 * np.exp(-half), 0.5 * np.exp(half)), abs=0.06)


def test_many_classes_are_listed_from_the_least_diverse(looks, monkeypatch):
    monkeypatch.setattr(within, "LISTED", 2 * 5)
    parts = synthetic.within(("dmd2",), (1,), seeds=1)
    rows = [dict(row, group=f"{row['group']}{x}") for row in parts for x in "ab"]
    (figure,) = within.within(named(rows), [1], looks, ["dmd2"], "")
    shown = [number(r["Ratio"]) for r in rows_of(figure)[1:]]
    assert len(shown) == 5 and shown == sorted(shown) and "5 least diverse" in figure.caption


@pytest.mark.parametrize("parts", [pd.DataFrame(), named(synthetic.within((), ()))])
def test_without_students_or_a_breakdown_there_is_nothing(parts, looks):
    assert within.within(parts, [1], looks, ["dmd2"], "") == []
    alone = diversity((0.5, 2.0))
    alone = alone[alone["role"] == "student"]
    assert within.within(alone, [1], looks, ["dmd2"], "") == []


# ------------------------------------------------------------------ over extractors


def cell(by_seed, left):
    return {"by_seed": by_seed, "seed_replicates": left, "value": np.mean(list(by_seed.values())),
            "replicates": np.mean(list(left.values()), axis=0).tolist()}  # fmt: skip


def test_a_mean_ratio_has_the_noise_of_all_that_it_is_made_of():
    random = np.random.default_rng(0)
    lefts = [8 + random.standard_normal(10), 3 + random.standard_normal(10)]
    tops = [cell({-1.0: 2.0}, {-1.0: [2.0] * 10}), cell({-1.0: 1.0}, {-1.0: []})]
    cells = [cell({-1.0: 8.0}, {-1.0: lefts[0]}), cell({-1.0: 3.0}, {-1.0: lefts[1]})]
    found = mean_ratio(cells, tops)
    assert found == jackknife_interval(3.5, (lefts[0] / 2 + lefts[1] / 1) / 2)
    seeds = [cell({0.0: 8.0, 1.0: 6.0}, {0.0: lefts[0], 1.0: lefts[0] - 2})]
    left = np.array([lefts[0], lefts[0] - 2]) / 2
    assert mean_ratio(seeds, tops[:1]) == seed_interval([4.0, 3.0], replicates=left)


def test_what_the_control_shares_cancels_out_of_a_mean_ratio():
    left = 2 + 0.3 * np.random.default_rng(1).standard_normal(10)
    found = mean_ratio([cell({0.0: 6.0}, {0.0: 3 * left})], [cell({-1.0: 2.0}, {-1.0: left})])
    assert found.value == 3 and found.high - found.low < 1e-9


def test_distances_over_those_of_the_control(run, looks):
    figures = {f.id: f for f in extractors.ratios(run.cells, [1, 4], looks, run.order, "")}
    assert set(figures) == {f"ratio-{q}-{n}" for q in ("data", "imitation") for n in (1, 4)}
    cells = run.cells[(run.cells["metric"] == "fd") & (run.cells["nfe"].isin([1]))]
    for question, control in (("data", "real-vs-real"), ("imitation", "teacher-converged")):
        for row in rows_of(figures[f"ratio-{question}-1"]):
            parts = []
            for extractor in ("classifier", "pixels"):
                own = cells[(cells["question"] == question) & (cells["extractor"] == extractor)]
                top = run.cells[(run.cells["variant"] == control) & (run.cells["metric"] == "fd")]
                top = top[(top["question"] == question) & (top["extractor"] == extractor)]
                value = own.loc[own["series"] == row["Variant"], "value"].item()
                parts.append(value / top["value"].item())
                assert number(row[extractor].split()[0]) == pytest.approx(parts[-1], rel=0.1)
            assert number(row["Mean ratio"]) == pytest.approx(np.mean(parts), rel=0.1)
    assert "Kendall's tau between the features' orders of the students" in (
        figures["ratio-data-1"].caption
    )


def test_one_kind_of_features_or_no_control_has_no_ratios(run, looks):
    one = run.cells[run.cells["extractor"] == "pixels"]
    assert extractors.ratios(one, [1, 4], looks, run.order, "") == []
    without = run.cells[run.cells["role"] != "control"]
    assert extractors.ratios(without, [1, 4], looks, run.order, "") == []


def test_a_series_by_other_rules_is_not_divided(run, looks):
    cells = run.cells.copy()
    cells.loc[(cells["series"] == "dmd2") & (cells["extractor"] == "pixels"), "protocol"] = "other"
    for figure in extractors.ratios(cells, [1], looks, run.order, ""):
        assert "dmd2" not in {r["Variant"] for r in rows_of(figure)}


# ------------------------------------------------------------------ time


def timed(run, looks, results=None):
    results = run.run.results if results is None else results
    return wall_time.against_time(
        run.cells, frames.with_series(results), looks, run.order, run.primary, ""
    )


def test_metrics_against_the_time_of_a_sample(run, looks):
    figures = timed(run, looks)
    assert [f.id for f in figures] == ["time-fd", "time-recall"]
    traces = {t["name"]: t for t in json.loads(figures[0].spec)["data"] if "name" in t}
    assert traces["dmd2"]["x"] == pytest.approx([2e-4, 8e-4])
    assert "teacher-euler" in traces, "the teacher's solvers are among the lines"
    assert "Dashed: converged teacher" in figures[0].caption
    assert ["dmd2", "4", "800 µs"] in [row[:3] for row in figures[0].rows]


def test_each_kind_of_hardware_has_a_figure_of_its_own(run, looks):
    results = run.run.results.copy()
    results["sample_hardware"] = np.where(results["variant"] == "meanflow", "slow", "fast")
    results.loc[results["variant"] == "piflow-dx", "sample_hardware"] = "slow"
    found = {f.id: {row[0] for row in f.rows} for f in timed(run, looks, results)}
    assert found["time-fd-1"] == {"meanflow", "piflow-dx"}
    assert not found["time-fd"] & found["time-fd-1"] and "dmd2" in found["time-fd"]


def test_samples_that_were_not_timed_have_no_figure(run, looks):
    assert timed(run, looks, run.run.results.assign(sample_seconds=np.nan)) == []
