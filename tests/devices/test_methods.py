"""Every solver, method and sampler on a GPU: no device is mixed, and numbers are the CPU's."""

from dataclasses import replace

import pytest
import torch
from piflow_methods.piflow import fused
from piflow_methods.piflow.policies import GMPolicy
from torch.utils._python_dispatch import TorchDispatchMode

from piflow_bench import flow, registry, sampling
from piflow_bench.commands.new import new_plugin
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.method.trial import NFES
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Spec
from piflow_bench.settings import build_dataclass
from piflow_bench.training import state
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData
from tests.devices.gpu import gpu, on_gpu

STAND_INS = {"images": standins.images, "points": standins.points}
SMALL = {"components": 3, "substeps": 8, "logstd_inner": 8}
METHODS = {
    **{f"teacher-{s}": ("teacher", {"solver": s}) for s in flow.SOLVERS},
    "teacher-guided": ("teacher", {"solver": "euler", "guided": True}),
    "piflow": ("piflow", {**SMALL, "h": 1.0, "temperature": 0.7}),
    "piflow-free": ("piflow", {**SMALL, "data_free": True}),
    "piflow-grid": ("piflow", {**SMALL, "policy": "dx-grid", "window_substeps": 2}),
    "piflow-polynomial": ("piflow", {**SMALL, "policy": "dx-polynomial", "num_decay": 10}),
    "piflow-arc": ("piflow", {"policy": "arc", "components": 3, "substeps": 8}),
    "meanflow": ("meanflow", {"instant_share": 0.3}),
    "meanflow-difference": ("meanflow", {"instant_share": 0.3, "jvp": "finite-difference"}),
    "meanflow-scratch": ("meanflow", {"instant_share": 0.3, "distill": False, "kappa": 0.5}),
    "dmd2": ("dmd2", {"ratio": 2}),
    "dmd2-regression": (
        "dmd2",
        {
            "gan": False,
            "regression_weight": 1.0,
            "pairs": 16,
            "pair_steps": 2,
            "fake_knows_step": True,
        },
    ),
    "shortcut": ("shortcut", {"steps": 8, "halves_share": 0.5}),
    "tvm": ("tvm", {}),
    "tvm-scratch": ("tvm", {"distill": False}),
    "mdt-dist": ("mdt-dist", {}),
    "anyflow": ("anyflow", {}),
    "anyflow-matched": ("anyflow", {"first_share": 0.0}),
    "imf": ("imf", {}),
    "imf-scratch": ("imf", {"distill": False}),
    "facm": ("facm", {}),
    "facm-scratch": ("facm", {"distill": False}),
    "imm": ("imm", {}),
    "imm-scratch": ("imm", {"distill": False, "guided": True}),
    "drifting": ("drifting", {"generated": 4, "positives": 3, "bank": 2}),
    "kd": ("kd", {"pairs": 12, "pair_steps": 2}),
    "scaffold": ("fresh", {}),
}
BATCH = 8


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Rollouts in torch's operations: where Triton is, its interpreter takes the fused ones."""
    monkeypatch.setattr(fused, "available", lambda policy, x: False)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    new_plugin("method", "fresh", str(folder))
    return [str(folder)]


class Reads(TorchDispatchMode):
    """Numbers that are read off the GPU, each of which waits for all that it was given to do."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.read += op._schema.name == "aten::_local_scalar_dense" and on_gpu(args[0])
        return op(*args, **(kwargs or {}))


def method(name, plugins):
    key, settings = METHODS[name]
    cls = registry.get("method", key, plugins)
    return cls(build_dataclass(cls.Config, settings, key))


def spec(stand_in, chosen, nfe, device="cpu"):
    dataset = stand_in.dataset
    elastic = chosen.facts_for().elastic
    return Spec(
        dataset.shape, None if elastic else nfe, BATCH, stand_in.fresh_network,
        dataset.train_condition, device,
    )  # fmt: skip


def places(work):
    """What ``work(device)`` gives on the CPU, and on the GPU."""
    on_cpu = work("cpu")
    with gpu():
        return on_cpu, work("cuda")


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("solver", flow.SOLVERS)
def test_the_converged_teacher(solver, kind):
    stand_in = STAND_INS[kind]()

    def work(device):
        teacher = stand_in.teacher(0).to(device)
        if kind == "images":  # Guided on a part of time: rows are chosen and put back.
            teacher = teacher.guided(replace(teacher.guidance, low=0.2, high=0.7))
        where = sampling.Arithmetic(device)
        return sampling.converged(
            teacher, stand_in.dataset, range(5), 0, solver, 4, 3, arithmetic=where
        )[0]

    cpu, cuda = places(work)
    assert torch.equal(cpu, cuda)


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", METHODS)
def test_samples_at_every_nfe(name, kind, plugins):
    stand_in, chosen = STAND_INS[kind](), method(name, plugins)

    def work(device):
        found = []
        for nfe in (n for n in NFES if chosen.serves(n) is None):
            teacher = stand_in.teacher(0).to(device)
            built = chosen.build(teacher, spec(stand_in, chosen, nfe, device))
            network = built.modules["student"].to(device)
            if teacher.closed_form and not chosen.facts_for().trains:
                network = teacher.field
            where = sampling.Arithmetic(device)
            drawn = sampling.sample(
                built.student, network, stand_in.dataset, range(5), nfe, 0, 3, arithmetic=where
            )
            assert drawn.x.device.type == "cpu" and drawn.nfe == nfe
            found.append(drawn.x)
        return torch.stack(found)

    cpu, cuda = places(work)
    assert torch.equal(cpu, cuda)


@pytest.mark.parametrize(
    "name, kind, precision",
    [(name, "images", "bf16") for name in METHODS if not name.startswith("teacher")]
    + [(name, "points", "fp32") for name in ("piflow", "meanflow", "dmd2-regression", "kd")],
)
def test_training_steps(name, kind, precision, plugins, tmp_path):
    """With averages, clipping, micro-batches and recomputation; a state is kept and read."""
    stand_in = STAND_INS[kind]()
    dataset = stand_in.dataset
    settings = TrainingSettings(
        batch=BATCH, warmup=1, clip=0.1, precision=precision, checkpointing=precision == "bf16"
    )

    def trainer(device):
        chosen = method(name, plugins)
        return Trainer(
            chosen,
            stand_in.teacher(0),
            TrainingData(TensorRows(dataset.train), dataset.train_condition),
            spec(stand_in, chosen, 2),
            settings,
            Budget("images", 6.0 * BATCH, (1.0,)),
            3,
            Scale(device, micro_batch=4),
        )

    def work(device):
        made = trainer(device)
        assert made.spec.device == device
        for _ in range(2):
            made.run_step()
        if name in ("kd", "dmd2"):
            state.save(made, tmp_path)
            made = trainer(device)
            assert state.load(made, tmp_path)
        made.run_step()
        tensors = [p for m in made.modules.values() for p in m.state_dict().values()]
        tensors += [v for s in made.optimizers["student"].state.values() for v in s.values()]
        assert all(on_gpu(x) == (device == "cuda") for x in tensors)
        return made.weights()

    cpu, cuda = places(work)
    for key, value in cpu.items():
        assert cuda[key].device.type == "cpu" and torch.equal(value, cuda[key]), key


def test_a_step_on_stored_pairs_reads_nothing_off_the_gpu(plugins, tmp_path):
    """The counts of pairs are known, but for once after a state was read."""
    stand_in = standins.images()
    data = TrainingData(TensorRows(stand_in.dataset.train), stand_in.dataset.train_condition)

    def trainer():
        chosen = registry.get("method", "kd")
        return Trainer(
            chosen(chosen.Config(pairs=12, pair_share=0.01, pair_steps=2)),
            stand_in.teacher(0),
            data,
            spec(stand_in, chosen(chosen.Config()), 2),
            TrainingSettings(batch=BATCH, warmup=0),
            Budget("images", 20.0 * BATCH, (1.0,)),
            3,
            Scale("cuda", micro_batch=4),
        )

    with gpu():
        made, reads = trainer(), []
        for step in range(12):
            if step == 6:
                state.save(made, tmp_path)
                made = trainer()
                assert state.load(made, tmp_path)
            solved = int(made.modules["pairs"].solved)
            with Reads() as seen:
                made.run_step()
            if int(made.modules["pairs"].solved) == solved:
                reads.append((step, seen.read))
    assert len(reads) > 6
    assert {read for step, read in reads if step != 6} == {0}
    assert dict(reads).get(6, 0) <= 2, "one each"


def test_the_fused_rollout_in_tritons_interpreter():
    """Its launches are given a GPU's tensors alone; values and gradients are the plain one's."""
    pytest.importorskip("triton")
    draws = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def work(fused):
        means = draws.to("cuda").requires_grad_()
        logweights = draws[:, :, :1].to("cuda").log_softmax(1).requires_grad_()
        logstds = torch.full((2, 1, 1, 1, 1), -1.0, device="cuda").requires_grad_()
        x, one = draws[:, 0].to("cuda"), torch.ones(2, device="cuda")
        policy = GMPolicy(means, logstds, logweights, x, one)
        end = policy.rollout(x, one, torch.zeros_like(one), 4, use_fused=fused)
        end.square().sum().backward()
        found = [end.detach(), means.grad, logweights.grad, logstds.grad]
        assert all(map(on_gpu, found))
        return [v.cpu() for v in found]

    with gpu():
        for a, b in zip(work(True), work(False), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
