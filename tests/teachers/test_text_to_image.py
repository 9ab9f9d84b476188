"""FLUX.1 and Qwen-Image as teachers: against diffusers' pipelines, and what is refused."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Prompts
from piflow_bench.contracts.teacher import Guidance, solve
from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder, stated_facts
from piflow_bench.preparation.tiny_pipelines import PROMPTS
from piflow_bench.teachers.text_to_image import FluxConfig, FluxTeacher, QwenConfig, QwenTeacher
from tests.networks.text_to_image.test_encoded import (  # noqa: F401
    pipeline_of,
    pipelines,
    quiet,
)

KINDS = {"flux": (FluxTeacher, FluxConfig), "qwen": (QwenTeacher, QwenConfig)}
SHAPE = (16, 8, 12)


def dataset(condition=None, shape=SHAPE):
    known = Prompts(torch.arange(len(PROMPTS)), PROMPTS)
    return SimpleNamespace(name="prompts", shape=shape, train_condition=condition or known)


def plugin(kind, folder, **settings):
    cls, config = KINDS[kind]
    return cls(config(pipeline=str(folder), dtype="float32", length=32, **settings))


@pytest.fixture(scope="module", params=KINDS)
def made(request, pipelines, tmp_path_factory):  # noqa: F811
    """A kind, its plugin's settings, and its encoded prompts."""
    kind, folder = request.param, tmp_path_factory.mktemp("encoded")
    plugin(kind, pipelines / request.param).encode(dataset(), folder, "cpu", quiet)
    return kind, pipelines / request.param, folder


def teacher_of(made, **settings):
    kind, folder, encoded = made
    return plugin(kind, folder, **settings).load(dataset(), encoded)


@torch.no_grad()
def test_samples_equal_those_of_diffusers_pipeline(made):
    """The same steps from the same noise; Qwen's pipeline rescales what it guides."""
    kind, folder, _ = made
    steps, shift = 5, flow_shift(kind)
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    teacher = teacher_of(made, **({"rule": "norm-rescaled"} if kind == "qwen" else {}))
    condition = Prompts(torch.tensor([2]), PROMPTS)
    times = flow.time_grid(steps, shift, torch.float64)
    if kind == "qwen":  # Its last sigma is .02.
        times[:-1] = 1 - (1 - times[:-1]) * (1 - 0.02) / (1 - times[-2])
    ours = flow.euler(lambda x, t: teacher(x, t, condition), noise, times)
    pipeline = pipeline_of(folder.parent, kind)
    pipeline.set_progress_bar_config(disable=True)
    options = {"flux": {"guidance_scale": 3.5}, "qwen": {"true_cfg_scale": 4.0}}[kind]
    theirs = pipeline(
        prompt=PROMPTS[2],
        height=64,
        width=96,
        num_inference_steps=steps,
        latents=packed(noise),
        output_type="latent",
        max_sequence_length=32,
        **(options | ({"negative_prompt": ""} if kind == "qwen" else {})),
    ).images
    expected = unpacked(theirs)
    assert ((ours - expected).abs() <= 3e-4 * (1 + expected.abs())).all()


def packed(x):
    from piflow_bench.networks.text_to_image.packing import pack

    return pack(x)


def unpacked(tokens):
    from piflow_bench.networks.text_to_image.packing import unpack

    return unpack(tokens, *SHAPE[1:])


def flow_shift(kind):
    """The pipelines' dynamic shift for 24 tokens."""
    highest, most = {"flux": (1.15, 4096), "qwen": (0.9, 8192)}[kind]
    mu = 0.5 + (24 - 256) * (highest - 0.5) / (most - 256)
    return float(torch.tensor(mu).exp())


@torch.no_grad()
def test_pictures_equal_those_of_the_pipelines_autoencoder(made):
    kind, folder, _ = made
    z = torch.randn(2, *SHAPE)
    coder = Autoencoder.load(str(folder / "vae"))
    assert (coder.channels, coder.factor) == (16, 8)
    model = pipeline_of(folder.parent, kind).vae
    if kind == "flux":
        expected = model.decode(z / 0.3611 + 0.1159).sample
    else:
        mean = torch.tensor(model.config.latents_mean)[:, None, None, None]
        std = torch.tensor(model.config.latents_std)[:, None, None, None]
        expected = model.decode(z[:, :, None] * std + mean).sample[:, :, 0]
    assert torch.allclose(coder.decode(z), expected, atol=1e-5)
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    mean, std = coder.encode(images)
    assert mean.shape == std.shape == (2, *SHAPE)
    stated = stated_facts(folder / "vae", "x")
    assert stated["channels"] == 16 and stated["factor"] == 8
    json.dumps(stated)


@torch.no_grad()
def test_it_is_itself_in_any_batch_and_without_an_adapter(made):
    teacher = teacher_of(made)
    noise, c = torch.randn(3, *SHAPE), Prompts(torch.tensor([0, 3, 1]), PROMPTS)
    whole = solve(teacher, noise, c, 2, "euler")
    alone = solve(teacher, noise[1:2], c[1:2], 2, "euler")
    assert torch.allclose(whole[1:2], alone, atol=1e-5)


def test_guidance_that_keeps_norms_is_another_field():
    u, empty = torch.randn(2, 16, 4, 6), torch.randn(2, 16, 4, 6)
    plain, other = Guidance(4.0), Guidance(4.0, rule="norm-rescaled")
    assert torch.equal(plain(u, empty), flow.guide(u, empty, 4.0))
    kept = other(u, empty)

    def norms(x):
        return packed(x).norm(dim=-1)

    assert torch.allclose(norms(kept), norms(u), atol=1e-5)
    assert torch.allclose(
        packed(kept) / norms(kept)[..., None],
        packed(plain(u, empty)) / norms(plain(u, empty))[..., None],
        atol=1e-5,
    )


def test_identity_is_of_content_and_loads_no_weights(made, tmp_path, monkeypatch):
    kind, folder, _ = made
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *a: pytest.fail("weights"))
    first, second = plugin(kind, folder), plugin(kind, copied)
    assert first.identity() == second.identity()
    text = copied / "text_encoder" / "config.json"
    text.write_text(text.read_text() + "\n")
    assert first.encodings() != second.encodings()


def changed(folder, tmp_path, **facts):
    """The pipeline with another transformer's configuration."""
    copied = tmp_path / "changed"
    shutil.copytree(folder, copied)
    path = copied / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return copied


def test_what_cannot_belong_is_one_line(made, tmp_path):
    kind, folder, _ = made
    own = plugin(kind, folder)
    own.look(dataset())
    cases = [
        (dataset(Classes(torch.tensor([0, 1]), 2)), "draws prompts, which prompts has not"),
        (dataset(shape=(4, 8, 12)), "for latents of 16 channels, but these are 4x8x12"),
        (dataset(shape=(16, 7, 12)), "must be multiples of 16"),
    ]
    for data, words in cases:
        with pytest.raises(UserError, match=words):
            own.look(data)
    other = changed(folder, tmp_path, _class_name="SomeOther")
    with pytest.raises(UserError, match="its transformer is a SomeOther, not a"):
        plugin(kind, other).look(dataset())
    shutil.rmtree(other / "tokenizer")
    with pytest.raises(UserError, match="has no folder tokenizer"):
        plugin(kind, other).encodings()
    shutil.rmtree(other / "transformer")
    with pytest.raises(UserError, match="has no transformer/config.json"):
        plugin(kind, other).look(dataset())
    cls, config = KINDS[kind]
    with pytest.raises(UserError, match="teacher.pipeline: not given"):
        cls(config(pipeline=None)).look(dataset())
