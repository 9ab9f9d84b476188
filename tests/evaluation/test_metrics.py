"""The registry of metrics agrees with what is computed."""

from piflow_bench.evaluation.features import feature_metrics
from piflow_bench.evaluation.metrics import all_metrics

METRICS, FEATURE_METRICS = all_metrics(), feature_metrics()

NAMES = [
    "fd",
    "kid",
    "kid_std",
    "kid_exact",
    "cmmd",
    "mind",
    "is",
    "is_std",
    "precision",
    "recall",
    "density",
    "coverage",
    "authpct",
    "vendi",
    "pairwise_distance",
    "energy_distance",
    "sliced_wasserstein",
    "sfd",
    "teacher_mse",
    "flow_map_error",
    "class_accuracy",
    "modes_covered",
    "mode_mass",
    "mode_share",
    "mode_tv",
    "fd_infinity",
]


def test_every_name_once():
    assert sorted(METRICS) == sorted(NAMES)
    assert all(name == metric.name for name, metric in METRICS.items())


def test_roles_and_labels():
    assert {m.role for m in METRICS.values()} == {"quality", "diversity", "agreement", "other"}
    assert len({m.label for m in METRICS.values()}) == len(METRICS)


def test_computed_metrics_need_features_or_logits_only():
    assert set(FEATURE_METRICS) <= set(METRICS)
    for name, metric in METRICS.items():
        computed = name in FEATURE_METRICS
        assert computed == (
            not set(metric.needs) - {"generated", "reference", "logits"}
            and name != "class_accuracy"
        )
