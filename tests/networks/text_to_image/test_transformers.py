"""FLUX's and Qwen-Image's transformers against the official numbers, and as shared bases."""

import copy

import pytest
import torch

from piflow_bench import flow
from piflow_bench.contracts.backbone import PARTS, lacking
from piflow_bench.networks.text_to_image.packing import pack, places_first, places_last, unpack
from tests.networks.text_to_image.tiny import CONDITION, KINDS, Row, by_row, close, golden


@pytest.fixture(params=KINDS)
def tiny(request):
    return golden(request.param)


def called(network, tiny, condition=CONDITION):
    return network(tiny["in.x"], tiny["in.t"], condition)


def role(tiny, rank=4, dropout=0.0, seed=0):
    """An adapted copy, whose change is not zero."""
    tiny.base.adapt_with(rank, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = copy.deepcopy(tiny.base).requires_grad_(True)
        for name, parameter in made.named_parameters():
            if "lora_B" in name or "norm_out" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return made


def test_packing_equals_the_official_order(tiny):
    x = tiny["in.x"]
    assert torch.equal(pack(x), tiny["teacher_out.packed_x"])
    assert torch.equal(unpack(pack(x), *x.shape[2:]), x)
    close(unpack(tiny["teacher_out.packed_u"], *x.shape[2:]), tiny["teacher_out.u"])


def test_the_order_of_a_heads_outputs_is_turned_and_turned_back():
    rows = torch.arange(3 * 5 * 4)
    ours = places_first(rows, 3)
    assert ours.reshape(4, 3, 5)[1, 2, 4] == rows.reshape(3, 5, 4)[2, 4, 1]
    assert torch.equal(places_last(ours, 3), rows)


@torch.no_grad()
def test_velocity_equals_the_official_one(tiny):
    close(by_row(tiny, tiny.base), tiny["teacher_out.u"], 2e-5)


@torch.no_grad()
def test_guidance_of_qwen_is_plain():
    tiny = golden("qwen")
    u, empty = called(tiny.base, tiny), called(tiny.base, tiny, CONDITION.null())
    close(empty, tiny["teacher_out.u_negative"])
    close(flow.guide(u, empty, 4.0), tiny["teacher_out.u_cfg4"])


@torch.no_grad()
def test_the_teachers_samples_equal_the_official_ones(tiny):
    facts, x = tiny.facts["teacher_sample"], tiny["in.noise"]
    scale = facts.get("guidance_scale", 1.0)
    for now, then in zip(facts["sigmas"], facts["sigmas"][1:], strict=False):
        t = torch.full((2,), now)
        u = tiny.base(x, t, CONDITION)
        if scale != 1:
            u = flow.guide(u, tiny.base(x, t, CONDITION.null()), scale)
        x = x + (then - now) * u
    close(x, tiny["teacher_sample.x0"], 3e-4)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(tiny):
    """Shorter texts are masked, not cut into the others' length."""
    whole = called(tiny.base, tiny)
    for i in range(2):
        alone = tiny.base(tiny["in.x"][i : i + 1], tiny["in.t"][i : i + 1], Row(torch.tensor([i])))
        assert torch.allclose(alone[0], whole[i], atol=1e-5)


def test_it_has_every_part_of_a_backbone_but_further_inputs(tiny):
    for network in (tiny.base, role(tiny)):
        assert lacking(network, tuple(PARTS)) == ["duration", "guidance input"]


@torch.no_grad()
def test_a_copy_starts_as_the_teacher_and_shares_it(tiny):
    tiny.base.adapt_with(4, 0.0)
    own = copy.deepcopy(tiny.base)
    assert torch.equal(called(own, tiny), called(tiny.base, tiny))
    shared = {id(p) for p in tiny.base.parameters()}
    assert not shared & {id(p) for p in own.parameters()}
    assert not any(k.startswith("transformer.") for k in own.state_dict())


@torch.no_grad()
def test_roles_do_not_see_each_other(tiny):
    teacher = called(tiny.base, tiny)
    one, two = role(tiny, seed=1), role(tiny, rank=2, seed=2)
    first = called(one, tiny)
    second = called(two, tiny)
    assert not torch.allclose(first, teacher, atol=1e-3)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(called(one, tiny), first)
    assert torch.equal(called(tiny.base, tiny), teacher), "without a role it is the teacher"
    other = copy.deepcopy(one)
    assert torch.equal(called(other, tiny), first)
    other.output_layer.weight.zero_()
    assert torch.equal(called(one, tiny), first)


def gradients(network, tiny):
    network.zero_grad()
    called(network, tiny).square().mean().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def test_training_a_role_changes_it_alone(tiny):
    own = role(tiny)
    before = {n: p.clone() for n, p in tiny.base.named_parameters()}
    found = gradients(own, tiny)
    assert found.keys() == dict(own.named_parameters()).keys()
    optimizer = torch.optim.SGD(own.parameters(), 1.0)
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in tiny.base.named_parameters())
    assert all(p.grad is None for p in tiny.base.parameters())


def test_recomputed_activations_are_those_of_the_role_that_was_acting(tiny):
    own = role(tiny)
    plain = gradients(own, tiny)
    own.checkpointing = True
    loss = called(own, tiny).square().mean()
    called(role(tiny, seed=3), tiny)  # Another role is called, and the teacher, before backward.
    called(tiny.base, tiny)
    own.zero_grad()
    loss.backward()
    for name, gradient in plain.items():
        assert torch.allclose(own.get_parameter(name).grad, gradient, atol=1e-6), name


@torch.no_grad()
def test_a_state_of_another_rank_or_of_other_layers_makes_a_role_so(tiny):
    trained = role(tiny, rank=3, seed=4)
    other = role(tiny, rank=2, seed=5)
    attention = "transformer_blocks.0.attn.to_q"
    state = trained.state_dict() | {
        f"{attention}.lora_A.weight": torch.randn(5, 32),
        f"{attention}.lora_B.weight": torch.randn(32, 5),
    }
    gone = "time_text_embed.timestep_embedder.linear_1"
    state = {k: v for k, v in state.items() if not k.startswith(gone)}
    holder = torch.nn.ModuleDict({"backbone": other})
    holder.load_state_dict({f"backbone.{k}": v for k, v in state.items()})
    assert other.state_dict().keys() == state.keys()
    assert other.layers[attention].rank == 5 and gone not in other.layers
    expected = role(tiny, rank=3, seed=4)
    expected.load_state_dict(state)
    assert torch.equal(called(other, tiny), called(expected, tiny))
    with pytest.raises(KeyError, match="no layer nothing.such"):
        other.shape_as({"nothing.such.lora_A.weight": torch.zeros(4, 32)})


@torch.no_grad()
def test_features_do_not_see_deeper_blocks(tiny):
    own, base = role(tiny), tiny.base
    assert base.depth == (4 if tiny.kind == "flux" else 2)
    x, t = tiny["in.x"], tiny["in.t"]
    shallow = base.features(x, t, CONDITION, None, 1)
    assert shallow.shape == (2, *base.feature_shape(1)) == (2, 32, 4, 5)
    whole = base.features(x, t, CONDITION, None, base.depth)
    assert torch.equal(whole.flatten(2).transpose(1, 2), base.trunk(x, t, CONDITION)[0])
    last = base.transformer.get_submodule(base.stacks[-1])[-1]
    for parameter in last.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(base.features(x, t, CONDITION, None, 1), shallow)
    assert not torch.equal(base.features(x, t, CONDITION, None, base.depth), whole)
    assert not torch.equal(own.features(x, t, CONDITION, None, 1), shallow)


def test_latents_of_another_size_are_one_line(tiny):
    x = torch.randn(2, 16, 4, 4)
    with pytest.raises(ValueError, match="latents of 16x4x4, but this network .* 16x8x10"):
        tiny.base(x, torch.rand(2), CONDITION)


def test_times_are_rounded_as_the_stated_rule_says():
    """The table of what a bfloat16 network sees, times 1000, of sigma = .888889."""
    tiny = golden("flux")
    tiny.base.to(torch.bfloat16)
    seen = {}

    def look(module, inputs):
        seen["t"] = float(inputs[0][0])

    tiny.base.transformer.time_text_embed.register_forward_pre_hook(look)
    t = torch.full((2,), 8 / 9)
    for rounding, expected in (("network", 892), ("pipeline", 888)):
        tiny.base.rounding = rounding
        out = tiny.base(tiny["in.x"], t, CONDITION)
        assert seen["t"] == expected
        assert out.dtype == torch.float32
