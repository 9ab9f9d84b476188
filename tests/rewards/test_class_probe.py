"""How surely a picture shows its class: on digits, and of edges drawn by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench.api import Classes, Unconditional
from piflow_bench.conformance.reward import striped
from piflow_bench.contracts.plugin import Place
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.rewards.class_probe import ClassProbe, Config, gradients


@pytest.fixture(scope="module")
def digits():
    return Runtime(given=Given({"name": "digits"})).dataset()


@pytest.fixture(scope="module")
def score(digits):
    return ClassProbe(Config()).load(digits, Place())


def every_class(score, pictures):
    return np.stack(
        [score(pictures, Classes(torch.full((len(pictures),), k), 10)) for k in range(10)], 1
    )


def test_it_tells_held_out_digits_apart(digits, score):
    pictures = digits.space.pictures(digits.test)
    found = every_class(score, pictures)
    assert np.allclose(np.exp(found).sum(1), 1, atol=1e-5)
    right = found.argmax(1) == digits.test_condition.labels.numpy()
    assert right.mean() > 0.95
    upside_down = every_class(score, pictures[:, ::-1])
    assert (upside_down.argmax(1) == digits.test_condition.labels.numpy()).mean() < 0.6


def test_noise_is_worse_than_a_digit(digits, score):
    pictures = digits.space.pictures(digits.test)
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape).astype(np.uint8)
    own = digits.test_condition
    assert score(pictures, own).mean() > score(noise, own).mean() + 1


def test_directions_of_edges():
    ramp = np.arange(16, dtype=np.uint8) * 10
    right = np.broadcast_to(ramp, (16, 16))[None, :, :, None]
    pictures = np.concatenate([right, right.transpose(0, 2, 1, 3), right[:, :, ::-1]])
    found = gradients(pictures, cells=2, directions=4).reshape(3, 2, 2, 4)
    # Of 4 directions: to the right, down, to the left, up; all cells alike, together of length 1.
    for histogram, direction in zip(found, (0, 1, 2), strict=True):
        expected = np.zeros((2, 2, 4))
        expected[..., direction] = 0.5
        assert np.allclose(histogram, expected)
    assert not gradients(np.full((1, 8, 8, 3), 7, np.uint8), 2, 4).any()
    colours = np.repeat(pictures, 3, axis=3)
    assert np.allclose(gradients(colours, 2, 4).reshape(found.shape), found)


def test_a_class_that_it_has_not_seen_says_nothing(digits):
    data = striped()
    seen = replace(data, train_condition=Classes(data.train_condition.labels, 5))
    score = ClassProbe(Config()).load(seen, Place())
    pictures = data.space.pictures(data.test)
    unseen = score(pictures, Classes(torch.full((len(pictures),), 4), 5))
    assert not unseen.any()


def test_it_learns_from_a_spread_of_the_pictures():
    """Data that are sorted by class have every class in a part of them."""
    data = striped()
    order = data.train_condition.labels.argsort(stable=True)
    ordered = replace(data, train=data.train[order], train_condition=data.train_condition[order])
    score = ClassProbe(Config(pictures=30)).load(ordered, Place())
    pictures = data.space.pictures(data.test)
    assert (score(pictures, data.test_condition) > np.log(0.5)).all()


def test_what_it_lacks(digits):
    probe = ClassProbe(Config())
    assert probe.lacks(digits) is None
    bare = replace(digits, train_condition=Unconditional(len(digits.train)))
    assert probe.lacks(bare) == "class labels"
    one = Classes(torch.zeros(len(digits.train), dtype=torch.int64), 10)
    assert probe.lacks(replace(digits, train_condition=one)).startswith("a second class")
    rare = replace(
        digits, train_condition=Classes((torch.arange(len(digits.train)) == 3).long(), 2)
    )
    assert ClassProbe(Config(pictures=10)).lacks(rare) and probe.lacks(rare) is None


def test_large_pictures_are_looked_at_by_blocks():
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, 64, 70, 3)).astype(np.uint8)
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    assert np.allclose(gradients(large, 4, 8), gradients(small, 4, 8))
    odd = np.pad(large, [(0, 0), (0, 2), (0, 1), (0, 0)], "edge")
    assert np.allclose(gradients(odd, 4, 8), gradients(small, 4, 8))
