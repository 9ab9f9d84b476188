"""Do the page's sentences keep their promise? By simulation, with the truth known.

A value is the truth of its method, plus what its training made of it (the seed effect), plus the
noise of sampling. Where methods are compared the seed effects have three times the variance of the
sampling noise. Replicates are those of a mean over blocks of samples, so the jackknife sees the
sampling noise and nothing else. Half of that noise's variance is common to all variants and all
their trainings, as these start from the same noise: it leaves every paired difference.

Every variant is compared with the declared leader, and nothing else is tested. A report is false
if it says too much anywhere, at any NFE and in any primary metric. At 95 % that may happen to 5
reports in 100; a test allows two binomial standard errors of its simulation more.
"""

import io
import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
from piflow_reports import page, terminal
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.export import tables as export
from piflow_reports.figures import heatmaps
from piflow_reports.sections import comparisons, verdicts
from piflow_reports.sections import rankings as tables
from rich.console import Console

from piflow_bench.evaluation.uncertainty import jackknife_interval

PRIMARY = {"fd": False, "recall": True}  # name: whether higher is better
OTHERS = ("kid", "cmmd", "density", "coverage", "vendi", "class_accuracy")
NFES = (1, 2)
NAMES = tuple(f"m{i}" for i in range(8))
BLOCKS = 20
SEED = np.sqrt(3.0)
"""Standard deviation of the seed effect; that of the sampling noise of one value is 1."""
COMMON = 0.5
"""Share of the sampling noise's variance that all variants have in common."""
INFO = {
    "primary": {"question": "imitation", "quality": "fd", "diversity": "recall",
                "extractor": "classifier"},
    "family": {"leader": "m0"},
}  # fmt: skip
LED = frames.Primary("imitation", "fd", "recall", "classifier", leader="m0")
CLAIM = re.compile(
    r"At (?P<nfe>\d+) NFE,?(?: among these checkpoints,)? (?P<best>\S+) "
    r"has (?P<word>lower|higher) (?P<label>\S+) than (?P<rest>.*)\.$"
)
BEHIND = re.compile(
    r"(?:At (?P<nfe>\d+) NFE,?(?: among these checkpoints,)? (?P<leader>\S+)|And it) "
    r"is behind (?P<rest>.*) in (?P<label>\S+)\.$"
)
WORDS = {"FD": ("fd", "lower"), "Recall": ("recall", "higher")}
READ = {}


@dataclass(frozen=True)
class Simulated:
    """Tidy rows, and the true value of every checkpoint ``(variants, NFEs, metrics, seeds)``."""

    rows: pd.DataFrame
    checkpoints: np.ndarray
    read_once: pd.DataFrame
    """Rows as the page reads them; a value is the place of its row among those drawn."""

    @property
    def read(self):
        """The rows as the page reads them. Reading takes a quarter of a report's time, and is
        the same for all that is drawn alike but for these columns."""
        names = ["value", "ci_low", "ci_high", "replicates"]
        drawn = self.rows[names].iloc[self.read_once["value"].astype(int)].reset_index(drop=True)
        return self.read_once.assign(**drawn)

    def better(self, nfe, metric, a, b):
        """Whether a is truly better than b, for the checkpoints at hand."""
        values = self.checkpoints[:, NFES.index(nfe), list(PRIMARY).index(metric)].mean(axis=-1)
        gap = values[NAMES.index(a)] - values[NAMES.index(b)]
        return bool(gap > 0 if PRIMARY[metric] else gap < 0)


def simulate(
    rng, seeds, *, truth=0.0, seed_sd=SEED, of_method=0.0, names=NAMES, metrics=tuple(PRIMARY)
):
    """A run's rows; ``truth`` (variants, NFEs, metrics) is added to 100.

    ``of_method``: the share of a variant's own sampling noise that all its trainings have in
    common; the rest is new in every training.
    """
    shape = (len(names), len(NFES), len(metrics), seeds)
    centre = np.broadcast_to(100.0 + np.asarray(truth), shape[:3])
    checkpoints = centre[..., None] + seed_sd * rng.standard_normal(shape)
    own = 1.0 - COMMON
    parts = (
        (COMMON, (1, *shape[1:3], 1)),
        (own * of_method, (*shape[:3], 1)),
        (own * (1.0 - of_method), shape),
    )
    blocks = sum(
        np.sqrt(share * BLOCKS) * rng.standard_normal((*size, BLOCKS)) for share, size in parts
    )
    values = checkpoints + blocks.mean(axis=-1)
    left = (blocks.sum(axis=-1, keepdims=True) - blocks) / (BLOCKS - 1)
    replicates = checkpoints[..., None] + left
    rows = []
    for at in np.ndindex(shape):
        interval = jackknife_interval(values[at], replicates[at])
        metric = metrics[at[2]]
        rows.append({
            "variant": names[at[0]], "method": names[at[0]], "track": "distilled",
            "role": "student", "nfe": NFES[at[1]], "metric": metric,
            "higher_is_better": PRIMARY.get(metric, False), "train_seed": at[3],
            "sample_seed": 0, "budget_fraction": 1.0, "question": "imitation",
            "extractor": "classifier", "protocol": "p", "n": 2000, "value": values[at],
            "ci_low": interval.low, "ci_high": interval.high,
            "replicates": replicates[at].tolist(),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    drawn_alike = (names, seeds, metrics)
    if drawn_alike not in READ:
        READ[drawn_alike] = inputs.normalise(frame.assign(value=np.arange(len(frame))))
    return Simulated(frame, checkpoints, READ[drawn_alike])


@dataclass(frozen=True)
class Report:
    """The parts of the page that speak of the primary metrics."""

    summary: pd.DataFrame
    pairs: pd.DataFrame
    primary: frames.Primary

    @cached_property
    def verdicts(self):
        return verdicts.verdicts(self.summary, self.pairs, self.primary)

    @property
    def sentences(self):
        return [text for verdict in self.verdicts for text in verdict.sentences]

    @property
    def claims(self):
        """(NFE, metric, best, other) wherever a sentence says that something is better."""
        found = []
        for match in filter(None, map(CLAIM.match, self.sentences)):
            metric, word = WORDS[match["label"]]
            assert match["word"] == word
            others = re.findall(r"(\S+) by", match["rest"])
            found += [(int(match["nfe"]), metric, match["best"], other) for other in others]
        for verdict in self.verdicts:
            for match in filter(None, map(BEHIND.match, verdict.sentences)):
                assert match["leader"] in (None, verdict.leader)
                assert match["nfe"] in (None, str(verdict.nfe)) and match["label"] == verdict.metric
                others = re.findall(r"(\S+) by", match["rest"])
                found += [(verdict.nfe, verdict.name, o, verdict.leader) for o in others]
        told = (" than ", " is behind ")
        assert bool(found) == any(word in text for text in self.sentences for word in told)
        return found

    @property
    def marks(self):
        """(NFE, metric, better, other) of the pairs that are told apart: heatmaps, tables."""
        rows = self.pairs[self.pairs["significant"]]
        names = ["nfe", "metric", "a", "b", "difference"]
        return [
            (nfe, metric, *((a, b) if (d > 0) == PRIMARY[metric] else (b, a)))
            for nfe, metric, a, b, d in rows[names].itertuples(index=False)
        ]


def report(rows, leader="m0"):
    """A report of some rows, made as the page makes it."""
    return report_of(inputs.normalise(rows), leader)


def report_of(results, leader="m0"):
    """The same of rows as they are read."""
    primary = frames.primary({**INFO, "family": {"leader": leader}}, results)
    summary = frames.summarise(frames.final(results))
    pairs, _ = comparisons.comparisons(summary, primary)
    return Report(summary, pairs, primary)


def ranked(found, rows):
    """The rankings of a report."""
    results = inputs.normalise(rows)
    primary, order = frames.primary(INFO, results), frames.series_order(results, INFO)
    marks = verdicts.marks(found.verdicts, primary)
    return tables.rankings(found.summary, list(NFES), order, primary, marks)


def at_most(events, share):
    """Whether events happen no more often than they may, by two binomial standard errors."""
    rate = np.mean(events)
    return rate <= share + 2 * np.sqrt(share * (1 - share) / len(events)), f"{rate:.3f}"


def holds(events, share):
    kept, rate = at_most(events, share)
    assert kept, f"{rate} of {len(events)} reports, {share} allowed"


def marks_of(found, number):
    """What a report marks. Sentences take as long as all else and say no more: of every fifth."""
    marks = set(found.marks)
    if number % 5 == 0:
        said = set(found.claims)
        assert said <= marks and bool(said) == bool(marks), "a sentence names a few of many"
    return marks


def says_too_much(world, number):
    """Whether the report of a number says what is not true of the checkpoints; the report too."""
    found = report_of(world.read)
    return not all(world.better(*claim) for claim in marks_of(found, number)), found


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_part_tells_the_same_pairs_apart(seeds, tmp_path):
    rng = np.random.default_rng(seeds)
    truth = np.array([0.0, -12, -6, -1, 1, 4, 8, 14])[:, None, None] * [1, -1]
    world = simulate(rng, seeds, truth=truth)
    pd.testing.assert_frame_equal(world.read, inputs.normalise(world.rows))
    found = report(world.rows)
    run = Run("simulated", inputs.normalise(world.rows), pd.DataFrame(), None, INFO)
    shown = page.section(run, "").context
    assert [text for v in shown["verdicts"] for text in v.sentences] == found.sentences
    apart = {(nfe, metric, frozenset(pair)) for nfe, metric, *pair in found.marks}
    assert len(NAMES) < len(apart) < found.pairs["family"].sum()
    assert set(found.claims) == set(found.marks)

    listed = {
        (p["nfe"], WORDS[p["metric"]][0], frozenset((p["a"], p["b"])))
        for p in shown["pairs"]
        if p["significant"]
    }
    assert listed == apart
    primary = frames.primary(INFO, run.results)
    for figure in heatmaps.differences(found.pairs, list(NAMES), primary, ""):
        _, metric, nfe = figure.id.split("-")
        coloured = {frozenset(r[:2]) for r in figure.rows if r[-1] == "told apart"}
        assert coloured == {pair for n, m, pair in apart if (n, m) == (int(nfe), metric)}
    for nfe, (main, *_) in shown["rankings"].items():
        (group,) = main.groups
        for i, metric in enumerate(PRIMARY):
            marked = {(row.series, row.cells[i].mark) for row in group.rows if row.cells[i].mark}
            here = [(a, b) for n, m, a, b in found.claims if (n, m) == (nfe, metric)]
            assert marked == {(b, "worse") if a == "m0" else (a, "better") for a, b in here}
            best = (max if PRIMARY[metric] else min)(group.rows, key=lambda r: r.cells[i].value)
            assert [row for row in group.rows if row.cells[i].bold] == [best]
    folder = tmp_path / "run"
    folder.mkdir()
    world.rows.to_parquet(folder / "results.parquet")
    (folder / "run.json").write_text(json.dumps(INFO))
    console = Console(width=400, record=True, file=io.StringIO())
    terminal.print_results(console, folder)
    printed = " ".join(console.export_text().split())
    assert all(text in printed for text in found.sentences)
    export.export(
        folder, run.results, [("", r) for rs in shown["rankings"].values() for r in rs], []
    )
    table = pd.read_csv(folder / "ranking.csv", keep_default_na=False)
    listed = table[table["than_leader"] != ""]
    assert len(listed) == len(apart)


def test_equal_methods_are_rarely_told_apart():
    """150 reports: at most 5 % + 2 x 1.8 %."""
    rng = np.random.default_rng(1)
    events = []
    for i in range(150):
        found = report_of(simulate(rng, 5).read)
        assert i % 5 or not any("checkpoints" in text for text in found.sentences)
        events.append(bool(marks_of(found, i)))
    holds(events, 0.05)


@pytest.mark.parametrize(
    "seed_sd, of_method",
    [
        (0.2**0.5, 0.5),
        pytest.param(SEED, 1.0, marks=pytest.mark.thorough),
        pytest.param(0.0, 1.0, marks=pytest.mark.thorough),
    ],
)
def test_equal_methods_whose_trainings_answer_alike_to_the_noise(seed_sd, of_method):
    """Part of a method's sampling noise is common to its trainings: the spread over seeds is blind
    to it, and alone gives three times as many false reports as it may.

    In digits_full half the sampling noise of a paired difference in FD (median of 126 pairs) is
    common to all five trainings: that is the first case. 80 reports: at most 5 % + 2 x 2.4 %.
    """
    rng = np.random.default_rng(2)
    reports = (
        report_of(simulate(rng, 5, seed_sd=seed_sd, of_method=of_method).read) for _ in range(80)
    )
    holds([bool(marks_of(found, i)) for i, found in enumerate(reports)], 0.05)


@pytest.mark.parametrize("seeds", [pytest.param(1, marks=pytest.mark.thorough), 3])
def test_below_five_seeds_a_report_is_of_checkpoints_and_right_about_them(seeds):
    """Equal methods whose checkpoints differ; 50 reports: at most 5 % + 2 x 3.1 %."""
    rng = np.random.default_rng(10 + seeds)
    events, claims = [], 0
    for i in range(50):
        false, found = says_too_much(simulate(rng, seeds, of_method=0.5), i)
        events.append(false)
        claims += len(found.marks)
        assert set(found.pairs["level"]) == {"checkpoints"}
        if i % 5:
            continue
        firsts = [verdict.sentences[0] for verdict in found.verdicts]
        assert all("NFE, among these checkpoints, " in text for text in firsts)
        assert not any("method" in text for text in found.sentences)
        assert "these checkpoints only" in comparisons.level_note(found.pairs, LED)
    holds(events, 0.05)
    assert claims > len(events)


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_equal_checkpoints_are_rarely_told_apart(seeds):
    """No seed effect at all; 120 reports: at most 5 % + 2 x 2.0 %."""
    rng = np.random.default_rng(20 + seeds)
    worlds = (simulate(rng, seeds, seed_sd=0.0, of_method=0.5) for _ in range(120))
    holds([says_too_much(world, i)[0] for i, world in enumerate(worlds)], 0.05)


def test_a_leader_by_five_standard_errors_is_told_apart_from_most():
    """Ten variants, five seeds, two metrics at 1 NFE: a family of 18.

    Its first needs p < 0.0028, or 4.5 estimated standard errors with 7 degrees of freedom.
    """
    rng, names = np.random.default_rng(5), tuple(f"m{i}" for i in range(10))
    truth = np.zeros((len(names), len(NFES), len(PRIMARY)))
    truth[0, 0, 0] = -5 * np.sqrt(2 * (SEED**2 + 1 - COMMON) / 5)
    found = []
    for i in range(40):
        rows = simulate(rng, 5, truth=truth, names=names).read
        marks = marks_of(report_of(rows[rows["nfe"] == 1]), i)
        found.append(sum(mark[:3] == (1, "fd", "m0") for mark in marks))
    assert np.mean(found) >= 0.5 * 9


def twins():
    """Names and truths of six recipes and one entered twice, the best in all."""
    names = (*NAMES[:6], "x", "x-aa")
    truth = np.zeros((len(names), len(NFES), len(PRIMARY)))
    truth[:6] = np.linspace(8, 60, 6)[:, None, None] * [1, -1]
    return names, truth


def test_one_recipe_entered_twice_is_not_told_apart():
    """x and x-aa, among recipes that do differ; 100 reports: at most 5 % + 2 x 2.2 %."""
    names, truth = twins()
    rng = np.random.default_rng(4)
    events, led = [], 0
    for i in range(100):
        found = report_of(simulate(rng, 5, truth=truth, names=names).read, leader="x")
        pair = [p for _, _, *p in marks_of(found, i) if {"x", "x-aa"} == set(p)]
        events.append(bool(pair))
        for verdict in [] if i % 5 else found.verdicts:
            said = [text for text in verdict.sentences if "not told apart from" in text]
            assert pair or ("x-aa" in verdict.tied and re.search(r"\bx-aa ", said[0]))
            led += len(verdict.worse)
    holds(events, 0.05)
    assert led > 4 * 3 * len(events) / 5


def test_the_words_for_one_recipe_entered_twice():
    """Means .2 and .3 of equal spread .158: error .1, t with 8 - 1 degrees of freedom 2.365."""
    each = {"x": [0, 1, 2, 3, 4], "x-aa": [3, 2, 1, 5, 4], "far": [100, 100, 101, 102, 102]}
    rows = simulate(np.random.default_rng(0), 5, names=tuple(each)).rows
    rows = rows[(rows["nfe"] == 1) & (rows["metric"] == "fd")]
    values = [each[v][s] / 10 for v, s in zip(rows["variant"], rows["train_seed"], strict=True)]
    first, second = report(rows.assign(value=values, replicates=None), leader="x").sentences
    assert first.startswith("At 1 NFE x has lower FD than far by ")
    assert second == "It is not told apart from x-aa (0.10 [−0.14, 0.34])."


def test_columns_outside_the_family_are_marked_nowhere():
    """Other metrics, and teachers: bold is the best value, and nothing says that others are worse.

    The differences are far beyond noise: only a declaration is lacking.
    """
    rng = np.random.default_rng(5)
    truth = np.linspace(0, 900, len(NAMES))[:, None, None] * np.ones((1, len(NFES), 8))
    world = simulate(rng, 5, truth=truth, metrics=(*PRIMARY, *OTHERS))
    teachers = simulate(rng, 1, seed_sd=0.0, names=("x", "y", "z")).rows
    teachers = teachers.assign(role="teacher", track="none", train_seed=np.nan)
    rows = pd.concat([world.rows, teachers])
    marked = set()
    for several in ranked(report(rows), rows).values():
        for group in several[0].groups:
            for i, column in enumerate(several[0].columns):
                assert sum(row.cells[i].bold for row in group.rows) <= 1
                marked |= {(group.kind, column.label) for row in group.rows if row.cells[i].mark}
    assert marked == {("student", "FD"), ("student", "Recall")}


def test_without_a_declared_family_everything_is_described():
    """A run of a part (``only=``) without the leader, and one that declares none."""
    truth = np.linspace(0, 900, len(NAMES))[:, None, None] * [1, 1]
    rows = simulate(np.random.default_rng(3), 5, truth=truth).rows
    for leader in ("", "absent"):
        found = report(rows, leader=leader)
        assert not found.claims and not found.marks
        assert all("Described, not tested." in text for text in found.sentences)
        assert {v.tone for v in found.verdicts} == {"described"}
        note = comparisons.level_note(found.pairs, frames.Primary("", "", "", "", leader=leader))
        assert "nobody is told apart" in note and (not leader or leader in note)
        assert found.pairs["low"].notna().all() and found.pairs["p"].isna().all()


def rows_by_seed(each, metric="fd", nfe=1):
    """Rows of some variants from their values by train seed; without replicates."""
    about = {"track": "distilled", "role": "student", "nfe": nfe, "metric": metric,
             "higher_is_better": PRIMARY[metric], "sample_seed": 0, "budget_fraction": 1.0,
             "question": "imitation", "extractor": "classifier", "protocol": "p", "n": 2000,
             "ci_low": np.nan, "ci_high": np.nan}  # fmt: skip
    return pd.DataFrame([
        {**about, "variant": name, "method": name, "train_seed": seed, "value": value,
         "replicates": []}
        for name, values in each.items() for seed, value in values.items()
    ])  # fmt: skip


def test_a_difference_is_that_of_the_values_shown():
    """Also where one side has more seeds: nothing pairs two recipes by seed."""
    x = dict(enumerate([10.3, 9.1, 10.9, 8.7, 11.0]))
    y = {seed: value + 10 + 0.01 * (seed % 2) for seed, value in x.items()} | {5: 30.0, 6: 31.0}
    (text,) = report(rows_by_seed({"x": x, "y": y}), leader="x").sentences
    gap = np.mean(list(y.values())) - np.mean(list(x.values()))
    assert text.startswith(f"At 1 NFE x has lower FD than y by {gap:.0f} [")


def test_who_beats_the_leader_is_said_to():
    rng = np.random.default_rng(4)
    truth = np.zeros((3, len(NFES), len(PRIMARY)))
    truth[1, :, 0] = -90
    found = report(simulate(rng, 5, truth=truth, names=("m0", "m1", "m2")).rows)
    verdict = found.verdicts[0]
    assert re.match(r"At 1 NFE m0 is behind m1 by (8|9)\d.* in FD\.", verdict.sentences[0])
    assert verdict.sentences[1].startswith("m0 is not told apart from m2 (")
    assert (verdict.leader, verdict.tone, verdict.better) == ("m0", "behind", ["m1"])


def test_students_without_a_common_seed_are_compared():
    rows = simulate(np.random.default_rng(7), 10, names=("m0", "y", "z")).rows
    late = rows["variant"] != "m0"
    found = report(rows[late == (rows["train_seed"] >= 5)])
    assert set(found.pairs["seeds"]) == {5} and set(found.pairs["level"]) == {"method"}


def test_a_sentence_names_a_few_and_counts_the_rest():
    rng = np.random.default_rng(9)
    names = tuple(f"m{i:02d}" for i in range(14))
    first = report(simulate(rng, 5, names=names).rows, leader="m00").sentences[0]
    assert first.count("[") == verdicts.LISTED - 1 and first.endswith("6 others (table below).")
