"""The page: complete, offline, escaped, and the same bytes every time."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import piflow_reports
import pytest
from piflow_reports.data import read as data
from piflow_reports.data import series as frames
from piflow_reports.data.merge import merge
from piflow_reports.figures import published

from piflow_bench.cli import main
from piflow_bench.errors import OK, USER_ERROR, UserError
from tests.reports import synthetic


class Page(HTMLParser):
    """Collects what the tests ask about."""

    VOID = {"meta", "link", "img", "input", "br", "path", "circle"}

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.scripts, self.text, self.open = [], [], [], [], []
        self.headings, self.images = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[k] for k in ("src", "href", "srcset") if k in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "script":
            self.scripts.append((attributes, ""))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page(folder):
    return Page((folder / "report.html").read_text("utf-8"))


def built(folder):
    piflow_reports.build(folder)
    return page(folder)


def figures(parsed):
    return {a["data-for"]: json.loads(t) for a, t in parsed.scripts if "data-for" in a}


def test_the_same_run_gives_the_same_bytes(one_seed, tmp_path):
    again = piflow_reports.build(one_seed, tmp_path / "again.html")
    assert again.read_bytes() == (one_seed / "report.html").read_bytes()
    for path in sorted((one_seed / "exports").iterdir()):
        assert (tmp_path / "exports" / path.name).read_bytes() == path.read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_row_order_does_not_matter(one_seed, tmp_path):
    table = pd.read_parquet(one_seed / "results.parquet")
    others = ("curves.parquet", "grids.npz", "run.json", "breakdown.parquet", "selections.npz")
    for name in others:
        (tmp_path / name).write_bytes((one_seed / name).read_bytes())
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "results.parquet")
    piflow_reports.build(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (one_seed / "report.html").read_bytes()


def test_the_page_is_whole_and_offline(five_seeds):
    parsed = page(five_seeds)
    assert parsed.open == []
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    assert parsed.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(parsed.headings, parsed.headings[1:], strict=False))
    assert sum("Plotly" in text and len(text) > 1e6 for _, text in parsed.scripts) == 1
    assert (five_seeds / "report.html").stat().st_size < 6e6


def test_hostile_names_are_text(five_seeds):
    parsed = page(five_seeds)
    assert synthetic.HOSTILE in parsed.words
    assert not any("alert" in text and len(text) < 1000 for _, text in parsed.scripts)
    names = {t["name"] for f in figures(parsed).values() for t in f["data"] if "name" in t}
    assert not any("<" in name for name in names)
    assert any("&lt;script&gt;" in name for name in names)


def test_every_section_is_there(five_seeds):
    parsed = page(five_seeds)
    for text in (
        "clear lead", "Distance to the ceiling", "From scratch", "Controls (not ranked)",
        "Published numbers", "Kendall", "held-out teacher samples", "loss is not finite at step",
        "slurmstepd: the last word",
        "5f3c1e9a77d0", "python -m piflow_bench run experiment=digits", "at this n",
    ):  # fmt: skip
        assert text in parsed.words, text
    assert all(image["alt"] for image in parsed.images)
    strips = 2 * (2 + len(synthetic.STUDENTS)) + 2 * (1 + len(synthetic.STUDENTS))
    assert len(parsed.images) == strips + 2 * 6 * len(synthetic.STUDENTS)


def test_two_tracks_have_verdicts_apart(tmp_path):
    folder = synthetic.write(tmp_path, seeds=5)
    table = pd.read_parquet(folder / "results.parquet")
    table.loc[table["variant"] == "piflow-dx", "track"] = "from scratch"
    table.to_parquet(folder / "results.parquet")
    text = built(folder).words
    verdicts = text[text.index("Verdict in full The") : text.index("paired differences")]
    assert verdicts.count("From scratch") == verdicts.count("Distilled") == 1


def test_figures_have_marks_and_one_colour_per_variant(five_seeds):
    found = figures(page(five_seeds))
    kinds = {name.split("-")[1] for name in found}
    assert kinds == {
        *("trade", "pairs", "nfe", "compute", "images", "hours"),
        *("size", "class", "ranks", "loss", "cost", "within", "ratio", "time"),
    }  # fmt: skip
    colours = {}
    for figure in found.values():
        assert figure["data"] and figure["layout"].get("template") != {}
        for trace in figure["data"]:
            assert len(trace["x"]) == len(trace["y"]) > 0
            colour = trace.get("marker", {}).get("color") or trace.get("line", {}).get("color")
            if "meta" in trace:
                for name in np.atleast_1d(trace["meta"]).tolist():
                    colours.setdefault(name, set()).add(colour)
    assert all(len(several) == 1 for several in colours.values())
    assert len({next(iter(c)) for c in colours.values()}) == len(colours) == 6


def test_figures_are_what_plotly_accepts(five_seeds):
    import plotly.graph_objects as go

    for spec in figures(page(five_seeds)).values():
        go.Figure(spec)  # Refuses an unknown name or an impossible value.


def test_few_seeds_speak_of_checkpoints(one_seed, five_seeds):
    assert "among these checkpoints" in page(one_seed).words
    assert "among these checkpoints" not in page(five_seeds).words
    assert "speak of methods" in page(five_seeds).words


@pytest.mark.parametrize("case", ["one", "nfe", "failed", "bare", "nothing", "teacher", "points"])
def test_thin_runs(case, tmp_path):
    synthetic.write(tmp_path, points=case == "points", failed=case == "points")
    table = synthetic.results(failed=False)
    if case == "one":
        table = table[table["variant"] == "dmd2"].assign(train_seed=None)
    elif case == "nfe":
        table = table[(table["nfe"] == 1) & (table["budget_fraction"] == 1)]
    elif case == "failed":
        table = table[table["role"] == "student"].assign(
            status="failed", value=np.nan, reason="boom", ci_low=np.nan, ci_high=np.nan
        )
    elif case == "nothing":
        table = table.iloc[:0]
    elif case == "teacher":
        table = table[table["role"] == "teacher"]
    if case == "bare":
        table = table[["variant", "nfe", "metric", "value"]]
    table.to_parquet(tmp_path / "results.parquet")
    if case != "points":
        for name in ("grids.npz", "selections.npz", "breakdown.parquet"):
            (tmp_path / name).unlink()
    if case in ("bare", "nothing"):
        (tmp_path / "curves.parquet").unlink()
        (tmp_path / "run.json").unlink()
    parsed = built(tmp_path)
    assert parsed.open == []
    for figure in figures(parsed).values():
        assert figure["data"]
    assert bool(parsed.images) == (case == "points")
    if case == "points":
        kinds = [image["alt"].startswith("Density of") for image in parsed.images]
        first_screens = 2 * (1 + len(synthetic.STUDENTS))
        assert sum(kinds) == (len(kinds) - first_screens) / 2
    if case == "failed":
        assert "boom" in parsed.words and "There are no two students" in parsed.words
        table = pd.read_csv(tmp_path / "exports" / "ranking.csv")
        assert table["value"].isna().all()
    if case == "nothing":
        assert not figures(parsed)


def test_no_results_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no results\.parquet"):
        piflow_reports.build(tmp_path)
    (tmp_path / "results.parquet").write_text("not a table")
    with pytest.raises(UserError, match="cannot be read"):
        piflow_reports.build(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_runs_of_one_protocol_share_rankings(tmp_path):
    folders = []
    for name, students in (("a", ["dmd2", "piflow-dx"]), ("b", ["dmd2", "meanflow"])):
        folder = synthetic.write(tmp_path / name, students=tuple(students), failed=False)
        content = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**content, "name": name}))
        folders.append(folder)
    out = piflow_reports.build_many(folders, tmp_path / "joint" / "page.html")
    parsed = Page(out.read_text("utf-8"))
    ranking = pd.read_csv(out.parent / "exports" / "ranking.csv")
    students = set(ranking.loc[ranking["role"] == "student", "variant"])
    assert students == {"dmd2 (a)", "dmd2 (b)", "piflow-dx", "meanflow"}
    assert "r1-run" not in parsed.ids


def test_runs_of_one_name_are_told_by_their_folders(tmp_path):
    folders = [synthetic.write(tmp_path / name, students=("dmd2",), failed=False) for name in "ab"]
    table = pd.read_parquet(folders[1] / "results.parquet")
    table.loc[table.role == "student", "value"] *= 2
    table.to_parquet(folders[1] / "results.parquet")
    out = piflow_reports.build_many(folders, tmp_path / "page.html")
    ranking = pd.read_csv(tmp_path / "exports" / "ranking.csv")
    students = ranking[(ranking.role == "student") & (ranking.metric == "fd")]
    assert set(students.variant) == {"dmd2 (a)", "dmd2 (b)"}
    first, second = (students[students.variant == f"dmd2 ({f})"].value for f in "ab")
    assert second.to_numpy() == pytest.approx(2 * first.to_numpy())
    assert out.is_file()
    with pytest.raises(UserError, match="named twice"):
        piflow_reports.build_many([folders[0], folders[0]], tmp_path / "page.html")


def test_a_joined_page_keeps_baselines_and_commands_of_every_run(tmp_path):
    folders = []
    for name, nfes in (("a", (1,)), ("b", (4,))):
        folder = synthetic.write(tmp_path / name, nfes=nfes, failed=False)
        facts = json.loads((folder / "run.json").read_text())
        facts |= {
            "name": name,
            "command": f"python -m piflow_bench run nfes=[{nfes[0]}] title={name}",
        }
        (folder / "run.json").write_text(json.dumps(facts))
        folders.append(folder)
    third = synthetic.write(tmp_path / "c", failed=False)
    table = pd.read_parquet(third / "results.parquet")
    table.assign(protocol="another").to_parquet(third / "results.parquet")
    out = piflow_reports.build_many([*folders, third], tmp_path / "page.html")
    parsed = Page(out.read_text("utf-8"))
    assert {"r0-run", "r1-run"} <= set(parsed.ids) and "r2-run" not in parsed.ids
    ranking = pd.read_csv(tmp_path / "exports" / "ranking.csv")
    joined = ranking[ranking.run == "a + b"]
    teachers = joined[(joined.role == "teacher") & (joined.metric == "fd")]
    assert set(teachers.nfe) == {1, 4}
    controls = joined[(joined.variant == "memoriser") & (joined.metric == "fd")]
    assert not controls.duplicated(["nfe", "question", "extractor"]).any()
    for name, nfe in (("a", 1), ("b", 4)):
        assert f"title={name} name={name}-row 'only=[dmd2]' 'nfes=[{nfe}]'" in parsed.words


def test_a_table_states_its_own_sample_count(tmp_path):
    folder = synthetic.write(tmp_path, failed=False)
    table = pd.read_parquet(folder / "results.parquet")
    table.loc[table.budget_fraction < 1, "n"] = 1000
    table.loc[table.question == "data", "n"] = 1400
    table.to_parquet(folder / "results.parquet")
    built(folder)
    text = (tmp_path / "exports" / "ranking.tex").read_text()
    assert text.count("n = 2000 samples, protocol 5f3c1e9a77d0") == 2


def test_settings_that_have_not_all_come_to_their_end(tmp_path):
    """A run that goes on: both settings were seen early, one of them at the full budget."""
    folder = synthetic.write(tmp_path, students=("dmd2", "piflow-dx"), failed=False)
    table = pd.read_parquet(folder / "results.parquet")
    own = table[table.variant == "dmd2"]
    rest = table[table.variant != "dmd2"]
    early = own[own.budget_fraction < 1].assign(sampler="temperature=1.0")
    own = own.assign(sampler="temperature=0.5")
    pd.concat([rest, own, early]).to_parquet(folder / "results.parquet")
    built(folder)
    ranking = pd.read_csv(folder / "exports" / "ranking.csv")
    assert "dmd2 · temperature=0.5" in set(ranking["variant"])


def test_runs_of_two_protocols_stay_apart(tmp_path):
    folders = [synthetic.write(tmp_path / name, failed=False) for name in "ab"]
    for folder, samples in zip(folders, (1000, 2000), strict=True):
        rules = json.dumps({"samples": samples, "k": 3})
        table = pd.read_parquet(folder / "results.parquet")
        table.assign(protocol=f"of {samples}", rules=rules).to_parquet(folder / "results.parquet")
    out = piflow_reports.build_many(folders)
    assert out == tmp_path / "report.html"
    parsed = Page(out.read_text("utf-8"))
    assert {"r0-run", "r1-run"} <= set(parsed.ids)
    assert "different protocols" in parsed.words
    assert "samples: 1000 and 2000" in parsed.words and "k: 3" not in parsed.words
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_importing_the_package_is_light():
    code = "import sys, piflow_reports; print({'pandas', 'plotly', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_distance_that_is_mostly_bias_is_warned_of(tmp_path):
    folder = synthetic.write(tmp_path, failed=False)
    assert "Few samples" not in built(folder).words
    table = pd.read_parquet(folder / "breakdown.parquet")
    table.loc[table.metric == "fd_infinity", "value"] *= 0.3
    table.to_parquet(folder / "breakdown.parquet")
    words = built(folder).words
    assert "Few samples" in words and "at n = 2,000" in words


def test_published_numbers_are_marks_where_the_question_is_theirs(tmp_path):
    folder = synthetic.write(tmp_path, failed=False)

    def marks():
        found = figures(built(folder)).items()
        return {k: t for k, f in found for t in f["data"] if t.get("meta") == "published:"}

    assert not marks(), "an imitation distance is no FID"
    table = pd.read_parquet(folder / "results.parquet")
    table["extractor"] = table["extractor"].replace("classifier", "inception")
    table.to_parquet(folder / "results.parquet")
    info = json.loads((folder / "run.json").read_text())
    info["primary"] |= {"question": "data", "extractor": "inception"}
    more = [("<b>iMF</b>", 2, "FID-50k", "1.70 to 1.76"), ("DiT", 500, "FID-50k", 2.27),
            ("X", 1, "FID-50k", "unknown"), ("Y", 1, "CLIP score", 0.3), ("Z", 1, "KID", 0.4),
            ("Z", 1, "CMMD", 0.5)]  # fmt: skip
    info["references"] += [
        {"method": m, "nfe": n, "metric": k, "value": v, "source": "s", "note": "t"}
        for m, n, k, v in more
    ]
    (folder / "run.json").write_text(json.dumps(info))
    (name, trace), *others = marks().items()
    assert name == "r0-nfe-fd" and not others
    # 500 evaluations are far outside the figure; a range stands at its middle.
    assert trace["x"] == [1, 2] and trace["y"] == pytest.approx([2.85, 1.73])
    assert "&lt;b&gt;iMF" in trace["text"][1] and "1.70 to 1.76" in trace["text"][1]


def test_numbers_of_other_programs_are_shown_marked_and_change_no_rank(tmp_path, capsys):
    folder = synthetic.write(tmp_path, failed=False)
    before = built(folder)
    name = list(synthetic.STUDENTS)[0]
    file = tmp_path / "oneig.csv"
    file.write_text(
        "variant,nfe,metric,value,scorer,note\n"
        f"{name},4,OneIG diversity,0.229,OneIG-Benchmark,<b>seeds 0 to 3</b>\n"
    )
    assert main(["report", str(folder), f"elsewhere={file}"]) == OK
    after = built(folder)
    assert "Scored elsewhere" in after.words and "Scored elsewhere" not in before.words
    assert (
        "OneIG diversity" in after.words and "<b>seeds" not in (folder / "report.html").read_text()
    )
    rankings = sorted((folder / "exports").glob("ranking*"))
    assert rankings and not any("OneIG" in f.read_text() for f in rankings)
    file.write_text(f"variant,nfe,metric,value\n{name},3,OneIG diversity,0.229\n")
    assert main(["report", str(folder), f"elsewhere={file}"]) == USER_ERROR
    assert f"{name} at 3 NFE: was sampled at 1, 4" in capsys.readouterr().err
    other = synthetic.write(tmp_path / "other", failed=False)
    assert main(["report", str(folder), str(other), f"elsewhere={file}"]) == USER_ERROR
    merged = merge([data.read(folder), data.read(other)]).info["elsewhere"]
    assert [one["variant"] for one in merged] == [f"{name} ({data.read(folder).name})"]


def test_published_numbers_are_of_the_same_extractor_and_definition():
    references = [
        {"metric": name, "value": "0.5", "nfe": 1}
        for name in ("FID", "sFID", "IS", "KID", "CMMD", "precision", "recall")
    ]
    for extractor, known in (
        ("inception", {"fd", "sfd", "is", "precision", "recall"}),
        ("inception-clean", set()), ("clip", {"cmmd"}), ("dinov2", set()), ("classifier", set()),
    ):  # fmt: skip
        primary = frames.Primary("data", "fd", "recall", extractor)
        names = ("fd", "sfd", "is", "kid", "kid_exact", "cmmd", "precision", "recall")
        assert {name for name in names if published.marks(references, primary, name)} == known
