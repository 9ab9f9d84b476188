"""The loop: resume to the last bit, budget, accumulation, measured costs, several processes."""

import json
from pathlib import Path

import pytest
import torch
from piflow_methods.dmd2 import DMD2
from piflow_methods.kd import KD
from piflow_methods.meanflow import MeanFlow
from piflow_methods.piflow.method import PiFlow
from safetensors.torch import load_file
from torch import multiprocessing

from piflow_bench.api import Classes, Guidance, Spec, Teacher
from piflow_bench.networks.dit import DiT
from piflow_bench.training import loop
from piflow_bench.training.settings import Budget, TrainingSettings

METHODS = {
    "piflow": (PiFlow, {"components": 3, "substeps": 8, "logstd_inner": 8, "lr": 1e-3}),
    "piflow-free": (
        PiFlow,
        {"components": 3, "substeps": 8, "logstd_inner": 8, "data_free": True, "lr": 1e-3},
    ),
    "meanflow": (MeanFlow, {"lr": 1e-3, "instant_share": 0.3}),
    "meanflow-scratch": (MeanFlow, {"lr": 1e-3, "instant_share": 0.3, "distill": False}),
    "dmd2": (DMD2, {"lr": 1e-3, "fake_lr": 1e-3, "ratio": 2}),
    "dmd2-regression": (
        DMD2,
        {
            "lr": 1e-3,
            "ratio": 2,
            "gan": False,
            "regression_weight": 1.0,
            "pairs": 16,
            "pair_steps": 2,
        },
    ),
    "kd": (KD, {"lr": 1e-3, "pairs": 24, "pair_steps": 2}),
}


def network():
    return DiT(channels=1, height=4, dim=16, depth=1, heads=2, classes=3)


def parts(name, train_nfe=2):
    cls, settings = METHODS[name]
    torch.manual_seed(0)
    start = network()
    for p in start.parameters():
        torch.nn.init.normal_(p, std=0.1)
    teacher = Teacher(start, start, Guidance(1.5))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 4, 4, generator=generator)
    labels = torch.randint(3, (50,), generator=generator)
    data = loop.TrainingData(x, Classes(labels, 3))
    spec = Spec((1, 4, 4), None if name.startswith("meanflow") else train_nfe, 8, network)
    return cls(cls.Config(**settings)), teacher, data, spec


def run(name, folder, steps=8, settings=None, **options):
    settings = settings or TrainingSettings(batch=8, warmup=2)
    folder.mkdir(exist_ok=True, parents=True)
    budget = Budget("images", steps * settings.batch, (0.5, 1.0))
    method, teacher, data, spec = parts(name)
    rows = loop.train(method, teacher, data, spec, settings, budget, 3, folder, **options)
    return rows, [load_file(folder / f"checkpoint_{i}.safetensors") for i in range(2)]


def equal(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for k in a:
        if tolerance:
            assert torch.allclose(a[k], b[k], atol=tolerance, rtol=tolerance), k
        else:
            assert torch.equal(a[k], b[k]), k


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", list(METHODS))
def test_resumed_training_equals_undisturbed_training_to_the_last_bit(name, tmp_path, monkeypatch):
    _, whole = run(name, tmp_path / "whole")
    folder = tmp_path / "parts"
    folder.mkdir()
    original = loop._Trainer.run_step
    for stop in (3, 6):

        def dying(trainer, stop=stop):
            if trainer.step == stop:
                raise Killed
            return original(trainer)

        monkeypatch.setattr(loop._Trainer, "run_step", dying)
        with pytest.raises(Killed):
            run(name, folder, save_seconds=0.0)
    monkeypatch.setattr(loop._Trainer, "run_step", original)
    rows, resumed = run(name, folder)
    for a, b in zip(whole, resumed, strict=True):
        equal(a, b)
    assert rows[-1]["step"] == 8
    logged = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged)), "every step is logged once"
    assert not (folder / loop.STATE_FILE).exists()


@pytest.mark.parametrize("name", ["piflow", "piflow-free", "meanflow", "meanflow-scratch", "dmd2"])
def test_micro_batches_change_nothing_but_rounding(name, tmp_path):
    _, one = run(name, tmp_path / "one", steps=4)
    _, four = run(
        name,
        tmp_path / "four",
        steps=4,
        settings=TrainingSettings(batch=8, warmup=2, micro_batches=4),
    )
    equal(one[-1], four[-1], tolerance=2e-3)


def _process(rank, world, name, folder, port):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    run(name, Path(folder) / f"rank{rank}", steps=4)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["meanflow", "piflow", "dmd2"])
def test_two_processes_equal_one(name, tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    _, one = run(name, tmp_path / "one", steps=4)
    multiprocessing.spawn(_process, (2, name, str(tmp_path), port), nprocs=2)
    ranks = [load_file(tmp_path / f"rank{r}" / "checkpoint_1.safetensors") for r in range(2)]
    equal(ranks[0], ranks[1])
    equal(one[-1], ranks[0], tolerance=2e-3)


def test_budget_in_teacher_forwards_is_what_the_networks_did(tmp_path):
    method, teacher, data, spec = parts("kd", train_nfe=1)
    settings = TrainingSettings(batch=8, warmup=2)
    trainer = loop._Trainer(method, teacher, data, spec, settings, Budget("tfe", 100, (1.0,)), 0)
    trainer.run_step()
    # 2 Heun steps are 3 evaluations, doubled by guidance; the student's forward and backward.
    rows = trainer.meter.rows
    assert rows["teacher/forward"] == 3 * 2 * 8
    assert rows["student/grad"] == 8
    assert trainer.tfe == pytest.approx(6 + 1 + 2, rel=0.05)
    before = trainer.tfe
    trainer.run_step()
    trainer.run_step()
    trainer.run_step()
    assert trainer.tfe - before == pytest.approx(2 * 9 + 3, rel=0.05), "24 pairs are 3 batches"


def test_jvp_is_measured(tmp_path):
    method, teacher, data, spec = parts("meanflow")
    settings = TrainingSettings(batch=8)
    trainer = loop._Trainer(method, teacher, data, spec, settings, Budget("tfe", 100, (1.0,)), 0)
    trainer.run_step()
    assert trainer.meter.rows["student/jvp"] > 0
    assert trainer.meter.unit["student/jvp"] > 1.5 * trainer.meter.unit["student/grad"]


def test_checkpoints_lie_on_the_budget(tmp_path):
    method, teacher, data, spec = parts("piflow")
    budget = Budget("tfe", 60, (0.25, 0.5, 1.0))
    rows = loop.train(method, teacher, data, spec, TrainingSettings(batch=8), budget, 0, tmp_path)
    for row, fraction in zip(rows, (0.25, 0.5, 1.0), strict=True):
        assert 60 * fraction <= row["tfe"] < 60 * fraction + 10
        assert row["images"] == row["step"] * 8


def test_divergence_is_an_error_not_a_result(tmp_path):
    method, teacher, data, spec = parts("meanflow")
    data = loop.TrainingData(data.x0 * float("nan"), data.condition)
    with pytest.raises(loop.Diverged, match="diverged"):
        loop.train(
            method,
            teacher,
            data,
            spec,
            TrainingSettings(batch=8),
            Budget("images", 80, (1.0,)),
            0,
            tmp_path,
        )


def test_bf16_keeps_fp32_masters(tmp_path):
    _, weights = run("piflow", tmp_path, settings=TrainingSettings(batch=8, precision="bf16"))
    assert all(v.dtype == torch.float32 for v in weights[-1].values() if v.is_floating_point())
