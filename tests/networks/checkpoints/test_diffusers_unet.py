"""``UNet2DModel`` folders of diffusers: the same outputs, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.errors import UserError
from piflow_bench.networks.checkpoints.diffusers_unet import (
    DEFAULTS,
    load_diffusers_unet,
    scheduler_config,
)

PLAIN, DOWN, UP = ("DownBlock2D", "UpBlock2D"), "AttnDownBlock2D", "AttnUpBlock2D"
SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": (PLAIN[0], DOWN),
    "up_block_types": (UP, PLAIN[1]),
    "norm_num_groups": 4,
}
THREE = {
    "block_out_channels": (8, 16, 24),
    "down_block_types": (PLAIN[0], DOWN, PLAIN[0]),
    "up_block_types": (PLAIN[1], UP, PLAIN[1]),
}
CASES = {
    "attention at the lowest": {},
    "without attention": {
        "down_block_types": PLAIN[:1] * 2, "up_block_types": PLAIN[1:] * 2, "add_attention": False,
    },
    "attention in the middle alone": {
        "down_block_types": PLAIN[:1] * 2, "up_block_types": PLAIN[1:] * 2,
    },
    "attention up but not down": {
        "down_block_types": PLAIN[:1] * 2, "up_block_types": (PLAIN[1], UP),
    },
    "attention down but not up": {
        "down_block_types": (DOWN, PLAIN[0]), "up_block_types": PLAIN[1:] * 2,
    },
    "three levels, as google's": THREE | {
        "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6,
        "attention_head_dim": None, "layers_per_block": 1,
    },
    "scale and shift": THREE | {"resnet_time_scale_shift": "scale_shift", "layers_per_block": 3},
    "scale and shift, a norm in the middle": {
        "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8,
    },
    "other groups in the middle": {"attn_norm_num_groups": 16, "attention_head_dim": 16},
    "no middle": {"mid_block_type": None},
    "classes": {"num_class_embeds": 5},
    "classes by number": {"class_embed_type": "timestep", "flip_sin_to_cos": False},
    "classes, scale and shift": {"num_class_embeds": 5, "resnet_time_scale_shift": "scale_shift"},
    "centred, one channel, variances": {
        "center_input_sample": True, "in_channels": 1, "out_channels": 2, "act_fn": "swish",
    },
    "an embedding of another width": {"time_embedding_dim": 24, "dropout": 0.3, "freq_shift": 0.5},
    "not square": {"sample_size": (8, 12)},
}  # fmt: skip


def model(folder, seed=0, **config):
    """A random model, saved; no weight is at its start."""
    from diffusers import UNet2DModel

    made = UNet2DModel(**(SMALL | config)).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=g) + ("norm" in name and p.ndim == 1))
    made.save_pretrained(folder)
    return made


def inputs(config, rows=4):
    g = torch.Generator().manual_seed(1)
    size = config.get("sample_size", 8)
    height, width = size if isinstance(size, tuple) else (size, size)
    x = torch.randn(rows, config.get("in_channels", 3), height, width, generator=g)
    return x, torch.tensor([0, 1, 500, 999]), torch.tensor([0, 4, 2, 1])


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_diffusers(name, tmp_path):
    config = CASES[name]
    x, t, labels = inputs(config)
    theirs, classes = model(tmp_path, **config), None
    given, condition = {}, Unconditional(4)
    if "num_class_embeds" in config or "class_embed_type" in config:
        given, condition, classes = {"class_labels": labels}, Classes(labels, 5), 5
    expected = theirs(x, t, **given).sample[:, : x.shape[1]]
    assert expected.abs().mean() > 0.05
    network = load_diffusers_unet(str(tmp_path), classes=classes).network.eval()
    torch.testing.assert_close(network.raw(x, t, condition), expected, atol=1e-5, rtol=0)
    by_line = load_diffusers_unet(str(tmp_path), classes=classes, time_scale=1000.0).network
    torch.testing.assert_close(by_line(x, t / 1000, condition), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_no_label_is_zero_or_what_was_trained_as_that(tmp_path):
    theirs = model(tmp_path, num_class_embeds=5)
    x, t, _ = inputs({})
    null = Classes(torch.zeros(4, dtype=torch.long), 4).null()
    trained = load_diffusers_unet(str(tmp_path), null_label=True).network
    assert trained.architecture.classes == 4
    expected = theirs(x, t, class_labels=torch.full((4,), 4)).sample
    torch.testing.assert_close(trained.raw(x, t, null), expected, atol=1e-5, rtol=0)
    zero = load_diffusers_unet(str(tmp_path)).network
    theirs.class_embedding.weight.zero_()
    expected = theirs(x, t, class_labels=torch.full((4,), 2)).sample
    null = Classes(torch.full((4,), 5), 5)
    torch.testing.assert_close(zero.raw(x, t, null), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_names_of_attention_in_old_files(tmp_path):
    theirs = model(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path)
    for new, name in old.items():
        state = {k.replace(f".{new}.", f".{name}."): v for k, v in state.items()}
    save_file(state, path)
    x, t, _ = inputs({})
    found = load_diffusers_unet(str(tmp_path)).network.raw(x, t, Unconditional(4))
    torch.testing.assert_close(found, theirs(x, t).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_another_size_than_the_files(tmp_path):
    theirs = model(tmp_path, sample_size=None)
    with pytest.raises(UserError, match="sample_size=null; give the height"):
        load_diffusers_unet(str(tmp_path))
    network = load_diffusers_unet(str(tmp_path), height=4, width=6).network
    x = torch.randn(2, 3, 4, 6)
    t = torch.tensor([3, 7])
    expected = theirs(x, t).sample
    found = network.raw(x, t, Unconditional(2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_configurations_defaults_are_diffusers_own():
    import inspect

    from diffusers import UNet2DModel

    signature = inspect.signature(UNet2DModel.__init__).parameters
    own = {k: list(v.default) if isinstance(v.default, tuple) else v.default
           for k, v in signature.items() if k != "self"}  # fmt: skip
    assert own == DEFAULTS


REFUSED = {
    "time_embedding_type": "fourier",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_scale_factor": 2,
    "downsample_padding": 2,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "act_fn": "mish",
    "resnet_time_scale_shift": "spatial",
    "class_embed_type": "identity",
    "norm_num_groups": None,
    "out_channels": 4,
    "block_out_channels": [15, 32],
    "down_block_types": ["DownBlock2D", "SkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    model(made)
    return made


def changed(folder, where, **values):
    (where / "diffusion_pytorch_model.safetensors").symlink_to(
        folder / "diffusion_pytorch_model.safetensors"
    )
    config = json.loads((folder / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | values))
    return str(where)


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_held_is_refused_by_its_key_and_value(key, folder, tmp_path):
    with pytest.raises(UserError) as refused:
        load_diffusers_unet(changed(folder, tmp_path, **{key: REFUSED[key]}))
    assert f"config.json has {key}={REFUSED[key]}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"_class_name": "UNet2DConditionModel"}, "is of a UNet2DConditionModel, not of a UNet2D"),
        ({"class_embed_type": "timestep"}, "does not say how many classes"),
        ({"layers_per_block": 1}, "weights of another network: has dec.4x4_block2.affine.bias"),
        ({"attention_head_dim": 64}, "has attention_head_dim=64, which this U-Net cannot hold"),
        ({"attention_head_dim": 20}, "has attention_head_dim=20, which this U-Net cannot hold"),
        (
            {"block_out_channels": [16, 32, 32]},
            "has down_block_types=.*, which this U-Net cannot hold",
        ),
        ({"sample_size": 9}, "height=9: a U-Net of 2 levels needs multiples of 2"),
    ],
)
def test_folders_that_contradict_themselves(values, words, folder, tmp_path):
    with pytest.raises(UserError, match=words):
        load_diffusers_unet(changed(folder, tmp_path, **values))


def test_a_number_of_classes_that_the_file_does_not_have(folder):
    with pytest.raises(UserError, match="num_class_embeds=None, not 3"):
        load_diffusers_unet(str(folder), classes=3)


def test_a_folder_that_is_none(folder, tmp_path):
    with pytest.raises(UserError, match="no config.json of diffusers"):
        load_diffusers_unet(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        load_diffusers_unet(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no settings"):
        load_diffusers_unet(str(tmp_path))


def test_weights_that_have_no_place(folder, tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(
        load_file(folder / path.name) | {"down_blocks.0.other.0.norm1.weight": torch.ones(1)}, path
    )
    with pytest.raises(UserError, match="down_blocks.0.other.0.norm1.weight has no place"):
        load_diffusers_unet(str(tmp_path))


@torch.no_grad()
def test_a_pipelines_folder_and_its_schedule(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    theirs = model(tmp_path / "alone")
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    DDPMPipeline(theirs, schedule).save_pretrained(tmp_path / "whole")
    x, t, _ = inputs({})
    found = load_diffusers_unet(str(tmp_path / "whole")).network.raw(x, t, Unconditional(4))
    torch.testing.assert_close(found, theirs(x, t).sample, atol=1e-5, rtol=0)
    for place in ("whole", "whole/unet", "whole/scheduler"):
        stated = scheduler_config(tmp_path / place)
        assert stated["beta_schedule"] == "squaredcos_cap_v2"
        assert stated["prediction_type"] == "v_prediction"
    assert scheduler_config(tmp_path / "alone") is None
