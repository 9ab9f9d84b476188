"""Features of samples and of a given reference: batches, the judge, and what was kept."""

import numpy as np
import pytest

from piflow_bench import interruption
from piflow_bench.contracts.space import Space
from piflow_bench.evaluation.extractors.extractor import usual_batch
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.stages.features import Describe, DescribeReference, precision_of
from tests.pipeline.stages import made

N = 10
X = np.linspace(-1, 1, N * 4).reshape(N, *made.SHAPE).astype(np.float32)
EYE, MIND = {"rule": "mean"}, {"rule": "sum", "precision": "bfloat16"}


class Seeing:
    """An extractor of means and sums of pixels, which notes how many it is shown."""

    device, batch = "cpu", None

    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def __call__(self, pictures):
        self.seen.append((self.name, len(pictures)))
        flat = pictures.reshape(len(pictures), -1).astype(np.float64)
        return {"features": flat.mean(1, keepdims=True), "logits": flat[:, :3]}


@pytest.fixture
def seen():
    return []


def runtime_of(seen, asked=None, chunk=4, data=None):
    def extractor(name, precision="float32"):
        if asked is not None:
            asked.add((name, precision))
        return Seeing(name, seen)

    data = data or made.dataset(space=Space(made.SHAPE, made.pictures, chunk=chunk))
    return made.runtime(data, extractor=extractor)


def inputs_in(tmp_path):
    return {"samples": [made.samples_in(tmp_path, "samples", X)]}


def grey():
    import torch

    return np.repeat(made.pictures(torch.from_numpy(X)), 3, axis=3).reshape(N, -1)


def test_every_extractor_and_the_judge_see_all_samples_in_their_order(tmp_path, seen):
    task = Describe(space={}, extractors={"eye": EYE, "mind": MIND}, judge={"other": {}})
    folder, asked = made.folder_of(tmp_path, "out"), set()
    task.run(inputs_in(tmp_path), folder, runtime_of(seen, asked), made.silent)
    for name in ("eye", "mind"):
        assert np.array_equal(artifacts.features([folder], name)[:, 0], grey().mean(1))
        assert np.array_equal(artifacts.output([folder], f"{name}/logits"), grey()[:, :3])
    assert np.array_equal(artifacts.features([folder], "judge"), grey()[:, :3])
    assert artifacts.output([folder], "judge/logits") is None
    assert asked == {("eye", "float32"), ("mind", "bfloat16"), ("other", "float32")}
    assert [p.name for p in folder.iterdir()] == ["features.npz"]


def test_samples_that_are_points_are_described_as_they_are(tmp_path, seen):
    data = made.dataset(space=Space(made.SHAPE))
    task = Describe(space={}, extractors={"eye": EYE}, judge=None)
    folder = made.folder_of(tmp_path, "out")
    task.run(inputs_in(tmp_path), folder, runtime_of(seen, data=data), made.silent)
    found = artifacts.features([folder], "eye")[:, 0]
    assert np.allclose(found, X.reshape(N, -1).mean(1))


def test_what_was_stopped_goes_on_where_each_extractor_had_come(tmp_path, seen):
    task = Describe(space={}, extractors={"eye": EYE, "mind": MIND}, judge=None)
    folder, inputs = made.folder_of(tmp_path, "out"), inputs_in(tmp_path)
    interruption.ask()
    try:
        with pytest.raises(interruption.Stopped):
            task.run(inputs, folder, runtime_of(seen), made.silent)
    finally:
        interruption.forget()
    assert seen == [("eye", 4)], "the second had not come to it"
    seen.clear()
    task.run(inputs, folder, runtime_of(seen), made.silent)
    counts = {name: sum(n for who, n in seen if who == name) for name in ("eye", "mind")}
    assert counts == {"eye": 6, "mind": 10}
    for name in counts:
        assert np.array_equal(artifacts.features([folder], name)[:, 0], grey().mean(1))


def test_no_identity_names_the_usual_precision():
    assert precision_of(EYE) == "float32" and precision_of(MIND) == "bfloat16"


def described_reference(tmp_path, seen, **arrays):
    np.savez(tmp_path / "reference.npz", **arrays)
    data = made.dataset(reference=tmp_path / "reference.npz")
    folder = made.folder_of(tmp_path, "out")
    task = DescribeReference(dataset={}, extractors={"eye": EYE})
    task.run({}, folder, runtime_of(seen, data=data), made.silent)
    return folder


IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


def test_images_of_a_reference_are_described_in_batches(tmp_path, seen):
    folder = described_reference(tmp_path, seen, arr_0=IMAGES)
    means = IMAGES.reshape(9, -1).astype(np.float64).mean(1)
    assert np.allclose(artifacts.features([folder], "eye")[:, 0], means)
    assert artifacts.moments_of([folder], "eye") is None
    assert max(n for _, n in seen) <= usual_batch("cpu")


def test_moments_that_a_file_states_are_kept_as_they_are(tmp_path, seen):
    mu, sigma = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    folder = described_reference(tmp_path, seen, mu=mu, sigma=sigma)
    found = artifacts.moments_of([folder], "eye")
    assert np.allclose(found.mean, mu) and np.allclose(found.covariance, sigma)
    assert artifacts.output([folder], "eye") is None and seen == []


def test_the_runtime_is_told_of_progress(tmp_path, seen):
    told = []
    task = Describe(space={}, extractors={"eye": EYE}, judge=None)
    task.run(inputs_in(tmp_path), made.folder_of(tmp_path, "out"), runtime_of(seen),
             lambda share, text: told.append((share, text)))  # fmt: skip
    assert told == [(0.4, "eye: 4 samples"), (0.8, "eye: 8 samples"), (1.0, "eye: 10 samples")]
