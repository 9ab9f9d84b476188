"""Numbers: digits follow the interval, bounds end at the metric's range, axes write numbers out."""

import json

import numpy as np
import pandas as pd
import pytest
from piflow_reports import page, summary
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.figures import base as plots
from piflow_reports.format import names as words
from piflow_reports.scores import page as scores

from piflow_bench.evaluation.metrics.metric import all_metrics
from tests.reports import synthetic


@pytest.mark.parametrize("value, low, high, shown", [
    (-3.1051e-05, -1.8e-04, 1.2e-04, ("−0.00003", "[−0.00018, 0.00012]")),
    (0.00015456, 0.00012, 0.00019, ("0.00015", "[0.00012, 0.00019]")),
    (3.1051e-08, 2.1e-08, 4.1e-08, ("3.1e−8", "[2.1e−8, 4.1e−8]")),
    (123.456, 100.2, 147.9, ("123", "[100, 148]")),
    (0.891234, 0.8701, 0.9122, ("0.891", "[0.870, 0.912]")),
    (0.891234, np.nan, np.nan, ("0.8912", "")),
])  # fmt: skip
def test_a_value_has_the_digits_of_its_interval(value, low, high, shown):
    assert plots.value_and_span({"value": value, "low": low, "high": high}) == shown


@pytest.mark.parametrize("value, places, shown", [
    (4.2e-9, 8, "0"), (4.2e-8, 8, "4e−8"), (-4.26e-7, 9, "−4.26e−7"), (12.0, 7, "1.20000000e1"),
    (0.0, 9, "0"), (0.25, 6, "0.250000"),
])  # fmt: skip
def test_many_places_are_a_power_of_ten(value, places, shown):
    assert words.fixed(value, places) == shown


def wide_shares(folder):
    """A run whose shares' symmetric intervals reach beyond what a share can be."""
    path = folder / "results.parquet"
    table = pd.read_parquet(path)
    shares = table["metric"].isin(["recall", "precision", "coverage"])
    table.loc[shares, "ci_low"] = table.loc[shares, "value"] - 1.2
    table.loc[shares, "ci_high"] = table.loc[shares, "value"] + 1.2
    fd = table["metric"] == "fd"
    table.loc[fd, "ci_low"], table.loc[fd, "ci_high"] = -7.5, 99.5
    table.loc[table["metric"] == "kid", "ci_low"] = -0.5
    table.to_parquet(path)
    return folder


def test_no_interval_ends_where_no_value_lies(tmp_path):
    folder = wide_shares(synthetic.write(tmp_path, failed=False))
    cells = summary.read(folder).cells
    cells = cells[cells["role"] == "student"]
    shares = cells[cells["metric"].isin(["recall", "precision", "coverage"])]
    assert (shares["low"] == 0).all() and (shares["high"] == 1).all()
    assert (cells.loc[cells["metric"] == "fd", "low"] == 0).all()
    assert (cells.loc[cells["metric"] == "kid", "low"] == -0.5).all(), "unbiased, so below nil"
    drawn = page.section(inputs.read(folder), "").context["glances"][0].figure
    for row in drawn.rows:
        assert row[2] == ("[0, 100]" if row[0] != "x" else "") and row[4] == "[0.0, 1.0]", row


def test_scores_intervals_end_there_too():
    names = ["recall", "is", "kid"]
    rows = pd.DataFrame({"metric": names, "ci_low": [0.2, 0.4, -1e-4], "ci_high": [1.09, 3, 2e-4]})
    kept = frames.in_range(rows, "ci_low", "ci_high")
    assert kept["ci_low"].tolist() == [0.2, 1, -1e-4]
    assert kept["ci_high"].tolist() == [1, 3, 2e-4]
    assert scores.frames is frames


@pytest.mark.parametrize("largest, form", [(4e-4, "none"), (4e-6, "power"), (0.9, "none")])
def test_small_values_have_no_prefix_of_a_unit(largest, form):
    figure = plots.blank("x", "KID", 300)
    figure.add_scatter(x=["a", "b"], y=[-largest, None], mode="markers")
    layout = json.loads(plots.spec(figure))["layout"]
    assert layout["yaxis"]["exponentformat"] == form
    assert "exponentformat" not in layout["xaxis"], "names are no numbers"


def test_large_values_keep_their_suffix():
    figure = plots.blank("x", "FD", 300)
    figure.add_scatter(x=[1, 2], y=[40_000.0, 3.0], mode="markers")
    assert "exponentformat" not in json.loads(plots.spec(figure))["layout"]["yaxis"]


def test_the_page_says_what_each_metric_says_of_itself():
    for name, metric in all_metrics().items():
        assert words.metric(name).meaning == metric.summary
    assert words.metric("unheard_of").meaning == ""
    assert set(words.LABELS) <= set(all_metrics())
