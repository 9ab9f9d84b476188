"""The verb evaluate and its Python API, on real pictures with a real network."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.evaluation import protocols, score
from piflow_bench.evaluation.extractors.extractor import Extractor
from piflow_bench.evaluation.metrics import lpips
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.references import from_images
from piflow_bench.evaluation.references.statistics import Statistics, save_statistics
from tests.stored import GREY, artifact


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small extractor in the place of the plugins: pooled colours of a 4x4 grid."""
    import torch

    def load(weights=None, device="cpu"):
        def network(x):
            pooled = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
            return {"features": pooled, "spatial": pooled[:, ::2], "logits": pooled[:, :10]}

        def prepare(images):
            return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255

        outputs = ("features", "spatial", "logits")
        return Extractor("quick", "0" * 64, "as it is", outputs, prepare, network, device)

    for module in (score, from_images):
        monkeypatch.setattr(module, "get_extractor", lambda *recipe: load())


def pictures(seed, n=120, shift=0.0):
    random = np.random.default_rng(seed)
    images = 90 + 30 * random.standard_normal((n, 8, 8, 3)) + shift
    return images.clip(0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    for name, rows in (("gen erated", pictures(0)), ("reference", pictures(1, shift=9))):
        (tmp_path / name).mkdir()
        for i, row in enumerate(rows):
            Image.fromarray(row).save(tmp_path / name / f"{i:04d}.png")
    return tmp_path / "gen erated", tmp_path / "reference"


METRICS = ["fd", "kid_exact", "precision", "recall"]


def test_every_kind_of_input_gives_the_same_scores(folders, tmp_path):
    np.savez(tmp_path / "g.npz", pictures(0))
    expected = None
    for samples in (folders[0], tmp_path / "g.npz", pictures(0)):
        found = piflow_bench.evaluate(samples, folders[1], metrics=METRICS, cache=tmp_path / "c")
        expected = found if expected is None else expected
        told = ["samples", "reference", "protocol_hash", "rules"]
        pd.testing.assert_frame_equal(found.drop(columns=told), expected.drop(columns=told))
    assert list(expected.metric) == METRICS
    assert (expected.ci_low <= expected.value).all() and (expected.n == 120).all()
    assert set(expected.protocol_hash) == set(found.protocol_hash)


def test_scores_equal_those_of_the_features(tmp_path):
    a, b = pictures(0), pictures(1)
    network = score.get_extractor("", None, "cpu")
    features = [network(x)["features"] for x in (a, b)]
    direct = piflow_bench.evaluate_features(*features, metrics=METRICS, k=3)
    found = piflow_bench.evaluate(a, b, metrics=METRICS, cache=tmp_path)
    assert np.array_equal(found.value, direct.value)


def test_a_reference_against_itself(tmp_path):
    found = piflow_bench.evaluate(pictures(0), pictures(0), metrics=["fd"], cache=tmp_path)
    assert found.value[0] == pytest.approx(0, abs=1e-6)


def test_statistics_stand_for_the_reference(tmp_path):
    network = score.get_extractor("", None, "cpu")
    theirs = network(pictures(1))
    pooled, spatial = (Moments.from_features(theirs[k]) for k in ("features", "spatial"))
    save_statistics(tmp_path / "s.npz", Statistics("", pooled, spatial, network.identity))
    images = piflow_bench.evaluate(
        pictures(0), pictures(1), metrics=["fd", "sfd"], cache=tmp_path / "c"
    )
    stored = piflow_bench.evaluate(
        pictures(0), tmp_path / "s.npz", metrics=["fd", "sfd"], cache=tmp_path / "c"
    )
    assert np.allclose(images.value, stored.value, rtol=1e-6)
    with pytest.raises(UserError, match="recall.*needs reference images"):
        piflow_bench.evaluate(pictures(0), tmp_path / "s.npz", metrics=["recall"], cache=tmp_path)
    save_statistics(tmp_path / "t.npz", Statistics("", pooled, None, "another"))
    with pytest.raises(UserError, match="statistics of another"):
        piflow_bench.evaluate(pictures(0), tmp_path / "t.npz", metrics=["fd"], cache=tmp_path)


def test_adm_files_give_statistics_and_images(tmp_path):
    network = score.get_extractor("", None, "cpu")
    whole = network(pictures(2, 400))
    moments = {k: Moments.from_features(whole[k]) for k in ("features", "spatial")}
    np.savez(
        tmp_path / "VIRTUAL.npz",
        arr_0=pictures(2, 400)[:60],
        mu=moments["features"].mean,
        sigma=moments["features"].covariance,
        mu_s=moments["spatial"].mean,
        sigma_s=moments["spatial"].covariance,
    )
    found = piflow_bench.evaluate(
        pictures(0), tmp_path / "VIRTUAL.npz", "adm-imagenet256", n=120, cache=tmp_path / "c"
    ).set_index("metric")
    assert {"is", "fd", "sfd", "precision", "recall"} <= set(found.index)
    images = piflow_bench.evaluate(
        pictures(0), pictures(2, 400), metrics=["fd", "sfd"], cache=tmp_path / "c"
    ).set_index("metric")
    for name in ("fd", "sfd"):
        assert found.value[name] == pytest.approx(images.value[name], rel=1e-6)


RULES = ("inception", 100, "0ab", "not stated")


def test_the_hash_holds_what_decides_a_number():
    default = protocols.load_protocol("default")
    first = protocols.rules_hash(default.rules(*RULES))
    same = dataclasses.replace(default, settings={"comparator": "le", "block": 7})
    assert protocols.rules_hash(same.rules(*RULES)) == first, "defaults are written out"
    others = [default.rules(*RULES[:i], "other", *RULES[i + 1 :]) for i in range(4)]
    others += [
        dataclasses.replace(default, precision="bfloat16").rules(*RULES),
        dataclasses.replace(default, settings={"k": 5}).rules(*RULES),
        protocols.load_protocol("adm-imagenet256").rules(*RULES),
    ]
    assert len({first, *map(protocols.rules_hash, others)}) == 8


def test_mixed_protocols_are_refused_with_the_differences_named():
    one = protocols.load_protocol("default").rules(*RULES)
    two = protocols.load_protocol("dgm-eval").rules("dinov2", *RULES[1:])
    by_hash = {protocols.rules_hash(rules): rules for rules in (one, two)}
    with pytest.raises(UserError) as refused:
        protocols.refuse_mixture(by_hash, "fd")
    for words in (*by_hash, "extractor: ", "'inception'", "'dinov2'", "k: ", "comparator: "):
        assert words in str(refused.value)
    assert "kid_seed" not in str(refused.value)
    protocols.refuse_mixture({"a": one}, "fd")


def test_the_command_prints_and_writes(folders, tmp_path, capsys):
    out = tmp_path / "out, [1]"
    paths = [f"samples={folders[0]}", f"reference={folders[1]}", f"out={out}"]
    code = main(["evaluate", *paths, "metrics=[fd,recall]", "k=5", f"store={tmp_path / 'store'}"])
    assert code == 0
    printed = capsys.readouterr().out
    assert "fd" in printed and "recall" in printed and "120 / 120" in printed
    table = pd.read_parquet(out / "scores.parquet")
    assert json.loads((out / "scores.json").read_text())[0]["value"] == table.value[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["reference=x"], ["samples=PATH"]),
        (["samples=none", "reference=x"], ["samples=none", "no such"]),
        (["sample=x"], ["sample", "'samples'"]),
        (["samples=x", "reference=x", "n=0"], ["n=0", "at least 1"]),
        (["samples=x", "reference=x", "n=two"], ["n=two", "int"]),
        (["samples=x", "reference=x", "protocol=adm"], ["protocol=adm", "adm-imagenet256"]),
        (["samples=x", "reference=x", "metrics=[fdd]"], ["fdd", "'fd'"]),
        (["samples=x", "reference=x", "kid_subset=3"], ["kid_subset", "'kid_subset"]),
        (["samples=x", "reference=x", "k=-1"], ["k=-1"]),
    ],
)
def test_mistakes_get_one_line(settings, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *settings]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"
    for word in words:
        assert word in message, message


def test_every_row_says_what_its_interval_is_and_its_rules(tmp_path):
    found = piflow_bench.evaluate(
        pictures(0), pictures(1), "torch-fidelity", metrics=["fd", "kid"], cache=tmp_path,
        kid_subset_size=50,
    ).set_index("metric")  # fmt: skip
    assert found.interval["fd"] == "delete-block jackknife over 20 blocks"
    assert found.estimand["fd"] == "expectation at this n and this reference"
    assert found.interval["kid_std"] == "none" and np.isnan(found.ci_low["kid_std"])
    rules = json.loads(found.rules["fd"])
    assert rules["kid_subset_size"] == 50 and rules["samples"] == 120
    assert protocols.rules_hash(rules) == found.protocol_hash["fd"]


class TestClasses:
    """Per-class rows, wherever the classes come from."""

    LABELS = np.arange(120) % 3

    def test_rows_equal_scores_of_the_class_alone(self, tmp_path):
        np.savez(tmp_path / "r.npz", arr_0=pictures(1), arr_1=self.LABELS)
        found = piflow_bench.evaluate(
            pictures(0), tmp_path / "r.npz", metrics=["fd", "vendi_within"], labels=self.LABELS,
            per_class=["fd", "recall"], cache=tmp_path / "c",
        )  # fmt: skip
        assert list(found.group) == ["all", "all", *np.repeat(["0", "1", "2"], 2)]
        one = self.LABELS == 1
        alone = piflow_bench.evaluate(
            pictures(0)[one], pictures(1)[one], metrics=["fd", "recall"], cache=tmp_path / "c"
        )
        assert np.allclose(found[found.group == "1"].value, alone.value, rtol=1e-9)
        assert set(found[found.group == "1"].n) == {40}
        assert json.loads(found.rules[0])["classes"] == "3, of 40 to 40 samples"

    def test_a_class_too_small_has_a_row_without_a_value(self, tmp_path):
        """It must not cost all other rows after the work."""
        labels = np.arange(120) % 3
        labels[labels == 2] = 1
        labels[[7, 9, 60]] = [2, 3, 3]
        np.savez(tmp_path / "r.npz", arr_0=pictures(1), arr_1=np.arange(120) % 3)
        found = piflow_bench.evaluate(
            pictures(0), tmp_path / "r.npz", metrics=["fd"], labels=labels,
            per_class=["fd", "vendi", "coverage"], cache=tmp_path / "c",
        )  # fmt: skip
        assert list(found.group) == ["all", *np.repeat(["0", "1", "2", "3"], 3)]
        values = found.set_index(["group", "metric"])
        assert np.isfinite(values.loc[["0", "1", "all"]].value).all()
        assert values.loc["2"].value.isna().all() and values.loc[("2", "fd")].n == 1
        assert np.isfinite(values.loc[("3", "vendi")].value)
        assert values.loc["3"].value[["fd", "coverage"]].isna().all()
        told = [text for text in found.warnings[0].splitlines() if text.startswith("per_class")]
        small = "generated features: 1 sample(s), at least 2 are needed"
        for name in ("fd", "vendi", "coverage"):
            assert f"per_class: no value of {name} in 1 of 4 classes, such as 2: {small}" in told
        absent = "reference features: 0 sample(s), at least 2 are needed"
        assert f"per_class: no value of fd in 1 of 4 classes, such as 3: {absent}" in told
        alone = piflow_bench.evaluate(
            pictures(0)[labels == 1], pictures(1)[np.arange(120) % 3 == 1], metrics=["coverage"],
            cache=tmp_path / "c",
        )  # fmt: skip
        assert values.loc[("1", "coverage")].value == alone.value[0]

    @pytest.mark.parametrize("names", [("all", "b"), ("[red]a", "[/red]"), ("<b>", "&amp;")])
    def test_classes_of_any_name(self, tmp_path, capsys, names):
        labels = np.array(names)[np.arange(120) % 2]
        np.savez(tmp_path / "x.npz", arr_0=pictures(0), arr_1=labels)
        files = {"samples": "x.npz", "store": "s", "out": "o"}
        paths = [f"{key}={tmp_path / name}" for key, name in files.items()]
        assert main(["evaluate", *paths, "metrics=[vendi]", "per_class=[vendi]"]) == 0
        printed = capsys.readouterr().out
        groups = pd.read_parquet(tmp_path / "o" / "scores.parquet")["group"].tolist()
        expected = [f"class {name}" if name == "all" else name for name in sorted(names)]
        assert groups[0] == "all" and groups[1:] == expected
        assert all(name in printed for name in expected)
        page = (tmp_path / "o" / "report.html").read_text()
        assert "<b></" not in page

    def test_terminal_and_files_bear_rows_without_a_value(self, tmp_path, capsys):
        np.savez(tmp_path / "x.npz", arr_0=pictures(0), arr_1=[*[0] * 119, 1])
        given = ["metrics=[vendi]", "per_class=[vendi,kid,kid_std]", "kid_subset_size=30"]
        files = {"samples": "x.npz", "reference": "x.npz", "store": "s", "out": "o"}
        paths = [f"{key}={tmp_path / name}" for key, name in files.items()]
        assert main(["evaluate", *paths, *given]) == 0
        assert "none" in capsys.readouterr().out
        rows = json.loads((tmp_path / "o" / "scores.json").read_text())
        assert [row["metric"] for row in rows if row["group"] == "1"] == ["vendi", "kid", "kid_std"]
        assert all(row["value"] is None for row in rows if row["group"] == "1")
        assert "no value of vendi in 1 of 2 classes" in (tmp_path / "o" / "report.html").read_text()

    def test_folders_and_files_state_classes(self, tmp_path):
        for i, row in enumerate(pictures(0, 12)):
            folder = tmp_path / "images" / f"class {i % 2}" / "deeper"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row).save(folder / f"{i:02d}.png")
        np.save(tmp_path / "labels.npy", np.arange(12) % 4)
        for labels, classes in ((None, 2), (tmp_path / "labels.npy", 4)):
            found = piflow_bench.evaluate(
                tmp_path / "images", metrics=["vendi"], per_class=["vendi"], labels=labels,
                cache=tmp_path / "c",
            )  # fmt: skip
            assert len(found) == 1 + classes
        assert found.value[0] > found.value[1:].max()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (dict(per_class=["vendi"]), "no classes; give labels"),
            (dict(per_class=["vendi_within"], labels=np.arange(120) % 3), "within classes by"),
            (dict(metrics=["vendi_within"], labels=np.arange(120)), "120 classes has one sample"),
            (dict(metrics=["pairwise_within"], labels=np.arange(120)), "classes has one sample"),
            (dict(per_class=["fd"], labels=np.arange(120) % 3), "fd needs a reference whose"),
            (dict(per_class=["vendi"], labels=np.arange(7)), "7 labels for 120 samples"),
            (dict(per_class=["vendi"], labels=np.ones(120)), "labels: whole numbers or names"),
            (dict(metrics=["vendi_within"]), "'vendi_within' needs labels=FILE.npy"),
            (dict(metrics=["fd"], reference=None), "'fd' needs reference=PATH"),
            (dict(metrics=["teacher_mse"]), "'teacher_mse' needs teacher=PATH"),
            (dict(metrics=["clip_score"]), "'clip_score' needs prompts=FILE"),
            (dict(metrics=["lpips_within"]), "'lpips_within' needs labels"),
            (dict(teacher=np.zeros((7, 8, 8, 3), np.uint8)), "7 images for 120 samples"),
            (dict(teacher=np.zeros((120, 9, 8, 3), np.uint8)), "teacher: images of 8x9"),
        ],
    )
    def test_mistakes(self, changes, words, tmp_path):
        given = dict(reference=pictures(1), metrics=["vendi"], cache=tmp_path) | changes
        with pytest.raises(UserError, match=words):
            piflow_bench.evaluate(pictures(0), **given)


def test_a_reference_is_needed_by_those_metrics_alone_that_compare_with_it(tmp_path):
    found = piflow_bench.evaluate(pictures(0), metrics=["vendi", "is"], cache=tmp_path)
    assert found.n_reference.isna().all() and list(found.reference) == [""] * 3


def test_the_command_writes_statistics_that_serve_as_reference(folders, tmp_path, capsys):
    store, file = f"store={tmp_path / 'store'}", tmp_path / "a [1]" / "stats.npz"
    assert main(["evaluate", f"samples={folders[1]}", f"statistics={file}", store]) == 0
    assert "120 images" in capsys.readouterr().out
    scores = [
        piflow_bench.evaluate(folders[0], reference, metrics=["fd"], cache=tmp_path / "c").value[0]
        for reference in (file, folders[1])
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    assert main(["evaluate", f"samples={folders[1]}", "statistics=s.pkl", store]) == 2


def test_the_digits_protocol_scores_a_runs_samples(tmp_path, monkeypatch):
    from piflow_bench.data.digits import images
    from piflow_bench.evaluation.extractors.extractor import get_extractor

    monkeypatch.setattr(score, "get_extractor", get_extractor)
    x = images()[0].numpy()
    artifact(tmp_path, x[:600], GREY)
    rows = ((x[600:1200].transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)
    found = piflow_bench.evaluate(tmp_path, rows, "digits", cache=tmp_path / "c")
    found = found.set_index("metric")
    assert found.value["precision"] > 0.8 and found.value["recall"] > 0.8
    assert found.ci_low["fd"] < found.value["fd"] < found.ci_high["fd"]


@pytest.fixture(scope="module")
def lpips_weights(tmp_path_factory):
    """The whole network with random weights, under its authors' names."""
    torch.manual_seed(0)
    network = lpips.Network()
    for layer in network.features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    state = {f"net.slice1.{k}": v for k, v in network.features.state_dict().items()}
    state |= {f"lin{i}.model.1.weight": torch.rand_like(w) for i, w in enumerate(network.weights)}
    path = tmp_path_factory.mktemp("lpips") / "whole.pth"
    torch.save(state, path)
    return str(path)


class TestTeacher:
    """Agreement with the teacher's images of the same noise, and LPIPS within classes."""

    @staticmethod
    def sets(n=24):
        ours = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
        theirs = ours.copy()
        theirs[:, :8] = 255 - theirs[:, :8]
        return ours, theirs

    def test_every_agreement_is_the_mean_of_its_scores(self, lpips_weights, tmp_path):
        ours, theirs = self.sets()
        names = ["teacher_mse", "teacher_psnr", "teacher_lpips", "teacher_cosine"]
        found = piflow_bench.evaluate(
            ours, metrics=names, teacher=theirs, lpips_weights=lpips_weights,
            cache=tmp_path, batch=5,
        ).set_index("metric")  # fmt: skip
        errors = ((ours / 255.0 - theirs / 255.0) ** 2).mean((1, 2, 3))
        features = [score.get_extractor()(x)["features"] for x in (ours, theirs)]
        cosine = (features[0] * features[1]).sum(1) / np.prod(
            [np.linalg.norm(f, axis=1) for f in features], axis=0
        )
        network = lpips.load(lpips_weights)
        expected = [
            errors.mean(), (-10 * np.log10(errors)).mean(),
            network.distances(ours, theirs).mean(), cosine.mean(),
        ]  # fmt: skip
        assert found.value.tolist() == pytest.approx(expected, rel=1e-6)
        assert (found.ci_low < found.value).all() and (found.value < found.ci_high).all()
        again = piflow_bench.evaluate(
            ours, metrics=names, teacher=theirs, lpips_weights=lpips_weights, cache=tmp_path
        )
        assert again.value.tolist() == found.value.tolist(), "scores are kept"

    def test_an_image_equal_to_the_teachers_has_no_finite_psnr(self, tmp_path):
        ours, theirs = self.sets()
        theirs[3] = ours[3]
        found = piflow_bench.evaluate(
            ours, metrics=["teacher_psnr", "teacher_mse"], teacher=theirs, cache=tmp_path
        )
        assert found.value[0] == np.inf and found.interval[0] == "none"
        assert np.isfinite(found.value[1])

    def test_lpips_within_classes(self, lpips_weights, tmp_path):
        ours, _ = self.sets(12)
        labels = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3])
        found = piflow_bench.evaluate(
            ours, metrics=["lpips_within"], labels=labels, lpips_weights=lpips_weights,
            cache=tmp_path,
        )  # fmt: skip
        network = lpips.load(lpips_weights)
        means = []
        for name in range(3):
            pairs = list(itertools.combinations(ours[labels == name], 2))
            means.append(np.mean([network.distances(a[None], b[None])[0] for a, b in pairs]))
        assert found.value[0] == pytest.approx(np.mean(means), rel=1e-5)
        assert found.ci_low[0] < found.value[0]

    def test_missing_weights_are_told_before_any_work(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path / "none"))
        given = dict(cache=tmp_path / "c", lpips_weights="no.pth", scorers={"clip_score": "no.pt"})
        ours, theirs = self.sets()
        of = {"teacher_lpips": "lpips.weights", "clip_score": "scorers.clip_score.weights"}
        for metric, words in of.items():
            with pytest.raises(UserError, match=f"^{words}=no"):
                piflow_bench.evaluate(
                    ours, metrics=[metric], teacher=theirs, prompts=["a"] * 24, **given
                )
        assert not (tmp_path / "c").exists()
