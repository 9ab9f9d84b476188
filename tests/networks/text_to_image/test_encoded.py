"""Prompts are encoded as diffusers' pipelines do it, kept, and read back row by row."""

import pytest
import torch
from safetensors.torch import load_file

from piflow_bench import interruption
from piflow_bench.contracts.condition import Prompts
from piflow_bench.networks.text_to_image.encoded import INDEX, EncodedTexts, encode
from piflow_bench.networks.text_to_image.encoders import FluxEncoder, QwenEncoder
from piflow_bench.networks.text_to_image.texts import Text
from piflow_bench.preparation import tiny_pipelines

LONG = "a very long prompt " * 12
PROMPTS = (*tiny_pipelines.PROMPTS, LONG)
ENCODERS = {"flux": FluxEncoder, "qwen": QwenEncoder}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_pipelines.tiny_flux(folder / "flux")
        tiny_pipelines.tiny_qwen(folder / "qwen")
    return folder


def quiet(share, text):
    pass


def encoded(pipelines, kind, folder, **options):
    encoder = ENCODERS[kind](pipelines / kind, "cpu", torch.float32, 32)
    lines = encode(lambda: encoder, PROMPTS, folder, 2, quiet, **options)
    return EncodedTexts(folder), lines


def pipeline_of(pipelines, kind):
    import diffusers

    cls = {"flux": diffusers.FluxPipeline, "qwen": diffusers.QwenImagePipeline}[kind]
    return cls.from_pretrained(pipelines / kind, local_files_only=True)


@pytest.mark.parametrize("kind", ENCODERS)
def test_texts_are_those_of_the_pipeline(pipelines, kind, tmp_path):
    texts, _ = encoded(pipelines, kind, tmp_path, shard=3)
    found = texts(Prompts(torch.tensor([3, -1, 0]), PROMPTS))
    asked = [PROMPTS[3], "", PROMPTS[0]]
    with torch.no_grad():
        if kind == "flux":
            hidden, pooled, _ = pipeline_of(pipelines, kind).encode_prompt(
                asked, None, max_sequence_length=32
            )
            assert torch.equal(found.pooled, pooled) and found.mask is None
        else:
            hidden, mask = pipeline_of(pipelines, kind).encode_prompt(asked, max_sequence_length=32)
            assert torch.equal(found.mask, mask.bool())
            assert found.mask[1].sum() == 5, "the empty prompt's tokens behind the template"
            hidden = hidden * mask[..., None]
    assert torch.allclose(found.hidden, hidden, atol=1e-6)


@pytest.mark.parametrize("kind", ENCODERS)
def test_of_a_prompt_that_is_too_long_the_end_is_named(pipelines, kind, tmp_path):
    _, lines = encoded(pipelines, kind, tmp_path)
    (line,) = lines
    assert line.startswith("prompt 4: cut before ") and "long prompt" in line


def test_pipelines_are_of_the_real_formats(pipelines):
    """Images of the saved pipeline, called as anybody would."""
    for kind, options in (("flux", {"guidance_scale": 3.5}), ("qwen", {"true_cfg_scale": 4.0})):
        pipeline = pipeline_of(pipelines, kind)
        pipeline.set_progress_bar_config(disable=True)
        if kind == "qwen":
            options = {**options, "negative_prompt": ""}
        images = pipeline(
            prompt=PROMPTS[0],
            height=64,
            width=96,
            num_inference_steps=2,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
            **options,
        ).images
        assert images.shape == (1, 64, 96, 3)


class Counting:
    """An encoder whose texts say how long they are, and that counts its calls."""

    dtype = torch.float32

    def __init__(self):
        self.calls = 0

    def __call__(self, prompts):
        self.calls += 1
        lengths = torch.tensor([len(p) + 1 for p in prompts])
        hidden = lengths[:, None, None].float().expand(-1, int(lengths.max()), 2)
        return Text(hidden, torch.arange(int(lengths.max()))[None] < lengths[:, None])

    def cut(self, prompt):
        return ""


def test_what_is_encoded_stays_when_the_work_is_stopped(tmp_path):
    prompts = [f"{i}" * i for i in range(1, 9)]
    first = Counting()

    def stop(share, text):
        if share > 0.5:
            interruption.ask()

    try:
        with pytest.raises(interruption.Stopped):
            encode(lambda: first, prompts, tmp_path, 2, stop, shard=3)
    finally:
        interruption.forget()
    assert not (tmp_path / INDEX).is_file()
    again = Counting()
    encode(lambda: again, prompts, tmp_path, 2, quiet, shard=3)
    assert first.calls == 4 and again.calls == 2, "two shards of three were there"
    texts = EncodedTexts(tmp_path)
    found = texts(Prompts(torch.tensor([7, -1, 2]), prompts))
    assert found.mask.sum(1).tolist() == [9, 1, 4]
    assert found.hidden[:, 0, 0].tolist() == [9, 1, 4] and found.hidden[1, 1:].abs().sum() == 0
    encode(lambda: pytest.fail("loaded for nothing"), prompts, tmp_path, 2, quiet, shard=3)


def test_a_prompt_that_was_not_encoded_is_named(tmp_path):
    encode(Counting, ["a", "b"], tmp_path, 2, quiet)
    with pytest.raises(IndexError, match="prompt 2 is none of 2 encoded ones"):
        EncodedTexts(tmp_path)(Prompts(torch.tensor([2]), ["a", "b", "c"]))


def test_prompts_kept_in_fp8_are_rounded_each_by_its_own_scale(tmp_path):
    class Drawn(Counting):
        def __call__(self, prompts):
            hidden = torch.stack([torch.full((3, 2), 1.0) * len(p) for p in prompts])
            hidden[:, 1, 0] = 1000.3 * hidden[:, 0, 0]
            return Text(hidden, None, torch.ones(len(prompts), 2))

    prompts = ["a", "bbbbbbb", "cccccccccccc"]
    encode(Drawn, prompts, tmp_path, 2, quiet, kept="fp8")
    found = EncodedTexts(tmp_path)(Prompts(torch.tensor([1, 0, -1]), prompts))
    exact = Drawn()(["bbbbbbb", "a"]).hidden
    assert torch.allclose(found.hidden[:2, 1, 0], exact[:, 1, 0], rtol=1e-6), "the largest is kept"
    step = exact[:, 1, 0].max() / 448 * 2**-9
    assert ((found.hidden[:2] - exact).abs() <= exact.abs() * 2**-4 + step).all()
    assert found.hidden.dtype == torch.float32 and not torch.equal(found.hidden[:2], exact)
    assert found.hidden[2].abs().sum() == 0 and torch.equal(found.pooled, torch.ones(3, 2))
    kept = load_file(next(tmp_path.glob("*.safetensors")))["hidden"]
    assert kept.dtype == torch.float8_e4m3fn, "one byte a number"
