"""Names where there is little room, or where a format gives their characters a meaning."""

import json

import numpy as np
import pandas as pd
import piflow_reports
import pytest
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.export import tables as export
from piflow_reports.figures import heatmaps, stills
from piflow_reports.format import names as words

from tests.reports import synthetic
from tests.reports.test_page import Page, figures


@pytest.fixture
def folder(tmp_path):
    return synthetic.write(tmp_path, 1, failed=False)


def drawn(folder):
    return figures(Page(piflow_reports.build(folder).read_text("utf-8")))


def renamed(folder, old, new):
    """The run with one variant under another name."""
    for name in ("results", "curves", "breakdown"):
        path = folder / f"{name}.parquet"
        table = pd.read_parquet(path)
        table["variant"] = table["variant"].replace(old, new)
        table.to_parquet(path)
    info = json.loads((folder / "run.json").read_text())
    for variant in info["variants"]:
        variant["name"] = new if variant["name"] == old else variant["name"]
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_short_names_side_by_side_stay_different():
    names = [f"variant-{i:02d}-with-a-long-name" for i in range(30)]
    short = words.shortened(names, 18)
    assert len(set(short)) == 30 and max(map(len, short)) <= 18
    settings = [f"piflow-gm8 · temperature={t}, guidance=2.0" for t in (0.25, 0.5, 1.0)]
    short = words.shortened([*settings, "dmd2"], 18)
    assert len(set(short)) == 4 and short[-1] == "dmd2" and "0.25" in short[0]
    same = words.shortened(["x" * 40 + "-a-" + "y" * 40, "x" * 40 + "-b-" + "y" * 40], 18)
    assert len(set(same)) == 2
    several = words.shortened([names[0], names[0], names[1]], 18)
    assert several[0] == several[1] != several[2], "one name is one name wherever it stands"


def test_no_name_is_part_of_a_template(folder):
    """plotly fills %{x} in templates; what a point says is data."""
    templates = {t.get("hovertemplate") for f in drawn(folder).values() for t in f["data"]}
    assert len(templates) > 2 and not any("%{y} a|b" in (t or "") for t in templates)


def test_a_very_long_name_leaves_room_for_the_numbers(folder):
    for figure in drawn(renamed(folder, "dmd2", "long-" * 80)).values():
        for trace in figure["data"]:
            texts = [trace.get(k) for k in ("text", "hovertext") if k in trace]
            assert not any("long-" * 20 in str(text) for text in texts)


def test_a_row_of_latex_gives_nothing_to_the_row_before():
    assert export.tex_row(["[2pt] x", "1"]).startswith("{}[2pt] x & 1")
    assert export.tex_row(["*x", "1"]).startswith("{}*x")
    assert export.tex("a|b\u202ec\x07") == r"a\textbar{}bc"


def test_markdown_shows_what_stands_there():
    assert export.md("&lt; $x$ ~~y~~") == r"\&lt; \$x\$ \~\~y\~\~"


def test_a_name_with_the_pages_own_separators_keeps_its_training_curve(folder):
    before = [f for f in drawn(folder) if f.startswith("r0-loss-")]
    after = [f for f in drawn(renamed(folder, "dmd2", "dmd2 · fast")) if f.startswith("r0-loss-")]
    assert len(after) == len(before) == len(synthetic.STUDENTS)


def test_a_setting_with_a_comma_is_one_setting(folder):
    table = inputs.normalise(pd.read_parquet(folder / "results.parquet"))
    own = table[table["variant"] == "dmd2"]
    both = [own.assign(sampler=f"steps=4, interval=[{low}, 0.5]") for low in (0.1, 0.2)]
    series = set(frames.with_series(pd.concat(both))["series"])
    assert series == {"dmd2 · interval=[0.1, 0.5]", "dmd2 · interval=[0.2, 0.5]"}


def test_a_failure_is_told_though_another_variant_failed_alike(folder):
    table = pd.read_parquet(folder / "results.parquet")
    lost = (table["variant"] == "dmd2") & (table["nfe"] == 4)
    table.loc[lost, ["status", "reason"]] = ["failed", "out of memory"]
    table.loc[lost, "value"] = np.nan
    table.to_parquet(folder / "results.parquet")
    info = json.loads((folder / "run.json").read_text())
    info["failures"] = [{"variant": "piflow-gm8", "stage": "metrics",
                         "reason": "CUDA out of memory in step 3"}]  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    text = Page(piflow_reports.build(folder).read_text("utf-8")).words
    assert "dmd2 · 4 NFE" in text and "out of memory" in text


def test_samples_that_cannot_stand_beside_the_others_are_told_of(tmp_path):
    folders = [synthetic.write(tmp_path / name, 1, failed=False) for name in "ab"]
    with np.load(folders[1] / "grids.npz") as data:
        arrays = dict(data)
    np.savez(folders[1] / "grids.npz", **(arrays | {"index": arrays["index"] + 100}))
    page = Page(piflow_reports.build_many(folders).read_text("utf-8"))
    assert "b: its samples have other indices" in page.words


def test_a_point_tells_the_protocol_of_its_own_measure(folder):
    table = pd.read_parquet(folder / "results.parquet")
    table["protocol"] = table["question"] + "-rules"
    table.to_parquet(folder / "results.parquet")
    page = Page(piflow_reports.build(folder).read_text("utf-8"))
    (text,) = [t for a, t in page.scripts if a.get("class") == "measures"]
    measures = json.loads(text)["measures"].values()
    told = {m["label"].split("(")[1][:4]: m["protocol"] for m in measures if "(i" in m["label"]}
    assert told == {"imit": "imitation-ru"}
    assert {m["protocol"] for m in measures if "(data" in m["label"]} == {"data-rules"}


def test_the_way_along_nfe_begins_with_a_mark(folder):
    figure = drawn(folder)["r0-trade-path"]
    marks = [t for t in figure["data"] if t["mode"] == "markers"]
    ways = [t for t in figure["data"] if t["mode"] == "lines+markers"]
    assert [t["meta"] for t in marks] == [t["meta"] for t in ways]
    assert all(len(t["x"]) == 1 and t["x"] == w["x"][:1] for t, w in zip(marks, ways, strict=True))


def test_tracks_have_heatmaps_of_their_own():
    rows = [
        {"track": track, "nfe": 1, "metric": "fd", "a": a, "b": b, "difference": 1.0, "low": 0.5,
         "high": 1.5, "significant": True, "family": True}
        for track, names in (("distilled", "abc"), ("from scratch", "xyz"))
        for a, b in ((names[0], names[1]), (names[0], names[2]), (names[1], names[2]))
    ]  # fmt: skip
    primary = frames.Primary("imitation", "fd", "recall", "classifier")
    found = heatmaps.differences(pd.DataFrame(rows), list("abcxyz"), primary, "r0-")
    assert len({f.id for f in found}) == 2
    assert [f.title.split(", ")[1] for f in found] == ["distilled", "from scratch"]
    for figure in found:
        (trace,) = json.loads(figure.spec)["data"]
        assert len(trace["z"]) == 3 and trace["texttemplate"] == "%{text}"


def test_a_figures_file_has_a_plain_name():
    assert stills.UNFIT.sub("-", "nfe-clip/score") == "nfe-clip-score"


def test_what_a_protocol_fixes_is_on_the_page(folder):
    words_ = Page(piflow_reports.build(folder).read_text("utf-8")).words
    assert "What protocol 5f3c1e9a77d0 fixes" in words_
    assert "digest: 57d9aed87ce10941" in words_ and "k: 3" in words_
