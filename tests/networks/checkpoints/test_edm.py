"""U-Nets of EDM's files, against the architectures written down anew (edm_layout.py)."""

import math

import pytest
import torch
from safetensors.torch import save_file

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.networks.checkpoints.edm import edm_architecture, edm_state, load_edm
from piflow_bench.networks.unet import UNet
from tests.networks.checkpoints import edm_layout

SONG = (16, 8, (1, 2, 2), 2, (8,))
ADM = (8, 64, (1, 2), 1, (8, 4))
CASES = {
    "DDPM++": ("ddpmpp", SONG, {}),
    "DDPM++ with classes": ("ddpmpp", SONG, {"classes": 5, "augment": 9}),
    "DDPM++, four levels": ("ddpmpp", (16, 8, (1, 1, 2, 2), 1, (16, 4)), {"augment": 9}),
    "DDPM++, first level wider": ("ddpmpp", (8, 8, (2, 3), 1, ()), {}),
    "NCSN++": ("ncsnpp", SONG, {"augment": 9}),
    "NCSN++ with classes": ("ncsnpp", (8, 8, (1, 2), 3, (4,)), {"classes": 4}),
    "ADM": ("adm", ADM, {"classes": 7}),
    "ADM without classes": ("adm", ADM, {"augment": 9}),
    "ADM, variances": ("adm", (16, 64, (1, 1, 3), 1, (4,)), {"classes": 3, "outputs": 6}),
}


def saved(state, folder, prefix=""):
    path = folder / "network.safetensors"
    save_file({prefix + k: v.contiguous().clone() for k, v in state.items()}, path)
    return path


def inputs(size, classes, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, size, size, generator=g)
    noise = 2 * torch.randn(4, generator=g)
    labels = torch.tensor([0, classes, max(classes - 1, 0), 1])  # The second is the null label.
    return x, noise, labels


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_the_function_is_the_published_architectures(name, tmp_path):
    """In float64, where another constant anywhere is seen."""
    family, facts, more = CASES[name]
    state = edm_layout.state_of(family, *facts, **more)
    classes = more.get("classes", 0)
    x, noise, labels = inputs(facts[0], classes)
    one_hot = torch.eye(classes + 1).double()[labels, :classes] if classes else None
    doubled = {k: v.double() for k, v in state.items()}
    expected = edm_layout.function(doubled, x.double(), noise.double(), one_hot, family)[:, :3]
    assert expected.abs().mean() > 0.1
    network = load_edm(str(saved(state, tmp_path))).network
    condition = Classes(labels, classes) if classes else Unconditional(4)
    single = network.raw(x, noise, condition).double()
    torch.testing.assert_close(single, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    network.double()
    found = network.raw(x.double(), noise.double(), condition)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert torch.equal(network(x.double(), noise.double(), condition), found)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["model.", "ema.model."])
def test_names_may_stand_behind_a_prefix(prefix, tmp_path):
    state = edm_layout.state_of("ddpmpp", *SONG)
    plain = load_edm(str(saved(state, tmp_path))).network.state_dict()
    path = saved(state, tmp_path, prefix)
    found = load_edm(str(path))
    assert found.digest == digest(path)
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, plain[name])


def test_every_weight_matters():
    """So that equality above speaks of all of them."""
    family, facts, more = CASES["NCSN++ with classes"]
    state = {k: v.double() for k, v in edm_layout.state_of(family, *facts, **more).items()}
    x, noise, labels = inputs(facts[0], 4)
    one_hot = torch.eye(5).double()[labels, :4]
    leaves = {k: v.requires_grad_() for k, v in state.items() if "resample" not in k}
    out = edm_layout.function(state, x.double(), noise.double(), one_hot, family)
    grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
    still = [k for k, g in zip(leaves, grads, strict=True) if g.abs().max() < 1e-6]
    assert still == []


@torch.no_grad()
def test_facts_are_read_from_names_and_shapes(tmp_path):
    a = load_edm(str(saved(edm_layout.state_of("adm", *ADM, classes=7), tmp_path))).network
    assert a.architecture.height == 8 and a.architecture.widths == (64, 128)
    assert a.architecture.classes == 7 and a.architecture.attention == (0, 1)
    assert (a.channels, a.dim, a.embedding_dim) == (3, 64, 256)
    song = edm_layout.state_of("ddpmpp", *SONG)
    s = load_edm(str(saved(song, tmp_path))).network.architecture
    assert (s.blocks, s.attention, s.attention_last, s.taps) == (2, (1,), True, (1, 1))
    assert s.skip_scale == math.sqrt(0.5) and not s.adaptive


PUBLISHED = {
    "CIFAR-10": (("ddpmpp", 32, 128, (2, 2, 2), 4, (16,)), {"augment": 9}, 55_733_891),
    "CIFAR-10 with classes": (
        ("ddpmpp", 32, 128, (2, 2, 2), 4, (16,)),
        {"classes": 10, "augment": 9},
        55_735_299,
    ),
    "FFHQ, AFHQ": (("ddpmpp", 64, 128, (1, 2, 2, 2), 4, (16,)), {"augment": 9}, 61_805_571),
    "FFHQ, AFHQ by NCSN++": (
        ("ncsnpp", 64, 128, (1, 2, 2, 2), 4, (16,)),
        {"augment": 9},
        62_761_091,
    ),
    "ImageNet-64": (
        ("adm", 64, 192, (1, 2, 3, 4), 3, (32, 16, 8)),
        {"classes": 1000},
        295_899_267,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_their_number_of_parameters(name):
    facts, more, count = PUBLISHED[name]
    shapes = edm_layout.layout(*facts, **more)
    filters = {k: edm_layout.taps(facts[0]) for k in shapes if k.endswith("resample_filter")}
    state = {k: torch.empty(v, device="meta") for k, v in shapes.items()} | filters
    architecture = edm_architecture(edm_state(state))
    with torch.device("meta"):
        network = UNet(architecture)
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    given = {k: v for k, v in edm_state(state).items() if not k.endswith("resample_filter")}
    assert own == {k: tuple(v.shape) for k, v in given.items()}
    augmentation = 9 * given["map_layer0.weight"].shape[1] if more.get("augment") else 0
    assert sum(p.numel() for p in network.parameters()) + augmentation == count


@torch.no_grad()
def test_a_line_in_t_can_stand_before_the_noise_condition(tmp_path):
    path = str(saved(edm_layout.state_of("ddpmpp", *SONG), tmp_path))
    x, _, _ = inputs(16, 0)
    t = torch.tensor([0.0, 0.3, 0.6, 1.0])
    network = load_edm(path, time_scale=-2.0, time_offset=0.5).network
    expected = load_edm(path).network.raw(x, 0.5 - 2 * t, Unconditional(4))
    torch.testing.assert_close(network(x, t, Unconditional(4)), expected)


def dropped(state, name):
    return {k: v for k, v in state.items() if k != name}


FAULTS = {
    "another network": (lambda s: {"blocks.0.attn.qkv.weight": torch.ones(3)}, "no U-Net in"),
    "half of one": (lambda s: {"map_layer0.weight": torch.ones(3, 3)}, "no U-Net in"),
    "no first convolution": (
        lambda s: dropped(s, "enc.16x16_conv.weight"),
        "lacks 'enc.16x16_conv.weight'",
    ),
    "a weight is missing": (
        lambda s: dropped(s, "dec.8x8_up.norm0.weight"),
        "lacks dec.8x8_up.norm0.weight and 0 more",
    ),
    "a weight too many": (lambda s: s | {"enc.64x64_conv.weight": torch.ones(1)}, "do not belong"),
    "skips of the image": (
        lambda s: s | {"enc.8x8_aux_skip.weight": torch.ones(1)},
        "skips of the image itself .enc.8x8_aux_skip.weight. is not held",
    ),
    "outputs everywhere": (
        lambda s: s | {"dec.8x8_aux_conv.weight": torch.ones(1)},
        "an output at every resolution",
    ),
    "another filter": (
        lambda s: s | {"enc.8x8_down.conv0.resample_filter": torch.ones(1, 1, 2, 2)},
        "resample_filter is neither",
    ),
    "no number": (
        lambda s: s | {"map_layer0.bias": s["map_layer0.bias"] * torch.nan},
        "values of map_layer0.bias are not finite",
    ),
    "two networks": (
        lambda s: {f"{p}.{k}": v for p in ("ema_a", "ema_b") for k, v in s.items()},
        "several averaged sets",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_that_layout_is_refused_in_a_line(name, tmp_path):
    change, words = FAULTS[name]
    path = saved(change(edm_layout.state_of("ddpmpp", *SONG)), tmp_path)
    with pytest.raises(UserError, match=words) as refused:
        load_edm(str(path))
    assert "\n" not in str(refused.value)
