"""The GPU that is not there refuses what a real one refuses, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from tests.devices.gpu import GPU, gpu, on_gpu


@pytest.fixture(autouse=True)
def here():
    with gpu():
        yield


def a(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: a(3) + a(3).cuda(),
        lambda: a(1) * a(3).cuda(),
        lambda: a(3).add_(a(3).cuda()),
        lambda: a(1)[0].add_(a(3).cuda()[0]),
        lambda: torch.cat([a(3), a(3).cuda()]),
        lambda: torch.stack([a(1)[0], a(1).cuda()[0]]),
        lambda: a(2, 2) @ a(2, 2).cuda(),
        lambda: torch.where(a(3) > 1, a(3).cuda(), 0.0),
        lambda: a(3)[torch.tensor([0]).cuda()],
        lambda: a(3).cuda().index_copy(0, torch.tensor([0]), a(1).cuda()),
        lambda: a(3).cuda().index_put_((torch.tensor([0]),), a(1)),
        lambda: torch.bucketize(a(3).cuda(), a(3)),
        lambda: nn.Embedding(3, 2).cuda()(torch.tensor([1])),
        lambda: nn.Linear(3, 3).cuda()(a(2, 3)),
        lambda: nn.Linear(3, 3)(a(2, 3).cuda()),
        lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda: torch._foreach_add_([a(3).cuda()], [a(3)]),
    ],
)
def test_mixed_devices_are_refused(mixed):
    with pytest.raises(RuntimeError, match="same device"):
        mixed()


def test_a_gpus_values_are_no_numpy_array():
    with pytest.raises(TypeError, match="numpy"):
        a(3).cuda().numpy()
    assert a(3).cuda().cpu().numpy().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "allowed",
    [
        lambda x: x * torch.tensor(2.0),
        lambda x: torch.tensor(2.0) - x,
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x[torch.tensor([True, False, True])],
        lambda x: x.index_put((torch.tensor([0]),), torch.tensor(5.0)),
        lambda x: torch.where(x > 1, x, torch.tensor(0.0)),
        lambda x: x.clone().copy_(torch.ones(3)),
        lambda x: torch.zeros(3).to(x),
        lambda x: torch.as_tensor(0.5, device=x.device),
        lambda x: torch.tensor([1, 2], device="cuda"),
        lambda x: torch.full_like(x, 2.0).view(3, 1)[1:],
        lambda x: copy.deepcopy(nn.Linear(3, 3).to("cuda"))(x),
        lambda x: torch.arange(3, device=x.device).sum(),
        lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1],
    ],
)
def test_what_torch_allows_is_on_the_gpu(allowed):
    out = allowed(a(3).cuda())
    assert on_gpu(out) and out.device == GPU and out.is_cuda
    assert not on_gpu(out.cpu()) and out.cpu().device.type == "cpu"


def test_writing_across_devices_is_a_copy_that_moves_nothing():
    x = torch.zeros(3)
    x.copy_(a(3).cuda())
    x[:2] = a(2).cuda()
    assert not on_gpu(x) and x.tolist() == [1, 2, 3]


def test_derivatives_and_optimizers_stay_there():
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = network(a(2, 3).cuda()).square().max(1).values.mean()
    loss.backward()
    assert all(on_gpu(p) and on_gpu(p.grad) for p in network.parameters())
    norm = nn.utils.clip_grad_norm_(network.parameters(), 0.1, foreach=True)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    optimizer.step()
    kept = [v for s in optimizer.state.values() for v in s.values()]
    assert kept and all(map(on_gpu, kept)) and on_gpu(norm)
