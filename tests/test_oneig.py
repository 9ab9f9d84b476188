"""Pictures as OneIG's scorers read them: where they lie, what they hold, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from piflow_bench.cli import main
from piflow_bench.errors import USER_ERROR, UserError
from piflow_bench.runs.oneig import tiled, write_grids

LIST = """category,id,prompt_en
Anime_Stylization,017,"a red fox, drawn"
Text_Rendering,3,a sign
Portrait,244,a face
"""


class Made:
    """A run of which samples are numbers, and pictures of one colour."""

    def __init__(self, folder, cells, seeds=4, text=LIST, name="oneig.csv", **dataset):
        (folder / name).write_text(text)
        settings = {"name": "prompts", "prompts": str(folder / name), "seeds": seeds, **dataset}
        self.config = SimpleNamespace(dataset=settings)
        self.cells, self.looked = cells, 0

    def sampled(self, variant, nfe):
        return [c for c in self.cells if variant in (None, c.columns["variant"])]

    def samples_of(self, cell):
        return cell.numbers

    def images(self, samples):
        self.looked += 1
        return np.stack([np.full((8, 12, 3), value, dtype=np.uint8) for value in samples])


def cell(variant, numbers, nfe=4, role="student", key="k", seed=None):
    columns = {"variant": variant, "nfe": nfe, "role": role, "train_seed": seed}
    return SimpleNamespace(columns=columns, numbers=numbers, samples=[SimpleNamespace(key=key)])


def written(run, out, variant=None, nfe=None):
    told = []
    names = write_grids(run, out, variant, nfe, lambda *given: told.append(given))
    return names, told, sorted(p.relative_to(out).as_posix() for p in out.rglob("*.webp"))


def test_a_file_holds_the_samples_of_a_prompt(tmp_path):
    # The last prompt has two of its four samples: it is left out.
    run = Made(tmp_path, [cell("mine", 20 * np.arange(10))])
    names, told, files = written(run, tmp_path / "out")
    assert names == ["mine-4nfe"]
    assert files == ["anime/mine-4nfe/017.webp", "text/mine-4nfe/003.webp"]
    assert told[-1] == ("mine-4nfe: grids", 2, 2)
    with Image.open(tmp_path / "out" / files[1]) as image:
        assert (image.format, image.size) == ("WEBP", (24, 16))
        seen = np.asarray(image.convert("RGB")).astype(int)
    for i, corner in enumerate([seen[:8, :12], seen[:8, 12:], seen[8:, :12], seen[8:, 12:]]):
        assert abs(corner - 20 * (4 + i)).max() < 12, "lossy, row by row"


def test_one_sample_of_a_prompt_is_a_picture(tmp_path):
    run = Made(tmp_path, [cell("mine", np.arange(3))], seeds=1)
    _, _, files = written(run, tmp_path / "out")
    assert files[1] == "human/mine-4nfe/244.webp"
    with Image.open(tmp_path / "out" / files[1]) as image:
        assert image.size == (12, 8)


def test_models_have_names_of_their_own(tmp_path):
    cells = [
        cell("mine", np.arange(4), seed=0), cell("mine", np.arange(4), seed=1),
        cell("mine", np.arange(4), nfe=8), cell("converged", np.arange(4), role="control"),
    ]  # fmt: skip
    names, _, files = written(Made(tmp_path, cells), tmp_path / "out")
    assert names == ["mine-4nfe-1", "mine-4nfe-2", "mine-8nfe", "converged"]
    assert len(files) == 4


def test_a_call_goes_on_and_other_samples_take_the_place(tmp_path):
    first = Made(tmp_path, [cell("mine", 20 * np.arange(8))])
    _, _, files = written(first, tmp_path / "out")
    (tmp_path / "out" / files[0]).unlink()
    written(first, tmp_path / "out")
    assert first.looked == 3, "one that was there stayed"
    other = Made(tmp_path, [cell("mine", 255 - 20 * np.arange(4), key="other")])
    _, _, files = written(other, tmp_path / "out")
    assert files == ["anime/mine-4nfe/017.webp"] and other.looked == 1


def test_a_folder_of_somebody_elses_is_left_as_it_is(tmp_path):
    theirs = tmp_path / "out" / "human" / "mine-4nfe" / "000.webp"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a picture")
    with pytest.raises(UserError, match="mine-4nfe: is there, and not of an earlier call"):
        written(Made(tmp_path, [cell("mine", np.arange(8))]), tmp_path / "out")
    assert theirs.read_bytes() == b"a picture" and not (tmp_path / "out" / "made.json").exists()


def test_tiles_are_in_rows():
    assert tiled(np.arange(4).reshape(4, 1, 1, 1)).tolist() == [[[0], [1]], [[2], [3]]]


REFUSED = {
    "three samples": ({"seeds": 3}, "3 samples a prompt; OneIG reads 1 or 4: dataset.seeds"),
    "lines of text": ({"name": "list.txt", "text": "a\nb\n"}, "has no column 'category'"),
    "another table": ({"text": "prompt,category\na,Portrait\n"}, "has no column 'id'"),
    "another category": ({"text": "category,id\nCats,1\n"}, "category Cats: Anime_Stylization, "),
    "an id that is none": ({"text": "category,id\nPortrait,x\n"}, "id x: must be a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prompts_that_are_not_the_benchmarks(case, tmp_path):
    given, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        written(Made(tmp_path, [cell("mine", np.arange(8))], **given), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given, words",
    [
        (["out=x", "variant=a"], "no results.parquet there"),
        (["here"], "'here': settings are given as key=value"),
        (["vraiant=a"], "vraiant: no such setting; did you mean 'variant'"),
        (["grids=dpg"], "grids=dpg: must be oneig"),
        (["nfe=0"], "nfe=0: must be at least 1"),
    ],
)
def test_the_verb_says_what_is_wrong(given, words, tmp_path, capsys):
    assert main(["export", str(tmp_path), *given]) == USER_ERROR
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_out_is_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("piflow_bench.runs.run.open_run", lambda path: None)
    (tmp_path / "file").write_text("theirs")
    assert main(["export", "run", f"out={tmp_path / 'file'}", "grids=oneig"]) == USER_ERROR
    assert "cannot be written (Not a directory); choose another out=PATH" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "theirs"
