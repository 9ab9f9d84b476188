"""Students of the real sizes, on the meta device: parameters as the paper's adapters have them."""

import copy

import pytest
import torch
from piflow_methods.piflow.heads import DXNetwork, GMNetwork

from piflow_bench.networks.text_to_image.flux import Flux
from piflow_bench.networks.text_to_image.qwen import Qwen

SHAPE = (16, 128, 128)
# base, LoRA, heads and last norm of GM with K = 8, and of DX with N = 10 (T2I.md 1.1, 2.1, 4)
SIZES = {
    "flux": (11_901_408_320, 629_997_568, 23_700_001, 20_847_232),
    "qwen": (20_430_401_088, 938_278_912, 23_700_001, 20_847_232),
}


@pytest.fixture(scope="module", params=SIZES)
def real(request):
    import diffusers

    with torch.device("meta"):
        if request.param == "flux":
            model = diffusers.FluxTransformer2DModel(guidance_embeds=True)
            return request.param, Flux(model, SHAPE, lambda condition: None)
        model = diffusers.QwenImageTransformer2DModel()
        return request.param, Qwen(model, SHAPE, lambda condition: None)


def numbers(network, of=""):
    return sum(p.numel() for n, p in network.named_parameters() if of in n)


def student(base, rank=256):
    base.adapt_with(rank, 0.05)
    with torch.device("meta"):
        return copy.deepcopy(base).requires_grad_(True)


def test_a_students_tensors_are_those_of_the_published_adapters(real):
    kind, base = real
    whole, lora, gm, dx = SIZES[kind]
    assert numbers(base) == whole
    own = student(base)
    assert numbers(own, ".lora_") == lora
    with torch.device("meta"):
        heads = {"gm": GMNetwork, "dx": DXNetwork}
        sizes = {"gm": gm, "dx": dx}
        for policy, components in (("gm", 8), ("dx", 10)):
            network = heads[policy](copy.deepcopy(own), components)
            trained = [p for p in network.parameters() if p.requires_grad]
            assert sum(p.numel() for p in trained) == lora + sizes[policy]


def test_roles_hold_no_second_base(real):
    """Teacher, student, its average, a fake score: one base, and a few hundredths of it each."""
    _, base = real
    roles = [student(base) for _ in range(3)]
    seen = {id(p) for p in base.parameters()}
    assert not any(id(p) in seen for role in roles for p in role.parameters())
    assert sum(map(numbers, roles)) < 0.2 * numbers(base)
    state = sum(v.numel() * v.element_size() for v in roles[0].state_dict().values())
    assert state < 4e9, "its float32 masters; of them a state has four: with average and moments"
