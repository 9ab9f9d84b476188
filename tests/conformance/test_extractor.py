"""`check extractor`: passes for those that come with the package, and names what is wrong."""

from pathlib import Path

import pytest

from piflow_bench.cli import main
from piflow_bench.conformance.extractor import check_extractor
from piflow_bench.conformance.results import FAILED, OK, SKIPPED
from piflow_bench.errors import CHECK_FAILED, UserError
from piflow_bench.errors import OK as EXIT_OK

PLUGINS = str(Path(__file__).parents[1] / "plugins" / "extractors")

BAD = [
    # plugin, its one failed test, part of its reason
    ("batch_normed", "alone and in a batch", "of the largest: in a smaller batch"),
    ("not_finite", "outputs", "features of 2 of 6 inputs are not finite"),
    ("undeclared", "outputs", "network() gives logits; outputs are features"),
    ("whole_maps", "outputs", "have the shape (6, 32, 32, 3), not (n, d)"),
    ("blind", "different inputs", "features of different inputs are the same"),
    ("drops_out", "deterministic", "of the largest: the same batch twice"),
    ("fresh_weights", "loaded again", "of the largest: another load()"),
    ("one_buffer", "prepared in threads", "gives something else than in one"),
    ("squares_alone", "other sizes", "pictures of 24x40 raise RuntimeError"),
]


def of(status, results):
    return {r.test: r.reason for r in results if r.status == status}


@pytest.mark.parametrize("name", ["digits", "digits-pixels", "digits-judge", "points"])
def test_those_of_the_package_pass(name):
    results = check_extractor(name, [])
    assert of(FAILED, results) == {}
    assert set(of(SKIPPED, results)) <= {"missing weights"}
    assert ("other sizes" in of(OK, results)) == (name != "points")


@pytest.mark.parametrize(("name", "test", "reason"), BAD, ids=[b[0] for b in BAD])
def test_bad_plugins_are_named(name, test, reason):
    failed = of(FAILED, check_extractor(name, [f"plugins={PLUGINS}"]))
    # Random and batch-dependent outputs differ from batch to batch as well.
    assert set(failed) <= {test, "alone and in a batch"}
    assert reason in failed[test]


def test_the_verb_says_what_is_wrong(capsys):
    assert main(["check", "extractor", "blind", f"plugins={PLUGINS}"]) == CHECK_FAILED
    assert "it does not look at them" in " ".join(capsys.readouterr().out.split())
    assert main(["check", "extractor", "digits-pixels"]) == EXIT_OK


def test_missing_weights_are_the_users_to_mend():
    with pytest.raises(UserError, match="none.safetensors: no such file"):
        check_extractor("digits", ["weights=/nowhere/none.safetensors"])
    with pytest.raises(UserError, match="no extractor is called 'digit'"):
        check_extractor("digit", [])
    with pytest.raises(UserError, match="extractor.weight"):
        check_extractor("digits", ["weight=x"])


WEIGHTS = '''
"""Looks at pictures with weights of a file."""
import torch
from pathlib import Path
from piflow_bench.api import FEATURES, ExtractorPlugin, UserError


class Weighed(ExtractorPlugin):
    rule = "means"

    def file(self):
        path = Path(self.config.weights or HERE / "weights.pth")
        BODY
        return path

    def load(self, name, place):
        w = torch.load(self.file(), weights_only=True)["w"]
        prepare = lambda images: torch.from_numpy(images).float().mean((1, 2))
        return self.loaded(name, place, prepare, lambda x: {FEATURES: x @ w})
'''


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('if not path.is_file(): raise UserError(f"{path}: no such file")', None),
        ('if not path.is_file(): raise UserError("no weights")', "does not name the file"),
        ("path.stat()", "raises FileNotFoundError, not UserError"),
        ("path = HERE / 'weights.pth'", "file() does not look at weights="),
    ],
    ids=["right", "unnamed", "of Python", "ignored"],
)
def test_weights_that_are_missing(body, reason, tmp_path):
    import torch

    torch.save({"w": torch.eye(3)}, tmp_path / "weights.pth")
    text = WEIGHTS.replace("BODY", body).replace("HERE", f"Path({str(tmp_path)!r})")
    (tmp_path / "weighed.py").write_text(text)
    failed = of(FAILED, check_extractor("weighed", [f"plugins={tmp_path}"]))
    assert set(failed) == ({"missing weights"} if reason else set())
    assert (reason or "") in failed.get("missing weights", "")


@pytest.mark.parametrize(
    ("old", "new", "test", "reason"),
    [
        ('rule = "0 to 1"', 'rule = ""', "facts", "rule is empty"),
        ('rule = "0 to 1"', 'rule = "a"; outputs = ("feature",)', "facts", "outputs is"),
        ("prepare, network)", "prepare, network).__dict__", "load", "gives dict, not an Extractor"),
    ],
)
def test_false_facts_are_named(old, new, test, reason, tmp_path):
    text = Path(PLUGINS, "batch_normed.py").read_text()
    assert old in text
    (tmp_path / "liar.py").write_text(text.replace(old, new))
    assert reason in of(FAILED, check_extractor("liar", [f"plugins={tmp_path}"]))[test]
