"""Metrics of samples one by one: a run's numbers are those of ``evaluate``."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import piflow_bench
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.space import Space
from piflow_bench.pipeline.stages.scores import ScoreSamples

N, CLASSES = 24, 4
LABELS = np.arange(N) % CLASSES
RNG = np.random.default_rng(0)


def pictures(x):
    """Grey pictures of samples in [-1, 1]."""
    return ((x.permute(0, 2, 3, 1) + 1) * 127.5 + 0.5).floor().clamp(0, 255).byte().numpy()


SPACE = Space((1, 8, 8), pictures)
DATASET = SimpleNamespace(
    space=SPACE, conditions=lambda seed, indices: Classes(torch.from_numpy(LABELS), CLASSES)
)
ALIKE = {"from": "conditions", "seed": 0, "law": "balanced"}


class Pixels:
    """What stands for LPIPS: the mean absolute difference of pixels."""

    def distances(self, a, b):
        return np.abs(a.astype(float) - b).mean((1, 2, 3))

    def pair_distances(self, x):
        return np.abs(x[:, None].astype(float) - x[None]).mean((2, 3, 4))


RUNTIME = SimpleNamespace(dataset=lambda: DATASET, lpips=Pixels)


@pytest.fixture
def inputs(tmp_path):
    found = {}
    for name in ("samples", "converged"):
        folder = tmp_path / name
        folder.mkdir()
        x = RNG.uniform(-1.2, 1.2, (N, *SPACE.shape)).astype(np.float32)
        np.save(folder / "samples.npy", x)
        found[name] = [folder]
    return found


def scored(tmp_path, inputs, *metrics, lpips="pixels"):
    task = ScoreSamples(
        dataset={}, space={}, metrics=metrics, versions={}, lpips=lpips, labels=ALIKE
    )
    task.run(inputs, tmp_path, RUNTIME, lambda *told: None)
    return {row["metric"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}


def seen(inputs, name):
    grey = pictures(torch.from_numpy(np.load(inputs[name][0] / "samples.npy")))
    return np.repeat(grey, 3, axis=3)


def test_a_run_says_what_evaluate_says_of_the_same_pictures(tmp_path, inputs):
    names = ["teacher_mse", "teacher_psnr"]
    found = scored(tmp_path, inputs, *names)
    table = piflow_bench.evaluate(
        seen(inputs, "samples"), teacher=seen(inputs, "converged"), metrics=names, labels=LABELS,
        extractor="digits-pixels", cache=False,
    )  # fmt: skip
    for _, row in table.iterrows():
        mine = found[row["metric"]]
        for column in ("value", "ci_low", "ci_high", "estimator"):
            assert mine[column] == row[column], (row["metric"], column)


def test_the_models_space_is_another_metric(tmp_path, inputs):
    found = scored(tmp_path, inputs, "flow_map_error", "teacher_mse")
    x, y = (np.load(inputs[n][0] / "samples.npy") for n in ("samples", "converged"))
    assert found["flow_map_error"]["value"] == pytest.approx(np.mean((x.astype(float) - y) ** 2))
    assert found["teacher_mse"]["value"] < found["flow_map_error"]["value"] / 4


def test_lpips_of_pairs_and_within_classes(tmp_path, inputs):
    found = scored(tmp_path, inputs, "teacher_lpips", "lpips_within")
    ours, theirs = seen(inputs, "samples"), seen(inputs, "converged")
    beside = Pixels().distances(ours, theirs).mean()
    assert found["teacher_lpips"]["value"] == pytest.approx(beside)
    within = [Pixels().pair_distances(ours[c == LABELS]) for c in range(CLASSES)]
    expected = np.mean([d[~np.eye(len(d), dtype=bool)].mean() for d in within])
    assert found["lpips_within"]["value"] == pytest.approx(expected)


def test_without_the_teachers_samples_there_is_diversity_alone(tmp_path, inputs):
    del inputs["converged"]
    assert set(scored(tmp_path, inputs, "lpips_within")) == {"lpips_within"}
