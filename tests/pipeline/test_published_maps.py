"""Flow maps of others in ImageNet's experiments: scored without training, refused in one line."""

import pandas as pd
import pytest
import torch

from piflow_bench.cli import main
from tests.networks.checkpoints import map_layouts as theirs
from tests.pipeline import harness

SMOKE = ("profile=smoke", "launcher=debug")
SETTINGS = {
    "soflow": "{layout: soflow, sampler: renoise}",
    "imf": "{layout: imf, told: 4, told_low: 0.36, told_high: 0.64}",
}


def written(layout, folder, change=None):
    state = theirs.drawn(theirs.SHAPES[layout](), seed=0)
    if change:
        change(state)
    torch.save(theirs.content(layout, state), folder / f"{layout}.pt")


def variant(layout):
    given = f"method: few-step, checkpoint: {layout}.pt, settings: {SETTINGS[layout]}"
    return f"+variants.{layout}-xl={{{given}}}"


@pytest.mark.thorough
def test_they_are_a_track_of_their_own_that_spent_nothing(tmp_path):
    for layout in SETTINGS:
        written(layout, tmp_path)
    only = ",".join(["teacher-euler", *(f"{layout}-xl" for layout in SETTINGS)])
    done = harness.call(
        "run", "experiment=imagenet_2nfe", *SMOKE, "name=maps", *map(variant, SETTINGS),
        f"only=[{only}]", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "runs" / "maps" / "results.parquet")
    rows = table[table.role == "student"]
    assert set(rows.variant) == {f"{layout}-xl" for layout in SETTINGS}
    assert (rows.status == "ok").all() and (rows.track == "from scratch").all()
    assert (rows.nfe == 2).all() and rows.train_steps.max() == 0


BROKEN = {
    "lacks backbone.network.u_heads.1.norm2.weight": (
        "imf",
        lambda state: state.pop("net.u_heads.1.norm2.weight"),
    ),
    "of 7 classes; these samples are of 10": (
        "soflow",
        lambda state: state.update({"y_embedder.embedding_table.weight": torch.ones(8, 128)}),
    ),
    "is (128, 144), not (128, 128)": (
        "soflow",
        lambda state: state.update({"blocks.0.attn.proj.weight": torch.ones(128, 144)}),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the stand-ins of the smoke profile are made once."""
    return tmp_path_factory.mktemp("maps")


@pytest.mark.parametrize("words", BROKEN)
def test_a_wrong_file_is_one_line_before_anything_starts(words, folder, monkeypatch, capsys):
    layout, change = BROKEN[words]
    written(layout, folder, change)
    monkeypatch.chdir(folder)
    given = (variant(layout), f"only=[teacher-euler,{layout}-xl]")
    assert main(["run", "experiment=imagenet_1nfe_repa", *SMOKE, *given]) == 2
    line = capsys.readouterr().err
    assert words in line and f"checkpoint={layout}.pt" in line and line.count("\n") == 1
    assert not (folder / "runs" / "store" / "artifacts").exists()
