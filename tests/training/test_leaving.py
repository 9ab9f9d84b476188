"""Processes that leave their group end well, whatever gloo's threads still hold."""

import torch
from torch import distributed, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard

from piflow_bench.training.distributed import form_group, leave_group, world
from tests.training.test_loop import in_two_processes


def _sharded_and_busy(rank, size, folder, port):
    """FSDP keeps gloo's thread beyond the group; calls that nobody waits for keep it busy."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    form_group("cpu", rank, init_method=where, rank=rank, world_size=size)
    network = nn.Linear(4, 4)
    fully_shard(network, mesh=init_device_mesh("cpu", (size,)))
    network(torch.randn(2, 4)).sum().backward()
    for _ in range(50):
        distributed.all_reduce(torch.ones(100_000), async_op=True)
    leave_group()
    assert world() == (0, 1)


def test_a_process_that_left_its_group_ends_without_an_abort(tmp_path):
    in_two_processes(_sharded_and_busy, tmp_path)  # Raises unless both exit with 0.


def test_a_process_without_a_group_has_none_to_leave():
    leave_group()
    assert world() == (0, 1)
