"""A folder of results holds one configuration, which may grow; nothing else is overwritten."""

import json
import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.config.schema import to_plain
from piflow_bench.pipeline import live, run_folder, runner
from piflow_bench.pipeline.run_folder import differences, settled
from piflow_bench.pipeline.runner import store_of
from piflow_bench.pipeline.store.uses import RUN, uses
from tests.pipeline import harness

GROWN = [
    [],
    ["add=[teacher]"],
    ["variants.mine.method=kd"],
    ["nfes=[1,2,4]"],
    ["train_seeds=[0,1]"],
    ["protocol.metrics=[fd,precision,recall,kid]"],
    ["protocol.questions=[imitation,data]"],
    ["protocol.extractors=[digits,digits-pixels]"],
    ["aa=true"],
    ["family.leader=null"],
    ["protocol.primary_quality=recall"],
    ["title=other", "question=other"],
    ["launcher=debug", "launcher.workers=1", "sample_batch=7", "save_seconds=3"],
    ["runs=x", "store=x"],
    ["name=other"],
    ["variants.kd.tuning=none"],
    [f"plugins={Path(piflow_bench.__file__).parents[1]}/tests/plugins/spaces"],
    ["only=[kd,dmd2,teacher-euler]"],
]  # fmt: skip
BASE = [
    "only=[kd,teacher-euler]", "protocol.metrics=[fd,recall]", "protocol.questions=[imitation]",
    "protocol.extractors=[digits]", "variants.kd.settings={lr: 0.002}",
]  # fmt: skip
OTHER = {
    "only=[kd]": ("here only kd", "only-kd"),
    "only=[kd,dmd2]": ("here only kd, dmd2", "only-kd-dmd2"),
    "variants.kd.settings.lr=0.003": (
        "variants.kd.settings.lr: there 0.002, here 0.003",
        "kd.lr-0.003",
    ),
    "variants.kd.settings.beta1=0.3": ("there default, here 0.3", "kd.beta1-0.3"),
    "variants.kd.method=dmd2": ("variants.kd.method: there kd, here dmd2", "kd.method-dmd2"),
    "variants.kd.training.batch=8": (
        "training.batch: there default, here 8",
        "kd.training.batch-8",
    ),
    "variants.kd.seed_offset=5": ("there 0, here 5", "kd.seed_offset-5"),
    "variants.kd.nfes=[4]": ("variants.kd.nfes: there [1, 4], here [4]", "kd.nfes-4"),
    "nfes=[1]": ("nfes: there [1, 4], here [1]", "nfes-1"),
    "train_seeds=[1]": ("train_seeds: there [0], here [1]", "train_seeds-1"),
    "sample_seed=3": ("sample_seed: there 0, here 3", "sample_seed-3"),
    "budget.amount=10": ("budget.amount: there 3000.0, here 10.0", "budget.amount-10.0"),
    "budget.checkpoints=[0.5,1.0]": ("there [0.125, 0.25, 0.5, 1.0]", ""),
    "training.batch=32": ("training.batch: there 64, here 32", "training.batch-32"),
    "protocol.metrics=[fd,precision]": ("protocol.metrics", ""),
    "protocol.samples=100": ("protocol.samples: there 2000, here 100", "protocol.samples-100"),
    "protocol.settings.k=4": ("protocol.settings.k: there", ""),
    "teacher.guidance=2.0": ("teacher.guidance: there", ""),
    "teacher.checkpoint=other.safetensors": ("there default, here other.safetensors", ""),
    "split_budget=false": ("split_budget: there true, here false", "split_budget-false"),
}


@cache
def written(*settings):
    (config,) = compose([*BASE, *settings])
    return json.dumps(to_plain(config))


def plain(*settings):
    return json.loads(written(*settings))


@pytest.mark.parametrize("settings", GROWN, ids=" ".join)
def test_what_grows_or_says_other_words_goes_on(settings):
    assert differences(plain(), plain(*settings)) == []


@pytest.mark.parametrize("setting", OTHER)
def test_what_would_lose_rows_is_named(setting):
    found = differences(plain(), plain(setting))
    words, name = OTHER[setting]
    assert words in "; ".join(d.words for d in found)
    assert not name or [d.name for d in found] == [name]
    assert not differences(plain(setting), plain(setting))


def test_what_a_variant_was_dropped_from_is_said_the_short_way():
    (found,) = differences(plain("variants.mine.method=kd", "only=null"), plain("only=null"))
    assert found.words == "here without mine" and found.name == "without-mine"


def test_a_file_that_was_moved_is_the_same_file(tmp_path):
    one, two, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c"))
    for path, text in ((one, "x"), (two, "x"), (other, "y")):
        path.write_text(text)
    for key in ("teacher.checkpoint", "extractors.digits.weights", "student.checkpoint"):
        before = plain(f"{key}={one}")
        assert differences(before, plain(f"{key}={two}")) == []
        assert len(differences(before, plain(f"{key}={other}"))) == 1


def test_settings_that_an_older_version_had_not_say_nothing():
    old = plain()
    del old["split_budget"], old["protocol"]["agreement"]
    old["gone"] = 3
    assert differences(old, plain()) == []


TINY = [
    "profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]", "launcher=debug",
    "protocol.extractors=[digits]", "protocol.questions=[imitation]",
    "protocol.metrics=[fd,recall]", "budget.amount=20", "title='x'",
]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIFLOW_BENCH_STORE", raising=False)

    def run(*settings, verb="run"):
        assert main([verb, *TINY, *settings]) == 0
        out = capsys.readouterr().out
        return out, tmp_path / out.strip().splitlines()[-1]

    return run


def lrs(folder):
    table = pd.read_parquet(folder / "results.parquet")
    assert set(table["run"]) == {folder.name}
    text = piflow_bench.open(folder).config.variants["kd"].settings["lr"]
    return text, set(table["variant"]) - {"teacher-converged"}


@pytest.mark.slow
def test_one_who_tries_rates_has_them_all(call, tmp_path):
    slow, fast = "variants.kd.settings.lr=1e-3", "variants.kd.settings.lr=3e-3"
    out, page = call(slow)
    first = page.parent
    assert first.name == "digits-smoke" and "keeps" not in out
    kept = (first / "results.parquet").read_bytes()
    out, page = call("--plan", fast)
    assert "runs/digits-smoke keeps the results of other settings" in out
    out, page = call(fast)
    second = page.parent
    assert second.name == "digits-smoke-kd.lr-0.003"
    line = next(text for text in out.splitlines() if "keeps" in text)
    assert "variants.kd.settings.lr: there 0.001, here 0.003" in line and str(second.name) in line
    assert (first / "results.parquet").read_bytes() == kept
    assert lrs(first)[0] == 1e-3 and lrs(second)[0] == 3e-3
    # Each is found again, and nothing is computed.
    for setting, folder in ((slow, first), (fast, second)):
        out, page = call(setting)
        assert page.parent == folder and "0 stages computed" in out
    # Growing goes on where it was; the store knows what each of them uses.
    out, page = call(
        fast, "only=[kd,teacher-euler,teacher-dpmpp]", "variants.teacher-dpmpp.nfes=[1]"
    )
    assert page.parent == second and "teacher-dpmpp" in lrs(second)[1]
    out, page = call(fast)  # What has grown is not cut.
    third = "digits-smoke-kd.lr-0.003-without-teacher-dpmpp"
    assert page.parent.name == third and "here without teacher-dpmpp" in out
    store = store_of(compose(TINY)[0])
    known = uses(store)
    assert {use.run.name for use in known if use.is_there} == {
        p.name for p in (tmp_path / "runs").glob("dig*")
    }
    python = piflow_bench.run("digits", *TINY, fast)
    assert python.folder.name == third


def test_a_smoke_run_has_a_name_of_its_own(tmp_path, monkeypatch):
    names = {
        (): "digits",
        ("profile=smoke",): "digits-smoke",
        ("profile=smoke", "name=mine"): "mine",
        ("experiment=digits_full", "profile=smoke"): "digits_full-smoke",
    }
    for settings, name in names.items():
        assert [c.name for c in compose(settings)] == [name]
    assert [c.name for c in compose(["experiment=analytic", "profile=smoke"])] == [
        "analytic_mixture2d-smoke", "analytic_checkerboard2d-smoke",
    ]  # fmt: skip
    (tmp_path / f"{'x' * 64}.yaml").write_text("defaults: [digits]\n")
    (config,) = compose([f"experiment={tmp_path}/{'x' * 64}.yaml", "profile=smoke"])
    assert config.name == f"{'x' * 58}-smoke"


def fill(folder, *settings):
    """A folder of results of these settings, as far as they are looked at."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.parquet").touch()
    config = yaml.safe_dump(plain(*settings))
    (folder / RUN).write_text(json.dumps({"config": config, "settings": "x"}))


@pytest.fixture
def named(tmp_path):
    def settle(*settings):
        (config,) = compose([*BASE, f"runs={tmp_path}", *settings])
        return settled(config)

    return settle


@pytest.mark.slow
def test_where_results_go(named, tmp_path):
    assert named("sample_seed=3")[0].name == "digits"
    fill(tmp_path / "digits")
    assert named()[1] == "" and named("nfes=[1,2,4]")[0].name == "digits"
    assert named("sample_seed=3")[0].name == "digits-sample_seed-3"
    fill(tmp_path / "digits-sample_seed-3", "sample_seed=3", "budget.amount=9")
    assert named("sample_seed=3")[0].name == "digits-sample_seed-3-budget.amount-3000.0"
    several = ["sample_seed=4", "budget.amount=9", "training.batch=3", "training.warmup=2"]
    config, words = named(*several)
    assert config.name == "digits-2" and words.count(": there") == 3 and "and 1 more" in words
    fill(tmp_path / "digits-2", *several)
    assert named(*several)[0].name == "digits-2"
    assert named(*several, "shard=9")[0].name == "digits-2-shard-9"
    others = ["sample_seed=5", "budget.amount=7", "training.batch=5", "training.warmup=3"]
    assert named(*others)[0].name == "digits-3"
    assert named("sample_seed=3", "name=mine")[0].name == "mine"
    shutil.rmtree(tmp_path / "digits")
    assert named("sample_seed=3")[0].name == "digits"


def test_what_failed_has_nothing_to_lose(named, tmp_path):
    fill(tmp_path / "digits")
    rows = {"variant": ["kd", "kd", "teacher-euler"], "status": ["failed", "failed", "ok"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "digits" / "results.parquet")
    assert named("variants.kd.settings.lr=3e-3")[0].name == "digits"
    assert named("only=[teacher-euler]")[0].name == "digits"
    assert named("variants.teacher-euler.settings.solver=heun")[0].name != "digits"
    pd.DataFrame({**rows, "status": ["failed", "ok", "ok"]}).to_parquet(
        tmp_path / "digits" / "results.parquet"
    )
    assert named("variants.kd.settings.lr=3e-3")[0].name == "digits-kd.lr-0.003"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"config": 3}', '{"config": "a: ["}', '{"config": "variants: 3"}']
)
def test_a_folder_that_cannot_be_read_is_made_again(content, named, tmp_path):
    fill(tmp_path / "digits")
    (tmp_path / "digits" / RUN).write_text(content)
    assert named("sample_seed=3")[0].name == "digits"
    assert run_folder.held(tmp_path / "digits") == []


def test_a_run_that_goes_on_is_left_alone(named, tmp_path):
    (tmp_path / "digits").mkdir()
    (config,) = compose([*BASE, "sample_seed=1"])
    with live.told(tmp_path / "digits", config, store_of(config), "command"):
        assert named("sample_seed=1")[0].name == "digits"
        assert named("sample_seed=2")[0].name == "digits-sample_seed-2"
    assert named("sample_seed=2")[0].name == "digits"


def test_whoever_ends_later_with_fewer_variants_leaves_the_results_of_more(tmp_path, monkeypatch):
    small = (
        "profile=smoke",
        "nfes=[4]",
        "protocol.extractors=[digits-pixels]",
        *harness.places(tmp_path),
    )
    one, two = "only=[teacher-euler]", "only=[teacher-euler,teacher-dpmpp]"
    launch = runner._launch

    def overtaken(*arguments):
        made = launch(*arguments)
        monkeypatch.setattr(runner, "_launch", launch)
        assert harness.call("run", two, *small, cwd=tmp_path).returncode == 0
        return made

    monkeypatch.setattr(runner, "_launch", overtaken)
    done = harness.call("run", one, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "runs" / "digits-smoke"
    assert {"teacher-euler", "teacher-dpmpp"} <= set(variants(kept))
    assert f"{kept} keeps the results of other settings (here" in done.stdout + done.stderr
    (beside,) = (
        p.parent for p in (tmp_path / "runs").glob("*/results.parquet") if p.parent != kept
    )
    assert "teacher-dpmpp" not in variants(beside) and f"{beside}/report.html" in done.stdout


def variants(folder):
    return list(pd.read_parquet(folder / "results.parquet")["variant"].unique())
