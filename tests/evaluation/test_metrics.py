"""The registry of metrics agrees with what is computed."""

from piflow_bench.evaluation.metrics import all_metrics

METRICS = all_metrics()

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
