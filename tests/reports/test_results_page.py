"""Pages of kept results: a run's, and one of the parts of a long experiment."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from piflow_reports import results_page, summary
from piflow_reports.data import read, series
from piflow_reports.sections.trials import trials_of

from piflow_bench import registry
from piflow_bench.config.compose import compose
from piflow_bench.errors import UserError
from piflow_bench.settings import build_dataclass
from tests.reports import synthetic

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def named(folder, name, keep=None):
    """A finished run called ``name``, with the students ``keep`` alone."""
    info = json.loads((folder / "run.json").read_text())
    info |= {"name": name, "command": f"python -m piflow_bench run name={name}"}
    (folder / "run.json").write_text(json.dumps(info))
    if keep is not None:
        table = pd.read_parquet(folder / "results.parquet")
        kept = (table["role"] != "student") | table["variant"].isin(keep)
        table[kept].to_parquet(folder / "results.parquet")
    return folder


@pytest.fixture
def whole(tmp_path):
    return named(synthetic.write(tmp_path / "runs" / "whole", seeds=5), "whole")


@pytest.fixture
def parts(whole, tmp_path):
    students = list(synthetic.STUDENTS)
    halves = {"first": students[:1], "second": students[1:]}
    return [
        named(shutil.copytree(whole, tmp_path / "runs" / name), name, keep)
        for name, keep in halves.items()
    ]


def test_parts_that_are_kept_together_say_what_the_whole_says(whole, parts, tmp_path):
    kept = tmp_path / "kept"
    results_page.keep(whole, kept)
    for part in parts:
        results_page.keep(part, kept, "joined")
    assert {p.name for p in (kept / "joined").iterdir()} == {"first", "second"}
    texts = {path.name: text for path, text in results_page.pages(kept).items()}
    assert set(texts) == {"whole.md", "joined.md"}
    said = [text.partition("Declared")[2] for text in texts.values()]
    assert said[0] == said[1] and "| ---" in said[0]
    assert "name=first\npython -m piflow_bench run name=second" in texts["joined.md"]


def test_a_page_of_one_run_is_as_its_summary(whole, tmp_path):
    results_page.keep(whole, tmp_path / "kept")
    (text,) = results_page.pages(tmp_path / "kept").values()
    found = summary.of(read.read(whole))
    assert all(sentence in text for nfe in found.nfes for sentence in found.sentences(nfe))


def test_what_is_kept_tells_how_the_order_changes_with_the_budget(whole, tmp_path):
    table = pd.read_parquet(whole / "results.parquet")
    results_page.keep(whole, tmp_path / "kept")
    kept = pd.read_parquet(tmp_path / "kept" / "whole" / "results.parquet")
    primary = series.primary(json.loads((whole / "run.json").read_text()), table)
    before = kept[kept["budget_fraction"] < 1]
    assert set(before["metric"]) == {primary.quality, primary.diversity}
    assert set(before["question"]) == {primary.question}
    assert set(before["extractor"]) == {primary.extractor}
    assert len(kept) - len(before) == len(series.final(table)), "and all of the whole budget"
    (text,) = results_page.pages(tmp_path / "kept").values()
    assert "| budgets in TFE and in updates | FD" in text


def test_parts_of_other_rules_have_no_page(parts, tmp_path):
    table = pd.read_parquet(parts[1] / "results.parquet")
    table.assign(protocol="other").to_parquet(parts[1] / "results.parquet")
    for part in parts:
        results_page.keep(part, tmp_path / "kept", "joined")
    with pytest.raises(UserError, match="joined: parts of other rules"):
        results_page.pages(tmp_path / "kept")


def test_each_familys_entry_is_the_best_of_its_trials():
    """By the trials at its count; of students of all counts by ``digits_entries``, of that seed."""
    (config,) = compose(["experiment=digits_full"])
    found = {}
    for path in (RESULTS / "digits_trials").glob("*/results.parquet"):
        trials = trials_of(read.read_all([path.parent])[0])
        assert trials is not None and not trials.higher
        for own in trials.trials.values():
            for trial in own:
                found |= {(trials.name, trial.name, nfe): v for nfe, v in trial.values.items()}
    table = pd.read_parquet(RESULTS / "digits_entries" / "results.parquet")
    table = table[(table["metric"] == "fd") & (table["role"] == "student")]
    elastic = dict(zip(zip(table["variant"], table["nfe"], strict=True), table["value"],
                       strict=True))  # fmt: skip
    families = {}
    for name, variant in config.variants.items():
        method = registry.get("method", variant.method)
        facts = method(build_dataclass(method.Config, variant.settings, name)).facts_for()
        if facts.trains and facts.track == "distilled":
            values = families.setdefault(facts.family.split(",")[0], {})
            if facts.elastic:
                values |= {(nfe, name): elastic[name, nfe] for nfe in config.nfes}
            else:
                cited = re.findall(r"at (\d) NFE \((\w+): ([\w-]+)[,)]", variant.tuning)
                assert {int(nfe) for nfe, *_ in cited} == set(variant.nfes or config.nfes), name
                values |= {(int(n), name): found[run, trial, int(n)] for n, run, trial in cited}
    assert len(families) == 6
    for nfe in config.nfes:
        best = []
        for values in families.values():
            here = {name: value for (n, name), value in values.items() if n == nfe}
            best.append(min(here, key=here.get))
        assert sorted(config.family.entries[str(nfe)]) == sorted(best)
