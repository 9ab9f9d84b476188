"""`check metric`: passes for every built-in metric, and names what is wrong with bad ones."""

from pathlib import Path

import pytest

from piflow_bench.cli import main
from piflow_bench.conformance.metric import check_metric
from piflow_bench.conformance.results import FAILED, OK
from piflow_bench.errors import CHECK_FAILED, UserError
from piflow_bench.evaluation.metrics.metric import all_metrics, use_plugins

PLUGINS = str(Path(__file__).parents[1] / "plugins" / "metrics")

BAD = [
    # plugin, its one failed test, part of its reason
    ("wrong_direction", "direction", "shifted ones 6.08713: higher_is_better is True"),
    ("row_order", "order of rows", "where the same rows come in another order"),
    ("centres_in_place", "inputs as they were", "changes its inputs in place: generated features"),
    ("beyond_range", "range", "deviation 10: declared are least=0, most=1.5"),
    ("few_replicates", "replicates", "19 replicates of 20 blocks: one without each of them"),
    ("other_replicates", "without a block", "without block 0 it is"),
    ("unseeded_draws", "same again", "draws must be seeded"),
]


@pytest.fixture(autouse=True)
def alone():
    yield
    use_plugins(())


def of(status, results):
    return {r.test: r.reason for r in results if r.status == status}


@pytest.mark.parametrize("name", all_metrics())
def test_built_in_metrics_pass(name):
    results = check_metric(name, [])
    assert of(FAILED, results) == {}
    metric = all_metrics()[name]
    if metric.compute is not None and "lpips" not in metric.needs:
        assert {"value", "range", "same again", "inputs as they were"} <= set(of(OK, results))
        # Means of scores that something else computes tell no direction by themselves.
        judged = {"quality": "direction", "diversity": "collapse"}.get(metric.role)
        if judged and not {"prompts", "logits"} & set(metric.needs):
            assert judged in of(OK, results)


@pytest.mark.parametrize(("name", "test", "reason"), BAD, ids=[b[0] for b in BAD])
def test_bad_metrics_are_named(name, test, reason):
    results = check_metric(name, [f"plugins={PLUGINS}"])
    failed = of(FAILED, results)
    assert set(failed) == {test}
    assert reason in failed[test]
    assert "value" in of(OK, results)


def test_the_verb_says_what_is_wrong(capsys):
    assert main(["check", "metric", "few_replicates", f"plugins={PLUGINS}"]) == CHECK_FAILED
    assert "19 replicates" in capsys.readouterr().out


GOOD = """
import numpy as np
from piflow_bench.api import Metric, jackknife


def compute(inputs):
    found = jackknife(lambda x: float(np.var(x, 0).mean()), inputs.generated, inputs.blocks)
    return {"spread": (found.value, found.replicates)}


SPREAD = Metric(
    "spread", "Spread", True, "diversity", ("generated",), compute, "Mean variance.", least=0
)
"""


@pytest.mark.parametrize(
    ("old", "new", "test", "reason"),
    [
        ("1", "1", None, ""),
        ('"diversity"', '"divers"', "facts", "did you mean 'diversity'?"),
        ('("generated",)', '("generate",)', "facts", "did you mean 'generated'?"),
        ("True,", "None,", "facts", "True or False of a metric of diversity"),
        ('"Mean variance.", ', "", "facts", "meaning is empty"),
        ('"Spread"', '" "', "facts", "label is empty"),
        ("least=0", "least=0, most=0", "facts", "least=0 is not below most=0"),
        ("found.value,", "float('nan'),", "value", "value of n=200 is nan"),
        ('{"spread":', '{"sprad":', "value", "compute() gives no value called 'spread'"),
        ("np.var(", "-np.var(", "range", "declared are least=0"),
        ("True,", "False,", "collapse", "samples that are all alike 0.000"),
    ],
)  # fmt: skip
def test_false_facts_are_named(old, new, test, reason, tmp_path):
    assert old in GOOD or test is None
    (tmp_path / "spread.py").write_text(GOOD.replace(old, new, 1))
    failed = of(FAILED, check_metric("spread", [f"plugins={tmp_path}"]))
    assert (test is None and failed == {}) or reason in failed[test]


def test_a_file_that_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "spread.py").write_text(GOOD + "\nraise RuntimeError('broken on purpose')\n")
    (result,) = check_metric("spread", [f"plugins={tmp_path}"])
    assert (result.test, result.status) == ("loads", FAILED)
    assert "broken on purpose (spread.py:" in result.reason


def test_the_users_mistakes_are_user_errors():
    with pytest.raises(UserError, match="no metric is called 'fdd'; did you mean 'fd'"):
        check_metric("fdd", [])
    with pytest.raises(UserError, match="kid_subset"):
        check_metric("kid", ["kid_subset=3"])
