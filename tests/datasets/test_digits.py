"""The 8x8 digits: what is held out, what labels samples get, and who looks at them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench.data.digits_extractor import grey_levels
from piflow_bench.errors import UserError
from piflow_bench.pipeline.runtime import described
from tests.world import world


def test_a_stratified_fifth_is_held_out():
    data = world().dataset()
    assert (data.name, data.shape, data.label_law) == ("digits", (1, 8, 8), "balanced")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.truth is None and data.reference is None
    train, test = (c.labels.bincount() for c in (data.train_condition, data.test_condition))
    assert len(train) == len(test) == data.train_condition.count == 10
    assert ((test / (train + test)) - 0.2).abs().max() < 0.01
    whole = torch.cat([data.train, data.test])
    assert (whole.min(), whole.max()) == (-1, 1) and torch.equal((whole * 8).round() / 8, whole)


def test_labels_of_samples_are_balanced_by_index():
    conditions = world().dataset().conditions
    assert conditions(0, range(8, 13)).labels.tolist() == [8, 9, 0, 1, 2]
    assert torch.equal(conditions(1, range(20)).labels, conditions(0, range(20)).labels)


def test_it_has_no_settings():
    runtime = world()
    wrong = replace(
        runtime, given=replace(runtime.given, dataset={"name": "digits", "guidance": 2})
    )
    with pytest.raises(UserError, match=r"dataset\.guidance: no such setting"):
        wrong.dataset()


def test_what_looks_at_them_knows_them():
    """Classifier and judge are right of the held-out digits; pixels are the samples'."""
    runtime = world()
    data = runtime.dataset()
    pictures = data.space.pictures(data.test)
    labels = data.test_condition.labels.numpy()
    classifier, judge, pixels = (
        described(runtime.extractor(name), pictures, 4)
        for name in ("digits", runtime.dataset_plugin().judge, "digits-pixels")
    )
    assert classifier["features"].shape == (360, 64)
    for found in (classifier, judge):
        assert (found["logits"].argmax(1) == labels).mean() > 0.95
    assert set(judge) == {"logits"} and set(pixels) == {"features"}
    assert np.array_equal(pixels["features"], data.test.flatten(1).numpy())
    assert (classifier["logits"].argmax(1) != judge["logits"].argmax(1)).any(), "two networks"


def test_extractors_have_identities_without_being_loaded(monkeypatch):
    from piflow_bench.data import digits_extractor

    monkeypatch.setattr(digits_extractor, "load_into", lambda *a: pytest.fail("weights are loaded"))
    names = ("digits", "digits-pixels", "digits-judge")
    found = {name: world().extractor_plugin(name).identity() for name in names}
    assert {each["rule"] for each in found.values()} == {"17 grey levels"}
    assert [len(found[name]["weights"]) for name in names] == [64, 0, 64]
    assert found["digits"] != found["digits-judge"]


def test_pictures_of_another_size_are_refused():
    with pytest.raises(UserError, match="sees 8x8 images, not 9x8"):
        grey_levels(np.zeros((1, 8, 9, 3), np.uint8))
