"""Axes: what is far off squeezes nothing, and shares get no log axis."""

import numpy as np
import pandas as pd
import pytest
from piflow_reports.figures import base as plots


def rows(**values):
    """Rows with an interval of half width .01."""
    frame = pd.DataFrame({"series": list(values), "value": list(values.values())}, dtype=object)
    frame["value"] = frame["value"].astype(float)
    return frame.assign(low=frame["value"] - 0.01, high=frame["value"] + 0.01)


def fitted(about, others, **layout):
    figure = plots.blank("x", "y", 300)
    figure.update_yaxes(**layout)
    said = plots.fit(figure, pd.concat([about, others], ignore_index=True), about, {"yaxis": ""})
    return figure.layout["yaxis"].get("range"), said


ABOUT = rows(a=0.80, b=0.90)  # From .79 to .91.


def test_near_rows_leave_the_axis_to_plotly():
    assert fitted(ABOUT, rows(euler=0.79 - 0.35)) == (None, "")


def test_a_far_row_is_left_out_and_named():
    ends, said = fitted(ABOUT, rows(euler=0.0))
    assert ends == pytest.approx([0.79 - 0.07 * 0.12, 0.91 + 0.07 * 0.12])
    assert "Beyond the axes, in whole or part: euler; a double click" in said


def test_as_many_others_are_shown_as_there_is_room_for():
    ends, said = fitted(ABOUT, rows(euler=0.0, heun=0.6, dpm=0.5, unipc=1.0))
    assert ends[0] < 0.6 < 1.0 < ends[1] and ends[0] > 0.5
    assert "part: euler and dpm;" in said


def test_a_log_axis_shows_all():
    assert fitted(ABOUT, rows(euler=200.0), type="log") == (None, "")


def test_what_is_out_on_one_axis_takes_no_room_on_the_other():
    points = pd.DataFrame({
        "series": ["a", "b", "euler"], "value_d": [0.8, 0.9, 0.0], "value_q": [5.0, 4.0, 207.0],
        "low_d": [0.78, 0.88, 0.0], "high_d": [0.82, 0.92, 0.0],
        "low_q": [-1.0, 3.0, 206.0], "high_q": [6.0, 5.0, 208.0],
    })  # fmt: skip
    figure = plots.blank("x", "y", 300)
    plots.log_y(figure, points["value_q"], False)
    plots.fit(figure, points, points[:2], {"xaxis": "_d", "yaxis": "_q"})
    low, high = figure.layout["yaxis"]["range"]
    assert 10**high < 7 and np.isfinite(low) and 2 < 10**low < 4


@pytest.mark.parametrize("count, said", [(2, "euler0 and euler1;"), (6, "6 baselines;")])
def test_a_few_are_named_and_many_counted(count, said):
    others = rows(**{f"euler{i}": -5.0 - i for i in range(count)})
    assert said in fitted(ABOUT, others)[1]


@pytest.mark.parametrize("higher, kind", [(False, "log"), (None, "log"), (True, None)])
def test_what_is_better_high_gets_no_log_axis(higher, kind):
    figure = plots.blank("x", "y", 300)
    plots.log_y(figure, pd.Series([0.02, 0.9]), higher)
    assert figure.layout["yaxis"].get("type") == kind
