"""Prompts: lists of every kind, several samples each, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.space import Space
from piflow_bench.data.prompts import Config, PromptList
from piflow_bench.errors import UserError
from piflow_bench.evaluation.design import Design
from piflow_bench.files.prompts import read_prompts

TEXTS = ["a red cat", 'two dogs, "big"', "ein grüner Käfer"]


class Latents:
    """A space of latents an eighth as large."""

    def load(self, pictures, place):
        height, width, _ = pictures
        return Space((16, height // 8, width // 8), bounded=False)


def loaded(**settings):
    return PromptList(Config(height=64, width=96, **settings)).load(Latents(), None)


def written(folder, kind, texts=TEXTS, column="prompt"):
    path = folder / f"list.{kind}"
    table = pd.DataFrame({"id": range(len(texts)), column: texts})
    if kind == "txt":
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    elif kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"id": 1, column: t}) for t in texts) + "\n")
    else:
        table.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_lists_of_every_kind_give_the_same_prompts(kind, tmp_path):
    source = written(tmp_path, kind)
    assert read_prompts(Path(source), "x") == TEXTS
    assert read_prompts(tmp_path, "x") == TEXTS, "a folder of one list"
    assert loaded(prompts=source).digest == loaded(prompts=written(tmp_path, "txt")).digest


def test_words_that_look_like_no_value_are_prompts(tmp_path):
    texts = ["None", "NA", "null", "1"]
    for kind in ("csv", "jsonl", "txt"):
        assert read_prompts(Path(written(tmp_path, kind, texts)), "x") == texts


def test_samples_of_a_prompt_lie_together(tmp_path):
    data = loaded(prompts=written(tmp_path, "txt"), seeds=2)
    assert data.shape == (16, 8, 12) and data.label_law == "by prompt"
    condition = data.conditions(0, range(8))
    assert condition.ids.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert condition.texts()[2:4] == [TEXTS[1]] * 2
    assert data.conditions(7, [5, 2]).ids.tolist() == [2, 1], "by index alone, whatever the seed"
    assert data.cautions and len(data.train_condition) == 3 and not len(data.training_rows)


def test_prompts_of_the_training_may_be_others(tmp_path):
    shown = written(tmp_path, "txt")
    other = tmp_path / "more.txt"
    other.write_text("x\na red cat\ny\n")
    data = loaded(prompts=shown, training=str(other), last=2)
    assert not data.cautions
    assert data.train_condition.texts() == ["a red cat", "y"]
    assert data.train_condition.ids.tolist() == [0, 3], "one list, each text once"
    assert loaded(prompts=shown, first=2).conditions(0, [2]).texts() == [TEXTS[0]]


class TestSizes:
    """A table whose prompts have sizes of their own; a run has one size."""

    @pytest.fixture(params=["csv", "jsonl", "parquet"])
    def sized(self, request, tmp_path):
        table = pd.DataFrame({"prompt": TEXTS, "width": [512, 96, 96], "height": [64, 64, 32]})
        path = tmp_path / f"sized.{request.param}"
        write = {
            "csv": lambda: table.to_csv(path, index=False),
            "jsonl": lambda: table.to_json(path, orient="records", lines=True),
            "parquet": lambda: table.to_parquet(path),
        }
        write[request.param]()
        return str(path)

    def test_others_are_said_to_be_unread(self, sized):
        data = loaded(prompts=sized, training=sized)
        said = "All pictures are 96x64, whatever sizes dataset.{} names: 512x64 (1), 96x64 (1), "
        assert data.cautions[0] == said.format("prompts") + "96x32 (1)."
        assert data.cautions[1].startswith(said.format("training"))

    def test_a_bucket_is_the_prompts_of_this_size(self, sized):
        data = loaded(prompts=sized, bucket=True)
        assert data.conditions(0, [0, 1]).texts() == [TEXTS[1]] * 2
        assert not any("sizes" in text for text in data.cautions)

    def test_a_bucket_without_prompts_is_refused_with_those_there_are(self, sized, tmp_path):
        with pytest.raises(UserError, match=r"no prompt of .* is for 100x64 pixels; its sizes: 51"):
            PromptList(Config(prompts=sized, bucket=True, height=64, width=100)).load(
                Latents(), None
            )
        with pytest.raises(UserError, match="has no columns height and width"):
            loaded(prompts=written(tmp_path, "csv"), bucket=True)

    def test_sizes_that_are_no_numbers(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("prompt,height,width\na,64,wide\n")
        with pytest.raises(UserError, match="height and width are not all whole numbers"):
            loaded(prompts=str(path))


def test_a_condition_is_by_reference():
    known = tuple(TEXTS)
    some = Prompts(torch.tensor([2, 0, 1]), known)
    assert some.null().texts() == ["", "", ""]
    mask = torch.tensor([True, False, True])
    assert some.where(mask, some.null()).ids.tolist() == [2, -1, 1]
    assert some[torch.tensor([1, 2])].cat(some[:1]).ids.tolist() == [0, 1, 2]
    assert some.unpack(some.pack()).texts() == some.texts()
    assert some.to("meta").known is known and some.count == 3


REFUSED = {
    "an empty row": ("a\n\nb\n", "list.txt", {}, r"dataset.prompts=.*: line 2 is empty"),
    "blanks": ("a\n   \nb\n", "list.txt", {}, "line 2 is empty"),
    "nothing": ("\n", "list.txt", {}, "no prompts in it"),
    "another column": ("text\na\n", "list.csv", {}, "no column 'prompt', but text"),
    "half a table": ("{", "list.jsonl", {}, "cannot be read"),
    "no parquet": ("x", "list.parquet", {}, "cannot be read"),
    "nowhere": (None, "list.txt", {}, "no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_lists_that_cannot_be_are_one_line(case, tmp_path):
    text, name, settings, words = REFUSED[case]
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        loaded(prompts=str(path), **settings)
    with pytest.raises(UserError, match="dataset.prompts: not given"):
        loaded()


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00a\x00")
    with pytest.raises(UserError, match="cannot be read"):
        loaded(prompts=str(tmp_path / "list.txt"))


def test_methods_that_need_pictures_are_refused_before_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(
        ["run", "experiment=flux_4nfe", "profile=smoke", "--plan"]
        + ["variants.piflow-gm8.settings.data_free=false"]
    )
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "variants.piflow-gm8: is trained on real samples, and prompts has prompts alone" in line


def test_a_prompts_samples_are_one_unit_of_the_intervals():
    labels = torch.arange(12).repeat_interleave(3).numpy()
    design = Design.of(36, labels, "by prompt")
    blocks = design.blocks(5)
    assert set(blocks) == set(range(5)) and design.strata() is None
    for prompt in range(12):
        assert len(set(blocks[labels == prompt])) == 1
    assert (Design.of(36, labels + 7, "by prompt").blocks(5) == blocks).all()
    assert (Design.of(6, labels[:6], "by prompt").blocks(20) < 2).all(), "as many as prompts"
