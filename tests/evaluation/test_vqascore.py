"""VQAScore: a tiny model in the published layout, its score by hand, and what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.space import Space
from piflow_bench.errors import UserError
from piflow_bench.evaluation import clip_t5, scorers, vqascore
from piflow_bench.pipeline.stages.scores import ScoreSamples
from piflow_bench.preparation.tiny_pipelines import _t5_tokenizer

SIDE, PATCH, WIDTH, SEEN = 28, 14, 16, 12
VOCABULARY = 160
"""More rows than the tokenizer has tokens, as FLAN-T5 has."""
PROMPTS = ["a red cat", "two dogs that look at {} and {0} for a long while", "x"]
TOWER = {
    "model_type": "clip_vision_model", "hidden_size": SEEN, "intermediate_size": 20,
    "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
CONFIG = {
    "architectures": ["CLIPT5ForConditionalGeneration"], "model_type": "clip_t5",
    "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 4, "d_ff": 24, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True, "tie_word_embeddings": False, "decoder_start_token_id": 0,
    "pad_token_id": 0, "eos_token_id": 1, "use_cache": False, "torch_dtype": "bfloat16",
    "mm_hidden_size": SEEN, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "use_mm_proj": True,
}  # fmt: skip


def pictures(height=40, width=40, n=3):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def seeded_networks():
    """T5, tower and projector whose answers depend on what they read."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

    own = {k: v for k, v in CONFIG.items() if not k.startswith(("mm_", "model_", "arch", "torch"))}
    t5 = T5ForConditionalGeneration(T5Config(**own))
    t5.lm_head.weight = nn.Parameter(torch.empty(VOCABULARY, WIDTH))  # Not the embedding.
    tower = CLIPVisionModel(
        CLIPVisionConfig(**{k: v for k, v in TOWER.items() if k != "model_type"})
    )
    projector = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    generator = torch.Generator().manual_seed(0)
    for network in (t5, tower, projector):
        for name, p in network.named_parameters():
            around = float("norm" in name and name.endswith("weight"))
            spread = 0.3 if p.ndim > 1 else 0.1
            p.data = around + spread * torch.randn(p.shape, generator=generator)
    return t5.eval(), tower.eval(), projector


def published_state(networks, tower=True):
    t5, seeing, projector = networks
    state = {k: v.clone() for k, v in t5.state_dict().items()}
    state["encoder.embed_tokens.weight"] = state["decoder.embed_tokens.weight"] = state[
        "shared.weight"
    ].clone()
    state |= {f"mm_projector.{k}": v for k, v in projector.state_dict().items()}
    if tower:
        state |= {
            f"vision_tower.vision_tower.vision_model.{k.removeprefix('vision_model.')}": v
            for k, v in seeing.state_dict().items()
        }
        state["vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)
    return state


def publish(folder, networks, tower=True):
    """As on the hub: shards of PyTorch and their index, config, tokenizer."""
    folder.mkdir()
    state = published_state(networks, tower)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names, where = sorted(state), {}
    for i in range(2):
        shard = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({k: state[k] for k in names[i::2]}, folder / shard)
        where |= dict.fromkeys(names[i::2], shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    _t5_tokenizer(
        ["Does this figure show Please answer yes or no. USER: ASSISTANT: Yes"]
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def networks():
    return seeded_networks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, networks):
    """The checkpoint with its tower's weights; its config lies beside, for it is no real one."""
    place = publish(tmp_path_factory.mktemp("vqa") / "clip-flant5", networks)
    (place / "vision_tower").mkdir()
    (place / "vision_tower" / "config.json").write_text(json.dumps(TOWER))
    return place


@pytest.fixture(scope="module")
def scorer(folder):
    return scorers.load("vqascore", str(folder))


@torch.no_grad()
def by_hand(networks, picture, prompt, ids):
    """The score of one square picture of the tower's size, without anything of the module."""
    t5, tower, projector = networks
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    x = (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - mean) / std
    inner = getattr(tower, "vision_model", tower)
    state = inner.pre_layrnorm(inner.embeddings(x[None]))
    for layer in inner.encoder.layers[:-1]:  # Behind the last but one.
        state = layer(state, attention_mask=None)
        state = state[0] if isinstance(state, tuple) else state
    first, _, last = projector
    patches = last(nn.functional.gelu(first(state[0, 1:])))
    before = ids(
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: "
    )
    after = ids('\nDoes this figure show "' + prompt + '"? Please answer yes or no. ASSISTANT: ')
    yes = ids("Yes")
    assert before[-1] == after[-1] == yes[-1] == 1, "each text ends with the end token"
    table = t5.shared.weight
    read = torch.cat([table[before], patches, table[after]])[None]
    states = t5.encoder(inputs_embeds=read).last_hidden_state
    total, given = 0.0, [0]
    for token in yes:
        told = t5.decoder(input_ids=torch.tensor([given]), encoder_hidden_states=states)
        logits = (told.last_hidden_state[0, -1] @ t5.lm_head.weight.T)[: ids.count].double()
        total += float(logits[token] - logits.exp().sum().log())
        given.append(token)
    return np.exp(total / len(yes))


@pytest.fixture(scope="module")
def ids(folder):
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(folder)

    def read(text):
        return tokenizer(text).input_ids

    read.count = len(tokenizer)
    assert read.count < VOCABULARY
    return read


def test_the_score_is_what_is_found_by_hand(networks, scorer, ids):
    seen = pictures(SIDE, SIDE)
    found = scorer.score(seen, PROMPTS)
    expected = [by_hand(networks, x, prompt, ids) for x, prompt in zip(seen, PROMPTS, strict=True)]
    assert found.shape == (3,) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(found) > 1e-3 * found.max(), "the tiny model tells samples apart"


def test_a_score_is_of_its_picture_and_its_prompt_alone(scorer, monkeypatch):
    """Shorter questions are padded in a batch: nothing reads what is behind them."""
    seen = pictures()
    found = scorer.score(seen, PROMPTS)
    alone = [scorer.score(seen[i : i + 1], PROMPTS[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    monkeypatch.setattr(vqascore, "BATCH", 2)
    np.testing.assert_allclose(scorer.score(seen, PROMPTS), found, rtol=1e-5)
    other = scorer.score(seen, [PROMPTS[1], *PROMPTS[1:]])
    assert other[0] != found[0] and np.allclose(other[1:], found[1:], rtol=1e-5)
    swapped = scorer.score(seen[[1, 0, 2]], PROMPTS)
    assert swapped[0] != found[0] and swapped[2] == pytest.approx(found[2], rel=1e-5)


def test_a_prompt_that_names_the_image_token_is_a_text(scorer):
    assert np.isfinite(scorer.score(pictures(n=1), ["a sign that says <image>"])).all()


def test_a_question_is_cut_where_the_network_was_trained_no_further(scorer, monkeypatch):
    monkeypatch.setattr(vqascore, "LONGEST", 200)
    long = "a cat and a dog " * 40
    seen = pictures(n=1)
    assert scorer.score(seen, [long]) == scorer.score(seen, [long + "and a bird"])


def test_a_picture_stands_in_the_middle_of_clips_mean():
    wide = np.full((1, 10, 30, 3), 200, np.uint8)
    found = vqascore.squared(wide, 30)
    assert found.shape == (1, 3, 30, 30)
    assert not found[:, :, :10].any() and not found[:, :, 20:].any()
    assert (found[:, :, 10:20] > 0).all()
    high = vqascore.squared(wide.transpose(0, 2, 1, 3), 30)
    assert torch.equal(high, found.transpose(2, 3))
    odd = vqascore.squared(np.full((1, 29, 30, 3), 200, np.uint8), 30)
    assert odd[:, :, 0].all() and not odd[:, :, -1].any(), "the odd row is behind the picture"


def test_a_resized_picture_keeps_to_the_colours_there_are():
    edge = np.zeros((1, 60, 60, 3), np.uint8)
    edge[:, :, 31:] = 255
    found = vqascore.squared(edge, 28)
    for end, colour in ((found.amax((0, 2, 3)), 1), (found.amin((0, 2, 3)), 0)):
        mean, std = torch.tensor(vqascore.MEAN), torch.tensor(vqascore.STD)
        torch.testing.assert_close(end, (colour - mean) / std)


def test_resizing_is_that_of_pillow_but_for_its_rounding():
    from PIL import Image

    smooth = pictures(8, 8, 1)[0]
    smooth = np.asarray(Image.fromarray(smooth).resize((64, 64), Image.Resampling.BICUBIC))
    small = np.asarray(Image.fromarray(smooth).resize((28, 28), Image.Resampling.BICUBIC))
    mine, theirs = (vqascore.squared(x[None], 28) for x in (smooth, small))
    assert (mine - theirs).abs().max() < 0.03  # Of 255 levels it is two.


def test_a_metric_of_a_run(scorer, tmp_path):
    """The stage that scores a run's samples: a mean whose interval resamples prompts."""
    n = 12
    x = np.random.default_rng(1).uniform(-1, 1, (n, 3, SIDE, SIDE)).astype(np.float32)

    def seen(x):
        return ((x.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy()

    prompts = Prompts(torch.arange(n) % 3, PROMPTS)
    data = SimpleNamespace(
        space=Space((3, SIDE, SIDE), seen), conditions=lambda seed, indices: prompts
    )
    runtime = SimpleNamespace(dataset=lambda: data, scorer={"vqascore": scorer}.__getitem__)
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples" / "samples.npy", x)
    task = ScoreSamples(
        dataset={}, space={}, metrics=["vqascore"], versions={}, lpips=None,
        labels={"from": "conditions", "seed": 0, "law": "balanced"},
        scorers={"vqascore": scorer.identity},
    )  # fmt: skip
    task.run({"samples": [tmp_path / "samples"]}, tmp_path, runtime, lambda *told: None)
    (row,) = json.loads((tmp_path / "metrics.json").read_text())
    expected = scorer.score(seen(torch.from_numpy(x)), prompts.texts())
    assert row["metric"] == "vqascore" and row["value"] == pytest.approx(expected.mean())
    assert 0 <= row["ci_low"] < row["value"] < row["ci_high"] <= 1


# ------------------------------------------------------------------ files


def score_of(folder):
    return scorers.load("vqascore", str(folder)).score(pictures(), PROMPTS)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def rewritten(folder, change):
    """The folder with one file of its changed weights."""
    state = {}
    for path in folder.glob("pytorch_model-*.bin"):
        state |= torch.load(path, weights_only=True)
        path.unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    torch.save(change(state), folder / "pytorch_model.bin")


def without(part):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(part)}


def test_one_file_of_safetensors_is_the_same(copy, networks, scorer):
    for path in copy.glob("pytorch_model*"):
        path.unlink()
    state = {k: v.contiguous().clone() for k, v in published_state(networks).items()}
    save_file(state, copy / "model.safetensors")
    assert (score_of(copy) == scorer.score(pictures(), PROMPTS)).all()


@pytest.mark.parametrize("named", ["vision_tower", "beside"])
def test_a_tower_of_its_own_folder(named, copy, networks, scorer):
    """A whole CLIP lies there; its text tower is not looked at."""
    rewritten(copy, without("vision_tower"))
    shutil.move(copy / "vision_tower", copy / named)
    tower = {
        f"vision_model.{k.removeprefix('vision_model.')}": v.contiguous()
        for k, v in networks[1].state_dict().items()
    }
    tower |= {"text_model.x": torch.zeros(2), "logit_scale": torch.zeros(())}
    save_file(tower, copy / named / "model.safetensors")
    (copy / "config.json").write_text(json.dumps(CONFIG | {"mm_vision_tower": named}))
    assert (score_of(copy) == scorer.score(pictures(), PROMPTS)).all()
    before = scorers.identity_of("vqascore", str(copy))
    tower["vision_model.post_layernorm.bias"] = tower["vision_model.post_layernorm.bias"] + 1
    save_file(tower, copy / named / "model.safetensors")
    assert scorers.identity_of("vqascore", str(copy)) != before, "its weights are in the identity"


def test_a_tower_that_is_known_by_its_name(monkeypatch, copy, scorer):
    """As published: the checkpoint has the tower's weights, its name says their shape."""
    shutil.rmtree(copy / "vision_tower")
    shape = {k: v for k, v in TOWER.items() if k != "model_type"}
    monkeypatch.setitem(clip_t5.KNOWN_TOWERS, "openai/clip-vit-large-patch14-336", shape)
    assert (score_of(copy) == scorer.score(pictures(), PROMPTS)).all()


def test_what_decides_a_score_is_what_is_read(copy, folder):
    first = scorers.identity_of("vqascore", str(folder))
    (copy / "README.md").write_text("other words")
    assert scorers.identity_of("vqascore", str(copy)) == first
    rewritten(copy, lambda state: state | {"mm_projector.0.bias": state["mm_projector.0.bias"] + 1})
    assert scorers.identity_of("vqascore", str(copy)) != first


def test_weights_are_looked_for_in_the_cache_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="hf download zhiqiulin/clip-flant5-xxl .*22.9 GB"):
        scorers.load("vqascore", None)
    shutil.copytree(folder, tmp_path / scorers.file_of("vqascore"))
    given, kept = (scorers.identity_of("vqascore", w) for w in (str(folder), None))
    assert given == kept


class Code:
    def __reduce__(self):
        return (print, ("run",))


WRONG = {
    "no projector": (lambda f: rewritten(f, without("mm_projector")), "no mm_projector"),
    "no tower": (
        lambda f: rewritten(f, without("vision_tower")), "no vision tower.*hf download openai/clip",
    ),
    "a T5 that lacks a layer": (
        lambda f: rewritten(f, without("decoder.block.1")), "network: lacks decoder.block.1",
    ),
    "a projector of another width": (
        lambda f: rewritten(f, lambda s: s | {"mm_projector.2.weight": torch.zeros(3, 3)}),
        "mm_projector: .*2.weight is",
    ),
    "a number that is none": (
        lambda f: rewritten(f, lambda s: s | {"lm_head.weight": s["lm_head.weight"] * np.nan}),
        "are not finite",
    ),
    "a pickle with code": (lambda f: rewritten(f, lambda s: {"x": Code()}), "code are refused"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "a config of something else": (
        lambda f: (f / "config.json").write_text('{"feed_forward_proj": "a-b-c"}'), "of no T5",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json or"),
    "another projector": (
        lambda f: (f / "config.json").write_text(json.dumps(CONFIG | {"mm_projector_type": "no"})),
        "mm_projector_type=no",
    ),
    "a feature that is none": (
        lambda f: (f / "config.json").write_text(
            json.dumps(CONFIG | {"mm_vision_select_feature": "all"})
        ),
        "mm_vision_select_feature=all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_such_model_is_one_line(wrong, copy, capsys):
    change, words = WRONG[wrong]
    change(copy)
    with pytest.raises(UserError, match=rf"scorers\.vqascore\.weights=.*{words}") as found:
        score_of(copy)
    assert "\n" not in str(found.value) and "run" not in capsys.readouterr().out


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match="not a folder"):
        scorers.load("vqascore", str(tmp_path / "x.bin"))


def test_the_package_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setattr(clip_t5, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'piflow-bench\[text-to-image\]'"):
        scorers.identity_of("vqascore", str(folder))


def test_the_published_sizes_are_what_was_said():
    """Counted without memory: FLAN-T5 XXL, CLIP's tower and the projector, in 16 bits."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    (known,) = clip_t5.KNOWN_TOWERS.values()
    with torch.device("meta"):
        tower = CLIPVisionModel(CLIPVisionConfig(**known))
        projector = clip_t5._projector({}, known["hidden_size"], 4096, "")
    facts = CONFIG | {
        "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
        "num_decoder_layers": 24, "num_heads": 64,
    }  # fmt: skip
    t5 = clip_t5._t5(facts, "").state_dict()
    count = sum(v.numel() for k, v in t5.items() if "embed_tokens" not in k)
    count += sum(p.numel() for part in (tower, projector) for p in part.parameters())
    assert f"{2 * count / 1e9:.1f} GB" == clip_t5.SIZE
