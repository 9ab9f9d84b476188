"""Precomputed statistics: the field's npz layouts are read, everything else is named."""

import pickle

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.frechet import FrechetReference, fd
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.references.statistics import (
    Statistics,
    is_statistics,
    load_statistics,
    save_statistics,
)


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return random.normal(size=(200, 6)), random.normal(0.3, 1.2, size=(300, 6))


def moments_of(features):
    return np.mean(features, 0), np.cov(features, rowvar=False)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_any_layout_gives_the_distance_of_the_features(tmp_path, features, names):
    generated, reference = features
    path = tmp_path / "stats = [1].npz"
    np.savez(path, **dict(zip(names, moments_of(reference), strict=True)))
    assert is_statistics(path)
    stored = FrechetReference(load_statistics(path).pooled)
    expected = fd(Moments.from_features(generated), Moments.from_features(reference))
    assert stored.distance(Moments.from_features(generated)) == pytest.approx(expected, rel=1e-12)


def test_adm_files_have_spatial_statistics_too(tmp_path, features):
    (mu, sigma), (mu_s, sigma_s) = map(moments_of, features)
    path = tmp_path / "VIRTUAL_x.npz"
    images = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(path, arr_0=images, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    found = load_statistics(path)
    assert np.allclose(found.spatial.covariance, sigma_s) and np.allclose(found.pooled.mean, mu)


def test_written_ones_read_back(tmp_path, features):
    pooled, spatial = map(Moments.from_features, features)
    path = tmp_path / "x.npz"
    save_statistics(path, Statistics("x", pooled, spatial, "inception (rule; weights 123)"))
    found = load_statistics(path)
    assert found.pooled.n == 200 and found.extractor == "inception (rule; weights 123)"
    assert np.allclose(found.pooled.covariance, pooled.covariance)
    assert np.allclose(found.spatial.covariance, spatial.covariance)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_images_are_no_statistics(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((3, 4, 4, 3), np.uint8))
    assert not is_statistics(tmp_path / "x.npz") and not is_statistics(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mean": np.zeros(3)}, ["mu, sigma", "only mean"]),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, ["(3,)", "(4, 4)"]),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, ["not finite"]),
        ({"mu": np.zeros(2), "sigma": np.array([[1, 0.5], [0, 1]])}, ["not symmetric"]),
        ({"mu": np.array([object()]), "sigma": np.eye(1)}, ["pickle"]),
    ],
)
def test_bad_files_get_one_line(tmp_path, arrays, words):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as error:
        load_statistics(path)
    assert "\n" not in str(error.value)
    for word in [*words, "x.npz"]:
        assert word in str(error.value)


def test_a_pickle_is_refused_unread_with_the_way_to_convert_it(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "fid.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"numpy.savez\('stats.npz', mu="):
        load_statistics(path)
    with pytest.raises(UserError, match="no such file"):
        load_statistics(tmp_path / "none.npz")
