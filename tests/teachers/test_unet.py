"""A teacher of the field's U-Net files: what they state, what settings say, and misfits."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Guidance
from piflow_bench.errors import UserError
from piflow_bench.files import weights
from piflow_bench.networks.checkpoints.diffusers_unet import load_diffusers_unet
from piflow_bench.networks.checkpoints.edm import load_edm
from piflow_bench.settings import build_dataclass
from piflow_bench.teachers import unet
from piflow_bench.teachers.parametrisation import velocity_field
from piflow_bench.teachers.schedules import EDM, VP, Flow
from piflow_bench.teachers.unet import Config, UNetTeacher
from tests.networks.checkpoints import edm_layout
from tests.world import world

DIGITS = world("digits").dataset()


def data(*shape, classes=3):
    x = torch.zeros(24, *shape)
    condition = Classes(torch.arange(24) % classes, classes) if classes else Unconditional(24)
    return replace(
        DIGITS, space=Space(shape), train=x, train_condition=condition, test=x,
        test_condition=condition,
    )  # fmt: skip


def teacher(path, **settings):
    return UNetTeacher(build_dataclass(Config, {"checkpoint": str(path), **settings}, "teacher"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of diffusers and of EDM, of random weights."""
    import diffusers

    root = tmp_path_factory.mktemp("unets")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, more in {"labels": {"num_class_embeds": 3}, "plain": {}}.items():
            diffusers.UNet2DModel(
                sample_size=16,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                norm_num_groups=4,
                **more,
            ).save_pretrained(root / name / "unet")
    state = edm_layout.state_of("ddpmpp", 16, 8, (1, 2), 1, (8,), classes=3)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, root / "edm.safetensors")
    return root


def with_scheduler(made, tmp_path, config, name="labels"):
    """The folder of a pipeline whose schedule is ``config``."""
    folder = tmp_path / "pipeline"
    shutil.copytree(made / name, folder)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def ddpm(**more):
    return {"_class_name": "DDPMScheduler", **more}


STATED = {
    "DDPM": (ddpm(), VP(), "eps"),
    "v": (ddpm(prediction_type="v_prediction"), VP(), "v"),
    "data, cosine": (
        ddpm(prediction_type="sample", beta_schedule="squaredcos_cap_v2"),
        VP("cosine", 1e-4, 0.02),
        "x0",
    ),
    "other betas": (
        ddpm(beta_end=0.01, num_train_timesteps=50),
        VP("linear", 1e-4, 0.01, 50),
        "eps",
    ),
    "a flow": ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, Flow(1000), "velocity"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", STATED)
def test_process_and_prediction_are_those_of_the_scheduler(name, made, tmp_path):
    config, schedule, prediction = STATED[name]
    folder = with_scheduler(made, tmp_path, config)
    plugin, dataset = teacher(folder), data(3, 16, 16)
    assert plugin.process() == (schedule, prediction)
    found = plugin.load(dataset)
    raw = load_diffusers_unet(str(folder), 16, 16).network
    x, t = torch.randn(5, 3, 16, 16), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    condition = Classes(torch.tensor([0, 1, 2, 0, 1]), 3)
    expected = velocity_field(raw, schedule, prediction)(x, t, condition)
    torch.testing.assert_close(found.network(x, t, condition), expected, atol=0, rtol=0)
    assert found.field is found.network


def test_settings_overrule_what_is_stated(made, tmp_path):
    folder = with_scheduler(made, tmp_path, ddpm())
    assert teacher(folder, predicts="v").process() == (VP(), "v")
    assert teacher(folder, schedule="cosine", steps=100).process() == (
        VP("cosine", steps=100),
        "eps",
    )
    flow = teacher(folder, schedule="flow", predicts="velocity", units=1000.0, reverse=True)
    assert flow.process() == (Flow(1000.0, True), "reversed_velocity")


def test_without_a_scheduler_it_is_ddpms_and_a_files_edms(made):
    assert teacher(made / "labels").process() == (VP(), "eps")
    assert teacher(made / "edm.safetensors").process() == (EDM(), "edm")


@torch.no_grad()
def test_edms_file_is_made_a_velocity(made):
    found = teacher(made / "edm.safetensors", guidance=2.0).load(data(3, 16, 16))
    raw = load_edm(str(made / "edm.safetensors")).network
    x, t = torch.randn(4, 3, 16, 16), torch.tensor([0.01, 0.4, 0.8, 1.0])
    condition = Classes(torch.tensor([0, 1, 2, 3]), 3)
    expected = velocity_field(raw, EDM(), "edm")(x, t, condition)
    torch.testing.assert_close(found.network(x, t, condition), expected, atol=0, rtol=0)
    assert found.guidance == Guidance(2.0)
    # EDM's own formula: D = c_skip z + c_out F, and u = (x - D) / t at sigma = t / (1 - t).
    s = (t / (1 - t))[:3].view(-1, 1, 1, 1)
    z = x[:3] * (1 + s)
    q = (s**2 + 0.25).sqrt()
    own = raw(z / q, s.log().flatten() / 4, condition[torch.arange(3)])
    denoised = 0.25 / q**2 * z + 0.5 * s / q * own
    by_hand = (x[:3] - denoised) / t[:3].view(-1, 1, 1, 1)
    torch.testing.assert_close(expected[:3], by_hand, atol=2e-4, rtol=1e-3)


def blinded(path, root):
    """A copy whose tensors have their shapes but no values that may be used."""
    target = root / path.name
    shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
    for file in [target] if target.is_file() else target.rglob("*.safetensors"):
        save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(file).items()}, file)
    return target


MISFITS = {
    "classes": ("labels", (3, 16, 16), 4, r"of 3 classes, but digits has 4"),
    "no classes in the data": ("labels", (3, 16, 16), 0, r"of 3 classes, but digits has none"),
    "channels": ("labels", (1, 16, 16), 3, r"for samples of 3x16x16, but these are 1x16x16"),
    "points": ("labels", (2,), 3, r"a network of pictures, which digits has not"),
    "sides that do not halve": ("labels", (3, 15, 16), 3, r"height=15"),
    "EDM, classes": ("edm.safetensors", (3, 16, 16), 4, r"of 3 classes, but digits has 4"),
    "EDM, no classes": ("edm.safetensors", (3, 16, 16), 0, r"of 3 classes, but digits has none"),
    "EDM, size": ("edm.safetensors", (3, 32, 32), 3, r"for samples of 3x16x16, .* 3x32x32"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_are_refused_by_shapes_alone(name, made, tmp_path):
    file, shape, classes, words = MISFITS[name]
    plugin = teacher(blinded(made / file, tmp_path))
    dataset = data(*shape, classes=classes)
    with pytest.raises(UserError, match=words) as refused:
        plugin.look(dataset)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=words):
        plugin.load(dataset)


@pytest.mark.parametrize("file", ["labels", "edm.safetensors"])
def test_what_fits_is_passed_without_its_values(file, made, tmp_path, monkeypatch):
    plugin = teacher(blinded(made / file, tmp_path))
    read = weights.read_weights

    def shapes_alone(*given, **named):
        assert named.get("values") is False, "values are read"
        return read(*given, **named)

    monkeypatch.setattr(unet, "read_weights", shapes_alone)
    monkeypatch.setattr(unet, "load_diffusers_unet", lambda *a, **k: pytest.fail("loaded"))
    monkeypatch.setattr(unet, "load_edm", lambda *a, **k: pytest.fail("loaded"))
    dataset = data(3, 16, 16)
    assert plugin.look(dataset) == ""
    with torch.device("meta"):
        network = plugin.fresh_network(dataset)
    assert all(p.is_meta for p in network.parameters())
    plugin.identity()


def test_a_network_without_labels_takes_data_without(made):
    assert teacher(made / "plain").look(data(3, 16, 16, classes=0)) == ""


def test_a_fresh_network_is_the_teachers_but_for_its_weights(made):
    for file in ("labels", "edm.safetensors"):
        plugin, dataset = teacher(made / file), data(3, 16, 16)
        fresh, own = plugin.fresh_network(dataset), plugin.load(dataset).network
        shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (fresh, own)]
        assert shapes[0] == shapes[1]
        assert (fresh.schedule, fresh.prediction) == (own.schedule, own.prediction)


def test_its_identity_is_content_and_settings(made, tmp_path):
    base = teacher(made / "labels").identity()
    named = {"units": "flow", "reverse": "flow", "steps": "linear", "beta_first": "linear",
             "beta_last": "linear"}  # fmt: skip
    copy = tmp_path / "elsewhere"
    shutil.copytree(made / "labels", copy)
    assert teacher(copy).identity() == base and str(copy) not in str(base)
    others = {
        "predicts": "v", "schedule": "cosine", "units": 1000.0, "reverse": True, "steps": 100,
        "beta_first": 1e-3, "beta_last": 0.03, "sigma_data": 1.0, "classes": 3,
        "null_label": True, "guidance": 2.0, "guidance_low": 0.1, "guidance_high": 0.9,
    }  # fmt: skip
    assert set(others) | {"checkpoint", "process"} == set(base)
    for key, value in others.items():
        schedule = {"schedule": named[key]} if key in named else {}
        usual = teacher(copy, **schedule).identity()
        other = teacher(copy, **schedule, **{key: value}).identity()
        assert {k for k in usual if usual[k] != other[k]} - {"process"} == {key}
    found = {str(base)}
    (copy / "scheduler").mkdir()
    for config in (ddpm(), ddpm(prediction_type="v_prediction")):
        (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        found.add(str(teacher(copy).identity()))
    assert len(found) == 3, "what is stated beside the weights is content, too"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": None}, r"teacher\.checkpoint: not given"),
        ({"checkpoint": "nowhere/at/all.safetensors"}, r"teacher\.checkpoint=nowhere"),
        ({"predicts": "noise"}, r"teacher\.predicts=noise"),
        ({"schedule": "vp"}, r"teacher\.schedule=vp"),
        ({"beta_last": 1.0}, r"teacher\.beta_last=1\.0"),
        ({"sigma_data": 0.0}, r"teacher\.sigma_data=0\.0"),
        ({"units": 0.0}, r"teacher\.units=0\.0: must be above 0"),
    ],
)
def test_wrong_settings_are_explained(settings, words, made):
    given = {"checkpoint": str(made / "labels"), **settings}
    with pytest.raises(UserError, match=words) as refused:
        UNetTeacher(build_dataclass(Config, given, "teacher")).look(data(3, 16, 16))
    assert "\n" not in str(refused.value)


def test_a_schedule_that_is_not_understood_is_refused(made, tmp_path):
    folder = with_scheduler(made, tmp_path, ddpm(prediction_type="flow"))
    with pytest.raises(UserError, match="prediction_type=flow is not understood"):
        teacher(folder).process()
