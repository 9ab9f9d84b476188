"""Do the page's sentences keep their promise? By simulation, with the truth known.

A value is the truth of its method, plus what its training made of it (the seed effect), plus the
noise of sampling. Where methods are compared the seed effects have three times the variance of the
sampling noise. Replicates are those of a mean over blocks of samples, so the jackknife sees the
sampling noise and nothing else. Half of that noise's variance is common to all variants and all
their trainings, as these start from the same noise: it leaves every paired difference.

A report is false if it says too much anywhere, at any NFE and in any primary metric. At 95 % that
may happen to 5 reports in 100; a test allows two binomial standard errors of its simulation more.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from piflow_reports import frames, heatmaps, inputs, page, tables, verdicts

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
}  # fmt: skip
CLAIM = re.compile(
    r"At (?P<nfe>\d+) NFE,?(?: among these checkpoints,)? (?P<best>\S+) "
    r"has (?P<word>lower|higher) (?P<label>\S+) than (?P<rest>.*)\.$"
)
WORDS = {"FD": ("fd", "lower"), "Recall": ("recall", "higher")}


@dataclass(frozen=True)
class Simulated:
    """Tidy rows, and the true value of every checkpoint ``(variants, NFEs, metrics, seeds)``."""

    rows: pd.DataFrame
    checkpoints: np.ndarray

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
    return Simulated(pd.DataFrame(rows), checkpoints)


@dataclass(frozen=True)
class Report:
    """The parts of the page that speak of the primary metrics."""

    summary: pd.DataFrame
    pairs: pd.DataFrame
    verdicts: list

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
        assert bool(found) == any(" than " in text for text in self.sentences)
        return found

    @property
    def marks(self):
        """(NFE, metric, better, other) of the pairs that are told apart: heatmaps, bold, table."""
        rows = self.pairs[self.pairs["significant"]]
        names = ["nfe", "metric", "a", "b", "difference"]
        return [
            (nfe, metric, *((a, b) if (d > 0) == PRIMARY[metric] else (b, a)))
            for nfe, metric, a, b, d in rows[names].itertuples(index=False)
        ]


def report(rows):
    """A report of some rows, made as the page makes it."""
    results = inputs.normalise(rows)
    primary = frames.primary(INFO, results)
    summary = frames.summarise(frames.final(results))
    pairs, _ = verdicts.comparisons(results, primary)
    return Report(summary, pairs, verdicts.verdicts(summary, pairs, primary))


def ranked(found, rows):
    """The rankings of a report."""
    results = inputs.normalise(rows)
    primary, order = frames.primary(INFO, results), frames.series_order(results, INFO)
    return tables.rankings(found.summary, list(NFES), order, primary, verdicts.ties(found.pairs))


def at_most(events, share):
    """Whether events happen no more often than they may, by two binomial standard errors."""
    rate = np.mean(events)
    return rate <= share + 2 * np.sqrt(share * (1 - share) / len(events)), f"{rate:.3f}"


def holds(events, share):
    kept, rate = at_most(events, share)
    assert kept, f"{rate} of {len(events)} reports, {share} allowed"


def says_too_much(world):
    """Whether a report says or marks what is not true of the checkpoints; its sentences too."""
    found = report(world.rows)
    said = [*found.claims, *found.marks]
    return not all(world.better(*claim) for claim in said), found


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_part_of_the_page_tells_the_same_pairs_apart(seeds):
    rng = np.random.default_rng(seeds)
    truth = np.linspace(0, 40, len(NAMES))[:, None, None] * [1, -1]
    world = simulate(rng, seeds, truth=truth)
    found = report(world.rows)
    run = inputs.Run("simulated", inputs.normalise(world.rows), pd.DataFrame(), None, INFO)
    shown = page.section(run, "").context
    assert [text for v in shown["verdicts"] for text in v.sentences] == found.sentences
    apart = {(nfe, metric, frozenset(pair)) for nfe, metric, *pair in found.marks}
    assert 20 < len(apart) < len(found.pairs) and set(found.claims) <= set(found.marks)

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
            values = {row.series: row.cells[i].value for row in group.rows}
            best = (max if PRIMARY[metric] else min)(values, key=values.get)
            bold = {row.series for row in group.rows if row.cells[i].bold}
            beaten = {b for n, m, a, b in found.claims if (n, m, a) == (nfe, metric, best)}
            assert bold == set(NAMES) - beaten


def test_equal_methods_are_rarely_told_apart():
    """150 reports: at most 5 % + 2 x 1.8 %."""
    rng = np.random.default_rng(1)
    events = []
    for _ in range(150):
        found = report(simulate(rng, 5).rows)
        assert not any("checkpoints" in text for text in found.sentences)
        events.append(bool(found.claims or found.marks))
    holds(events, 0.05)


@pytest.mark.parametrize("seed_sd, of_method", [(0.2**0.5, 0.5), (SEED, 1.0), (0.0, 1.0)])
def test_equal_methods_whose_trainings_answer_alike_to_the_noise(seed_sd, of_method):
    """Part of a method's sampling noise is common to its trainings: the spread over seeds is blind
    to it, and alone gives three times as many false reports as it may.

    In digits_full half the sampling noise of a paired difference in FD (median of 126 pairs) is
    common to all five trainings: that is the first case. 80 reports: at most 5 % + 2 x 2.4 %.
    """
    rng = np.random.default_rng(2)
    reports = (
        report(simulate(rng, 5, seed_sd=seed_sd, of_method=of_method).rows) for _ in range(80)
    )
    holds([bool(found.claims or found.marks) for found in reports], 0.05)


@pytest.mark.parametrize("seeds", [1, 3])
def test_below_five_seeds_a_report_is_of_checkpoints_and_right_about_them(seeds):
    """Equal methods whose checkpoints differ; 50 reports: at most 5 % + 2 x 3.1 %."""
    rng = np.random.default_rng(10 + seeds)
    events, claims = [], 0
    for _ in range(50):
        false, found = says_too_much(simulate(rng, seeds, of_method=0.5))
        events.append(false)
        claims += len(found.claims)
        firsts = [verdict.sentences[0] for verdict in found.verdicts]
        assert all("NFE, among these checkpoints, m" in text for text in firsts)
        assert not any("method" in text for text in found.sentences)
        assert "these checkpoints only" in verdicts.level_note(found.pairs)
        assert set(found.pairs["level"]) == {"checkpoints"}
    holds(events, 0.05)
    assert claims > len(events)


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_checkpoints_are_rarely_told_apart(seeds):
    """No seed effect at all; 120 reports: at most 5 % + 2 x 2.0 %."""
    rng = np.random.default_rng(20 + seeds)
    holds(
        [says_too_much(simulate(rng, seeds, seed_sd=0.0, of_method=0.5))[0] for _ in range(120)],
        0.05,
    )


@pytest.mark.parametrize(("seeds", "errors"), [(5, 20), (10, 12)])
def test_a_clear_winner_is_found(seeds, errors):
    """A method ahead by so many standard errors of a paired difference beats all others.

    Holm's correction starts at 0.05 / 112, where Student's t asks for 10.6 estimated standard
    errors with 4 degrees of freedom and for 5.4 with 9, in each of seven differences.
    """
    wins = [won == len(NAMES) - 1 for won in beaten_by_the_winner(seeds, errors)]
    assert np.mean(wins) >= 0.9


def test_a_winner_by_eight_standard_errors_beats_somebody():
    """With five seeds hardly ever all the others: see above."""
    assert np.mean([won > 0 for won in beaten_by_the_winner(5, 8)]) >= 0.75


def beaten_by_the_winner(seeds, errors, reports=50):
    """How many of seven others the best is said to have lower FD than, at 1 NFE."""
    rng = np.random.default_rng(seeds)
    truth = np.zeros((len(NAMES), len(NFES), len(PRIMARY)))
    truth[3, :, 0] = -errors * np.sqrt(2 * (SEED**2 + 1 - COMMON) / seeds)
    for _ in range(reports):
        claims = report(simulate(rng, seeds, truth=truth).rows).claims
        yield len({other for *where, other in claims if where == [1, "fd", "m3"]})


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
    for _ in range(100):
        found = report(simulate(rng, 5, truth=truth, names=names).rows)
        pair = [p for _, _, *p in found.claims + found.marks if {"x", "x-aa"} == set(p)]
        events.append(bool(pair))
        for verdict in found.verdicts:
            twin = {"x": "x-aa", "x-aa": "x"}.get(verdict.leader)
            led += twin is not None
            said = [text for text in verdict.sentences if "is not told apart from" in text]
            assert not twin or pair or (twin in verdict.tied and re.search(rf"\b{twin} ", said[0]))
    holds(events, 0.05)
    assert led > 4 * 0.8 * len(events)


def test_the_words_for_one_recipe_entered_twice():
    """x-aa less x: .3, .1, -.1, .2, 0; mean .1, half width 2.776 x .158 / sqrt 5 = .196."""
    each = {"x": [0, 1, 2, 3, 4], "x-aa": [3, 2, 1, 5, 4], "far": [100, 100, 101, 102, 102]}
    rows = simulate(np.random.default_rng(0), 5, names=tuple(each)).rows
    rows = rows[(rows["nfe"] == 1) & (rows["metric"] == "fd")]
    values = [each[v][s] / 10 for v, s in zip(rows["variant"], rows["train_seed"], strict=True)]
    first, second = report(rows.assign(value=values)).sentences
    assert first.startswith("At 1 NFE x has lower FD than far by ")
    assert second == "It is not told apart from x-aa (0.10 [−0.10, 0.30])."


def test_equal_columns_keep_every_value_bold():
    """Other columns than the primary ones: Holm's correction within each.

    300 columns: at most 5 % + 2 x 1.3 % hold a value that is not bold.
    """
    rng = np.random.default_rng(5)
    names = tuple(f"m{i}" for i in range(12))
    for seeds, seed_sd in ((1, 0.0), (5, SEED)):
        events = []
        for _ in range(25):
            world = simulate(rng, seeds, seed_sd=seed_sd, names=names, metrics=(*PRIMARY, *OTHERS))
            for several in ranked(report(world.rows), world.rows).values():
                (group,) = several[0].groups
                for i, column in enumerate(several[0].columns):
                    if not column.primary:
                        events.append(not all(row.cells[i].bold for row in group.rows))
        assert len(events) == 300
        holds(events, 0.05)


def test_p_values_of_all_pairs_are_those_of_each_pair():
    rng = np.random.default_rng(6)

    def row(seeds, replicates):
        replicates = np.asarray(replicates, dtype=float)
        values = {float(s): rng.normal() for s in seeds}
        apart = {s: (replicates + rng.normal(size=len(replicates))).tolist() for s in values}
        return {
            "seed_replicates": apart,
            "by_seed": values, "seeds": sum(s >= 0 for s in values),
            "value": np.mean(list(values.values())), "replicates": list(replicates),
        }  # fmt: skip

    rows = [
        row(range(5), rng.normal(size=20)), row(range(5), rng.normal(size=20)),
        row(range(3, 8), rng.normal(size=20)), row([4], rng.normal(size=20)),
        row([-1], rng.normal(size=20)), row([-1], rng.normal(size=16)), row([0], []),
        row([0, 1], []), row([2], [1.0]), row([7], [np.nan, *rng.normal(size=19)]),
    ]  # fmt: skip
    rows.append({**rows[0], "replicates": []})
    rows.append({**rows[3]})
    left, right, gap, p = frames.pair_differences(rows)
    assert len(p) == len(rows) * (len(rows) - 1) / 2
    for i, j, found in zip(left, right, p, strict=True):
        expected = frames.difference(rows[i], rows[j])
        expected = np.nan if expected is None else expected.p
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert np.isnan(p).any() and (p == 1).any()


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


def test_who_is_worse_on_common_seeds_is_not_called_the_best():
    """x has the lowest mean, for y's other five seeds are bad; on the common ones y is lower."""
    x = dict(enumerate([10.3, 9.1, 10.9, 8.7, 11.0]))
    y = {seed: value - 1 + 0.01 * (seed % 2) for seed, value in x.items()}
    y |= {seed: 14.0 + seed / 9 for seed in range(5, 10)}
    z = {seed: value + 1 + 2 * (-1) ** seed for seed, value in x.items()}
    first, second = report(rows_by_seed({"x": x, "y": y, "z": z})).sentences
    assert first.startswith("At 1 NFE x has the lowest mean FD over its own train seeds, but is")
    assert second.startswith("On their common train seeds x is worse than y (−1.0")


def test_a_difference_on_some_of_the_seeds_says_so():
    x = dict(enumerate([10.3, 9.1, 10.9, 8.7, 11.0]))
    y = {seed: value + 10 + 0.01 * (seed % 2) for seed, value in x.items()}
    more = {**y, 5: 20.0, 6: 20.5, 7: 19.5}
    assert "common" not in report(rows_by_seed({"x": x, "y": y})).sentences[0]
    (text,) = report(rows_by_seed({"x": x, "y": more})).sentences
    assert text.endswith("] on 5 common train seeds.")


def test_students_without_a_common_seed_both_stay_bold():
    """Equal methods: the jackknife of one column would tell trainings apart in 4 reports of 10."""
    rng = np.random.default_rng(7)
    for _ in range(10):
        rows = simulate(rng, 10, names=("x", "y", "z")).rows
        late = rows["variant"] == "z"
        rows = rows[late == (rows["train_seed"] >= 5)]
        for several in ranked(report(rows), rows).values():
            (group,) = several[0].groups
            assert all(cell.bold for row in group.rows if row.series == "z" for cell in row.cells)


def test_equal_teachers_are_rarely_told_apart():
    """Three equal samplers at every NFE; 100 reports: at most 5 % + 2 x 2.2 %."""
    rng = np.random.default_rng(8)
    events = []
    for _ in range(100):
        rows = simulate(rng, 1, seed_sd=0.0, names=("x", "y", "z")).rows
        rows = rows.assign(role="teacher", track="none", train_seed=np.nan)
        groups = [g for several in ranked(report(rows), rows).values() for g in several[0].groups]
        assert [g.kind for g in groups] == ["teacher"] * len(NFES)
        events.append(not all(c.bold for g in groups for row in g.rows for c in row.cells))
    holds(events, 0.05)


def test_a_sentence_names_a_few_and_counts_the_rest():
    rng = np.random.default_rng(9)
    names = tuple(f"m{i:02d}" for i in range(14))
    first = report(simulate(rng, 5, names=names).rows).sentences[0]
    assert first.count("[") == verdicts.LISTED - 1 and first.endswith("6 others (table below).")
