"""Runs from Python: the same results, students that give the run's own samples, exports."""

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import piflow_bench
from piflow_bench.data.digits import ASSETS
from piflow_bench.errors import UserError
from piflow_bench.files.weights import read_weights
from piflow_bench.runs.start import _flat

VARIANTS = ("kd", "meanflow", "piflow-gm8", "dmd2", "teacher-euler")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return piflow_bench.run(
        "digits", "protocol.extractors=[digits]", "launcher=debug", profile="smoke",
        only=VARIANTS, runs=folder, nfes=[1, 4], budget={"checkpoints": [1.0]},
    )  # fmt: skip


def test_settings_are_written_as_the_command_line_takes_them(tmp_path):
    named = {
        "nfes": (1, 4), "budget": {"amount": 60.5, "checkpoints": [0.5, 1.0]}, "aa": True,
        "student": {"checkpoint": tmp_path}, "title": "it's {a}, b", "only": None,
        "store": None, "references": [{"nfe": 1, "method": "x"}],
    }  # fmt: skip
    assert list(_flat(named)) == [
        "nfes=[1,4]", "budget.amount=60.5", "budget.checkpoints=[0.5,1.0]", "aa=true",
        f"student.checkpoint={tmp_path}", "title='it\\'s {a}, b'", "only=null",
        "references=[{nfe:1,method:'x'}]",
    ]  # fmt: skip


def test_results_table_and_verdicts_are_the_runs(run):
    rows = run.results
    assert set(VARIANTS) <= set(rows["variant"])
    table = run.table
    final = rows[(rows["budget_fraction"] == 1) & (rows["metric"] == "fd")]
    final = final[(final["question"] == "imitation") & (final["variant"] == "kd")]
    shown = table[(table["variant"] == "kd") & (table["group"] == "Distilled")]
    np.testing.assert_array_equal(shown.sort_values("NFE")["FD"], final.sort_values("nfe")["value"])
    students = table[(table["group"] == "Distilled") & (table["NFE"] == 1)]
    assert students["FD"].is_monotonic_increasing
    page = " ".join(re.sub(r"<[^>]+>", "", html.unescape(run.report().read_text())).split())
    assert run.verdicts and all(text in page for text in run.verdicts)
    assert "<table" in run._repr_html_()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("nfe", [1, 4])
def test_a_student_gives_the_runs_samples_to_the_last_bit(variant, nfe, run):
    seen = run.samples(variant, nfe)
    again = run.student(variant, nfe)(run.config.sample_seed, n=len(seen))
    assert again.numpy().tobytes() == seen.tobytes()
    assert run.images(seen).shape == (len(seen), 8, 8, 1)
    assert (run.images(again) == run.images(seen)).all()  # A tensor.


def test_a_student_is_called_on_noise_and_labels(run):
    student = run.student("kd", 1)
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    threes = student(noise, labels=[3] * 6)
    assert threes.shape == noise.shape and not torch.equal(threes, student(noise, labels=[4] * 6))
    assert torch.equal(threes, student(noise, labels=torch.full((6,), 3)))
    # Labels are by index; the batch changes rounding alone.
    torch.testing.assert_close(student(noise)[:2], student(noise[:2]))
    assert not torch.equal(student(0, n=4), student(1, n=4))


def test_an_exported_student_is_scored_without_training(run, tmp_path):
    folder = run.export("kd", tmp_path / "kd", nfe=4, pictures=5)
    images = sorted((folder / "samples").iterdir())
    assert len(images) == 5
    np.testing.assert_array_equal(
        np.asarray(Image.open(images[2])), run.images(run.samples("kd", 4))[2, ..., 0]
    )
    scored = piflow_bench.run(
        "digits", "launcher=debug", profile="smoke", only=["kd"], nfes=[4], runs=tmp_path / "runs",
        student={"checkpoint": folder}, store=run.folder.parent / "store",
        protocol={"extractors": ["digits"]},
    )  # fmt: skip
    np.testing.assert_array_equal(scored.samples("kd", 4), run.samples("kd", 4))
    assert scored.results["train_tfe"].max() == 0 or scored.results["train_tfe"].isna().any()


def test_a_student_is_exported_in_half_the_size(run, tmp_path):
    whole = run.export("kd", tmp_path / "whole", nfe=4, pictures=1)
    half = run.export("kd", tmp_path / "half", nfe=4, pictures=1, half=True)
    name = "diffusion_pytorch_model.safetensors"
    sizes = [(folder / name).stat().st_size for folder in (whole, half)]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    first, second = (read_weights(folder).state for folder in (whole, half))
    assert all(torch.equal(second[k], first[k].half()) for k in first)


def test_a_run_is_opened_from_anywhere(run, tmp_path, monkeypatch):
    seen = run.samples("kd", 1)
    monkeypatch.chdir(run.folder)
    for path in (".", run.folder.parent / "digits-smoke", "../digits-smoke"):
        again = piflow_bench.open(path)
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(again.samples("kd", 1), seen)
        monkeypatch.chdir(run.folder)


def test_files_of_extractors_are_found_where_the_run_was_called(tmp_path, monkeypatch):
    shutil.copyfile(ASSETS / "digits_classifier.safetensors", tmp_path / "eye.safetensors")
    monkeypatch.chdir(tmp_path)
    found = piflow_bench.run(
        "digits", "extractors.digits.weights=eye.safetensors", "launcher=debug", profile="smoke",
        only=["teacher-euler"], nfes=[1], runs="runs", protocol={"extractors": ["digits"]},
    )  # fmt: skip
    seen = found.samples("teacher-euler", 1)
    monkeypatch.chdir("/")
    again = piflow_bench.open(found.folder)
    np.testing.assert_array_equal(again.samples("teacher-euler", 1), seen)


def test_one_of_several_ways_of_sampling_is_named(tmp_path):
    warm = piflow_bench.run(
        "digits", "variants.piflow-gm8.sampling.temperature=[0.5,1.0]", "launcher=debug",
        profile="smoke", only=["piflow-gm8"], nfes=[1], runs=tmp_path,
        protocol={"extractors": ["digits"]},
    )  # fmt: skip
    with pytest.raises(UserError, match="sampled in several ways"):
        warm.student("piflow-gm8", 1)
    cold = "temperature=0.5"
    drawn = warm.student("piflow-gm8", 1, sampler=cold)(0, n=60)
    np.testing.assert_array_equal(drawn, warm.samples("piflow-gm8", 1, sampler=cold))
    assert warm.export("piflow-gm8", tmp_path / "out", sampler=cold, pictures=1).is_dir()
    for stage in (tmp_path / "store" / "artifacts").glob("distill-*"):
        stage.rename(stage.with_name(f"gone-{stage.name}"))
    for call in (
        lambda: warm.student("piflow-gm8", 1, sampler=cold)(0),
        lambda: warm.export("piflow-gm8", tmp_path / "none", sampler=cold),
    ):
        with pytest.raises(UserError, match="not in the store .*; run it again"):
            call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: r.student("kdd", 1), "kdd: no such variant of this run; did you mean 'kd'?"),
        (lambda r: r.samples("kd", 2), "kd at 2 NFE: was run at 1, 4"),
        (lambda r: r.samples("kd", 1, train_seed=7), "kd: train_seed=7; has 0"),
        (lambda r: r.export("teacher-euler", "x"), "trains nothing"),
        (lambda r: piflow_bench.open(r.folder.parent), "no results.parquet"),
        (lambda r: piflow_bench.run("analytic"), "is several runs (analytic_mixture2d"),
        (lambda r: piflow_bench.run("digits", nfes=[0]), "nfes=0: must be at least 1"),
        (lambda r: piflow_bench.run("digitz"), "did you mean 'digits'?"),
    ],
)
def test_mistakes_are_one_line(call, words, run):
    with pytest.raises(UserError) as told:
        call(run)
    assert words in str(told.value) and "\n" not in str(told.value)


SCRIPT = """
import piflow_bench
run = piflow_bench.run("digits", profile="smoke", only=["kd"], nfes=[1], runs="runs")
print("rows", len(run.results), piflow_bench.open("runs/digits-smoke").samples("kd", 1).shape)
"""


@pytest.mark.parametrize("how", ["script", pytest.param("-c", marks=pytest.mark.thorough)])
def test_a_script_without_a_main_guard(how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = ["-c", SCRIPT] if how == "-c" else ["script.py"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "(60, 1, 8, 8)" in done.stdout and "stages computed" in done.stdout


def test_names_are_offered_and_imported_when_asked_for():
    assert {"run", "open", "Run", "evaluate", "evaluate_features", "Evaluator"} <= set(
        dir(piflow_bench)
    )
    code = "import piflow_bench, sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="no attribute .nothing."):
        _ = piflow_bench.nothing


@pytest.mark.parametrize("nfe", [1, 4])
def test_evaluate_of_a_runs_samples_gives_the_runs_numbers(nfe, run, tmp_path):
    rows = run.results
    rows = rows[(rows["variant"] == "kd") & (rows["nfe"] == nfe) & (rows["budget_fraction"] == 1)]
    rows = rows[(rows["question"] == "imitation") & (rows["extractor"] == "digits")]
    rows = rows.set_index("metric")
    store = run.folder.parent / "store" / "artifacts"

    def inputs(name, of):
        """The artifacts that one was made from."""
        record = json.loads((store / name / "artifact.json").read_text())
        return record["inputs"][of]

    measured = f"metrics-{rows.loc['fd', 'artifact'][:20]}"
    folders = {}
    for side in ("generated", "reference"):
        folders[side] = tmp_path / side
        folders[side].mkdir()
        for features in inputs(measured, side):
            (samples,) = inputs(features, "samples")
            (folders[side] / samples).symlink_to(store / samples)
    names = ["fd", "vendi", "precision", "recall"]  # The classes are not in the samples' record.
    found = piflow_bench.evaluate(
        folders["generated"], folders["reference"], "digits", metrics=names,
        n=int(rows.loc["fd", "n"]), cache=tmp_path / "cache",
    )  # fmt: skip
    found = found.set_index("metric")
    for name in names:
        assert found.loc[name, "value"] == pytest.approx(rows.loc[name, "value"], rel=1e-6), name
