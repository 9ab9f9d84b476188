"""Several processes that train one student: who they are, and what they tell each other.

With replicated weights gradients are averaged by an explicit all-reduce after the backward pass,
not by a wrapper's hooks: forward-mode derivatives, and networks that are called in parts, bypass
such hooks silently. At the batches of distillation the exchange is a small share of a step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")

BUCKET = 32 * 2**20
"""Values averaged at once: 128 MiB of float32."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""By device. Gradients lie on GPUs, but costs, logs and states on the CPU, which NCCL refuses."""
LEAVING_SECONDS = 0.5
"""What gloo's threads get to let go of the last tensors."""


def form_group(device: str, local_rank: int, **where: Any) -> None:
    """Join the process group of a training.

    Args:
        device: cpu or cuda; on cuda this process takes a GPU of its machine for itself.
        local_rank: its number among the processes of this machine.
        where: how the others are found; see ``torch.distributed.init_process_group``.
    """
    if device == "cuda":
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    distributed.init_process_group(BACKENDS[device], **where)


def leave_group() -> None:
    """Leave the process group, if there is one, so that the process may end.

    Whoever waits for a collective call goes on a moment before gloo's thread lets go of the call's
    tensors, and with FSDP that thread outlives the group. If the interpreter ends in that moment,
    the process aborts ("terminate called without an active exception") with its work well done.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(LEAVING_SECONDS)


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes; a parameter without one counts as zero."""
    _, size = world()
    if size == 1:
        return
    bucket: list[nn.Parameter] = []
    held = 0
    for p in parameters:
        if bucket and (held + p.numel() > BUCKET or p.dtype != bucket[0].dtype):
            _average(bucket, size)
            bucket, held = [], 0
        bucket.append(p)
        held += p.numel()
    if bucket:
        _average(bucket, size)


def _average(parameters: list[nn.Parameter], size: int) -> None:
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= size
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(
        gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
    )


def gather_rows(x: Tensor) -> Tensor:
    """Rows ``(n, ...)`` of every process, in the order of the global batch."""
    _, size = world()
    if size == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(size)]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def from_first(look: Callable[[], T]) -> T:
    """What the first process sees, in every process."""
    rank, size = world()
    found: list[Any] = [look() if rank == 0 else None]
    if size > 1:
        distributed.broadcast_object_list(found, src=0)
    return found[0]


def summed(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes."""
    if world()[1] > 1:
        distributed.all_reduce(values)
    return values


def summed_counts(counts: Mapping[str, int]) -> Counter[str]:
    """Counts by name, summed over all processes; each may know other names."""
    size = world()[1]
    if size == 1:
        return Counter(counts)
    parts: list[Any] = [None] * size
    distributed.all_gather_object(parts, dict(counts))
    return sum((Counter(part) for part in parts), Counter())


def wait_for_all() -> None:
    """Return once every process is here."""
    if world()[1] > 1:
        distributed.barrier()


# ------------------------------------------------------------------ sharded weights


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks that make up most of a network: those of its longest module list."""
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
    longest = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()), default=None)
    return list(longest) if longest is not None else []


def shard(network: nn.Module, device: str, blocks: Iterable[nn.Module] | None = None) -> None:
    """Divide a network's weights over all processes (FSDP2), block by block.

    Its blocks and itself must be called as modules for their weights to be there. ``blocks`` are
    those of its longest list where no others are given.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(device).type, (world()[1],))
    for block in blocks_of(network) if blocks is None else blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def shard_roles(teacher: nn.Module, modules: Iterable[nn.Module], device: str) -> None:
    """Divide the networks that are trained; of a teacher whose network they share, that, once."""
    if hasattr(teacher, "roles"):
        shared: Any = teacher
        shard(shared.roles.network, device, shared.blocks())
    for module in modules:
        if any(True for _ in module.parameters()):
            shard(module, device)


def local(x: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    to_local = getattr(x, "to_local", None)
    return x if to_local is None else to_local()


def full(x: Tensor) -> Tensor:
    """A sharded tensor as a whole (a collective call); any other tensor as it is."""
    full_tensor = getattr(x, "full_tensor", None)
    return x if full_tensor is None else full_tensor()
