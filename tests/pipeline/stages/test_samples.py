"""Stages that make samples, in a world where each is known: the point of its class."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from piflow_bench import interruption
from piflow_bench.contracts.data import TensorRows, Truth
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.artifacts import NotFinite
from piflow_bench.pipeline.stages import samples
from piflow_bench.pipeline.stages.samples import Converge, Draw, Sample, SampleTrained
from piflow_bench.randomness import SampleRandom
from tests.pipeline.stages import made

CONVERGE = {
    **made.WORLD, "solver": "euler", "steps": 3, "seed": 1, "start": 4, "stop": 14,
    "precision": "fp32",
}  # fmt: skip
SAMPLE = {
    **made.WORLD, "method": "teacher", "version": 1, "settings": {}, "nfe": 3, "sampling": {},
    "sample_seed": 1, "precision": "fp32", "start": 4, "stop": 14,
}  # fmt: skip
DRAW = {"dataset": {}, "space": {}, "seed": 0, "n": 0}


def expected(seed, start, stop):
    """The points of the classes of these indices."""
    return made.points(made.dataset().conditions(seed, range(start, stop))).numpy()


def run(task, folder, runtime=None, inputs=None):
    folder.mkdir(exist_ok=True)
    task.run(inputs or {}, folder, runtime or made.runtime(), made.silent)
    return artifacts.samples([folder])


@pytest.mark.parametrize("kind, given", [(Converge, CONVERGE), (Sample, SAMPLE)])
def test_samples_of_a_range_are_those_of_its_indices(kind, given, tmp_path):
    x = run(kind(**given), tmp_path / "a")
    assert np.allclose(x, expected(1, 4, 14), atol=1e-6)
    facts = artifacts.facts(tmp_path / "a")
    assert (facts["n"], facts["nfe"]) == (10, 3.0)
    assert not (tmp_path / "a" / "parts").exists()


def test_costs_of_samples_are_beside_them(tmp_path):
    run(Sample(**SAMPLE), tmp_path / "a")
    facts = artifacts.facts(tmp_path / "a")
    assert set(facts) == {"nfe", "n", "flops_per_sample", "sample_seconds", "policy_seconds",
                          "memory"}  # fmt: skip
    assert 0 <= facts["policy_seconds"] <= facts["sample_seconds"]


@pytest.mark.parametrize("kind, given", [(Converge, CONVERGE), (Sample, SAMPLE)])
def test_what_was_stopped_goes_on_after_the_rows_it_has(kind, given, tmp_path):
    rows = []

    def counted(x, t, condition):
        rows.append(len(x))
        return made.velocity(x, t, condition)

    runtime = made.runtime(teacher=Teacher(counted, made.Scaled(0.5), closed_form=True))
    interruption.ask()
    try:
        with pytest.raises(interruption.Stopped):
            run(kind(**given), tmp_path / "a", runtime)
    finally:
        interruption.forget()
    first, rows[:] = list(rows), []
    assert np.allclose(run(kind(**given), tmp_path / "a", runtime), expected(1, 4, 14), atol=1e-6)
    audited = 0 if kind is Converge else samples_of_an_audit()
    assert sum(first) == 3 * 4 + audited and sum(rows) == 3 * 6 + audited


def samples_of_an_audit():
    from piflow_bench.sampling import AUDIT_SAMPLES

    return 3 * AUDIT_SAMPLES


def test_a_shift_of_times_is_in_no_key_while_there_is_none():
    assert "shift" not in Converge(**CONVERGE).content
    assert Converge(**CONVERGE, shift=0.5).content["shift"] == 0.5


def test_a_teacher_of_nan_makes_no_samples(tmp_path):
    broken = Teacher(lambda x, t, c: x * float("nan"), made.Scaled(0.5), closed_form=True)
    with pytest.raises(NotFinite, match="10 of 10 samples are not finite; the first is sample 4"):
        run(Converge(**CONVERGE), tmp_path / "a", made.runtime(teacher=broken))
    assert not (tmp_path / "a" / "samples.npy").exists()


def test_a_students_weights_are_those_of_its_checkpoint(tmp_path):
    for i, w in enumerate((0.25, 0.75)):
        save_file({"w": torch.tensor([[w]])}, tmp_path / f"checkpoint_{i}.safetensors")
    given = {**SAMPLE, "method": "kd", "nfe": 1, "train_nfe": 1, "train_seed": 0}
    noise = SampleRandom(1, range(4, 14), "cpu").noise(made.SHAPE).numpy()
    for checkpoint, left in ((0, 0.75), (1, 0.25), (None, 0.75)):
        task = SampleTrained(**given, checkpoint=checkpoint)
        x = run(task, tmp_path / str(checkpoint), inputs={"distill": [tmp_path]})
        assert np.allclose(x, left * noise, atol=1e-6), checkpoint


def test_a_student_is_built_for_the_seed_and_nfe_it_was_trained_with(monkeypatch):
    given = {**SAMPLE, "method": "kd", "train_nfe": 2, "train_seed": 9, "checkpoint": 0}
    spec = SampleTrained(**given).spec(made.runtime(), "cpu")
    assert (spec.train_nfe, spec.seed) == (2, 9)
    assert Sample(**SAMPLE).spec(made.runtime(), "cpu").train_nfe is None


# ------------------------------------------------------------------ real samples


@pytest.mark.parametrize("split, n, count", [("train", 0, 12), ("test", 0, 6), ("test", 4, 4)])
def test_a_split_is_written_as_it_is(split, n, count, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "AT_ONCE", 5)
    x = run(Draw(**{**DRAW, "split": split, "n": n}), tmp_path / "a")
    whole = made.dataset().train if split == "train" else made.dataset().test
    assert np.array_equal(x, whole[:count].numpy()) and x.dtype == np.float32


def test_a_part_of_a_training_set_is_spread_over_it(tmp_path):
    data = made.dataset(train=torch.arange(12.0)[:, None, None, None].expand(-1, *made.SHAPE))
    x = run(Draw(**{**DRAW, "split": "train", "n": 3}), tmp_path / "a", made.runtime(data))
    assert x[:, 0, 0, 0].tolist() == [0.0, 6.0, 11.0]


def test_exact_samples_are_drawn_by_their_seed(tmp_path):
    truth = Truth(None, lambda seed, n: torch.full((n, *made.SHAPE), float(seed)))
    runtime = made.runtime(made.dataset(truth=truth))
    x = run(Draw(**{**DRAW, "split": "exact", "seed": 5, "n": 3}), tmp_path / "a", runtime)
    assert x.shape == (3, *made.SHAPE) and (x == 5.0).all()


def test_real_samples_are_taken_piece_by_piece_and_a_broken_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "AT_ONCE", 5)
    x = torch.zeros(12, *made.SHAPE)
    x[8, 0, 0, 0] = float("inf")
    taken = []

    class Noted(TensorRows):
        def take(self, rows, random=None):
            taken.append(rows.tolist())
            return super().take(rows)

    runtime = made.runtime(made.dataset(rows=Noted(x)))
    with pytest.raises(NotFinite, match="the first is sample 8"):
        run(Draw(**{**DRAW, "split": "train"}), tmp_path / "a", runtime)
    assert taken == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
