"""Draws depend on what they are for, and on nothing else."""

import pytest
import torch

from piflow_bench.randomness import BLOCK, SampleRandom, TrainingRandom, seed_of


def test_seeds_depend_on_every_part_and_on_their_division():
    seeds = {seed_of(*p) for p in [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", 1, 0), (1, "a")]}
    assert len(seeds) == 6
    assert seed_of("a", 1) == seed_of("a", 1)
    assert all(0 <= s < 2**63 for s in seeds)


# ---------------------------------------------------------------------------- samples


def every_draw(random):
    return {
        "noise": random.noise((3, 2)),
        "renoise": random.normal(2, (3, 2)),
        "label": random.integers(1000),
    }


@pytest.mark.parametrize("indices", [[4], [4, 0, 9], [9, 8, 7, 6, 5, 4], range(3, 8)])
def test_a_sample_does_not_depend_on_its_batch(indices):
    whole, part = every_draw(SampleRandom(1, range(10))), every_draw(SampleRandom(1, indices))
    for name, values in part.items():
        assert torch.equal(values, whole[name][list(indices)]), name


def test_sample_draws_are_repeatable_whatever_was_drawn_before():
    random = SampleRandom(1, range(4))
    first = random.normal(3, (2,))
    random.noise((5,))
    assert torch.equal(random.normal(3, (2,)), first)


def test_sample_draws_differ_by_seed_index_stream_and_step():
    base = SampleRandom(1, [0, 1])
    draws = [
        base.normal(1, (4,)),
        base.normal(2, (4,)),
        base.normal(1, (4,), stream="other"),
        SampleRandom(2, [0, 1]).normal(1, (4,)),
    ]
    rows = torch.cat(draws)
    assert len(rows.unique(dim=0)) == len(rows) == 8
    assert not torch.equal(base.noise((4,)), base.normal(0, (4,)))


def test_sample_draws_are_standard_normal():
    x = SampleRandom(5, range(4000)).noise((10,))
    assert x.dtype == torch.float32 and x.shape == (4000, 10)
    is_standard_normal(x)
    # Rows of different samples, and columns of one, are uncorrelated.
    assert abs(float((x[:-1] * x[1:]).mean())) < 4.5 / 40000**0.5
    assert abs(float((x[:, :-1] * x[:, 1:]).mean())) < 4.5 / 36000**0.5


def test_sample_integers_are_uniform():
    counts = SampleRandom(0, range(5000)).integers(10).bincount(minlength=10)
    assert len(counts) == 10
    assert float((counts - 500).square().sum() / 500) < 32  # chi-squared, 9 degrees: p < 2e-4


# ---------------------------------------------------------------------------- training

KINDS = {
    "normal": lambda r: r.normal("x", (2, 3)),
    "uniform": lambda r: r.uniform("x", (2,)),
    "plain": lambda r: r.uniform("x"),
    "integers": lambda r: r.integers("x", 1000),
}


@pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("part", [1, 7, BLOCK, 50, 100])
def test_training_rows_do_not_depend_on_the_division(draw, part):
    batch = 3 * BLOCK + 8
    whole = draw(TrainingRandom(7, 3, 0, batch))
    parts = [
        draw(TrainingRandom(7, 3, low, min(part, batch - low))) for low in range(0, batch, part)
    ]
    assert len(whole) == batch
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.flatten(1).unique(dim=0) if whole.ndim > 1 else whole.unique()) > BLOCK


def test_training_rows_do_not_depend_on_the_batch_size():
    assert torch.equal(
        TrainingRandom(7, 3, 0, 20).normal("x"), TrainingRandom(7, 3, 0, 200).normal("x")[:20]
    )


def test_training_draws_differ_by_name_step_and_seed():
    draws = [
        TrainingRandom(7, 3, 0, 8).normal("x"),
        TrainingRandom(7, 3, 0, 8).normal("y"),
        TrainingRandom(7, 4, 0, 8).normal("x"),
        TrainingRandom(8, 3, 0, 8).normal("x"),
    ]
    assert len(torch.stack(draws).unique(dim=0)) == 4


def test_training_draws_do_not_depend_on_their_order():
    one, other = TrainingRandom(7, 3, 0, 8), TrainingRandom(7, 3, 0, 8)
    x, t = one.normal("x"), one.uniform("t")
    assert torch.equal(other.uniform("t"), t)
    assert torch.equal(other.normal("x"), x)


@pytest.mark.parametrize("first", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("second", KINDS.values(), ids=KINDS.keys())
def test_a_name_used_twice_raises(first, second):
    random = TrainingRandom(7, 3, 0, 8)
    first(random)
    with pytest.raises(ValueError, match="'x' was already made"):
        second(random)


def test_training_draws_are_standard_normal_and_uniform():
    random = TrainingRandom(7, 3, 0, 20000)
    is_standard_normal(random.normal("x", (2,)))
    u = random.uniform("u", (2,))
    assert u.min() >= 0 and u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 4.5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 4.5 * (1 / 180 / u.numel()) ** 0.5


def test_the_shared_integer_is_the_same_in_every_part():
    values = [TrainingRandom(7, 3, low, 5).shared_integer("k", 10**6) for low in (0, 5, 500)]
    assert len(set(values)) == 1
    others = {TrainingRandom(7, step, 0, 5).shared_integer("k", 10**6) for step in range(20)}
    assert len(others) == 20


def is_standard_normal(x):
    """The first four moments within 4.5 standard errors."""
    x, n = x.double().flatten(), x.numel()
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((x**power).mean()) - expected) < 4.5 * (variance / n) ** 0.5, power
