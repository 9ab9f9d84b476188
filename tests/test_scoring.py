"""The verb evaluate: where scores are written, and that none replace others."""

import json

import pytest

from piflow_bench.errors import UserError
from piflow_bench.scoring import _name, _refuse_others, _scored, parse


def written(tmp_path, *arguments):
    """What scores of these arguments leave in a folder."""
    out = tmp_path / "scores"
    out.mkdir(exist_ok=True)
    of = _scored(*parse(arguments))
    (out / "provenance.json").write_text(json.dumps({"of": of}))
    return out


BASE = ("samples=exp1/samples", "reference=real")


@pytest.mark.parametrize(
    "other, named",
    [
        (("samples=exp2/samples", "reference=real"), "samples="),
        (("samples=exp1/samples", "reference=fake"), "fake; give"),
        ((*BASE, "extractor=dinov2"), "extractor=dinov2"),
        ((*BASE, "extractor.weights=file"), "weights="),
        ((*BASE, "n=100"), "n=100"),
        ((*BASE, "precision=bfloat16"), "precision=bfloat16"),
        ((*BASE, "k=7"), "k=7"),
    ],
)
def test_scores_of_something_else_are_not_replaced(tmp_path, other, named):
    out = written(tmp_path, *BASE)
    with pytest.raises(UserError, match="out=FOLDER") as error:
        _refuse_others(out, _scored(*parse(other)))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("more", [(), ("metrics=[fd]",), ("workers=3",), ("batch=8",)])
def test_the_same_scores_again_are(tmp_path, more):
    out = written(tmp_path, *BASE)
    _refuse_others(out, _scored(*parse((*BASE, *more))))
    (out / "provenance.json").write_text("{")
    _refuse_others(out, _scored(*parse(("samples=other",))))


def test_a_name_with_a_dot_stays_whole(tmp_path):
    (tmp_path / "v1.5").mkdir()
    assert _name(str(tmp_path / "v1.5")) == "v1.5"
    assert _name(str(tmp_path / "samples.npz")) == "samples"
