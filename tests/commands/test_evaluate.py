"""The verb evaluate: where scores are written, and that none replace others."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.commands.evaluate import _name, _refuse_others, _scored, parse
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.spaces import latents
from tests.preparation.conftest import small_autoencoder
from tests.stored import artifact


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
        ((*BASE, "metrics=[fd]"), "metrics=[fd]"),
        ((*BASE, "metrics=[recall,fd]"), "metrics=[fd,recall]"),
        ((*BASE, "per_class=[vendi]"), "per_class=[vendi]"),
        ((*BASE, "lpips.weights=file"), "lpips.weights="),
        ((*BASE, "scorers.clip_score.weights=file"), "scorers="),
        ((*BASE, "compiled=true"), "compiled=True"),
        ((*BASE, "intervals=false"), "intervals=False"),
        ((*BASE, "protocol=torch-fidelity"), "protocol=torch-fidelity"),
    ],
)
def test_scores_of_something_else_are_not_replaced(tmp_path, other, named):
    out = written(tmp_path, *BASE)
    with pytest.raises(UserError, match="out=FOLDER") as error:
        _refuse_others(out, _scored(*parse(other)))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "more",
    [
        (), ("workers=3",), ("batch=8",), ("block=99",), ("device=cuda",), ("protocol=default",),
        ("extractor=inception",), ("precision=float32",), ("k=3",), ("per_class=[]",),
        ("compiled=false",),
    ],
)  # fmt: skip
def test_the_same_scores_again_are(tmp_path, more):
    out = written(tmp_path, *BASE)
    _refuse_others(out, _scored(*parse((*BASE, *more))))
    (out / "provenance.json").write_text("{")
    _refuse_others(out, _scored(*parse(("samples=other",))))


def test_a_name_with_a_dot_stays_whole(tmp_path):
    (tmp_path / "v1.5").mkdir()
    assert _name(str(tmp_path / "v1.5"), None) == "v1.5"
    for name in ("samples.npz", "samples.tar.gz", "samples.ZIP", "samples"):
        assert _name(str(tmp_path / name), None) == "samples"


def test_files_of_a_space_are_by_the_keys_of_a_run():
    path = "/a b/[x], 'y'"
    settings, _ = parse((*BASE, f"space.autoencoder={path}"))
    assert settings.space == {"autoencoder": path}
    assert _scored(settings, {}) == _scored(*parse(BASE)), "what they are the samples' record says"
    for given, words in (
        ("space.autoencoder=", "needs a path"),
        ("space=x", "space: no such setting"),
        ("space.lexicon=words", "space.lexicon: no file of a space"),
        ("autoencoder=x", "did you mean 'space.autoencoder'"),
    ):
        with pytest.raises(UserError, match=words):
            parse((*BASE, given))


def test_metrics_in_another_order_are_the_same_scores(tmp_path):
    out = written(tmp_path, *BASE, "metrics=[fd,recall]", "per_class=[vendi,fd]")
    _refuse_others(out, _scored(*parse((*BASE, "metrics=[recall,fd]", "per_class=[fd,vendi]"))))


def test_folders_of_an_earlier_version_are_those_of_the_defaults(tmp_path):
    out = written(tmp_path, *BASE)
    found = json.loads((out / "provenance.json").read_text())["of"]
    older = {key: found[key] for key in ("samples", "reference", "protocol")}
    (out / "provenance.json").write_text(json.dumps({"of": older}))
    _refuse_others(out, _scored(*parse(BASE)))
    with pytest.raises(UserError, match="k=7"):
        _refuse_others(out, _scored(*parse((*BASE, "k=7"))))


class TestStatistics:
    """``statistics=`` writes a file; whether samples are scored as well decides about ``out``."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
        np.savez("x.npz", rows)
        np.savez("other.npz", rows[::-1] // 2)

    GIVEN = ("evaluate", "samples=x.npz", "extractor=digits", "statistics=s.npz")

    def test_alone_they_have_no_scores_to_replace(self, tmp_path, capsys):
        held = tmp_path / "runs" / "scores" / "x-default"
        held.mkdir(parents=True)
        (held / "provenance.json").write_text(json.dumps({"of": _scored(*parse(BASE))}))
        assert main(self.GIVEN) == 0 and (tmp_path / "s.npz").is_file()
        assert main([*self.GIVEN, "n=60"]) == 0
        (tmp_path / "file").write_text("")
        assert main([*self.GIVEN, "out=file/deeper"]) == 0
        assert [p.name for p in held.iterdir()] == ["provenance.json"]

    @pytest.mark.parametrize("asked", ["reference=other.npz", "metrics=[vendi]"])
    def test_what_is_scored_as_well_is_refused_before_they_are_written(self, asked, tmp_path):
        held = tmp_path / "runs" / "scores" / "x-default"
        held.mkdir(parents=True)
        (held / "provenance.json").write_text(json.dumps({"of": _scored(*parse(BASE))}))
        assert main([*self.GIVEN, asked]) == 2
        assert not (tmp_path / "s.npz").exists()

    @pytest.mark.parametrize(
        "name", ["x.npz", "link.npz", "other.npz", "folder.npz", "note.txt.npz"]
    )
    def test_nothing_else_is_written_over(self, tmp_path, capsys, name):
        """The samples themselves, by whichever name, least of all."""
        (tmp_path / "link.npz").symlink_to("x.npz")
        (tmp_path / "folder.npz").mkdir()
        (tmp_path / "note.txt.npz").write_text("mine")
        before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        assert main([*self.GIVEN[:-1], f"statistics={name}"]) == 2
        message = capsys.readouterr().err
        assert f"statistics={name}" in message and message.count("\n") == 1
        assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before

    def test_statistics_are_written_over_but_not_the_reference(self, tmp_path):
        assert main(self.GIVEN) == 0
        assert main([*self.GIVEN, "n=65"]) == 0
        assert np.load("s.npz")["n"] == 65
        assert main([*self.GIVEN, "reference=s.npz", "metrics=[fd]"]) == 2
        assert np.load("s.npz")["n"] == 65

    def test_metrics_that_are_asked_for_are_scored(self, tmp_path):
        assert main([*self.GIVEN, "metrics=[vendi]", "out=o"]) == 0
        assert (tmp_path / "o" / "scores.json").is_file() and (tmp_path / "s.npz").is_file()


def test_latents_of_a_run_are_scored_by_the_autoencoder_of_the_run(tmp_path, capsys):
    coder = small_autoencoder(tmp_path / "the autoencoder, [1]")
    space = latents.Latents(latents.Config(autoencoder=str(coder)))
    recorded = {"name": "latents", "settings": dict(space.identity())}
    z = np.random.default_rng(0).normal(size=(2, 40, 4, 4, 4)).astype(np.float32)
    for name, part in zip(("student", "teacher"), z, strict=True):
        for low in (0, 20):
            artifact(
                tmp_path / name / str(low), part[low : low + 20], recorded, start=low, stop=low + 20
            )
    given = (
        "evaluate", f"samples={tmp_path / 'student'}", f"reference={tmp_path / 'teacher'}",
        "protocol=digits", "metrics=[fd,recall]", f"store={tmp_path / 'store'}",
        f"out={tmp_path / 'out'}", f"statistics={tmp_path / 'student.npz'}",
    )  # fmt: skip
    assert main([*given, f"space.autoencoder={coder}"]) == 0
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(table.metric) == {"fd", "recall"} and (table.n == 40).all()
    decode = space.load((8, 8, 3), Place()).pictures
    with np.load(tmp_path / "out" / "pictures.npz") as shown:
        every = {row.tobytes() for row in decode(torch.from_numpy(z[0]))}
        assert shown["samples"].shape == (16, 8, 8, 3)
        assert {row.tobytes() for row in shown["samples"]} <= every
    with np.load(tmp_path / "student.npz") as statistics:
        assert statistics["n"] == 40
    capsys.readouterr()
    assert main(["store", "ls", f"store={tmp_path / 'store'}"]) == 0
    assert "pictures of evaluate" in capsys.readouterr().out
    assert main(["store", "verify", f"store={tmp_path / 'store'}"]) == 0
    capsys.readouterr()
    other = small_autoencoder(tmp_path / "other", scaling_factor=0.5)
    for more, words in (
        ((f"space.autoencoder={other}",), "give that one by space.autoencoder=PATH"),
        ((f"space.autoencoder={tmp_path / 'no'}",), "no such file or folder"),
        ((f"space.autoencodr={other}",), "did you mean 'autoencoder'"),
    ):
        assert main([*given, *more]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_a_protocol_that_was_edited_is_another(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{extractors: [digits], metrics: [fd], settings: {k: 3}}")
    out = written(tmp_path, *BASE, f"protocol={mine}")
    again = _scored(*parse((*BASE, f"protocol={mine}")))
    _refuse_others(out, again)
    mine.write_text("{extractors: [digits], metrics: [fd], settings: {k: 4}}")
    with pytest.raises(UserError, match=r"holds scores with protocol \(sha256\)="):
        _refuse_others(out, _scored(*parse((*BASE, f"protocol={mine}"))))
