"""The loop: resume to the last bit, budget, accumulation, measured costs, several processes."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from piflow_methods.anyflow import AnyFlow
from piflow_methods.consistency import Consistency
from piflow_methods.dmd2 import DMD2
from piflow_methods.dollar import DOLLAR
from piflow_methods.drifting import Drifting
from piflow_methods.facm import FACM
from piflow_methods.freeflow import FreeFlow
from piflow_methods.imf import ImprovedMeanFlow
from piflow_methods.imm import IMM
from piflow_methods.kd import KD
from piflow_methods.ladd import LADD
from piflow_methods.mdt_dist import MDTDist
from piflow_methods.meanflow.method import MeanFlow
from piflow_methods.perflow import PeRFlow
from piflow_methods.piflow.method import PiFlow
from piflow_methods.progressive import Progressive
from piflow_methods.rcm import RCM
from piflow_methods.reflow import Reflow
from piflow_methods.scflow import SCFlow
from piflow_methods.scm import SCM
from piflow_methods.shortcut import Shortcut
from piflow_methods.sid import SiD
from piflow_methods.tvm import TVM
from piflow_methods.twinflow import TwinFlow
from safetensors.torch import load_file
from torch import multiprocessing

from piflow_bench.api import Classes, Guidance, Optimizer, SampleRandom, Spec, Teacher, Update
from piflow_bench.conformance.method.trial import small
from piflow_bench.contracts.data import TensorRows
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.training import loop, state
from piflow_bench.training.distributed import leave_group
from piflow_bench.training.scale import Scale, division
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData

METHODS = {
    "piflow": (PiFlow, {"components": 3, "substeps": 8, "logstd_inner": 8, "lr": 1e-3}),
    "piflow-free": (
        PiFlow,
        {"components": 3, "substeps": 8, "logstd_inner": 8, "data_free": True, "lr": 1e-3},
    ),
    "piflow-arc": (
        PiFlow,
        {"policy": "arc", "components": 3, "substeps": 8, "data_free": True, "lr": 1e-3},
    ),
    "meanflow": (MeanFlow, {"lr": 1e-3, "instant_share": 0.3}),
    # In most steps one of two processes has no interval to differentiate over.
    "meanflow-scratch": (
        MeanFlow,
        {"lr": 1e-3, "instant_share": 0.9, "distill": False, "jvp": "finite-difference"},
    ),
    "meanflow-alpha": (
        MeanFlow,
        {"lr": 1e-3, "instant_share": 0.3, "ratio_start": 1.0, "ratio_moves": [0.1, 0.6]},
    ),
    # One of two processes has no interval in most of these steps, either.
    "meanflow-end": (
        MeanFlow,
        {"lr": 1e-3, "instant_share": 0.9, "identity": "end", "tangent_floor": 0.1},
    ),
    "shortcut": (Shortcut, {"lr": 1e-3, "steps": 8, "halves_share": 0.3, "decay": 0.9}),
    # In most steps one of two processes has no interval to differentiate over.
    "imf": (ImprovedMeanFlow, {"lr": 1e-3, "instant_share": 0.9}),
    "imf-scratch": (ImprovedMeanFlow, {"lr": 1e-3, "distill": False}),
    "tvm": (TVM, {"lr": 1e-3}),
    "tvm-scratch": (TVM, {"lr": 1e-3, "distill": False, "jvp": "finite-difference"}),
    "anyflow": (AnyFlow, {"lr": 1e-3, "fake_lr": 1e-3, "instant_share": 0.7, "ratio": 2}),
    "mdt-dist": (MDTDist, {"lr": 1e-3}),
    "imm": (IMM, {"lr": 1e-3, "particles": 2}),
    "imm-scratch": (IMM, {"lr": 1e-3, "particles": 2, "distill": False, "guided": True}),
    # Its bank is overfull in a step where three of its labels meet.
    "drifting": (Drifting, {"lr": 1e-3, "generated": 4, "positives": 3, "bank": 2}),
    "consistency": (Consistency, {"lr": 1e-3, "nodes": 8}),
    "scm": (SCM, {"lr": 1e-3}),
    "facm": (FACM, {"lr": 1e-3}),
    "facm-scratch": (FACM, {"lr": 1e-3, "distill": False}),
    "rcm": (RCM, {"lr": 1e-3, "fake_lr": 1e-3, "ratio": 2}),
    "reflow": (Reflow, {"lr": 1e-3, "pairs": 24, "pair_steps": 2}),
    "perflow": (PeRFlow, {"lr": 1e-3, "solver_steps": 2}),
    "progressive": (Progressive, {"lr": 1e-3, "rounds": 2}),
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
    "dmd2-js": (DMD2, {"lr": 1e-3, "fake_lr": 1e-3, "ratio": 2, "divergence": "js"}),
    "dmd2-decoupled": (
        DMD2,
        {"lr": 1e-3, "ratio": 2, "gan": False, "guidance_time": "below", "longest": 3},
    ),
    "dmd2-first-step": (
        DMD2,
        {"lr": 1e-3, "ratio": 2, "gan": False, "first_step_weight": 0.05, "projection": True},
    ),
    "scflow": (SCFlow, {"lr": 1e-3, "judge_lr": 1e-3, "depths": [1.0]}),
    "twinflow": (TwinFlow, {"lr": 1e-3}),
    "sid": (SiD, {"lr": 1e-3, "fake_lr": 1e-3}),
    "ladd": (LADD, {"lr": 1e-3, "judge_lr": 1e-3, "depths": [1.0], "pairs": 16, "pair_steps": 2}),
    "freeflow": (FreeFlow, {"lr": 1e-3, "fake_lr": 1e-3, "prediction_share": 0.5}),
    "dollar": (DOLLAR, {"lr": 1e-3, "fake_lr": 1e-3, "ratio": 2, "depths": [1.0]}),
    "kd": (KD, {"lr": 1e-3, "pairs": 24, "pair_steps": 2}),
}

ONE_STEP = ("freeflow", "drifting")
RESUMED = ["piflow", "dmd2", "kd", "drifting"]
FLOAT64 = TrainingSettings(batch=8, warmup=2, precision="fp64")


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
    data = TrainingData(TensorRows(x), Classes(labels, 3), small)
    spec = Spec(
        (1, 4, 4),
        None if name.startswith("meanflow") else 1 if name in ONE_STEP else train_nfe,
        8,
        network,
        data.condition,
    )
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
    original = Trainer.run_step
    for stop in (3, 6):

        def dying(trainer, stop=stop):
            if trainer.step == stop:
                raise Killed
            return original(trainer)

        monkeypatch.setattr(Trainer, "run_step", dying)
        with pytest.raises(Killed):
            run(name, folder, save_seconds=0.0)
    monkeypatch.setattr(Trainer, "run_step", original)
    rows, resumed = run(name, folder)
    for a, b in zip(whole, resumed, strict=True):
        equal(a, b)
    assert rows[-1]["step"] == 8
    logged = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged)), "every step is logged once"
    assert not list(folder.glob("state*"))


@pytest.mark.parametrize("name", list(METHODS))
def test_micro_batches_change_nothing_but_rounding(name, tmp_path):
    rows, one = run(name, tmp_path / "one", 5, FLOAT64)
    again, four = run(name, tmp_path / "four", 5, FLOAT64, scale=Scale(micro_batch=3))
    equal(one[-1], four[-1], tolerance=1e-9)
    assert again[-1]["rows"] == rows[-1]["rows"]


@pytest.mark.parametrize(
    "batch, processes, micro, expected",
    [(8, 1, None, (1, 8)), (8, 2, 3, (2, 2)), (4096, 8, 200, (4, 128)), (7, 1, 2, (7, 1))],
)
def test_a_global_batch_is_divided_evenly(batch, processes, micro, expected):
    parts, rows = division(batch, processes, micro)
    assert (parts, rows) == expected and parts * rows * processes == batch
    with pytest.raises(ValueError, match="multiple of 3 processes"):
        division(8, 3, None)


@pytest.mark.parametrize(
    "batch, processes, micro, group, expected",
    [
        (24, 1, 23, 4, (2, 12)),
        (24, 1, 11, 4, (3, 8)),
        (24, 3, 5, 4, (2, 4)),
        (8, 1, None, 8, (1, 8)),
    ],
)
def test_groups_are_whole(batch, processes, micro, group, expected):
    parts, rows = division(batch, processes, micro, group)
    assert (parts, rows) == expected and parts * rows * processes == batch and rows % group == 0
    with pytest.raises(ValueError, match="must be a multiple of 5, the rows of a group"):
        division(batch, processes, micro, 5)
    with pytest.raises(ValueError, match="scale.micro_batch=1: must hold 2"):
        division(8, 1, 1, 2)


def _process(rank, world, folder, port, parallel):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for name in METHODS:
        run(name, Path(folder) / name, 5, FLOAT64, scale=Scale(parallel=parallel))
    leave_group()


def in_two_processes(function, *arguments):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder, *rest = arguments
    multiprocessing.spawn(function, (2, str(folder), port, *rest), nprocs=2)


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two_processes(request, tmp_path_factory):
    """What two processes made of every method."""
    folder = tmp_path_factory.mktemp(request.param)
    in_two_processes(_process, folder, request.param)
    return folder


@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_equal_one(name, two_processes, tmp_path):
    """Weights, costs and samples, after 5 steps in float64."""
    rows, one = run(name, tmp_path, 5, FLOAT64)
    folder = two_processes / name
    again = json.loads((folder / "checkpoints.json").read_text())
    two = load_file(folder / "checkpoint_1.safetensors")
    equal(one[-1], two, tolerance=1e-9)
    for key in ("step", "images", "tfe", "rows", "params", "ema_updates"):
        assert again[-1][key] == pytest.approx(rows[-1][key]), key
    logs = [(f / "log.jsonl").read_text().splitlines() for f in (tmp_path, folder)]
    for a, b in zip(*[[json.loads(line) for line in log] for log in logs], strict=True):
        loss = "loss" if "loss" in a else "fake_loss"
        assert a[loss] == pytest.approx(b[loss], rel=1e-9)
    samples = [_samples(name, weights) for weights in (one[-1], two)]
    assert (samples[0] - samples[1]).abs().max() < 1e-9


@torch.no_grad()
def _samples(name, weights):
    method, teacher, data, spec = parts(name)
    built = method.build(teacher, spec)
    network = built.modules["student"].double()
    network.load_state_dict(weights)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=generator)
    random = SampleRandom(0, range(6))
    return built.student.bind(network).sample(noise, data.condition[torch.arange(6)], 2, random)


def _stopped(rank, world, folder, port):
    """Two processes that go on from a state, or begin, and write one after three steps."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for place in sorted(Path(folder).iterdir()):
        name, parallel, _ = place.name.split("+")
        budget = Budget("images", 6 * 8, (0.5, 1.0))
        trainer = Trainer(*parts(name), FLOAT64, budget, 3, Scale(parallel=parallel))
        state.load(trainer, place)
        for _ in range(3):
            trainer.run_step()
        state.save(trainer, place)
    leave_group()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """States of two processes after three steps, some of which one process began."""
    folder = tmp_path_factory.mktemp("stopped")
    for name in RESUMED:
        for parallel in ("ddp", "fsdp"):
            (folder / f"{name}+{parallel}+two").mkdir()
            (folder / f"{name}+{parallel}+one").mkdir()
            trainer = Trainer(*parts(name), FLOAT64, Budget("images", 48, (0.5, 1.0)), 3)
            state.save(trainer, folder / f"{name}+{parallel}+one")
    in_two_processes(_stopped, folder)
    return folder


@pytest.mark.parametrize("began", ["two", "one"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_state_serves_another_number_of_processes(name, parallel, began, stopped, tmp_path):
    """From two processes to one, and from one to two and back."""
    undisturbed, whole = run(name, tmp_path, 6, FLOAT64)
    rows, resumed = _go_on(name, stopped / f"{name}+{parallel}+{began}")
    assert rows[-1]["step"] == 6 and rows[-1]["images"] == 48
    equal(whole[-1], resumed, tolerance=1e-9)
    assert rows[-1]["rows"] == undisturbed[-1]["rows"]
    assert rows[-1]["flops"] == pytest.approx(undisturbed[-1]["flops"])


def _go_on(name, folder):
    method, teacher, data, spec = parts(name)
    budget = Budget("images", 6 * 8, (0.5, 1.0))
    rows = loop.train(method, teacher, data, spec, FLOAT64, budget, 3, folder)
    return rows, load_file(folder / "checkpoint_1.safetensors")


def test_a_state_killed_between_its_two_renames_is_still_there(tmp_path):
    method, teacher, data, spec = parts("piflow")
    budget = Budget("images", 48, (1.0,))
    trainer = Trainer(method, teacher, data, spec, FLOAT64, budget, 3)
    trainer.run_step()
    state.save(trainer, tmp_path)
    (tmp_path / "state").rename(tmp_path / "state.old")
    other = Trainer(*parts("piflow"), FLOAT64, budget, 3)
    assert state.load(other, tmp_path) and other.step == 1
    assert not state.load(Trainer(*parts("piflow"), FLOAT64, budget, 3), tmp_path / "nowhere")


def test_budget_in_teacher_forwards_is_what_the_networks_did(tmp_path):
    method, teacher, data, spec = parts("kd", train_nfe=1)
    settings = TrainingSettings(batch=8, warmup=2)
    trainer = Trainer(method, teacher, data, spec, settings, Budget("tfe", 100, (1.0,)), 0)
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


class Elementwise(torch.nn.Module):
    def __init__(self, trained):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(())) if trained else 1.0

    def forward(self, x, t, condition, duration=None):
        return self.gain * x * t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("unit", ["tfe", "images"])
@pytest.mark.parametrize("trained", [True, False])
def test_a_teacher_whose_forward_counts_nothing_is_refused_in_one_line(unit, trained):
    method, _, data, spec = parts("kd")
    teacher = Teacher(Elementwise(trained), Elementwise(trained))
    with pytest.raises(UserError, match="Elementwise has no matrix product") as refused:
        Trainer(method, teacher, data, spec, TrainingSettings(batch=8), Budget(unit, 100), 0)
    assert "\n" not in str(refused.value)


def test_jvp_is_measured(tmp_path):
    method, teacher, data, spec = parts("meanflow")
    settings = TrainingSettings(batch=8)
    trainer = Trainer(method, teacher, data, spec, settings, Budget("tfe", 100, (1.0,)), 0)
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


def stop_after(monkeypatch, folder, steps, settings=None):
    """A training that keeps a state after every step, and is killed after so many."""
    original = Trainer.run_step

    def dying(trainer):
        if trainer.step == steps:
            raise Killed
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", dying)
        with pytest.raises(Killed):
            run("piflow", folder, save_seconds=0.0, settings=settings)
    assert (folder / "state" / "facts.json").is_file()


def cut(folder):
    for path in (folder / "state" / "tensors").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_metadata(folder):
    path = folder / "state" / "tensors" / ".metadata"
    path.write_bytes(path.read_bytes()[:20])


def cut_facts(folder):
    path = folder / "state" / "facts.json"
    path.write_text(path.read_text()[:20])


def lose(folder):
    shutil.rmtree(folder / "state" / "tensors")


def _rewritten(folder, change):
    method, teacher, data, spec = parts("piflow")
    settings = TrainingSettings(batch=8, warmup=2)
    trainer = Trainer(method, teacher, data, spec, settings, Budget("images", 64, (0.5, 1.0)), 3)
    state.load(trainer, folder)
    change(trainer)
    state.save(trainer, folder)


def with_nan(folder):
    def change(trainer):
        with torch.no_grad():
            next(iter(trainer.modules["student"].parameters())).view(-1)[0] = float("nan")

    _rewritten(folder, change)


def with_a_layer_more(folder):
    def change(trainer):
        trainer.modules["student"].one_more = torch.nn.Linear(2, 2)

    _rewritten(folder, change)


def with_a_layer_less(folder):
    def change(trainer):
        del trainer.modules["student"].backbone.pos_embed

    _rewritten(folder, change)


@pytest.mark.parametrize(
    "harm, words",
    [
        (cut, "cannot be read"),
        (cut_metadata, "cannot be read"),
        (cut_facts, "cannot be read"),
        (lose, "cannot be read"),
        (with_nan, "is not finite"),
        (with_a_layer_more, "of another network"),
        (with_a_layer_less, "of another network"),
    ],
)
def test_a_state_that_cannot_be_gone_on_from_is_begun_anew(harm, words, tmp_path, monkeypatch):
    _, whole = run("piflow", tmp_path / "whole")
    folder, told = tmp_path / "parts", []
    stop_after(monkeypatch, folder, 5)
    harm(folder)
    rows, weights = run("piflow", folder, anew=told.append)
    assert len(told) == 1 and words in told[0] and "\n" not in told[0]
    equal(whole[-1], weights[-1])
    assert rows[-1]["step"] == 8
    logged = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged))


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), PermissionError(), MemoryError()]
)
def test_a_machine_that_cannot_read_a_state_leaves_it(error, tmp_path, monkeypatch):
    stop_after(monkeypatch, tmp_path, 5)

    def fails(*args, **kwargs):
        raise error

    told = []
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", fails)
        # Torch wraps what fails within its reader; its CheckpointException is no Exception.
        with pytest.raises(BaseException):  # noqa: B017
            run("piflow", tmp_path, anew=told.append)
    assert not told
    assert run("piflow", tmp_path, anew=told.append)[0][-1]["step"] == 8
    assert not told


@pytest.mark.parametrize("average", [False, True])
def test_weights_that_are_not_finite_are_never_kept(average, tmp_path, monkeypatch):
    stop_after(monkeypatch, tmp_path, 2)
    before = (tmp_path / "state" / "facts.json").read_bytes()
    original = Trainer.run_step

    def spoilt(trainer):
        scalars = original(trainer)
        if average:
            held = next(iter(trainer.ema["student"].average.values()))
        else:
            held = next(iter(trainer.modules["student"].parameters())).data
        held.view(-1)[0] = float("inf")
        return scalars

    monkeypatch.setattr(Trainer, "run_step", spoilt)
    with pytest.raises(
        loop.Diverged, match=r"student\..* is not finite at step 3: training diverged"
    ):
        run("piflow", tmp_path, save_seconds=0.0)
    assert (tmp_path / "state" / "facts.json").read_bytes() == before
    with pytest.raises(loop.Diverged, match="step 4: training diverged"):  # Its checkpoint.
        run("piflow", tmp_path, save_seconds=1e9)
    assert not (tmp_path / "checkpoint_0.safetensors").exists()


def test_the_reader_is_closed_however_training_ends(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(
        "piflow_bench.training.readahead.ReadAhead.close", lambda reader: closed.append(reader)
    )
    stop_after(monkeypatch, tmp_path, 2)
    assert len(closed) == 1
    run("piflow", tmp_path)
    assert len(closed) == 2


class Two(torch.nn.Module):
    """A stand-in for a network of one number."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))


class Alternating(KD):
    """Accumulates on one optimizer while another one steps; its losses pass through both."""

    def build(self, teacher, spec):
        built = super().build(teacher, spec)
        modules = {**built.modules, "a": Two(), "b": Two()}
        optimizers = {
            **built.optimizers,
            **{n: Optimizer((n,), 0.1) for n in ("a", "b")},
        }
        return replace(built, modules=modules, optimizers=optimizers)

    def training_step(self, batch, context):
        a, b = context.modules["a"].w, context.modules["b"].w
        yield Update("a", a * b.detach() * 3, step=False)
        yield Update("b", b * a * 2)
        GRADIENTS.append((a.grad.item(), b.grad))
        yield Update("a", a * b.detach() * 4, step=False)
        GRADIENTS.append((a.grad.item(), b.grad))
        yield from super().training_step(batch, context)


GRADIENTS = []


def test_a_step_of_one_optimizer_leaves_what_another_accumulates(tmp_path):
    _, teacher, data, spec = parts("kd")
    method = Alternating(KD.Config(**METHODS["kd"][1]))
    trainer = Trainer(method, teacher, data, spec, FLOAT64, Budget("images", 64, (1.0,)), 3)
    b = trainer.modules["b"].w
    GRADIENTS.clear()
    after = 1 - trainer.run_step()["b_lr"]
    assert GRADIENTS[0] == (3.0, None), "its own, without what b's loss left, and b's are spent"
    assert GRADIENTS[1][0] == pytest.approx(3.0 + 4.0 * after)
    assert b.item() == pytest.approx(after)


class Uneven(KD):
    """Yields by the rows of its micro-batch."""

    how = ""

    def training_step(self, batch, context):
        for update in super().training_step(batch, context):
            if self.how == "step":
                yield replace(update, step=not context.last)
                continue
            yield update
            if context.last == (self.how == "last has more"):
                yield replace(update, loss=next(context.modules["student"].parameters()).sum())


@pytest.mark.parametrize("how", ["last has more", "first has more", "step"])
def test_micro_batches_that_yield_different_updates_are_refused(how, monkeypatch):
    monkeypatch.setattr(Uneven, "how", how)
    _, teacher, data, spec = parts("kd")
    method = Uneven(KD.Config(**METHODS["kd"][1]))
    budget = Budget("images", 64, (1.0,))
    trainer = Trainer(method, teacher, data, spec, FLOAT64, budget, 3, Scale(micro_batch=4))
    with pytest.raises(RuntimeError, match="micro-batches of step 0 yield different updates"):
        trainer.run_step()


class Counting(torch.optim.Optimizer):
    """Moments and a plain number of steps, as 8-bit optimizers keep them."""

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                held = self.state[p]
                held.setdefault("m", torch.zeros_like(p)).add_(p.grad)
                held["step"] = held.get("step", 0) + 1


def test_counted_steps_find_their_parameters_by_name(tmp_path, monkeypatch):
    """A parameter that no gradient has reached has none, and shifts no other's."""
    monkeypatch.setattr(
        Trainer,
        "_optimizer",
        lambda self, o: Counting(list(self.modules["student"].parameters()), {"lr": o.lr}),
    )
    budget = Budget("images", 48, (1.0,))
    trainer = Trainer(*parts("piflow"), FLOAT64, budget, 3)
    trainer.run_step()
    optimizer = trainer.optimizers["student"]
    for count, p in enumerate(optimizer.param_groups[0]["params"]):
        optimizer.state[p]["step"] = 100 + count
        if count == 1:
            del optimizer.state[p]
    state.save(trainer, tmp_path)
    other = Trainer(*parts("piflow"), FLOAT64, budget, 3)
    assert state.load(other, tmp_path)
    loaded = other.optimizers["student"]
    for count, p in enumerate(loaded.param_groups[0]["params"]):
        assert loaded.state[p].get("step") == (None if count == 1 else 100 + count)


def test_divergence_is_an_error_not_a_result(tmp_path):
    method, teacher, data, spec = parts("meanflow")
    data = TrainingData(TensorRows(data.rows.x0 * float("nan")), data.condition)
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


class SlowRows:
    """Rows on a disk, of which every reading is noted."""

    def __init__(self, x0):
        self.x0, self.read = x0, []

    def __len__(self):
        return len(self.x0)

    def take(self, rows, random):
        self.read.append(rows.tolist())
        return self.x0[rows]


def test_rows_on_a_disk_are_read_ahead_and_train_the_same(tmp_path):
    _, plain = run("piflow", tmp_path / "plain", 4, FLOAT64)
    method, teacher, data, spec = parts("piflow")
    rows = SlowRows(data.rows.x0)
    (tmp_path / "read").mkdir()
    loop.train(
        method, teacher, TrainingData(rows, data.condition), spec, FLOAT64,
        Budget("images", 32, (1.0,)), 3, tmp_path / "read",
    )  # fmt: skip
    equal(plain[-1], load_file(tmp_path / "read" / "checkpoint_0.safetensors"))
    assert len(rows.read) > 4, "steps after the last were read already"


def test_recomputed_activations_change_nothing_but_their_counted_cost(tmp_path):
    """For every method: networks that are frozen for a while, too."""
    from dataclasses import replace

    for name in METHODS:
        rows, kept = run(name, tmp_path / name, 3, FLOAT64)
        again, made = run(name, tmp_path / f"{name}-2", 3, replace(FLOAT64, checkpointing=True))
        equal(kept[-1], made[-1], tolerance=1e-12)
        assert again[-1]["tfe"] > 1.01 * rows[-1]["tfe"], name


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["piflow", "meanflow"])
def test_compiled_blocks_train_the_same(name, tmp_path):
    rows, plain = run(name, tmp_path / "plain", 3)
    again, compiled = run(name, tmp_path / "compiled", 3, scale=Scale(compile=True))
    equal(plain[-1], compiled[-1], tolerance=2e-3)
    assert again[-1]["tfe"] == pytest.approx(rows[-1]["tfe"]), "counted as it would run uncompiled"
