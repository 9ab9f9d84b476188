"""Students as adapters: one frozen base in memory, whatever the roles and the processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from piflow_methods.dmd2 import DMD2
from piflow_methods.dmd2 import Config as DMD2Config
from piflow_methods.kd import KD
from piflow_methods.kd import Config as KDConfig
from piflow_methods.ladd import LADD
from piflow_methods.ladd import Config as LADDConfig
from piflow_methods.piflow.method import Config, PiFlow
from piflow_methods.sid import Config as SiDConfig
from piflow_methods.sid import SiD
from torch.distributed.checkpoint import FileSystemReader

from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Spec
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.training import loop, state
from piflow_bench.training.distributed import leave_group, local
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData
from tests.networks.text_to_image.tiny import KINDS, golden
from tests.training.test_loop import equal, in_two_processes

SETTINGS = TrainingSettings(batch=4, warmup=1, checkpointing=True, precision="fp64")
METHODS = {
    "piflow": PiFlow(Config(components=2, data_free=True, logstd_inner=8, lr=1e-3)),
    "kd": KD(KDConfig(pairs=4, pair_steps=2, lr=1e-3)),
    "dmd2-nogan": DMD2(DMD2Config(gan=False, lr=1e-3, fake_lr=1e-3)),
    "sid": SiD(SiDConfig(lr=1e-3, fake_lr=1e-3)),
    "ladd": LADD(LADDConfig(lr=1e-3, pairs=4, pair_steps=2)),
}
"""All that need neither real samples nor a second time: prompts and transformers have none."""


def parts(name, kind="flux", rank=2):
    """A training's parts, of the tiny transformer in float64."""
    tiny = golden(kind)
    base = tiny.base.double()
    base.adapt_with(rank, 0.0)
    known = ("a", "b")
    texts = base.texts
    base.texts = lambda condition: texts(condition)
    condition = Prompts(torch.tensor([0, 1, 1, 0]), known)
    shape = (16, 8, 10)
    spec = Spec(shape, 2, 4, lambda: None, condition)
    data = TrainingData(TensorRows(torch.empty(0, *shape)), condition)
    return METHODS[name], Teacher(base, base), data, spec


def trained(name, folder, steps=3, **options):
    method, teacher, data, spec = parts(name)
    budget = Budget("images", 4 * steps, (1.0,))
    folder.mkdir(parents=True, exist_ok=True)
    rows = loop.train(method, teacher, data, spec, SETTINGS, budget, 3, folder, **options)
    from safetensors.torch import load_file

    return rows, load_file(folder / "checkpoint_0.safetensors"), teacher


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_holds_what_is_trained_and_nothing_of_the_base(name, tmp_path):
    before = golden("flux").base.double().state_dict()
    rows, weights, teacher = trained(name, tmp_path)
    assert rows[-1]["step"] == 3
    for key, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[key]), "the base stays as it was"
    size = sum(v.numel() for v in weights.values())
    base = sum(p.numel() for p in teacher.network.parameters())
    assert size < base / 4
    assert not any("attn" in key for key in weights)
    logs = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(abs(value) < 1e4 for row in logs for k, value in row.items() if "loss" in k)
    assert any("loss" in row for row in logs)


def test_a_training_goes_on_from_its_state_to_the_bit(tmp_path):
    _, whole, _ = trained("piflow", tmp_path / "whole")
    method, teacher, data, spec = parts("piflow")
    budget = Budget("images", 12, (1.0,))
    first = Trainer(method, teacher, data, spec, SETTINGS, budget, 3)
    first.run_step()
    (tmp_path / "parts").mkdir()
    state.save(first, tmp_path / "parts")
    kept = FileSystemReader(next((tmp_path / "parts").rglob("tensors"))).read_metadata()
    sizes = [m.size.numel() for m in kept.state_dict_metadata.values() if hasattr(m, "size")]
    own = sum(v.numel() for v in first.modules["student"].state_dict().values())
    steps = len(sizes)
    assert sum(sizes) <= 4 * own + steps, "weights, average and two moments of the adapters"
    _, resumed, _ = trained("piflow", tmp_path / "parts")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_roles_add_their_own_tensors_alone(kind):
    """A student and a fake score: the base's tensors are the teacher's, as objects."""
    _, teacher, data, spec = parts("piflow", kind)
    built = DMD2(DMD2Config(gan=False)).build(teacher, replace(spec, condition=data.condition))
    assert len(built.modules) >= 2
    own = {id(p) for m in built.modules.values() for p in m.parameters()}
    base = {id(p) for p in teacher.network.parameters()}
    assert own and not own & base
    held = sum(p.numel() for m in built.modules.values() for p in m.parameters())
    assert held < sum(p.numel() for p in teacher.network.parameters()) / 2


def _process(rank, world, folder, port, parallel):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for name in METHODS:
        _, _, teacher = trained(name, Path(folder) / name, scale=Scale(parallel=parallel))
        held = sum(local(p).numel() for p in teacher.network.roles.network.parameters())
        (Path(folder) / f"{name}-{rank}.json").write_text(json.dumps(held))
    leave_group()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one_and_hold_half_a_base_each(parallel, tmp_path):
    in_two_processes(_process, tmp_path / "two", parallel)
    whole = sum(p.numel() for p in golden("flux").base.transformer.parameters())
    for name in METHODS:
        from safetensors.torch import load_file

        _, one, _ = trained(name, tmp_path / name)
        equal(one, load_file(tmp_path / "two" / name / "checkpoint_0.safetensors"), tolerance=1e-9)
        held = [json.loads((tmp_path / "two" / f"{name}-{r}.json").read_text()) for r in (0, 1)]
        assert sum(held) == (whole if parallel == "fsdp" else 2 * whole)
        assert max(held) <= 0.55 * whole or parallel == "ddp"
