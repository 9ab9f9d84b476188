"""`tune` from the command line: killed and called again, to the bit; read by the experiment."""

import pandas as pd
import pytest
import yaml
from piflow_reports import results_page, summary
from piflow_reports.export import tables as export
from piflow_reports.sections.trials import rows

import piflow_bench
from piflow_bench.config.tuned import read_tuned
from piflow_bench.errors import UserError
from tests.pipeline.forked import Forked
from tests.pipeline.harness import alive, call, children, places, wait_until
from tests.reports import synthetic

SETTINGS = ("experiment=digits", "profile=smoke", "only=[kd,meanflow]", "trials=3")
NAME = "digits-smoke_tuning"


def tune(folder, *settings):
    done = call("tune", *SETTINGS, *settings, *places(folder), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(folder, "launcher=debug")


def chosen(folder):
    text = (folder / "runs" / NAME / "tuned.yaml").read_text()
    return text[text.index("variants:") :]  # Not the command.


def test_the_best_trial_of_each_is_written_and_printed(tuned):
    folder, done = tuned
    table = pd.read_parquet(folder / "runs" / NAME / "results.parquet")
    rows = table[(table.metric == "fd") & (table.question == "imitation")]
    found = read_tuned(str(folder / "runs" / NAME)).variants
    assert set(found) == {"kd", "meanflow"}
    for name, entry in found.items():
        own = rows[rows.variant.str.startswith(f"{name}-t")].set_index("variant").value
        best = str(own.idxmin())
        assert len(own) == 3 and "best of 3 trials of " in entry.tuning
        assert f"at 1 NFE ({NAME}: {best}" in entry.tuning
    assert set(found["meanflow"].settings) in (set(), {
        "lr", "time_law", "end_mean", "instant_share", "power", "jvp"})  # fmt: skip
    assert done.stdout.strip().endswith("tuned.yaml") and "told apart" not in done.stdout


def test_the_experiment_reads_them(tuned):
    folder, _ = tuned
    path = folder / "runs" / NAME / "tuned.yaml"
    shown = call("show", "experiment=digits", f"tuned={path}", cwd=folder).stdout
    entries = yaml.safe_load(shown[shown.index("variants:") :].split("\n\n")[0])["variants"]
    for name, entry in read_tuned(str(path)).variants.items():
        assert entries[name]["settings"].items() >= entry.settings.items()
        assert entries[name]["tuning"] == entry.tuning


def test_the_page_has_the_choice_and_a_figure_for_every_setting(tuned):
    folder, _ = tuned
    page = (folder / "runs" / NAME / "report.html").read_text()
    assert "What the trials chose" in page and "Verdict at 1 NFE" not in page
    for title in ("kd: lr", "kd: pair_share", "meanflow: power", "meanflow: jvp"):
        assert f">{title}<" in page, title
    found = summary.read(folder / "runs" / NAME)
    assert found.trials and not found.verdicts
    assert piflow_bench.open(folder / "runs" / NAME).verdicts == []


def test_its_kept_page_says_what_was_chosen(tuned, tmp_path):
    run = tuned[0] / "runs" / NAME
    results_page.keep(run, tmp_path, "trials")
    (tmp_path / "trials" / "seen.md").write_text("What was learnt.\n")
    (text,) = results_page.pages(tmp_path).values()
    for found in rows(summary.read(run).trials):
        line = next(line for line in text.splitlines() if line.startswith(f"| {found.variant} |"))
        assert line.endswith(f"| {export.md(found.settings)} |") and f"| {found.best} |" in line
    assert "results never use" in text and "imitation" in text and "tune experiment=" in text
    assert text.endswith("What was learnt.\n") and "Declared" not in text
    synthetic.write(tmp_path / "trials" / "a run", 1)
    with pytest.raises(UserError, match="trials beside results"):
        results_page.pages(tmp_path)


def test_killed_it_goes_on_and_chooses_the_same_to_the_bit(tuned, tmp_path):
    arguments = ("tune", *SETTINGS, "launcher.workers=1", *places(tmp_path))
    process = Forked(arguments, tmp_path)
    made = tmp_path / "store" / "artifacts"
    wait_until(lambda: len(list(made.glob("distill-*"))) >= 2, 240)
    family = children(process.pid)
    process.kill()
    process.wait()
    # A worker notices a little later, and may end a stage until then.
    assert wait_until(lambda: not any(alive(p) for p in family), 60)
    assert not (tmp_path / "runs" / NAME / "tuned.yaml").exists()
    before = {path.name for path in made.iterdir()}
    assert 2 <= sum(name.startswith("distill-") for name in before) < 6
    done = tune(tmp_path, "launcher=debug")
    assert f"{len(before)} found in the store" in done.stdout
    assert chosen(tuned[0]) == chosen(tmp_path)


def test_called_again_it_computes_nothing(tuned):
    folder, _ = tuned
    assert "0 stages computed" in tune(folder, "launcher=debug").stdout


def test_more_trials_go_on_with_those_there_are(tuned):
    folder, _ = tuned
    done = call("tune", *SETTINGS[:2], "only=[kd]", "trials=4", "--plan", *places(folder),
                cwd=folder)  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if "distill" in line)
    assert [int(n) for n in line.replace("│", " ").split()[1:4]] == [4, 3, 1]


def test_status_speaks_of_trials(tuned):
    folder, _ = tuned
    done = call("status", *SETTINGS, *places(folder), cwd=folder)
    assert done.returncode == 0 and NAME in done.stdout


def test_a_trial_that_fails_is_none_that_is_chosen(tmp_path):
    settings = ("tune", "experiment=digits", "profile=smoke", "only=[kd]", "trials=3",
                "search.lr=[1e28,1e30]", "launcher=debug")  # fmt: skip
    done = call(*settings, *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 3
    entry = read_tuned(str(tmp_path / "runs" / NAME)).variants["kd"]
    assert entry.settings == {} and "the published recipe" in entry.tuning
    assert "1 of 3" in (tmp_path / "runs" / NAME / "report.html").read_text()
