"""The count of what the budget does not see, on operations whose work is known."""

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.unseen import Unseen

ROWS, DIM = 6, 10


def counted(function):
    with Unseen() as unseen:
        function()
    return unseen.elements


def test_elements_are_counted_once_each():
    x, w = torch.randn(ROWS, DIM), torch.randn(DIM, DIM)
    n = ROWS * DIM
    assert counted(lambda: x * 2 + 1) == 2 * n
    assert counted(lambda: x.sum()) == counted(lambda: x.mean(1)) == n
    assert counted(lambda: x.clone().add_(1)) == 2 * n
    assert counted(lambda: torch._foreach_add_([x.clone(), w.clone()], 1.0)) == 2 * (n + DIM * DIM)
    assert counted(lambda: layer_norm(x, (DIM,))) == n + 2 * ROWS


def test_products_and_views_are_not():
    x, w = torch.randn(ROWS, DIM), torch.randn(DIM, DIM)
    assert counted(lambda: (x @ w).reshape(DIM, ROWS).T[1:].detach()) == 0


def test_backward_passes_are_counted():
    x = torch.randn(ROWS, DIM, requires_grad=True)
    n = ROWS * DIM
    # exp; sum; its ones and their product with exp, which is the gradient.
    assert counted(lambda: x.exp().sum().backward()) >= 3 * n


def test_the_cpus_attention_is_what_the_math_kernel_is_counted_for():
    q, k, v = (torch.randn(2, 4, ROWS, 16, requires_grad=True) for _ in range(3))
    with Unseen() as unseen:
        out = scaled_dot_product_attention(q, k, v)
        forward = unseen.attention
        out.sum().backward()
    with FlopCounterMode(display=False) as plain:
        ((q @ k.transpose(-1, -2)).softmax(-1) @ v).sum()
    assert forward == plain.get_total_flops() > 0
    assert unseen.attention > 3 * forward, "scores are made again in the backward pass"


def test_a_policys_rollout_is_seen_here_alone():
    from piflow_methods.piflow.policies import GMPolicy

    b, k, shape = 4, 3, (1, 4, 4)
    means, logweights = torch.randn(b, k, *shape), torch.randn(b, k, 1, 4, 4).log_softmax(1)
    x, one = torch.randn(b, *shape), torch.ones(b)
    policy = GMPolicy(means, torch.zeros(b, 1, 1, 1, 1), logweights, x, one)
    with FlopCounterMode(display=False) as counter:
        policy.rollout(x, one, 0 * one, 8)
    assert counter.get_total_flops() == 0
    short, long = (counted(lambda n=n: policy.rollout(x, one, 0 * one, n)) for n in (8, 16))
    assert long > 1.9 * short > 8 * means.numel()
