"""`check reward`: passes for that of the package and the scaffold, and names what is wrong."""

from pathlib import Path

import pytest

from piflow_bench.cli import main
from piflow_bench.conformance.results import FAILED, OK, SKIPPED
from piflow_bench.conformance.reward import check_reward
from piflow_bench.errors import CHECK_FAILED, UserError
from piflow_bench.errors import OK as EXIT_OK

PLUGINS = str(Path(__file__).parents[1] / "plugins" / "rewards")

BAD = [
    # plugin, its one failed test, part of its reason
    ("averaged", "alone and in a batch", "of their spread: alone and in a batch"),
    ("drawn", "deterministic", "scores differ: the same pictures twice"),
    ("other_seed", "deterministic", "scores differ: another load()"),
    ("held_out", "held-out pictures", "may learn from training data alone"),
    ("one_number", "scores", "have scores of float64 (); numbers (b,) are needed"),
    ("flat", "scores", "all pictures have one score"),
    ("not_finite", "scores", "pictures are not finite"),
    ("paints", "scores", "changes the pictures that it is given"),
]


def of(status, results):
    return {r.test: r.reason for r in results if r.status == status}


@pytest.mark.parametrize("data", [[], ["dataset=digits"]], ids=["stripes", "digits"])
def test_that_of_the_package_passes(data):
    results = check_reward("class-probe", data)
    assert of(FAILED, results) == of(SKIPPED, results) == {}
    assert {"scores", "deterministic", "held-out pictures"} <= set(of(OK, results))


@pytest.mark.parametrize(("name", "test", "reason"), BAD, ids=[b[0] for b in BAD])
def test_bad_plugins_are_named(name, test, reason):
    failed = of(FAILED, check_reward(name, [f"plugins={PLUGINS}"]))
    # What is drawn differs alone as well.
    assert set(failed) <= {test, "alone and in a batch"}
    assert reason in failed[test]


def test_data_that_it_cannot_be_tried_on():
    with pytest.raises(UserError, match="samples of .* are points"):
        check_reward("class-probe", ["dataset=rings2d"])
    with pytest.raises(UserError, match="no reward is called 'class-prob'"):
        check_reward("class-prob", [])
    with pytest.raises(UserError, match="reward.cell"):
        check_reward("class-probe", ["cell=3"])


@pytest.mark.parametrize(
    ("old", "new", "test", "reason"),
    [
        ('rule = "random"', 'rule = ""', "rule", "rule is empty"),
        (
            "return lambda",
            "return 1 if dataset else lambda",
            "load",
            "gives int, not a function that scores",
        ),
        (
            "    def load",
            "    def lacks(self, dataset):\n        return True\n\n    def load",
            "load",
            "lacks() gives True",
        ),
    ],
)
def test_false_facts_are_named(old, new, test, reason, tmp_path):
    text = Path(PLUGINS, "other_seed.py").read_text()
    assert old in text
    (tmp_path / "liar.py").write_text(text.replace(old, new))
    assert reason in of(FAILED, check_reward("liar", [f"plugins={tmp_path}"]))[test]


def test_what_it_lacks_is_no_failure(tmp_path):
    text = Path(PLUGINS, "flat.py").read_text()
    lacks = '    def lacks(self, dataset):\n        return "prompts"\n\n    def load'
    (tmp_path / "prompted.py").write_text(text.replace("    def load", lacks))
    results = check_reward("prompted", [f"plugins={tmp_path}"])
    assert of(FAILED, results) == {}
    assert "needs prompts, which striped pictures have not" in of(SKIPPED, results)["load"]


def test_the_verb_says_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check", "reward", "flat", f"plugins={PLUGINS}"]) == CHECK_FAILED
    assert "there is nothing to please" in " ".join(capsys.readouterr().out.split())
    assert main(["check", "reward", "class-probe", "cells=3"]) == EXIT_OK


def test_the_scaffold_passes(tmp_path, capsys):
    assert main(["new", "reward", "contrasty", f"out={tmp_path}"]) == EXIT_OK
    assert main(["check", "reward", "contrasty", f"plugins={tmp_path}"]) == EXIT_OK
    assert "0 failed, 0 skipped" in capsys.readouterr().out
