"""The registry of metrics agrees with what is computed, and takes those of others."""

import numpy as np
import pytest

from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.evaluation.features import evaluate_features
from piflow_bench.evaluation.metrics.metric import Metric, all_metrics

METRICS = all_metrics()

NAMES = [
    "hpsv2",
    "hpsv2_quickgelu",
    "vqascore",
    "fd",
    "kid",
    "kid_std",
    "kid_exact",
    "cmmd",
    "mmd_rbf_unit",
    "mind",
    "is",
    "is_std",
    "precision",
    "recall",
    "matched_recall",
    "density",
    "coverage",
    "authpct",
    "vendi",
    "pairwise_distance",
    "pairwise_within",
    "energy_distance",
    "sliced_wasserstein",
    "sfd",
    "teacher_mse",
    "teacher_psnr",
    "teacher_lpips",
    "teacher_cosine",
    "clip_score",
    "vendi_within",
    "lpips_within",
    "flow_map_error",
    "class_accuracy",
    "modes_covered",
    "mode_mass",
    "mode_share",
    "mode_tv",
    "rare_mode_share",
    "fd_infinity",
]


def test_every_name_once():
    assert sorted(METRICS) == sorted(NAMES)
    assert all(name == metric.name for name, metric in METRICS.items())


def test_roles_and_labels():
    assert {m.role for m in METRICS.values()} == {"quality", "diversity", "agreement", "other"}
    assert len({m.label for m in METRICS.values()}) == len(METRICS)


def test_what_is_measured_elsewhere():
    elsewhere = {name for name, metric in METRICS.items() if metric.compute is None}
    assert elsewhere == {"flow_map_error", "class_accuracy"} | {
        name for name, metric in METRICS.items() if "modes" in metric.needs
    }


PLUGIN = """
import numpy as np
from piflow_bench.evaluation.metrics.metric import Metric


def spread(inputs):
    blocks, x = inputs.blocks, inputs.generated
    left = [x[blocks != b].std() for b in range(inputs.block_count)]
    return {"spread": (x.std() * inputs.settings.k, left)}


SPREAD = Metric("spread", "Spread of features", True, "diversity", ("generated",), spread)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution with one metric, of a name, and forget it afterwards."""

    def install(module, code, target):
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[piflow_bench.metrics]\n{module} = {module}:{target}\n"
        )
        all_metrics.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    monkeypatch.undo()
    all_metrics.cache_clear()


def test_a_metric_of_another_distribution_is_scored_like_our_own(installed, capsys):
    installed("theirs", PLUGIN, "SPREAD")
    x = np.random.default_rng(0).normal(size=(60, 3))
    found = evaluate_features(x, metrics=["spread", "vendi"], k=4).set_index("metric")
    assert found["value"]["spread"] == pytest.approx(4 * x.std())
    assert found["ci_low"]["spread"] < found["ci_high"]["spread"]
    assert main(["list", "metrics"]) == 0
    assert "spread" in capsys.readouterr().out


def test_two_metrics_of_one_name_are_an_error_that_names_both(installed):
    installed("others", PLUGIN.replace('"spread"', '"fd"'), "SPREAD")
    with pytest.raises(
        UserError, match="two metrics are called 'fd': one from piflow-bench.*others"
    ):
        all_metrics()


def test_a_broken_metric_breaks_no_other(installed, capsys):
    installed("broken", "raise RuntimeError('broken on purpose')", "X")
    assert "fd" in all_metrics()
    assert "broken on purpose" in capsys.readouterr().err


def test_each_says_what_it_means_and_where_its_values_lie():
    for metric in METRICS.values():
        assert metric.summary[:1].isupper() and metric.summary.endswith("."), metric.name
        assert metric.least < metric.most, metric.name
    assert (METRICS["recall"].within(1.09), METRICS["recall"].within(-0.1)) == (1, 0)
    assert METRICS["kid_exact"].within(-4e-4) == -4e-4, "unbiased: below nil as often as not"
    assert np.isnan(METRICS["recall"].within(np.nan))


def test_a_metric_without_words_has_those_of_its_function():
    def compute(inputs):
        """How far apart the
        means are.

        Not how far apart the spreads are."""

    named = Metric("means", "Means", False, "quality", ("generated",), compute)
    assert named.summary == "How far apart the means are."
    assert Metric("none", "None", False, "quality", ()).summary == ""
