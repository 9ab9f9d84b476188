"""The way of sampling that one half of the data chooses, and what the other half says of it."""

import pandas as pd
import pytest
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.figures import tradeoffs
from piflow_reports.format import styles
from piflow_reports.results_page import _chosen
from piflow_reports.sections import ways
from piflow_reports.summary import of

PRIMARY = frames.Primary("data", "fd", "recall", "classifier")
# (variant, guidance): FD on the first half, on the second; Recall on the second.
VALUES = {
    ("imf", 1.0): (9.0, 2.0, 0.9),
    ("imf", 1.5): (4.0, 6.0, 0.5),
    ("imf", 2.0): (5.0, 3.0, 0.4),
    ("kd (g1)", None): (7.0, 7.5, 0.7),
    ("kd (g2)", None): (8.0, 1.0, 0.8),
    ("alone", None): (1.0, 1.0, 1.0),
}
INFO = {
    "name": "simulated",
    "primary": {"question": "data", "quality": "fd", "diversity": "recall",
                "extractor": "classifier"},
    "variants": [{"name": "kd (g1)", "label": "kd"}, {"name": "kd (g2)", "label": "kd"},
                 {"name": "imf", "label": "imf"}],
}  # fmt: skip


def row(variant, guidance, question, metric, value, nfe=1, **changes):
    base = {
        "role": "student", "track": "distilled", "variant": variant, "method": variant,
        "family": "f", "nfe": nfe, "question": question, "extractor": "classifier",
        "metric": metric, "value": value, "ci_low": value - 0.25, "ci_high": value + 0.25,
        "train_seed": 0, "n": 700, "protocol": question, "higher_is_better": metric == "recall",
        "budget_fraction": 1.0, "status": "ok", "guidance": guidance, "replicates": [],
        "sampler": "" if guidance is None else f"guidance={guidance:g}",
    }  # fmt: skip
    return base | changes


@pytest.fixture
def run():
    rows = []
    for (variant, guidance), (first, second, recall) in VALUES.items():
        rows += [row(variant, guidance, "first_half", "fd", first),
                 row(variant, guidance, "first_half", "recall", 0.1),
                 row(variant, guidance, "second_half", "fd", second),
                 row(variant, guidance, "second_half", "recall", recall),
                 row(variant, guidance, "data", "fd", (first + second) / 2)]  # fmt: skip
    rows += [row("imf", g, q, m, v, nfe=4) for g, v in ((1.0, 3.0), (2.0, 5.0))
             for q in ("first_half", "second_half") for m in ("fd", "recall")]  # fmt: skip
    return Run("simulated", inputs.normalise(pd.DataFrame(rows)), pd.DataFrame(), None, INFO)


@pytest.fixture
def found(run):
    cells = frames.summarise(frames.final(frames.with_series(run.results)))
    return ways.chosen(cells, PRIMARY, ways.bases(run))


def test_the_first_half_chooses_and_the_second_is_shown(found):
    shown = {(r["base"], r["nfe"]): r for r in found.to_dict("records")}
    assert set(shown) == {("imf", 1), ("imf", 4), ("kd", 1)}, "one way alone is no choice"
    imf, kd = shown[("imf", 1)], shown[("kd", 1)]
    assert (imf["way"], imf["ways"], imf["value_q"], imf["value_d"]) == ("guidance=1.5", 3, 6, 0.5)
    assert (kd["way"], kd["ways"], kd["value_q"]) == ("g1", 2, 7.5), "several runs are several ways"
    assert shown[("imf", 4)]["way"] == "guidance=1"


def test_a_metric_of_which_more_is_better_chooses_the_most(run):
    cells = frames.summarise(frames.final(frames.with_series(run.results)))
    flipped = frames.Primary("data", "recall", "fd", "classifier")
    cells.loc[(cells["question"] == "first_half") & (cells["metric"] == "recall"), "value"] = [
        {"imf · guidance=2": 0.9}.get(s, 0.1)
        for s in cells[(cells["question"] == "first_half") & (cells["metric"] == "recall")][
            "series"
        ]
    ]
    found = ways.chosen(cells, flipped, ways.bases(run))
    assert found[(found["base"] == "imf") & (found["nfe"] == 1)]["way"].tolist() == ["guidance=2"]


def test_figure_and_page_say_which_way(run, found):
    names = sorted(found["series"])
    looks = styles.assign({name: name for name in names}, {})
    (figure,) = tradeoffs.at_the_chosen(found, looks, PRIMARY, "r0-")
    assert figure.rows[0][:4] == ["imf", "1", "guidance=1.5, of 3", "6.00"]
    assert len(figure.rows) == 3 and figure.id == "r0-trade-chosen"
    title, note, table = _chosen(of(run))
    assert title == "## Each in its best way" and "not tested" in note
    assert "| kd | 1 | g1, of 2 | 7.50 " in table
    assert tradeoffs.at_the_chosen(found.iloc[:0], looks, PRIMARY, "") == []


def test_without_halves_nothing_is_chosen(run):
    whole = run.results[run.results["question"] == "data"]
    cells = frames.summarise(frames.final(frames.with_series(whole)))
    assert not len(ways.chosen(cells, PRIMARY, ways.bases(run)))
