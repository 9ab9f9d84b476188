"""A base whose blocks keep their weights in 8 bits: near the whole one, with the same roles."""

import copy

import pytest
import torch
from torch import nn

from piflow_bench.networks.text_to_image.eight_bits import EightBits, keep_in_eight_bits
from tests.networks.text_to_image.tiny import CONDITION, KINDS, golden


@pytest.fixture(params=KINDS)
def tiny(request):
    return golden(request.param)


def called(network, tiny):
    return network(tiny["in.x"], tiny["in.t"], CONDITION)


def rms(x):
    return x.square().mean().sqrt()


def bits(blocks):
    """Bytes of the weights of linear layers."""
    kinds = (nn.Linear, EightBits)
    layers = [m for block in blocks for m in block.modules() if isinstance(m, kinds)]
    assert layers
    return sum(m.weight.numel() * m.weight.element_size() for m in layers)


@torch.no_grad()
def test_a_layer_is_rounded_by_rows():
    torch.manual_seed(0)
    layer = nn.Linear(64, 5)
    layer.weight[1] *= 1000
    layer.weight[2] = 0
    kept, x = EightBits(layer), torch.randn(7, 64)
    for row in range(5):
        step = layer.weight[row].abs().max() / 127
        apart = (kept.weight[row] * kept.scale[row] - layer.weight[row]).abs().max()
        assert apart <= 0.5 * step * (1 + 1e-5)
    assert (kept.weight[2] == 0).all() and torch.allclose(kept(x)[:, 2], layer.bias[2])
    assert rms(kept(x) - layer(x)) < 0.02 * rms(layer(x))


@torch.no_grad()
def test_the_velocity_is_near_and_the_memory_a_quarter_of_32_bits(tiny):
    before, whole = called(tiny.base, tiny), bits(tiny.base.blocks())
    names = dict(tiny.base.transformer.named_modules()).keys()
    keep_in_eight_bits(tiny.base.blocks())
    assert bits(tiny.base.blocks()) * 4 == whole
    assert dict(tiny.base.transformer.named_modules()).keys() == names
    apart = rms(called(tiny.base, tiny) - before) / rms(before)
    assert 0 < apart < 0.02
    assert not [n for n, p in tiny.base.named_parameters() if p.requires_grad]


def test_roles_are_as_on_a_whole_base(tiny):
    """The same adapters, which start as the teacher; gradients go through, and are near."""

    def role(base):
        base.adapt_with(4, 0.0)
        torch.manual_seed(0)
        made = copy.deepcopy(base).requires_grad_(True)
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
        return made

    def gradients(own, recomputed):
        own.zero_grad()
        own.base.checkpointing = recomputed
        called(own, tiny).square().mean().backward()
        return [p.grad.clone() for p in own.parameters() if p.grad is not None]

    kind = "flux" if "Flux" in type(tiny.base).__name__ else "qwen"
    whole = gradients(role(golden(kind).base), False)
    keep_in_eight_bits(tiny.base.blocks())
    own = role(tiny.base)
    rounded, again = gradients(own, False), gradients(own, True)
    assert len(whole) == len(rounded) > 4
    for a, b, c in zip(whole, rounded, again, strict=True):
        assert torch.equal(b, c), "recomputed or kept"
        assert rms(a - b) < 0.1 * rms(a) + 1e-9
    fresh = copy.deepcopy(tiny.base)
    assert fresh.state_dict().keys() == own.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(called(fresh, tiny), called(tiny.base, tiny))
    with pytest.raises(AssertionError, match="changed by a role"):
        base = golden(kind).base
        role(base)
        keep_in_eight_bits(base.blocks())
