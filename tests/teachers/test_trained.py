"""A teacher that the run trains: its network by the data's shape, its settings, its identity."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.contracts.method import Batch, Context
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.randomness import TrainingRandom
from piflow_bench.settings import build_dataclass
from piflow_bench.teachers.trained import Config, Trained, patch_side
from tests.world import world

DIGITS = world("digits").dataset()


def trained(**settings):
    return Trained(build_dataclass(Config, settings, "teacher"))


def data(*shape, classes=3, bounded=True):
    """24 samples of a shape."""
    x = torch.rand(24, *shape, generator=torch.Generator().manual_seed(0))
    condition = Classes(torch.arange(24) % classes, classes) if classes else Unconditional(24)
    return replace(
        DIGITS,
        space=Space(tuple(shape), bounded=bounded),
        train=x,
        train_condition=condition,
        test=x,
        test_condition=condition,
    )


SHAPES = {
    "grey": ((1, 8, 8), {}, 1),
    "colour": ((3, 32, 32), {}, 4),
    "rectangles": ((3, 16, 12), {}, 2),
    "no classes": ((3, 16, 16), {"classes": 0}, 2),
    "latents": ((4, 32, 32), {"bounded": False}, 4),
    "a patch that is given": ((3, 16, 16), {"patch": 8}, 8),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_the_network_is_of_the_datas_shape_and_classes(name):
    shape, more, patch = SHAPES[name]
    given = {k: v for k, v in more.items() if k != "patch"}
    dataset = data(*shape, **given)
    plugin = trained(dim=32, depth=2, **{k: v for k, v in more.items() if k == "patch"})
    network = plugin.fresh_network(dataset)
    assert isinstance(network, DiT) and network.patch == patch
    assert (network.channels, network.height, network.width, network.depth) == (*shape, 2)
    x, t = torch.randn(5, *shape), torch.rand(5)
    condition = dataset.train_condition[torch.arange(5)]
    assert network(x, t, condition).shape == x.shape
    assert network(x, t, condition.null()).shape == x.shape
    table = network.emb.class_embedder
    assert (table is None) == (given.get("classes") == 0)
    if table is not None:
        assert len(table.embedding_table.weight) == 4, "three classes, and none"
    teacher = plugin.load(dataset)
    assert teacher.field is teacher.network and not teacher.closed_form


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (8, 8, 1), (9, 9, 3), (16, 16, 2), (28, 28, 4), (32, 32, 4), (64, 64, 8), (16, 12, 2),
        (12, 16, 2), (24, 8, 4), (7, 7, 1), (11, 11, 11), (13, 26, 13), (16, 1, 1),
    ],
)  # fmt: skip
def test_a_patch_is_the_least_that_makes_eight_a_side(height, width, side):
    assert patch_side(height, width) == side


@pytest.mark.parametrize(
    ("dim", "heads"),
    [(4, 1), (16, 1), (32, 1), (64, 2), (96, 3), (128, 4), (192, 6), (200, 5), (256, 8), (36, 1)],
)
def test_heads_are_at_least_32_wide_and_divide_the_width(dim, heads):
    plugin = trained(dim=dim, depth=1)
    stated = plugin.stated(data(1, 8, 8))
    assert stated == {"num_attention_heads": heads, "sample_size": 8}
    plugin.fresh_network(data(1, 8, 8))
    assert dim % (4 * heads) == 0 and (heads == 1 or dim // heads >= 32)


OTHERS = {
    "guidance": 2.0, "guidance_low": 0.1, "guidance_high": 0.9, "dim": 64, "depth": 2, "patch": 2,
    "images": 1000, "batch": 32, "lr": 2e-3, "class_dropout": 0.2, "warmup": 3,
    "precision": "bf16", "threads": 1, "seed": 1,
}  # fmt: skip


def test_every_setting_is_in_its_identity():
    base = trained().identity()
    assert set(OTHERS) == set(base) - {"method"}
    assert base == trained().identity() and base["method"]
    for key, value in OTHERS.items():
        other = trained(**{key: value}).identity()
        assert {k for k in base if base[k] != other[k]} == {key}


def test_it_is_trained_as_its_settings_say():
    plugin = trained(
        images=700, batch=32, lr=3e-4, class_dropout=0.3, warmup=7, precision="bf16", seed=5,
        threads=1,
    )  # fmt: skip
    training = plugin.training(DIGITS)
    assert (training.budget.unit, training.budget.amount) == ("images", 700)
    assert training.budget.checkpoints == (1.0,) and training.seed == 5
    s = training.settings
    assert (s.batch, s.warmup, s.precision, s.threads) == (32, 7, "bf16", 1)
    assert (s.clip, s.ema.kind, s.ema.gamma) == (1.0, "power", 7.0)
    assert (training.method.config.lr, training.method.config.class_dropout) == (3e-4, 0.3)
    assert not training.method.facts.needs_teacher and training.method.facts.needs_data


@torch.no_grad()
def test_what_was_trained_is_loaded(tmp_path):
    plugin = trained(dim=32, depth=1, guidance=1.7)
    torch.manual_seed(1)
    network = plugin.fresh_network(DIGITS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(network.state_dict(), tmp_path / "checkpoint_0.safetensors")
    found = plugin.load(DIGITS, tmp_path)
    assert found.guidance.scale == 1.7
    x, t, condition = torch.randn(4, 1, 8, 8), torch.rand(4), DIGITS.conditions(0, range(4))
    assert torch.equal(found.network(x, t, condition), network(x, t, condition))
    with pytest.raises(UserError, match=r"checkpoint_0\.safetensors"):
        trained(dim=64, depth=1).load(DIGITS, tmp_path)


def test_the_loss_is_that_of_flow_matching():
    """Of a network that predicts nothing it is the mean of |noise - x0|^2; classes are dropped."""
    method = trained(class_dropout=0.25).training(DIGITS).method
    x0 = 0.5 * torch.randn(512, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    class Nothing(torch.nn.Module):
        def forward(self, x, t, condition):
            seen.append((x, t, condition))
            return torch.zeros_like(x)

    random = TrainingRandom(0, 0, 0, 512)
    batch = Batch(x0=x0, condition=Classes(torch.arange(512) % 10, 10), shape=x0.shape)
    network = Nothing()
    context = Context(0, 0.0, random, Teacher(network, network), {"student": network}, {})
    (update,) = method.training_step(batch, context)
    x, t, condition = seen[0]
    assert update.loss.item() == pytest.approx(1.25, rel=0.02)
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() <= 1
    noise = (x - (1 - t.view(-1, 1, 1, 1)) * x0) / t.view(-1, 1, 1, 1)
    assert noise[t > 0.5].std().item() == pytest.approx(1, abs=0.02)
    assert (condition.labels == 10).float().mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "shape", "words"),
    [
        ({}, (2,), r"teacher=trained: for pictures and latents; samples of digits are 2"),
        (
            {"patch": 3},
            (3, 16, 12),
            r"teacher\.patch=3: samples of 12x16 do not divide by it; teacher\.patch=2",
        ),
        ({"dim": 2}, (1, 8, 8), r"teacher\.dim=2: must be at least 4"),
        ({"dim": 6}, (1, 8, 8), r"teacher\.dim=6: must be a multiple of 4"),
        (
            {"guidance_low": 0.8, "guidance_high": 0.7},
            (1, 8, 8),
            r"teacher\.guidance_low=0\.8: must be at most guidance_high",
        ),
        ({"images": 0}, (1, 8, 8), r"teacher\.images=0: must be at least 1"),
        ({"precision": "fp16"}, (1, 8, 8), r"teacher\.precision=fp16"),
        ({"class_dropout": 2.0}, (1, 8, 8), r"teacher\.class_dropout=2\.0"),
        ({"heads": 3}, (1, 8, 8), r"teacher\.heads: no such setting"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(settings, shape, words):
    with pytest.raises(UserError, match=words) as refused:
        trained(**settings).fresh_network(data(*shape))
    assert "\n" not in str(refused.value)
