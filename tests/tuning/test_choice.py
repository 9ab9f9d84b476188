"""Which trial is best: of known values, with failures, equals and several NFEs."""

import math

import pandas as pd
import pytest

from piflow_bench.tuning.choice import Trial, choose, trials_of_run


def trials(*values, nfes=(1,)):
    return [
        Trial(
            "x", i, f"x-t{i}", {}, dict(zip(nfes, v if isinstance(v, tuple) else (v,), strict=True))
        )  # fmt: skip
        for i, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    "values, higher, best",
    [
        ((3.0, 1.0, 2.0), False, 1),
        ((3.0, 1.0, 2.0), True, 0),
        ((1.0, 1.0, 1.0), False, 0),
        ((math.nan, 5.0, math.nan), False, 1),
        ((math.nan, math.inf, 5.0), True, 2),
    ],
)
def test_the_best_value_wins_and_the_earlier_of_equals(values, higher, best):
    assert choose(trials(*values), higher).trial.number == best


def test_nothing_is_chosen_where_nothing_ended():
    assert choose(trials(math.nan, math.nan), False) is None


def test_several_nfes_are_one_by_one_or_together():
    tried = trials((1.0, 100.0), (4.0, 4.0), (2.0, math.nan), nfes=(1, 4))
    assert choose(tried, False).trial.number == 1 and choose(tried, False).value == pytest.approx(4)
    assert choose(tried, False, 1).trial.number == 0
    assert choose(tried, False, 4).trial.number == 1


def rows(values, serves="1"):
    return pd.DataFrame(
        [
            {"variant": f"kd-t{i}", "question": "imitation", "extractor": "f", "metric": m,
             "nfe": nfe, "value": v, "budget_fraction": share, "serves": serves}
            for i, by_nfe in enumerate(values)
            for nfe, value in by_nfe.items()
            for m, share, v in (("fd", 1.0, value), ("recall", 1.0, 7.0), ("fd", 0.5, 0.1))
        ]
    )  # fmt: skip


INFO = {
    "name": "a_tuning",
    "primary": {"question": "imitation", "extractor": "f", "quality": "fd", "diversity": "recall"},
    "variants": [
        {"name": f"kd-t{i}", "trial_of": "kd", "settings": {"lr": 0.1 * i, "schedule": "cosine"}}
        for i in range(3)
    ],
}


@pytest.mark.parametrize("serves, chosen", [("1", [(1, 0), (4, 2)]), ("1,4", [(None, 1)])])
def test_a_runs_rows_decide_at_the_full_budget_alone(serves, chosen):
    table = rows([{1: 1.0, 4: 90.0}, {1: 2.0, 4: 2.0}, {1: 50.0, 4: 1.0}], serves)
    found = trials_of_run(table, INFO)
    assert [(c.nfe, c.trial.number) for c in found.choices("kd")] == chosen
    assert found.trials["kd"][1].settings == {"lr": 0.1}, "what all share is not looked for"
