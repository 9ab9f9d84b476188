"""DreamSim's ensemble: what it computes, of which files, and what it refuses."""

import json
import math
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from piflow_bench.conformance.extractor import check_extractor
from piflow_bench.conformance.results import FAILED
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors import dreamsim
from piflow_bench.evaluation.extractors.extractor import extractor_plugin, get_extractor

WIDTHS = {"dino": 128, "clip": 64, "open_clip": 128}
BLOCKS, PATCH, RANK, ALPHA, JOINED = 2, 32, 3, 1.5, 24
DINO, CLIP, LORA = "dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", dreamsim.ADAPTER[0]
CONFIG = "ensemble_lora/adapter_config.json"
FACTS = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.3, "bias": "none",
         "target_modules": ["qkv"], "fan_in_fan_out": False, "modules_to_save": None}  # fmt: skip


def drawn(random, width, blocks=BLOCKS, clip=False):
    """Tensors of a network, none of which is 0, or 1 alone."""

    def some(*shape, size=1.0, centre=0.0):
        return centre + size * torch.randn(*shape, generator=random)

    def norm(name):
        return {
            f"{name}.weight": some(width, size=0.3, centre=1),
            f"{name}.bias": some(width, size=0.3),
        }

    def linear(name, rows, columns):
        return {
            f"{name}.weight": some(rows, columns, size=1.5 / math.sqrt(columns)),
            f"{name}.bias": some(rows, size=0.3),
        }

    state = {
        "cls_token": some(1, 1, width),
        "pos_embed": some(1, 1 + (224 // PATCH) ** 2, width),
        "patch_embed.proj.weight": some(width, 3, PATCH, PATCH, size=1 / PATCH),
        "patch_embed.proj.bias": some(width, size=0.3),
    }
    for block in range(blocks):
        at = f"blocks.{block}"
        state |= norm(f"{at}.norm1") | norm(f"{at}.norm2")
        state |= linear(f"{at}.attn.qkv", 3 * width, width)
        state |= linear(f"{at}.attn.proj", width, width)
        state |= linear(f"{at}.mlp.fc1", 4 * width, width)
        state |= linear(f"{at}.mlp.fc2", width, 4 * width)
    state |= norm("norm")
    if clip:
        state |= norm("pos_drop") | {"proj": some(width, JOINED)}
    return state


def adapter(random):
    found = {}
    for index, width in enumerate(WIDTHS.values()):
        for block in range(BLOCKS):
            name = f"base_model.model.extractor_list.{index}.model.blocks.{block}.attn.qkv"
            down = torch.randn(RANK, width, generator=random) / math.sqrt(width)
            up = torch.randn(3 * width, RANK, generator=random)
            found |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return found


@pytest.fixture(scope="module")
def tensors():
    random = torch.Generator().manual_seed(0)
    states = {n: drawn(random, w, clip=n != "dino") for n, w in WIDTHS.items()}
    return states | {"lora": adapter(random)}


def write(folder, tensors):
    (folder / "ensemble_lora").mkdir(parents=True)
    teacher = {f"backbone.{name}": value for name, value in tensors["dino"].items()}
    head = {"head.mlp.0.weight": torch.ones(2, 2)}
    student = {f"module.{name}": value + 1 for name, value in (teacher | head).items()}
    torch.save({"student": student, "teacher": teacher | head, "epoch": 9}, folder / DINO)
    torch.save({"state_dict": tensors["clip"]}, folder / CLIP)
    torch.save({"state_dict": tensors["open_clip"]}, folder / f"open_{CLIP}")
    save_file(tensors["lora"], folder / LORA)
    (folder / CONFIG).write_text(json.dumps(FACTS))
    return folder


@pytest.fixture
def folder(tmp_path, tensors):
    return write(tmp_path / "weights", tensors)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory, tensors):
    folder = write(tmp_path_factory.mktemp("dreamsim") / "weights", tensors)
    return get_extractor("dreamsim", str(folder))


def pictures(height=50, width=40):
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    across = np.linspace(0, 255, width).astype(np.uint8)
    runs = np.broadcast_to(across[None, :, None], (height, width, 3)) // np.array([1, 2, 3])
    return np.stack([*noise, np.zeros_like(noise[0]), runs.astype(np.uint8)])


def norm(x, state, name, eps):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def tower(x, state, lora, index, mean, std, eps, act):
    """Formulas of a vision transformer with LoRA beside its layers, in 64 bits."""
    state = {name: value.double() for name, value in state.items()}
    clip = "proj" in state
    x = (x - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    b, side, width = len(x), 224 // PATCH, state["cls_token"].shape[-1]
    x = x.reshape(b, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(b, side**2, -1) @ state["patch_embed.proj.weight"].flatten(1).T
    x = x + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].expand(b, -1, -1), x], 1) + state["pos_embed"]
    if clip:
        x = norm(x, state, "pos_drop", eps)
    for block in range(BLOCKS):
        at = f"blocks.{block}"
        name = f"base_model.model.extractor_list.{index}.model.{at}.attn.qkv.lora"
        y = norm(x, state, f"{at}.norm1", eps)
        beside = y @ lora[f"{name}_A.weight"].double().T @ lora[f"{name}_B.weight"].double().T
        y = linear(y, state, f"{at}.attn.qkv") + ALPHA / RANK * beside
        heads = []
        for head in range(width // 64):
            q, k, v = (y[..., i * width + head * 64 :][..., :64] for i in range(3))
            heads.append((q @ k.mT / 8).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), state, f"{at}.attn.proj")
        y = act(linear(norm(x, state, f"{at}.norm2", eps), state, f"{at}.mlp.fc1"))
        x = x + linear(y, state, f"{at}.mlp.fc2")
    return norm(x, state, "norm", eps)[:, 0] @ state["proj"] if clip else x[:, 0]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def expected(images, tensors):
    resized = [np.asarray(Image.fromarray(i).resize((224, 224), Image.BICUBIC)) for i in images]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).double() / 255
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    clip = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    kinds = {
        "dino": (*imagenet, 1e-6, gelu),
        "clip": (*clip, 1e-5, quick_gelu),
        "open_clip": (*clip, 1e-5, gelu),
    }
    z = torch.cat(
        [
            tower(x, tensors[name], tensors["lora"], index, *kind)
            for index, (name, kind) in enumerate(kinds.items())
        ],
        1,
    )
    z = z - z.mean(1, keepdim=True)
    return (z / z.square().sum(1, keepdim=True).sqrt()).numpy()


class TestVectors:
    @pytest.mark.parametrize("size", [(50, 40), (224, 224), (230, 301)])
    def test_are_those_of_the_formulas(self, extractor, tensors, size):
        images = pictures(*size)
        found = extractor(images)["features"]
        assert found.shape == (4, 128 + 2 * JOINED) and found.dtype == np.float32
        assert np.allclose(found, expected(images, tensors), atol=2e-6)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        assert np.allclose(found.mean(1), 0, atol=1e-7)

    def test_small_things_that_would_show(self, extractor, tensors, monkeypatch):
        """The tolerance above tells the activations and the place of LoRA apart."""
        images, ours = pictures(), extractor(pictures())["features"]
        still = {name: torch.zeros_like(value) for name, value in tensors["lora"].items()}
        without = expected(images, tensors | {"lora": still})
        assert np.abs(ours - without).max() > 1e-2
        monkeypatch.setitem(globals(), "quick_gelu", gelu)
        assert np.abs(ours - expected(images, tensors)).max() > 1e-3

    def test_distances(self, extractor):
        images = pictures()
        found = extractor(images[[0, 1, 2, 3, 0]])["features"].astype(np.float64)
        distances = 1 - found @ found.T
        assert abs(distances[0, 4]) < 1e-6 and (distances[0, 1:4] > 1e-3).all()

    def test_a_batch_decides_nothing(self, extractor):
        images, order = pictures(), [3, 1, 0, 2]
        whole = extractor(images)["features"]
        assert np.allclose(extractor(images[order])["features"], whole[order], atol=1e-6)
        assert np.allclose(extractor(images[1:2])["features"], whole[1:2], atol=1e-6)

    def test_alpha_is_a_factor_of_lora(self, folder, extractor):
        (folder / CONFIG).write_text(json.dumps(FACTS | {"lora_alpha": 2 * ALPHA}))
        state = load_file(folder / LORA)
        save_file({n: v / 2 if "lora_B" in n else v for n, v in state.items()}, folder / LORA)
        found = get_extractor("dreamsim", str(folder))(pictures())["features"]
        assert np.allclose(found, extractor(pictures())["features"], atol=1e-6)

    def test_diversity_of_a_prompt_is_the_mean_distance_of_its_pictures(self, folder):
        import piflow_bench

        images = np.concatenate([pictures(), pictures()[::-1] // 2])
        table = piflow_bench.evaluate(
            images, extractor="dreamsim", weights=str(folder), labels=[0] * 4 + [1] * 4,
            metrics=["pairwise_within"], cache=False,
        )  # fmt: skip
        z = get_extractor("dreamsim", str(folder))(images)["features"].astype(np.float64)
        distances = 1 - z @ z.T
        above = np.triu_indices(4, 1)
        mean = np.mean([distances[:4, :4][above], distances[4:, 4:][above]])
        row = table.set_index("metric").loc["pairwise_within"]
        assert row["value"] == pytest.approx(mean, abs=1e-6)


def identity(folder):
    return extractor_plugin("dreamsim", {"weights": str(folder)}).identity()["weights"]


class TestFiles:
    def test_those_that_are_read_are_its_identity(self, folder):
        first = identity(folder)
        (folder / "pretrained.zip").write_bytes(b"x")
        (folder / "ensemble_lora/README.md").write_text("x")
        assert identity(folder) == first
        assert get_extractor("dreamsim", str(folder)).weights == first
        seen = {first}
        for name in (DINO, CLIP, f"open_{CLIP}", LORA, CONFIG):
            kept = (folder / name).read_bytes()
            (folder / name).write_bytes(kept + b" ")
            seen.add(identity(folder))
            (folder / name).write_bytes(kept)
        assert len(seen) == 6

    def test_lora_may_be_a_file_of_torch(self, folder, extractor):
        torch.save(load_file(folder / LORA), folder / dreamsim.ADAPTER[1])
        (folder / LORA).unlink()
        found = get_extractor("dreamsim", str(folder))(pictures())["features"]
        assert np.array_equal(found, extractor(pictures())["features"])

    def test_the_backbone_alone_is_read_in_its_place(self, folder, tensors, extractor):
        (folder / "checkpoints").mkdir()
        torch.save(tensors["dino"], folder / "checkpoints/dino_vitbase16_pretrain.pth")
        (folder / DINO).unlink()
        found = get_extractor("dreamsim", str(folder))
        assert np.array_equal(
            found(pictures())["features"], extractor(pictures())["features"]
        ) and (found.weights != extractor.weights)

    def test_it_passes_the_check(self, folder):
        results = check_extractor("dreamsim", [f"weights={folder}"])
        assert [r for r in results if r.status == FAILED] == []

    def test_what_is_missing_says_where_it_is_published(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
        with pytest.raises(UserError) as error:
            get_extractor("dreamsim")
        (needed,) = extractor_plugin("dreamsim", {}).requirements()
        for words in (str(error.value), needed.mend):
            assert dreamsim.URL in words and "1.26 GB" in words and "\n" not in words
        assert needed.source == str(tmp_path / dreamsim.NAME)

    @pytest.mark.parametrize("name", [DINO, CLIP, f"open_{CLIP}", LORA, CONFIG])
    def test_a_folder_that_lacks_one(self, folder, name):
        (needed,) = extractor_plugin("dreamsim", {"weights": str(folder)}).requirements()
        assert needed.source == str(folder)
        (folder / name).unlink()
        base = name.removesuffix(".safetensors")
        with pytest.raises(UserError, match=re.escape(base)):
            get_extractor("dreamsim", str(folder))
        (needed,) = extractor_plugin("dreamsim", {"weights": str(folder)}).requirements()
        assert base in needed.source


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def bomb(name):
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Bomb(), 2))


def changed(name, change):
    """Something done to the tensors of a CLIP's file."""

    def apply(folder):
        state = torch.load(folder / name)["state_dict"]
        change(state)
        torch.save({"state_dict": state}, folder / name)

    return apply


def lora(change):
    def apply(folder):
        state = load_file(folder / LORA)
        change(state, next(iter(state)))
        save_file(state, folder / LORA)

    return apply


def facts(**settings):
    return lambda folder: (folder / CONFIG).write_text(json.dumps(FACTS | settings))


REFUSED = {
    "code": (bomb(CLIP), CLIP, "hold code"),
    "code in DINO's": (
        lambda f: (f / DINO).write_bytes(pickle.dumps(Bomb(), 2)),
        DINO,
        "hold code",
    ),
    "no teacher": (
        lambda f: torch.save({"student": {"a": torch.ones(1)}}, f / DINO),
        DINO,
        "checkpoints/dino_vitbase16_pretrain.pth",
    ),
    "no DINO": (lambda f: torch.save({"teacher": {}}, f / DINO), DINO, "not a ViT"),
    "numbers": (lambda f: torch.save([1, 2], f / DINO), DINO, "something else"),
    "no proj": (changed(CLIP, lambda s: s.pop("proj")), CLIP, "no proj of 64 rows"),
    "no norm before": (changed(CLIP, lambda s: s.pop("pos_drop.bias")), CLIP, "lacks norm_pre"),
    "no layer": (
        changed(CLIP, lambda s: s.pop("blocks.1.attn.qkv.weight")),
        CLIP,
        "lacks blocks.1.attn.qkv.weight",
    ),
    "other patches": (
        changed(CLIP, lambda s: s.update(pos_embed=torch.ones(1, 5, 64))),
        CLIP,
        r"pos_embed is \(1, 5, 64\), not \(1, 50, 64\)",
    ),
    "not finite": (
        changed(CLIP, lambda s: s.update(proj=s["proj"] * float("nan"))),
        CLIP,
        "proj are not finite",
    ),
    "LoRA lacks": (lora(lambda s, k: s.pop(k)), "adapter_model", "lacks base_model.*lora_A"),
    "LoRA has": (lora(lambda s, k: s.update(x=torch.ones(1))), "adapter_model", "has x"),
    "LoRA's rank": (facts(r=4), "adapter_model", r"lora_A.weight is \(3, 128\), not \(4, 128\)"),
    "LoRA's kind": (facts(use_dora=True), "adapter_config", "use_dora=True"),
    "no alpha": (facts(lora_alpha=None), "adapter_config", "no r and lora_alpha"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "adapter_config", "not JSON"),
    "no safetensors": (lambda f: (f / LORA).write_bytes(b"x"), "adapter_model", "not readable"),
}


@pytest.mark.parametrize(("change", "file", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused_in_a_line(folder, change, file, reason):
    change(folder)
    with pytest.raises(UserError, match=reason) as error:
        get_extractor("dreamsim", str(folder))
    assert file in str(error.value) and "\n" not in str(error.value)
