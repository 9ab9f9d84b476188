"""Extractors and metrics that are files: in `evaluate`, its processes, an Evaluator, the verbs."""

import json

import numpy as np
import pytest

import piflow_bench
from piflow_bench.api import jackknife, mean_with_replicates
from piflow_bench.cli import main
from piflow_bench.commands.new import new_plugin
from piflow_bench.config.compose import compose
from piflow_bench.errors import OK, UserError
from piflow_bench.evaluation import extraction
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.metrics.metric import all_metrics, use_plugins
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.pipeline.launchers.local import run
from piflow_bench.pipeline.plan import make_plan, runtime_of
from piflow_bench.pipeline.plugin_sources import SourceChanged, unchanged_source
from piflow_bench.pipeline.stage import closure
from piflow_bench.pipeline.store.store import Store

ROWS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
ASKED = {"extractor": "look", "metrics": ["gap"], "cache": False}


@pytest.fixture
def folder(tmp_path):
    """A folder with an extractor and a metric."""
    new_plugin("extractor", "look", str(tmp_path))
    new_plugin("metric", "gap", str(tmp_path))
    yield str(tmp_path)
    use_plugins(())


def gap():
    x, y = (get(rows) for get in [means] for rows in (ROWS[:30], ROWS[30:]))
    return np.linalg.norm(x.mean(0) - y.mean(0))


def means(rows):
    """What the extractor of `new` gives of pictures of 8x8: each cell is one pixel."""
    colours = (rows / 255).transpose(0, 3, 1, 2).reshape(len(rows), -1)
    return np.concatenate([colours, np.zeros_like(colours)], 1)


def test_evaluate_takes_both_and_says_which_source(folder):
    table = piflow_bench.evaluate(ROWS[:30], ROWS[30:], plugins=folder, **ASKED)
    assert table["value"][0] == pytest.approx(gap(), rel=1e-5)
    assert table["ci_low"][0] < table["value"][0] < table["ci_high"][0]
    assert "; source " in table["extractor"][0]


def test_they_are_known_to_the_call_that_names_them_alone(folder):
    piflow_bench.evaluate(ROWS[:30], ROWS[30:], plugins=folder, **ASKED)
    with pytest.raises(UserError, match="metrics=gap: no such metric"):
        piflow_bench.evaluate(ROWS[:30], ROWS[30:], **ASKED)
    with pytest.raises(UserError, match="no extractor is called 'look'"):
        piflow_bench.evaluate(ROWS[:30], ROWS[30:], **{**ASKED, "metrics": ["fd"]})


def test_an_edit_is_another_extractor_and_another_metric(folder, tmp_path):
    def keys():
        use_plugins([folder])
        return get_extractor("look", folders=[folder]).key, all_metrics()["gap"].key

    first = keys()
    assert keys() == first
    for name in ("look", "gap"):
        with (tmp_path / f"{name}.py").open("a") as file:
            file.write("\n# edited\n")
    look, metric = keys()
    assert look != first[0] and metric != first[1]
    assert isinstance(all_metrics()["fd"].key, int)


def test_other_processes_load_the_extractor_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 16)  # What a process takes at once.
    np.savez(tmp_path / "rows.npz", ROWS)
    network = get_extractor("look", folders=[folder])
    images = open_images(str(tmp_path / "rows.npz"))
    alone = extract(images, network, None, batch=7)
    both = extract(images, network, None, batch=7, processes=2)
    assert np.array_equal(alone["features"], both["features"])
    assert np.allclose(alone["features"], means(ROWS), atol=1e-6)


def test_an_evaluator_keeps_its_plugins(folder):
    evaluator = piflow_bench.Evaluator(ROWS[30:], extractor="look", metrics=["gap"], plugins=folder)
    evaluator.update(ROWS[:30])
    piflow_bench.evaluate(ROWS[:30], ROWS[30:], extractor="look", metrics=["fd"], cache=False,
                          plugins=f"{folder}/look.py")  # fmt: skip
    assert evaluator.compute()["value"][0] == pytest.approx(gap(), rel=1e-5)


def test_the_verbs_know_them(folder, tmp_path, capsys):
    for name, rows in (("a", ROWS[:30]), ("b", ROWS[30:])):
        np.savez(tmp_path / f"{name}.npz", rows)
    plugins = f"plugins={folder}"
    asked = [f"samples={tmp_path}/a.npz", f"reference={tmp_path}/b.npz", "extractor=look"]
    out = tmp_path / "scores"
    assert main(["evaluate", *asked, "metrics=[gap]", plugins, f"out={out}", "cache=false"]) == OK
    (row,) = json.loads((out / "scores.json").read_text())
    assert row["value"] == pytest.approx(gap(), rel=1e-5)
    capsys.readouterr()
    assert main(["list", "metrics", "extractors", plugins]) == OK
    told = capsys.readouterr().out
    assert "Gap (generated, reference)" in told and "look" in told
    assert main(["show", "metric", "gap", plugins]) == OK
    told = capsys.readouterr().out
    assert "better: lower" in told and "range: 0 to inf" in told
    assert main(["show", "extractor", "look", plugins]) == OK
    assert "rule: 0 to 1, means of 8x8 cells" in capsys.readouterr().out


def experiment(folder, tmp_path, *settings):
    (config,) = compose(
        [
            "experiment=digits", "profile=smoke", "only=[teacher-heun]", f"plugins={folder}",
            "protocol.extractors=[look]", "protocol.metrics=[fd,recall,gap]",
            f"runs={tmp_path}/runs", *settings,
        ]
    )  # fmt: skip
    return config


def test_a_run_takes_both_in_processes_of_its_own(folder, tmp_path):
    config = experiment(folder, tmp_path)
    plan = make_plan(config)
    stage = next(s for s in plan.stages if s.kind == "metrics" and "gap" in s.task.versions)
    assert stage.task.versions["gap"] == all_metrics()["gap"].key
    assert isinstance(stage.task.versions["fd"], int)
    features = next(s for s in plan.stages if s.kind == "features")
    assert features.task.extractors["look"]["source"]
    store = Store(tmp_path / "store")
    store.prepare()
    use_plugins(())  # Whoever makes a stage knows them by itself.
    found = run(closure([stage]), store, runtime_of(config), "local", 1, 1)
    assert not found.failures
    rows = json.loads((store.path(stage) / "metrics.json").read_text())
    assert "gap" in json.dumps(rows)


def test_a_metric_that_was_edited_after_the_plan_makes_nothing(folder, tmp_path):
    config = experiment(folder, tmp_path)
    stage = next(s for s in make_plan(config).stages if s.kind == "metrics")
    with (tmp_path / "gap.py").open("a") as file:
        file.write("\n# edited\n")
    use_plugins([folder])
    with pytest.raises(SourceChanged, match="metric 'gap'"):
        unchanged_source(stage, runtime_of(config))


def test_choices_of_settings_are_those_of_the_call(folder, tmp_path):
    with pytest.raises(UserError, match="protocol.metrics=gapp: did you mean 'gap'"):
        experiment(folder, tmp_path, "protocol.metrics=[fd,recall,gapp]")
    with pytest.raises(UserError, match="protocol.metrics=gap"):
        compose(["experiment=digits", "protocol.metrics=[fd,recall,gap]"])


def test_the_jackknife_of_a_mean_is_that_of_means():
    random = np.random.default_rng(0)
    rows, blocks = random.normal(size=(40, 3)), np.arange(40) % 7
    found = jackknife(lambda x: float(x[:, 0].mean()), rows, blocks)
    quick = mean_with_replicates(rows[:, 0], blocks)
    assert found.value == pytest.approx(quick.value)
    assert found.replicates == pytest.approx(quick.replicates)
    assert len(jackknife(lambda x: 0.0, rows, np.zeros(40, int)).replicates) == 0


SCALED = """
from dataclasses import dataclass

from piflow_bench.api import Metric, jackknife, setting


@dataclass(frozen=True)
class Config:
    factor: float = setting(1.0, above=0)  # by which the mean is taken


def compute(inputs):
    factor = inputs.config("scaled").factor
    found = jackknife(lambda rows: factor * float(rows.mean()), inputs.generated, inputs.blocks)
    return {"scaled": (found.value, found.replicates)}


SCALED = Metric("scaled", "Scaled mean", None, "other", ("generated",), compute,
                Config=Config, meaning="The mean of all features, times a factor.")
"""


@pytest.fixture
def scaled(tmp_path):
    (tmp_path / "scaled.py").write_text(SCALED)
    yield str(tmp_path / "scaled.py")
    use_plugins(())


def test_a_metric_has_settings_of_its_own(scaled, tmp_path, capsys):
    asked = {"extractor": "digits-pixels", "metrics": ["scaled"], "cache": False, "plugins": scaled}
    plain = piflow_bench.evaluate(ROWS, **asked)
    twice = piflow_bench.evaluate(ROWS, **asked, scaled={"factor": 2})
    assert twice["value"][0] == pytest.approx(2 * plain["value"][0])
    assert json.loads(twice["rules"][0])["scaled.factor"] == 2.0
    assert twice["protocol_hash"][0] != plain["protocol_hash"][0]
    with pytest.raises(UserError, match="scaled.factor=-1"):
        piflow_bench.evaluate(ROWS, **asked, scaled={"factor": -1})
    with pytest.raises(UserError, match="scaled.facto: no such setting; did you mean 'factor'"):
        piflow_bench.evaluate(ROWS, **asked, scaled={"facto": 1})
    np.save(tmp_path / "x.npy", ROWS)
    given = [f"samples={tmp_path / 'x.npy'}", "extractor=digits-pixels", "metrics=[scaled]"]
    given += [f"plugins={scaled}", "cache=false", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", *given, "scaled.factor=2"]) == OK
    (row,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert row["value"] == twice["value"][0]
    assert main(["show", "metric", "scaled", f"plugins={scaled}"]) == OK
    shown = capsys.readouterr().out
    assert "protocol.settings.scaled.KEY=VALUE" in shown and "by which the mean is taken" in shown
    assert main(["check", "metric", "scaled", f"plugins={scaled}", "scaled.factor=3"]) == OK


def test_a_run_gives_a_metric_its_settings(scaled):
    more = ["protocol.metrics=[fd,recall,scaled]", f"plugins={scaled}"]
    smoke = ["profile=smoke", "only=[teacher-euler]", "nfes=[1]", *more]
    plans = [make_plan(compose([*smoke, *own])[0]) for own in
             ([], ["protocol.settings.scaled.factor=2"])]  # fmt: skip
    assert plans[1].rules["scaled.factor"] == 2.0
    assert plans[0].protocol_hash != plans[1].protocol_hash
    with pytest.raises(UserError, match=r"protocol.settings.scaled.factor=0: must be above 0"):
        make_plan(compose([*smoke, "protocol.settings.scaled.factor=0"])[0])
