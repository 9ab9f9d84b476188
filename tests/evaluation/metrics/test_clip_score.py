"""CLIP scores: scales, text embeddings beside open_clip's own, and files of prompts."""

import json
import pickle
import shutil
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import piflow_bench
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors import clip
from piflow_bench.evaluation.extractors.extractor import extractor_plugin, get_extractor
from piflow_bench.evaluation.metrics.agreement import cosines
from piflow_bench.evaluation.metrics.clip_score import on_scale
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.files.prompts import read_prompts

MODEL = "ViT-tiny-for-tests"
TEXTS = ["a red bird", "A photo of two dogs, café!", "a red bird", "nothing"]


CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def embed_texts(texts, weights=None, model=clip.MODEL, batch=64):
    return clip.open_model(weights, model=model, setting="a.weights").embed_texts(texts, batch)


@pytest.fixture(scope="module")
def open_clip():
    """The package: imported here, it costs no time where other files are collected."""
    import open_clip

    return open_clip


@pytest.fixture(scope="module", autouse=True)
def model(open_clip, tmp_path_factory):
    """A small architecture that open_clip knows by name."""
    path = tmp_path_factory.mktemp("configs") / f"{MODEL}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    open_clip.factory._MODEL_CONFIGS.pop(MODEL)


@pytest.fixture(scope="module")
def network(open_clip, model):
    torch.manual_seed(0)
    return open_clip.create_model(MODEL).eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "x.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        pytest.fail("a connection was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestScores:
    IMAGES = np.array([[1.0, 0], [3, 4], [0, 2], [1, 1]])
    PROMPTS = np.array([[2.0, 0], [4, 3], [0, -1], [0, 5]])
    COSINES = np.array([1, 0.96, -1, np.sqrt(0.5)])

    @pytest.mark.parametrize(
        "scale, expected",
        [
            ("cosine", COSINES),
            ("hessel", 2.5 * COSINES.clip(0)),
            ("percent", 100 * COSINES.clip(0)),
        ],
    )
    def test_scales(self, scale, expected):
        found = on_scale(cosines(self.IMAGES, self.PROMPTS), scale)
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_refusals(self):
        with pytest.raises(UserError, match="clip_scale=percents: .*did you mean 'percent'"):
            make_settings({"clip_scale": "percents"})
        with pytest.raises(UserError, match="clip_weights=PATH is called scorers="):
            make_settings({"clip_weights": "x.pt"})

    def test_equal_open_clips_from_pixels_and_words(self, open_clip, network, weights, no_network):
        rows = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        plugin = extractor_plugin("clip", {"weights": str(weights), "model": MODEL})
        extractor = plugin.load("clip", Place())
        texts = embed_texts(TEXTS, weights, MODEL)
        with torch.no_grad():
            logits, _ = network.get_logits(
                extractor.prepare(rows), open_clip.get_tokenizer(MODEL)(TEXTS)
            )
            expected = logits.diagonal() / network.logit_scale.exp()
        found = cosines(extractor(rows)["features"], texts)
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestTexts:
    def test_equal_open_clips(self, open_clip, network, weights, no_network):
        found = embed_texts(TEXTS, weights, MODEL)
        with torch.no_grad():
            raw = network.encode_text(open_clip.get_tokenizer(MODEL)(TEXTS)).numpy()
        assert found.shape == (4, 24) and found.dtype == np.float32
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert len(np.unique(found.round(4), axis=0)) == 3

    @pytest.mark.parametrize("batch", [1, 2, 3])
    def test_batches_change_nothing(self, weights, batch):
        whole = embed_texts(TEXTS, weights, MODEL)
        np.testing.assert_allclose(
            embed_texts(TEXTS, weights, MODEL, batch=batch), whole, atol=1e-6
        )

    def test_texts_pass_in_batches_and_recurring_ones_once(self, open_clip, weights, monkeypatch):
        seen, get = [], open_clip.get_tokenizer

        def watched(name):
            tokenize = get(name)
            return lambda texts: seen.append(list(texts)) or tokenize(texts)

        monkeypatch.setattr(open_clip, "get_tokenizer", watched)
        embed_texts(TEXTS * 3, weights, MODEL, batch=2)
        assert sorted(map(len, seen)) == [1, 2]
        assert sorted(sum(seen, [])) == sorted(set(TEXTS))

    def test_long_texts_are_cut_to_77_tokens(self, weights):
        words = ["bird"] * 74
        texts = [
            " ".join(words + end) for end in (["a"], ["a", "red", "dog"], ["the"], ["a"] * 60, [])
        ]
        a, longer, other, longest, shorter = embed_texts(texts, weights, MODEL)
        np.testing.assert_allclose(a, longer, atol=1e-6)
        np.testing.assert_allclose(a, longest, atol=1e-6)
        assert min(np.abs(a - other).max(), np.abs(a - shorter).max()) > 1e-3

    def test_what_cannot_be_loaded_is_named(self, weights, tmp_path, monkeypatch, no_network):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
        with pytest.raises(UserError, match=f"{clip.FILE}.*a.weights=FILE"):
            embed_texts(TEXTS)
        with pytest.raises(UserError, match="^a.weights=.*no such file"):
            embed_texts(TEXTS, str(tmp_path / "none.pt"), MODEL)
        with pytest.raises(UserError, match="^a.weights=.*not weights of ViT-S-32-alt") as error:
            embed_texts(TEXTS, weights, "ViT-S-32-alt")
        assert "\n" not in str(error.value)
        (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
        with pytest.raises(UserError, match="^a.weights=.*not weights of"):
            embed_texts(TEXTS, str(tmp_path / "x.pt"), MODEL)
        with pytest.raises(UserError, match=f"did you mean '{MODEL}'"):
            embed_texts(TEXTS, weights, MODEL + "s")
        with pytest.raises(UserError, match="tokenizer would have to be downloaded"):
            embed_texts(TEXTS, weights, "roberta-ViT-B-32")


class TestFolders:
    """A folder as open_clip writes it: configuration, preparation and weights of any model."""

    @pytest.fixture
    def folder(self, network, tmp_path):
        folder = tmp_path / "a model"
        folder.mkdir()
        preparation = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        config = {"model_cfg": CONFIG, "preprocess_cfg": preparation}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        save_file(network.state_dict(), folder / "open_clip_model.safetensors")
        return folder

    def test_its_own_model_and_preparation(self, folder, network, weights, no_network):
        found = clip.open_model(str(folder))
        assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
        texts = found.embed_texts(TEXTS)
        np.testing.assert_allclose(texts, embed_texts(TEXTS, weights, MODEL), atol=1e-6)
        white = np.full((1, 40, 32, 3), 255, np.uint8)
        assert clip.image_extractor(found).prepare(white).unique().tolist() == [2.0]
        shutil.copytree(folder, folder.parent / "moved")
        moved = get_extractor("clip", str(folder.parent / "moved"))
        assert moved.identity == get_extractor("clip", str(folder)).identity

    def test_scores_of_images_and_prompts(self, folder, tmp_path, no_network):
        images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("\n".join(["a red bird", "two dogs", "nothing"] * 4))
        given = dict(
            protocol="digits", metrics=["clip_score"], prompts=prompts,
            scorers={"clip_score": str(folder)}, cache=tmp_path / "c",
        )  # fmt: skip
        found = piflow_bench.evaluate(images, **given)
        model = clip.open_model(str(folder))
        pictures = clip.image_extractor(model)(images)["features"]
        cosine = (pictures * model.embed_texts(prompts.read_text().split("\n"))).sum(1)
        assert found.value[0] == pytest.approx(cosine.mean(), rel=1e-5)
        scaled = piflow_bench.evaluate(images, **given, clip_scale="percent")
        assert scaled.value[0] == pytest.approx(100 * np.maximum(cosine, 0).mean(), rel=1e-5)
        assert found.protocol_hash[0] != scaled.protocol_hash[0]
        assert found.classes[0] == "3, of 4 to 4 samples", "prompts class the samples"

    def test_what_is_no_such_folder(self, folder, no_network):
        (folder / "open_clip_config.json").unlink()
        with pytest.raises(UserError, match="^a.weights=.*a model"):
            clip.open_model(str(folder), setting="a.weights")


class TestPrompts:
    def test_lines_of_a_text_file(self, tmp_path):
        path = tmp_path / "p.txt"
        for end in ("", "\n"):
            path.write_bytes(f"a café\r\n two  dogs\u2028far\nc{end}".encode("utf-8-sig"))
            assert read_prompts(path, f"prompts={path}") == ["a café", " two  dogs\u2028far", "c"]

    def test_a_json_list(self, tmp_path):
        path = tmp_path / "p.json"
        path.write_text(json.dumps(["a\nb", "café"]))
        assert read_prompts(path, f"prompts={path}") == ["a\nb", "café"]

    @pytest.mark.parametrize(
        "name, content, words",
        [
            ("p.txt", b"a\n\nb\n", "line 2 is empty"),
            ("p.txt", b"a\nb\n \t\n", "line 3 is empty"),
            ("p.txt", b"a\n\n", "line 2 is empty"),
            ("p.txt", b"", "no prompts"),
            ("p.txt", b"\n\n", "no prompts"),
            ("p.txt", b"\xff\xfe\x00", "cannot be read"),
            ("p.json", b'["a", "b", " "]', "item 3 is empty"),
            ("p.json", b"[]", "no prompts"),
            ("p.json", b'{"a": ["b"]}', "not a list of strings"),
            ("p.json", b'{"a": ""}', "no prompts"),
            ("p.json", b'{"a": "b", "c": ""}', "item 2 is empty"),
            ("p.json", b'["a", 3]', "not a list of strings"),
            ("p.json", b'"abc"', "not a list of strings"),
            ("p.json", b'["a",', "cannot be read"),
            ("p.md", b"a\n", "neither a .txt file"),
            ("p.csv", b"a\n", "no column 'prompt', but a"),
        ],
    )
    def test_refusals_are_one_line_with_the_path(self, tmp_path, name, content, words):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            read_prompts(path, f"prompts={path}")
        assert str(error.value).startswith(f"prompts={path}: ")
        assert "\n" not in str(error.value)

    def test_missing_files_and_folders(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_prompts(tmp_path / "p.txt", "prompts=p.txt")
        (tmp_path / "p.txt").mkdir()
        with pytest.raises(UserError, match="no file of prompts in this folder"):
            read_prompts(tmp_path / "p.txt", "prompts=p.txt")
