"""Summaries, rankings, verdicts and exports, against numbers worked out by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from piflow_reports import summary as summaries
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.figures import base as plots
from piflow_reports.format import names as words
from piflow_reports.format import styles
from piflow_reports.pictures.images import strip
from piflow_reports.pictures.points import common_limits, density, panel
from piflow_reports.sections import ceiling, comparisons, verdicts
from piflow_reports.sections import rankings as tables
from scipy.stats import t

from piflow_bench.evaluation.inference.seeds import shared_variance
from tests.reports import synthetic


@pytest.fixture(scope="module")
def results():
    return inputs.normalise(synthetic.results(seeds=5))


@pytest.fixture(scope="module")
def summary(results):
    return frames.summarise(frames.final(results))


@pytest.fixture(scope="module")
def primary(results):
    return frames.primary(synthetic.info(), results)


def ranked(results, summary, primary):
    table, _ = comparisons.comparisons(summary, primary)
    order = frames.series_order(results, synthetic.info())
    marks = verdicts.marks(verdicts.verdicts(summary, table, primary), primary)
    return tables.rankings(summary, [1, 4], order, primary, marks)


def one(frame, **wanted):
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


DMD2 = {"variant": "dmd2", "nfe": 1, "question": "imitation", "extractor": "classifier"}


def test_intervals_over_seeds_are_students_t(results, summary):
    row = one(summary, metric="fd", **DMD2)
    own = results[(results["metric"] == "fd") & (results["budget_fraction"] == 1)]
    for name, value in DMD2.items():
        own = own[own[name] == value]
    values = own["value"].to_numpy()
    shared = shared_variance(np.array(own["replicates"].tolist()))
    half = t.ppf(0.975, 4) * np.sqrt(values.var(ddof=1) / 5 + shared)
    assert row["value"] == pytest.approx(values.mean())
    assert row["high"] - row["value"] == pytest.approx(half)
    assert (row["seeds"], row["interval"]) == (5, "seeds")


def test_one_seed_keeps_the_jackknife_interval():
    table = inputs.normalise(synthetic.results(seeds=1))
    row = one(frames.summarise(frames.final(table)), metric="fd", **DMD2)
    own = table[(table["variant"] == "dmd2") & (table["nfe"] == 1) & (table["metric"] == "fd")]
    own = own[(own["question"] == "imitation") & (own["extractor"] == "classifier")]
    own = own[own["budget_fraction"] == 1]
    assert (row["low"], row["high"]) == (own["ci_low"].iloc[0], own["ci_high"].iloc[0])
    assert row["interval"] == "samples"


def test_tracks_teacher_and_controls_never_share_a_group(results, summary, primary):
    for several in ranked(results, summary, primary).values():
        titles = [group.title for group in several[0].groups]
        assert titles == [
            "Distilled",
            "From scratch",
            "Teacher with few steps (baseline)",
            "Controls (not ranked)",
        ]
        names = {row.series for row in several[0].groups[0].rows}
        assert "meanflow" not in names and "teacher-euler" not in names


def test_bold_is_the_best_value_and_marks_are_told_apart_from_the_leader(results, summary, primary):
    main = ranked(results, summary, primary)[1][0]
    distilled = {row.series: row for row in main.groups[0].rows}
    assert [c.label for c in main.columns[:2]] == ["FD", "Recall"]
    assert [name for name, row in distilled.items() if row.cells[0].bold] == ["piflow-gm8"]
    marked = {name: row.cells[1].mark for name, row in distilled.items() if row.cells[1].mark}
    assert marked == {"dmd2": "worse", synthetic.HOSTILE: "worse"}
    assert not any(row.cells[i].mark for row in distilled.values() for i in range(2, 5))
    assert not any(cell.bold for group in main.groups[1:] for r in group.rows for cell in r.cells)


def test_a_failed_cell_is_a_hole_with_its_reason(results, summary, primary):
    main = ranked(results, summary, primary)[4][0]
    row = next(r for r in main.groups[0].rows if r.series == synthetic.HOSTILE)
    assert all(cell.hole == "loss is not finite at step 812 <b>" for cell in row.cells)
    assert main.groups[0].rows[-1] is row


def test_some_failed_seeds_are_counted(results, summary):
    broken = results.copy()
    lost = (broken["variant"] == "dmd2") & (broken["train_seed"] == 3)
    broken.loc[lost, ["value", "status", "reason"]] = [np.nan, "failed", "out of memory"]
    row = one(frames.summarise(frames.final(broken)), metric="fd", **DMD2)
    assert (row["seeds"], row["failed"], row["reason"]) == (4, 1, "out of memory")


def test_protocols_get_columns_of_their_own(results, primary):
    mixed = results.copy()
    mixed.loc[mixed["variant"] == "dmd2", "protocol"] = "other-protocol"
    summary = frames.summarise(frames.final(mixed))
    columns = tables.columns(summary, primary)[""]
    assert [c.label for c in columns[:2]] == ["FD (5f3c1e)", "FD (other-)"]
    table, note = comparisons.comparisons(frames.summarise(frames.final(mixed)), primary)
    assert not len(table) and "protocol" in note


def test_a_columns_note_names_its_estimators(results, primary):
    kid = results["metric"] == "kid"
    mixed = results.assign(estimator=np.where(kid, "stratified by 10 classes", ""))
    mixed.loc[kid & (mixed["role"] == "control"), "estimator"] = "all pairs"
    found = tables.columns(frames.summarise(frames.final(mixed)), primary)[""]
    notes = {column.measure[2]: column.note for column in found}
    assert "estimator: all pairs and stratified by 10 classes" in notes["kid"]
    assert not any("estimator" in note for name, note in notes.items() if name != "kid")


def test_several_samplers_of_a_variant_are_several_series(results):
    twice = results[results["variant"] == "teacher-euler"]
    both = pd.concat([results, twice.assign(sampler="solver=euler")])
    names = set(frames.with_series(both)["series"])
    assert {"teacher-euler · solver=euler", "dmd2"} <= names


def test_several_samplers_of_a_student_are_compared(primary):
    table = inputs.normalise(synthetic.results(students=("dmd2", "piflow-dx"), failed=False))
    both = pd.concat([table, table[table["variant"] == "dmd2"].assign(sampler="substeps=8")])
    pairs, _ = comparisons.comparisons(frames.summarise(frames.final(both)), primary)
    summary = frames.summarise(frames.final(both))
    names = {"piflow-dx", "dmd2", "dmd2 · substeps=8"}
    assert set(pairs["a"]) | set(pairs["b"]) == names
    said = verdicts.verdicts(summary, pairs, primary)
    assert not any("No paired comparison" in text for v in said for text in v.sentences)


def test_the_ceiling_is_the_converged_teacher(summary, primary):
    order = sorted(set(summary["series"]))
    found = ceiling.ceiling(summary, [1, 4], order, primary)
    top = one(summary, variant="teacher-converged", metric="fd", question="imitation",
              extractor="classifier")  # fmt: skip
    row = next(r for r in found["rows"] if r.series == "dmd2")
    value = one(summary, metric="fd", **DMD2)["value"]
    assert row.cells[0].value == pytest.approx(value / top["value"])
    assert [h["label"] for h in found["heads"]] == ["FD", "Recall"]
    without = summary[summary["variant"] != "teacher-converged"]
    assert ceiling.ceiling(without, [1, 4], order, primary) is None


def pairs(level="method", significant=(True, False)):
    rows = [("a", "b", -1.9, -2.6, -1.2), ("a", "c", -0.1, -0.4, 0.2), ("b", "c", 1.8, 1.1, 2.5)]
    return pd.DataFrame([
        {"track": "distilled", "nfe": 1, "question": "imitation", "metric": "fd", "a": a, "b": b,
         "difference": d, "low": low, "high": high, "p": 0.01, "p_holm": 0.02, "seeds": 5,
         "level": level, "family": "a" in (a, b), "significant": s}
        for (a, b, d, low, high), s in zip(rows, [*significant, False], strict=True)
    ])  # fmt: skip


def three():
    return pd.DataFrame([
        {"role": "student", "track": "distilled", "variant": v, "series": v, "nfe": 1,
         "question": "imitation", "extractor": "classifier", "metric": "fd", "value": x,
         "low": x - 0.3, "high": x + 0.3, "higher": False, "seeds": 5}
        for v, x in (("a", 2.0), ("b", 3.9), ("c", 2.1))
    ])  # fmt: skip


def test_a_verdict_says_what_the_pairs_say():
    primary = frames.Primary("imitation", "fd", "recall", "classifier", leader="a")
    (found,) = verdicts.verdicts(three(), pairs(), primary)
    assert found.sentences == [
        "At 1 NFE a has lower FD than b by 1.9 [1.2, 2.6].",
        "It is not told apart from c (0.1 [−0.2, 0.4]).",
    ]
    assert (found.leader, found.tone) == ("a", "partly")
    (few,) = verdicts.verdicts(three(), pairs("checkpoints", (False, False)), primary)
    assert few.sentences == [
        "At 1 NFE, among these checkpoints, the FD of a is not told apart from c (0.1 [−0.2, 0.4]) "
        "and b (1.9 [1.2, 2.6])."
    ]
    assert few.tone == "open"
    assert "these checkpoints only" in comparisons.level_note(pairs("checkpoints"), primary)


def test_entries_of_families_say_which_leads():
    primary = frames.Primary("imitation", "fd", "recall", "classifier", entries={1: ["b", "c"]})
    rows = three().assign(family=["flow map", "regression, other", "consistency"])
    table = pairs()
    table = table.assign(
        family=[{a, b} == {"b", "c"} for a, b in zip(table.a, table.b, strict=True)]
    )
    table = pd.concat(
        [
            table,
            table.iloc[:1].assign(
                a="b", b="c", difference=1.8, low=1.1, high=2.5, family=True, significant=True
            ),
        ]
    )
    table.loc[~table["family"], ["p", "p_holm", "significant"]] = [np.nan, np.nan, False]
    (found,) = verdicts.verdicts(rows, table, primary)
    assert found.sentences == [
        "At 1 NFE the families in the order of their entries' FD: consistency (c) 2.1 [1.8, 2.4] "
        "and regression (b) 3.9 [3.6, 4.2].",
        "At 1 NFE c has lower FD than b by 1.8 [1.1, 2.5].",
        "The lowest value of all is that of a, which is no entry: described, not tested.",
    ]  # fmt: skip
    assert (found.leader, found.tone, found.worse) == ("c", "clear", ["b"])
    note = comparisons.level_note(table.assign(declared=1), primary)
    assert "one variant of each family of methods, every two of them in FD " in note
    assert "(at 1 NFE b and c), 1 comparison," in note
    assert primary.told_from == "the best of the families' entries"
    declared = {"leader": None, "entries": {"1": ["b", "c"]}}
    for leader, entries in ((None, {1: ["b", "c"]}), ("a", {})):
        read = frames.primary({"family": declared | {"leader": leader}}, uneven([1.0], [2.0]))
        assert (read.leader, read.entries) == (leader or "", entries), "a leader comes first"
    nobody = comparisons.level_note(table.assign(family=False), primary)
    assert nobody.startswith("No two of the declared entries")


def test_what_has_no_p_is_not_called_level():
    primary = frames.Primary("imitation", "fd", "recall", "classifier", leader="a")
    bare = pairs()
    bare.loc[bare["b"] == "b", ["p", "p_holm", "significant"]] = [np.nan, np.nan, False]
    (found,) = verdicts.verdicts(three(), bare, primary)
    assert found.sentences == [
        "At 1 NFE the FD of a is not told apart from c (0.1 [−0.2, 0.4]).",
        "a cannot be tested against b (1.9 [1.2, 2.6]): no common intervals.",
    ]
    assert found.tied == ["c"]


def test_a_leader_beside_its_own_samplings_alone_is_described():
    rows = uneven([5.0, 5.3], [4.8, 4.9]).assign(variant="a")
    rows["sampler"] = np.where(rows["method"] == "a", "s=1", "s=2")
    primary = frames.Primary("imitation", "fd", "fd", "classifier", leader="a")
    summary = frames.summarise(frames.final(rows))
    found, _ = comparisons.comparisons(summary, primary)
    (said,) = verdicts.verdicts(summary, found, primary)
    assert said.tone == "described" and said.sentences[0].endswith("Described, not tested.")
    assert "a · s=2; ahead of a · s=1" in said.sentences[0]


def test_an_elastic_leader_is_no_head_of_those_of_one_budget():
    rows = uneven([5.0, 5.3], [4.8, 4.9])
    rows = rows.assign(track="one budget", shares=np.where(rows["variant"] == "a", 1, 2))
    primary = frames.Primary("imitation", "fd", "fd", "classifier", leader="a")
    summary = frames.summarise(frames.final(rows))
    found, _ = comparisons.comparisons(summary, primary)
    (said,) = verdicts.verdicts(summary, found, primary)
    assert said.leader == "b" and "the lowest FD is that of b; ahead of a" in said.sentences[0]


def test_who_failed_stays_in_the_declared_family():
    sides = [5.0, 5.3, 4.9, 5.1, 5.2], [4.8, 4.9, 4.3, 4.9, 4.8]
    rows = pd.concat([uneven(*sides), uneven(*sides).assign(metric="recall")])
    third = rows[rows["variant"] == "b"].assign(variant="c", value=np.nan, status="failed")
    # As results have it: a failure is told of in the quality metric alone.
    failed = pd.concat([rows, third[third["metric"] == "fd"]])
    primary = frames.Primary("imitation", "fd", "recall", "classifier", leader="a")
    ps = []
    for results in (rows, failed):
        table, _ = comparisons.comparisons(frames.summarise(frames.final(results)), primary)
        ps.append(table.set_index("metric")["p_holm"].min())
        words = comparisons.level_note(table, primary)
    assert ps[1] > ps[0] and "4 comparisons" in words


def uneven(a, b):
    """A run of two students with these values of FD by train seed."""
    values = {"a": a, "b": b}
    return inputs.normalise(pd.DataFrame([
        {"role": "student", "track": "distilled", "variant": v, "method": v, "family": v, "nfe": 1,
         "question": "imitation", "extractor": "classifier", "metric": metric, "value": x,
         "train_seed": seed, "n": 2000, "protocol": "p", "higher_is_better": False,
         "budget_fraction": 1.0, "status": "ok", "sampler": "", "replicates": []}
        for v, seeds in values.items() for seed, x in enumerate(seeds) for metric in ("fd", "kid")
    ]))  # fmt: skip


def test_runs_on_one_page_share_its_false_reports():
    results = uneven([5.0, 5.3, 4.9, 5.1, 5.2], [4.8, 4.9, 4.3, 4.9, 4.8])
    primary = frames.Primary("imitation", "fd", "fd", "classifier", leader="a")
    alone, _ = comparisons.comparisons(frames.summarise(frames.final(results)), primary)
    four, _ = comparisons.comparisons(frames.summarise(frames.final(results)), primary, families=4)
    assert four.p_holm[0] == pytest.approx(4 * alone.p_holm[0])
    assert alone.significant[0] and not four.significant[0]


def test_numbers_in_words():
    assert words.decimals([2.1, 2.3], [0.07, 0.06]) == 2
    assert words.decimals([2.1], [0.12]) == 2
    assert words.decimals([1234.0], [40.0]) == 0
    assert words.fixed(-0.0004, 2) == "0.00"
    assert words.fixed(-1.5, 1) == "−1.5"
    assert words.fixed(math.nan, 2) == words.MISSING
    assert words.compact(400_000) == "400k"
    assert [words.duration(s) for s in (8e-4, 12, 150, 9000)] == [
        "800 µs", "12 s", "2.5 min", "2.5 h"
    ]  # fmt: skip
    assert words.joined(["a", "b", "c"]) == "a, b and c"
    assert plots.log_axis(0.3, 4)["ticktext"][:4] == ["0.01", "0.02", "0.05", "0.1"]


def test_exports(five_seeds):
    folder = five_seeds / "exports"
    table = pd.read_csv(folder / "ranking.csv")
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == len(synthetic.results(seeds=5))
    assert set(table["variant"]) >= set(synthetic.STUDENTS) - {synthetic.HOSTILE}
    best = table[table["best"] & (table["nfe"] == 1) & (table["metric"] == "fd")]
    best = best[(best["question"] == "imitation") & (best["extractor"] == "classifier")]
    assert best["variant"].tolist() == ["piflow-gm8"]
    assert best["low"].iloc[0] < best["value"].iloc[0] < best["high"].iloc[0]
    text = (folder / "ranking.tex").read_text("utf-8")
    assert text.count("\\toprule") == text.count("\\bottomrule") == 2
    assert "\\textless{}script\\textgreater{}" in text and "a\\textbar{}b\\_c" in text
    for line in text.splitlines():
        assert line.count("{") - line.count("\\{") == line.count("}") - line.count("\\}")
    rows = (folder / "ranking.md").read_text("utf-8").split("## ")[1].splitlines()
    rows = [row.replace("\\|", "") for row in rows if row.startswith("|")]
    assert len(rows) == 2 + 4 + 9 and {row.count("|") for row in rows} == {8}
    assert "<script>" not in (folder / "ranking.md").read_text("utf-8").replace("\\<", "")


def test_strips_keep_pixels():
    images, _ = synthetic.digit_images(3)
    picture = np.asarray(strip(images))
    assert picture.shape == (8, 3 * 8 + 2, 4)
    assert np.array_equal(picture[:, 9:17, 0], images[1, ..., 0])
    assert (picture[:, 8, 3] == 0).all()
    colour = np.random.default_rng(0).integers(0, 256, (2, 200, 100, 3), dtype=np.uint8)
    assert strip(colour).size == (2 * 64 + 1, 128)


def test_points_share_a_window():
    clouds = [np.random.default_rng(i).standard_normal((500, 2)) * (i + 1) for i in range(2)]
    limits = common_limits(clouds)
    assert limits[1] - limits[0] == pytest.approx(limits[3] - limits[2])
    picture = np.asarray(panel(clouds[0], limits, "#0072B2"))
    assert (picture[..., 3] > 0).mean() > 0.01
    assert panel(np.full((3, 2), np.nan), limits, "#0072B2").size == (320, 320)


def test_looks_differ():
    names = [f"s{i}" for i in range(14)]
    looks = styles.assign({n: n for n in names}, {"teacher": "teacher"})
    assert len({(k.colour, k.symbol, k.dash) for k in looks.values()}) == 15


def test_captions_tell_n_and_protocol_and_the_papers_are_cited(five_seeds):
    exports = five_seeds / "exports"
    text = (exports / "ranking.tex").read_text()
    assert "n = 2000 samples, protocol 5f3c1e9a77d0." in text
    assert (exports / "citations.bib").read_text().count("@misc{") == 1
    rows = pd.read_parquet(exports / "results.parquet")
    assert len(rows) == len(pd.read_csv(exports / "results.csv"))


def test_every_built_in_method_has_its_citation():
    from piflow_reports.export.bibtex import bibtex

    from piflow_bench import registry

    facts = [registry.get("method", name).facts for name in registry.find("method")]
    named = [{"paper": f.paper, "citation": f.citation} for f in facts]
    text = bibtex([*named, *named])
    assert text.count("@misc{") == sum(bool(f.paper) for f in facts) > 8
    for entry in text.split("@misc")[1:]:
        assert entry.count("{") == entry.count("}") and "author = " in entry
    assert all(f.fidelity for f in facts)
    for f in facts:
        assert f.paper.removeprefix("arXiv:") in f.citation


def test_a_metric_on_the_features_that_a_method_was_trained_on_is_marked(tmp_path):
    folder = synthetic.write(tmp_path, 1, failed=False)
    facts = json.loads((folder / "run.json").read_text())
    for variant in facts["variants"]:
        variant["trained_on"] = ["pixels"] if variant["name"] == "dmd2" else []
    (folder / "run.json").write_text(json.dumps(facts))
    noted = {
        (row.series, column.measure[1])
        for several in summaries.read(folder).tables.values()
        for ranking in several
        for group in ranking.groups
        for row in group.rows
        for cell, column in zip(row.cells, ranking.columns, strict=True)
        if "trained on these features" in cell.note
    }
    assert noted == {("dmd2", "pixels")}


def test_an_unknown_paper_is_cited_by_its_number():
    from piflow_reports.export.bibtex import bibtex

    from piflow_bench.contracts.citation import cite

    other = cite("b", "A, B", "C", "2412.00002")
    text = bibtex(
        [
            {"paper": "arXiv:2301.00001"},
            {"paper": "see arXiv:2301.00001"},
            {"paper": ""},
            {"paper": "2412.00002", "citation": f"{other}\n@book{{x,\n  title = {{y}},\n}}"},
        ]
    )
    assert text.count("2412.00002") == 1 and "@book{x," in text
    assert text.count("@misc{arxiv2301_00001") == 1 and "eprint = {2301.00001}" in text
    assert "year = {2023}" in text
    assert bibtex([]) == ""


def test_a_density_is_where_the_points_are():
    points = np.random.default_rng(0).normal([0.5, -0.5], 0.05, (4000, 2))
    image = np.asarray(density(points, (-1, 1, -1, 1), "#0072B2"))
    cover = image[..., 3].astype(float)
    rows, columns = np.indices(cover.shape)
    middle = np.array([(columns * cover).sum(), (rows * cover).sum()]) / cover.sum() / len(cover)
    # x grows to the right, y upwards.
    assert middle == pytest.approx([0.75, 0.75], abs=0.02)
    assert cover.max() == 255 and (cover == 0).mean() > 0.5
    assert density(points[:0], (-1, 1, -1, 1), "#0072B2").getextrema()[3] == (0, 0)


def test_a_point_tells_n_interval_and_protocol(summary):
    row = one(summary, metric="fd", **DMD2)
    assert plots.hover(row).startswith("FD 2.9") and "[" in plots.hover(row)
    assert "n = 2,000, 5 train seeds" in plots.hover(row)
    assert plots.protocol(row) == "<br>protocol 5f3c1e9a77d0"
