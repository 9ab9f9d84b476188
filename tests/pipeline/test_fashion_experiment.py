"""The experiment on Fashion-MNIST: what it ships, its parts, and a whole smoke run of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import piflow_experiments
import pytest
import torch

from piflow_bench.config.compose import compose
from piflow_bench.files.weights import read_state
from piflow_bench.pipeline.plan import make_plan, runtime_of
from tests.pipeline.harness import call, forget

DATA = Path("/usr/share/datasets/fashion-mnist")
WEIGHTS = Path(piflow_experiments.__file__).parent / "weights"
PARTS = {
    "fashion_teachers": "[teacher-euler,teacher-dpmpp,teacher-unipc,teacher-dpmpp-guided]",
    "fashion_piflow": "[piflow-gm8,piflow-gm8-split]",
    "fashion_meanflow": "[meanflow]",
    "fashion_dmd2": "[dmd2,dmd2-split]",
    "fashion_kd": "[kd,kd-split]",
    "fashion_elastic": "[ect,imm]",
    "fashion_f_distill": "[f-distill-kl,f-distill-kl-split]",
    "fashion_ladd": "[ladd,ladd-split]",
}
KINDS = ("teacher_check", "converged", "distill", "sample", "features")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="apt install dataset-fashion-mnist")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Where the pictures are prepared, once."""
    forget()
    yield tmp_path_factory.mktemp("fashion")
    forget()


def experiment(inputs, *settings):
    (found,) = compose([*settings, f"runs={inputs}"])
    return found


@pytest.fixture(scope="module")
def runtime(inputs):
    return runtime_of(experiment(inputs, "experiment=fashion"))


def test_the_pictures_are_the_published_ones_in_a_black_frame(runtime):
    dataset = runtime.dataset()
    assert dataset.shape == (1, 32, 32)
    assert len(dataset.training_rows) == 60_000 and len(dataset.held_out) == 10_000
    x = dataset.held_out.take(torch.arange(200), None)
    assert (x[:, :, [0, 1, -2, -1]] == -1).all() and (x[..., [0, 1, -2, -1]] == -1).all()
    assert x[:, :, 2:-2, 2:-2].max() == 1
    assert torch.equal(dataset.conditions(0, range(10)).labels, torch.arange(10))


def test_what_is_shipped_is_small_and_the_teacher_has_six_blocks():
    sizes = {path.name: path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 4e6
    state = read_state(WEIGHTS / "fashion_teacher" / "diffusion_pytorch_model.safetensors", "x")
    blocks = {name.split(".")[1] for name in state if name.startswith("transformer_blocks.")}
    assert len(blocks) >= 6


def test_the_classifier_knows_held_out_pictures(runtime):
    dataset, extractor = runtime.dataset(), runtime.extractor("classifier")
    x = dataset.held_out.take(torch.arange(2000), None)
    found = extractor(np.repeat(dataset.space.pictures(x), 3, -1))
    right = found["logits"].argmax(1) == dataset.test_condition.labels[:2000].numpy()
    assert right.mean() > 0.91


def test_parts_make_what_the_whole_makes_and_nothing_else(inputs):
    def keys(*settings):
        made = make_plan(experiment(inputs, "experiment=fashion", *settings))
        return {stage.key for stage in made.stages if stage.kind in KINDS}

    whole = keys()
    parts = {name: keys(f"only={only}", f"name={name}") for name, only in PARTS.items()}
    assert set.union(*parts.values()) == whole
    hashes = {
        make_plan(experiment(inputs, "experiment=fashion", f"only={only}")).protocol_hash
        for only in PARTS.values()
    }
    assert len(hashes) == 1


@pytest.mark.thorough
def test_the_whole_in_a_minute_by_the_smoke_profile(inputs):
    brief = ("profile=smoke", "budget.amount=20", "budget.checkpoints=[1.0]")
    done = call("run", "experiment=fashion", *brief, f"runs={inputs}", cwd=inputs)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_parquet(inputs / "fashion-smoke" / "results.parquet")
    assert (table.status == "ok").all()
    students = table[table.role == "student"]
    assert set(students.variant) >= {"piflow-gm8", "meanflow", "dmd2", "kd"}
    assert set(students.extractor.dropna()) == {"classifier", "samples"}
    assert "class_accuracy" in set(students.metric)
    assert (inputs / "fashion-smoke" / "report.html").is_file()
