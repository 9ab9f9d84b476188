"""What artifacts hold is read as it was written, and what is broken is no artifact."""

import zipfile

import numpy as np
import pytest
import torch

from piflow_bench.evaluation.uncertainty import Interval
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.artifacts import NotFinite, Score

RNG = np.random.default_rng(0)


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def test_samples_are_written_as_they_are(tmp_path):
    x = torch.randn(3, 2)
    artifacts.write_samples(tmp_path, x)
    assert np.load(tmp_path / "samples.npy").tobytes() == x.numpy().tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_samples_that_are_not_finite_are_counted_and_the_first_is_named(value, tmp_path):
    x = torch.zeros(5, 1, 2, 2)
    assert artifacts.finite(x) is x
    x[1, 0, 0, 1] = x[3, 0, 1, 1] = value
    with pytest.raises(NotFinite, match="^2 of 5 samples are not finite; the first is sample 11$"):
        artifacts.write_samples(tmp_path, x, first=10)
    assert not list(tmp_path.iterdir())


def test_samples_of_folders_follow_each_other_up_to_as_many_as_are_asked_for(tmp_path):
    x = RNG.normal(size=(7, 2)).astype(np.float32)
    one, two = folders(tmp_path, "one", "two")
    artifacts.write_samples(one, torch.from_numpy(x[:4]))
    artifacts.write_samples(two, torch.from_numpy(x[4:]))
    assert np.array_equal(artifacts.samples([one, two]), x)
    assert np.array_equal(artifacts.samples([one, two], 5), x[:5])
    assert np.array_equal(artifacts.samples([one, two], 2), x[:2])
    assert isinstance(artifacts.samples([one]), np.memmap), "one folder is not read at once"
    two.joinpath("samples.npy").unlink()
    assert np.array_equal(artifacts.samples([one, two], 4), x[:4]), "the second is not needed"


def test_a_file_of_samples_is_written_piece_by_piece(tmp_path):
    x = RNG.normal(size=(5, 1, 2)).astype(np.float32)
    written = artifacts.sample_file(tmp_path, x.shape)
    written[:3], written[3:] = x[:3], x[3:]
    written.flush()
    assert np.array_equal(artifacts.samples([tmp_path]), x)


def test_an_artifact_that_was_cut_is_not_read(tmp_path):
    artifacts.write_samples(tmp_path, torch.zeros(50, 4))
    artifacts.write_features(tmp_path, {"f": np.zeros((50, 4))})
    for name in ("samples.npy", "features.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError):
        artifacts.samples([tmp_path])
    with pytest.raises(zipfile.BadZipFile):
        artifacts.features([tmp_path], "f")


def test_outputs_of_folders_follow_each_other_and_what_was_not_written_is_none(tmp_path):
    x = RNG.normal(size=(7, 2))
    one, two = folders(tmp_path, "one", "two")
    names = [artifacts.array_name("eye", each) for each in ("features", "logits")]
    assert names == ["eye", "eye/logits"]
    artifacts.write_features(one, {"eye": x[:4], "eye/logits": x[:4]})
    artifacts.write_features(two, {"eye": x[4:]})
    assert np.array_equal(artifacts.features([one, two], "eye"), x)
    assert artifacts.output([one, two], "eye/logits") is None
    assert np.array_equal(artifacts.output([one], "eye/logits"), x[:4])


def test_moments_are_those_of_a_file_that_states_all_three(tmp_path):
    stated = {"e/count": np.array([9]), "e/mean": np.ones(2), "e/scatter": np.eye(2)}
    artifacts.write_features(tmp_path, stated)
    found = artifacts.moments_of([tmp_path], "e")
    assert found.n == 9 and np.array_equal(found.scatter, np.eye(2))
    for name in stated:
        artifacts.write_features(tmp_path, {k: v for k, v in stated.items() if k != name})
        assert artifacts.moments_of([tmp_path], "e") is None


def test_scores_are_read_as_they_were_measured(tmp_path):
    interval = Interval(np.float64(0.5), 0.25, float("nan"), 20, "a way over blocks", "its mean")
    score = artifacts.score("fd", interval, np.int64(4), np.array([0.5, 1.0]), "plug-in")
    assert score.replicates == [0.5, 1.0] and type(score.value) is float
    artifacts.write_scores(tmp_path, [score])
    (found,) = artifacts.scores(tmp_path)
    assert found.ci_high != found.ci_high
    assert (found.metric, found.value, found.ci_low, found.n) == ("fd", 0.5, 0.25, 4)
    assert (found.interval, found.estimand, found.estimator) == ("none", "its mean", "plug-in")


def test_a_mean_has_the_means_without_each_block():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    found = artifacts.mean_score("mse", values, np.array([0, 0, 1, 1]))
    assert isinstance(found, Score) and (found.value, found.n) == (3.0, 4)
    assert found.replicates == [4.5, 1.5]
    assert found.ci_low < 3.0 < found.ci_high


def test_facts_are_read_as_they_were_written(tmp_path):
    artifacts.write_facts(tmp_path, {"nfe": 4.0, "n": 2})
    assert artifacts.facts(tmp_path) == {"nfe": 4.0, "n": 2}
