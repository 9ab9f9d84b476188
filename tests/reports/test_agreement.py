"""Whether the order of the students holds, as the page says it."""

import numpy as np
import pandas as pd
import pytest
from piflow_reports.data import read
from piflow_reports.data import series as frames
from piflow_reports.sections import agreement

from tests.reports import synthetic

PRIMARY = frames.Primary("imitation", "fd", "recall", "features")
CHECKPOINTS = (0.1, 0.5, 1.0)


def results(fd, speeds, seeds=1, n=(1000, 1000, 1000), tracks=None):
    """Checkpoints ``fd[name]``; a training of ``name`` takes 100 seconds over its speed."""
    rows = []
    for name, values in fd.items():
        for seed in range(seeds):
            for fraction, value, count in zip(CHECKPOINTS, values, n, strict=True):
                rows.append({
                    "variant": name, "method": name, "track": (tracks or {}).get(name, "distilled"),
                    "role": "student", "train_seed": seed, "nfe": 1, "question": "imitation",
                    "extractor": "features", "metric": "fd", "value": value, "n": count,
                    "protocol": "p", "budget_fraction": fraction, "budget_tfe": 1e4 * fraction,
                    "train_steps": 1e3 * fraction, "train_images": 5e3 * fraction,
                    "train_seconds": 100 * fraction / speeds[name],
                })  # fmt: skip
    return read.normalise(pd.DataFrame(rows))


def found(table, primary=PRIMARY):
    summary = frames.summarise(frames.final(table))
    rows = agreement.agreement(summary, frames.by_budget(table, primary), [1], primary)
    return {(row["between"], row["of"]): row["taus"].get(1) for row in rows}


SECONDS = ("budgets in TFE and in wall seconds", "FD, imitation")
STEPS = ("budgets in TFE and in updates", "FD, imitation")
FALLING = {"a": (9.0, 4.0, 1.0), "b": (9.5, 5.0, 2.0), "c": (9.9, 6.0, 3.0)}


def test_at_one_speed_seconds_order_as_tfe_does():
    taus = found(results(FALLING, dict.fromkeys("abc", 1.0)))
    assert taus[SECONDS].text == taus[STEPS].text == "1.00" and taus[SECONDS].students == 3


def test_a_slow_training_is_read_off_where_the_fastest_ends():
    """When c ends, a is at a fifth of its way and falls from the first place to the last."""
    taus = found(results(FALLING, {"a": 0.2, "b": 0.9, "c": 1.0}))
    assert taus[SECONDS].text == "−0.33"
    assert taus[STEPS].text == "1.00"


@pytest.mark.parametrize("value, expected", [(6.8, "−0.33"), (6.9, "0.33")])
def test_between_checkpoints_the_line_is_straight_in_the_logarithm(value, expected):
    """At a fifth of its way a stands at 9 - 5 log(2) / log(5) = 6.85, before c or behind it."""
    fd = {"a": FALLING["a"], "b": (99, 50, 1.5), "c": (9, 8, value)}
    assert found(results(fd, {"a": 0.2, "b": 0.2, "c": 1.0}))[SECONDS].text == expected


def test_who_has_not_come_to_a_checkpoint_is_left_out():
    fd = FALLING | {"d": (1.0, 0.5, 0.1)}
    taus = found(results(fd, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.05}))
    assert taus[SECONDS].students == 3 and taus[STEPS].students == 4


def test_checkpoints_of_another_sample_count_are_not_on_the_way():
    """The last ones, of more samples, would turn the order round."""
    fd = {"a": (9.0, 4.0, 3.0), "b": (9.5, 5.0, 2.0), "c": (9.9, 6.0, 1.0)}
    slow = {"a": 0.3, "b": 1.0, "c": 1.0}
    whole = found(results(fd, slow))
    part = found(results(fd, slow, n=(1000, 1000, 2000)))
    assert whole[SECONDS].text != part[SECONDS].text
    # Where b and c are at half of the budget, a is at 0.15 of it: 7.7, beside 5 and 6.
    assert part[SECONDS].text == "−0.33"
    assert SECONDS not in found(results(fd, slow, n=(500, 1000, 2000)))


def test_two_students_have_no_order_worth_a_tau_and_tracks_stay_apart():
    two = {name: FALLING[name] for name in "ab"}
    assert found(results(two, dict.fromkeys("ab", 1.0), seeds=3)) == {}
    fd = FALLING | {name.upper(): values for name, values in FALLING.items()}
    tracks = {name.upper(): "from scratch" for name in FALLING}
    taus = found(results(fd, dict.fromkeys(fd, 1.0), tracks=tracks))
    assert {of for _, of in taus} == {
        "FD, imitation, distilled", "FD, imitation, from scratch"
    }  # fmt: skip
    assert {tau.students for tau in taus.values()} == {3}


def test_seeds_and_features_of_a_run(tmp_path):
    run = read.read(synthetic.write(tmp_path, seeds=5, failed=False))
    primary = frames.primary(run.info, run.results)
    table = run.results.copy()
    # One seed turns the order of the students round.
    at = (table["metric"] == "recall") & (table["train_seed"] == 4) & (table["role"] == "student")
    table.loc[at, "value"] *= -1
    pixels = (table["extractor"] == "pixels") & (table["metric"] == "fd")
    table.loc[pixels & (table["question"] == "data"), "value"] *= -1
    taus = found(table, primary)
    assert float(taus["two train seeds", "Recall, imitation"].text) < 0.7
    assert float(taus["two train seeds", "FD, imitation"].text) > 0.8
    assert taus["features: classifier and pixels", "FD, data"][::2] == ("−1.00", 4)
    assert taus["features: classifier and pixels", "FD, imitation"].span == "[1.00, 1.00]"
    assert list(taus)[0][0] == "two train seeds" and list(taus)[-1][0].startswith("features")


def test_the_page_and_kept_results_have_them(five_seeds, tmp_path):
    from piflow_reports import results_page

    text = (five_seeds / "report.html").read_text("utf-8")
    assert "Does the order hold?" in text and "budgets in TFE and in updates" in text
    results_page.keep(five_seeds, tmp_path)
    (kept,) = results_page.pages(tmp_path).values()
    assert "| two train seeds | FD, imitation | " in kept
    assert "| budgets in TFE and in updates | FD, imitation | " in kept


@pytest.mark.parametrize("seconds", [np.nan, 0.0])
def test_a_budget_that_was_not_counted_is_not_compared(seconds):
    table = results(FALLING, dict.fromkeys("abc", 1.0)).assign(train_seconds=seconds)
    taus = found(table)
    assert SECONDS not in taus and STEPS in taus
