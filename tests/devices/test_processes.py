"""Two processes train on GPUs: what they tell each other lies where their group can carry it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from piflow_bench.conformance import stand_ins as standins
from piflow_bench.contracts.data import TensorRows
from piflow_bench.training import loop
from piflow_bench.training.distributed import form_group, leave_group, summed
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import TrainingData
from tests.devices.gpu import gpu
from tests.devices.test_methods import method, spec

TRAINED = ("kd",)
SETTINGS = TrainingSettings(batch=8, warmup=1, precision="fp64")


def train(name, folder, device):
    """Three steps, with a state kept after each."""
    folder.mkdir(exist_ok=True)
    stand_in, chosen = standins.images(), method(name, [])
    data = TrainingData(TensorRows(stand_in.dataset.train), stand_in.dataset.train_condition)
    loop.train(
        chosen, stand_in.teacher(0), data, spec(stand_in, chosen, 2), SETTINGS,
        Budget("images", 24.0, (0.5, 1.0)), 3, folder, save_seconds=0.0, scale=Scale(device),
    )  # fmt: skip


def _process(rank, folder):
    torch.set_num_threads(1)
    meeting = {"rank": rank, "world_size": 2}
    with gpu():
        form_group("cuda", rank, init_method=f"file://{folder}/first", **meeting)
        for name in TRAINED:
            train(name, Path(folder) / name, "cuda")
        distributed.destroy_process_group()
        # What a group of NCCL alone would have said.
        distributed.init_process_group("nccl", init_method=f"file://{folder}/second", **meeting)
        try:
            assert summed(torch.ones(1, device="cuda")).tolist() == [2]
            summed(torch.ones(1))
        except RuntimeError as error:
            (Path(folder) / f"refusal-{rank}").write_text(str(error))
        leave_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(_process, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_two_gpus_train_what_a_cpu_does(name, two, tmp_path):
    """Gradients, gathered pairs, costs, log rows and states go through the product's group."""
    train(name, tmp_path / name, "cpu")
    one, other = (load_file(f / name / "checkpoint_1.safetensors") for f in (tmp_path, two))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=1e-9, rtol=1e-9)
    logs = [(f / name / "log.jsonl").read_text().splitlines() for f in (tmp_path, two)]
    assert len(logs[0]) == len(logs[1])
    for a, b in zip(*[[json.loads(line) for line in log] for log in logs], strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in b.items() if k != "seconds"}, rel=1e-6
        )


def test_a_group_of_gpus_alone_refuses_what_lies_on_the_cpu(two):
    for rank in range(2):
        assert (
            "No backend type associated with device type cpu"
            in (two / f"refusal-{rank}").read_text()
        )
