"""Pictures scored with their prompts: preparation, networks of the real layout, and refusals."""

import numpy as np
import pytest
import torch

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.errors import OK, USER_ERROR, UserError
from piflow_bench.evaluation import scorers
from piflow_bench.preparation.tiny_adapters import tiny_clip

PROMPTS = ["a red cat", "two dogs", "a red cat"]
OF_CLIP = [name for name in scorers.names() if name != "vqascore"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip") / "clip"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_clip(place)
    return place


def pictures(height=40, width=64, n=3):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_the_shorter_side_is_fitted_and_the_centre_cut_out():
    flat = np.full((1, 20, 60, 3), 7, np.uint8)
    flat[:, :, 20:40] = 200
    found = scorers.short_side(flat, 10)
    assert found.shape == (1, 10, 10, 3) and (found[:, :, 2:8] == 200).all()


def test_the_longer_side_is_fitted_into_black():
    found = scorers.long_side(np.full((1, 20, 60, 3), 90, np.uint8), 30)
    assert found.shape == (1, 30, 30, 3)
    assert (found[:, 10:20] == 90).all() and not found[:, :10].any() and not found[:, 20:].any()


@pytest.mark.parametrize("metric", OF_CLIP)
def test_scores_are_cosines_of_both_embeddings(metric, folder):
    scorer = scorers.load(metric, str(folder))
    found = scorer.score(pictures(), PROMPTS)
    assert found.shape == (3,) and found.dtype == np.float32 and (np.abs(found) <= 1).all()
    again = np.concatenate(
        [scorer.score(pictures()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    )
    assert np.allclose(found, again, atol=1e-5), "a sample's does not depend on its batch"
    other = scorer.score(pictures(), ["x", *PROMPTS[1:]])
    assert other[0] != found[0] and np.allclose(other[1:], found[1:], atol=1e-6)


def test_the_score_is_of_open_clip_itself(folder):
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(PROMPTS)
    x = torch.from_numpy(scorers.short_side(pictures(), 32)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    with torch.no_grad():
        a = model.eval().encode_image((x - mean) / std, normalize=True)
        b = model.encode_text(tokens, normalize=True)
    found = scorers.load("clip_score", str(folder)).score(pictures(), PROMPTS)
    assert np.allclose(found, (a * b).sum(1).numpy(), atol=1e-5)


def test_what_decides_a_score_is_its_rule_and_its_weights(folder):
    plain, quick = (scorers.identity_of(n, str(folder)) for n in ("hpsv2", "hpsv2_quickgelu"))
    assert plain["weights"] == quick["weights"] and plain["rule"] != quick["rule"]


def test_weights_of_another_network_are_one_line(tmp_path):
    torch.save({"state_dict": {"visual.proj": torch.zeros(2, 2)}}, tmp_path / "HPS.pt")
    with pytest.raises(UserError, match="scorers.hpsv2.weights=.*weights of another network"):
        scorers._hps("ViT-S-32-alt", "hpsv2")(tmp_path / "HPS.pt", "cpu")
    with pytest.raises(UserError, match="scorers.hpsv2.weights"):
        scorers.load("hpsv2", str(tmp_path / "nothing.pt"))


def test_a_file_of_the_published_form_gives_its_network(tmp_path):
    """As HPS_v2.1_compressed.pt: the weights under ``state_dict``, beside what training counted."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = open_clip.create_model("ViT-S-32-alt")
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "HPS.pt")
    score = scorers._hps("ViT-S-32-alt", "hpsv2")(tmp_path / "HPS.pt", "cpu")
    assert np.isfinite(score(pictures(), PROMPTS)).all()


class TestSamplesOneHas:
    """`evaluate metrics=[hpsv2] prompts=FILE scorers.hpsv2.weights=PATH`."""

    def given(self, folder, tmp_path, **more):
        known = {"hpsv2": str(folder), "hpsv2_quickgelu": str(folder)}
        return {
            "protocol": "digits", "metrics": list(known), "prompts": PROMPTS * 4,
            "scorers": known, "cache": tmp_path / "cache", **more,
        }  # fmt: skip

    def test_the_mean_is_that_of_the_network_and_its_interval_is_by_prompts(
        self, folder, tmp_path, monkeypatch
    ):
        images = pictures(8, 8, 12)
        found = piflow_bench.evaluate(images, **self.given(folder, tmp_path)).set_index("metric")
        for name in ("hpsv2", "hpsv2_quickgelu"):
            scores = scorers.load(name, str(folder)).score(images, PROMPTS * 4)
            assert found.value[name] == pytest.approx(scores.mean(), rel=1e-5)
            assert found.ci_low[name] < found.value[name] < found.ci_high[name]
        # What was scored is kept: an interrupted call goes on, and other prompts are others.
        calls = []
        whole = scorers.load

        def counted(*given):
            scorer = whole(*given)

            def score(seen, prompts):
                calls.append(len(seen))
                return scorer.score(seen, prompts)

            return scorers.Scorer(scorer.identity, score)

        monkeypatch.setattr(scorers, "load", counted)
        again = piflow_bench.evaluate(images, **self.given(folder, tmp_path)).set_index("metric")
        assert not calls and (again.value == found.value).all()
        more = self.given(folder, tmp_path, prompts=[*PROMPTS[1:], "other"] * 4)
        assert (
            piflow_bench.evaluate(images, **more).set_index("metric").value != found.value
        ).all()
        assert calls

    def test_by_the_command_line(self, folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        np.savez("samples.npz", arr_0=pictures(8, 8, 12))
        (tmp_path / "p.txt").write_text("\n".join(PROMPTS * 4))
        call = ["evaluate", "samples=samples.npz", "prompts=p.txt", "metrics=[hpsv2]",
                "protocol=digits"]  # fmt: skip
        assert main([*call, f"scorers.hpsv2.weights={folder}", "cache=false"]) == OK
        assert "hpsv2" in capsys.readouterr().out
        for setting, words in (
            ("scorers.hpsv2.weights=none", "scorers.hpsv2.weights=none"),
            (f"scorers.hpsv3.weights={folder}", "scorers.hpsv3: no such metric"),
            ("scorers.hpsv2=x", "scorers.hpsv2: no such setting"),
        ):
            assert main([*call, setting, "out=other"]) == USER_ERROR
            assert words in capsys.readouterr().err
