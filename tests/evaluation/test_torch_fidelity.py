"""The same numbers as torch-fidelity: from the same features, and from the same images."""

import numpy as np
import pytest
import torch
from PIL import Image

import piflow_bench

KID = {"kid_subsets": 20, "kid_subset_size": 60}
FEW = {"kid_subsets": 20, "kid_subset_size": 20}


@pytest.fixture(scope="module")
def features():
    """Float64 features and logits of 300 generated and 260 reference samples."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24)) / 5
    x, y = (np.maximum(rng.normal(c, 1, (n, 24)) @ mix + 0.3, 0) for n, c in ((300, 0.2), (260, 0)))
    return x, y, 3 * rng.normal(size=(300, 12))


def scores(table):
    return dict(zip(table["metric"], table["value"], strict=True))


def test_functions_on_float64_features(features):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y, logits = (torch.from_numpy(each) for each in features)
    sides = [fid_features_to_statistics(each) for each in (x, y)]
    theirs = {
        **fid_statistics_to_metric(*sides, verbose=False),
        **kid_features_to_metric(x, y, rng_seed=2020, verbose=False, **KID),
        **isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020),
        **prc_features_to_metric(x, y, prc_neighborhood=3, verbose=False),
    }
    names = ["fd", "kid", "is", "precision", "recall"]
    ours = scores(piflow_bench.evaluate_features(*features[:2], names, features[2], **KID))
    compare(ours, theirs, dict.fromkeys(NAMES, 1e-5), share=1e-6)


NAMES = {
    "fd": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "kid_std": "kernel_inception_distance_std",
    "is": "inception_score_mean",
    "is_std": "inception_score_std",
}


def compare(ours, theirs, relative, share):
    for name, key in NAMES.items():
        assert ours[name] == pytest.approx(theirs[key], rel=relative[name]), name
    for name in ("precision", "recall"):
        assert ours[name] == pytest.approx(theirs[name], abs=share), name
        assert 0.05 < theirs[name] < 0.95, "a share that could differ"


def pictures(folder, seed, n, grain, brightest):
    """Coloured noise of a grain: something that even a random network tells apart."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        coarse = rng.integers(0, brightest, (grain, grain, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(
            folder / f"{i:02d}.png"
        )


def test_end_to_end_on_the_same_images(tmp_path, inception_weights):
    from torch_fidelity import calculate_metrics

    pictures(tmp_path / "a", 0, 30, 5, 200)
    pictures(tmp_path / "b", 1, 34, 6, 256)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    theirs = calculate_metrics(
        input1=a,
        input2=b,
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
        feature_layer_prc="2048",
        cache=False,
        verbose=False,
        **FEW,
    )
    ours = scores(
        piflow_bench.evaluate(
            a,
            b,
            "torch-fidelity",
            weights=str(inception_weights),
            cache=tmp_path / "features",
            **FEW,
        )
    )
    relative = {"fd": 1e-4, "kid": 1e-3, "kid_std": 1e-3, "is": 1e-4, "is_std": 1e-3}
    compare(ours, theirs, relative, share=1 / 30)
