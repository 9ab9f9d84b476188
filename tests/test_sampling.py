"""Sampling: independent of batches, evaluations counted, hidden ones caught."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from piflow_bench import sampling
from piflow_bench.api import Student, flow
from piflow_bench.config.compose import compose
from piflow_bench.contracts.teacher import Guidance
from piflow_bench.data import digits
from piflow_bench.files.rows import Parts
from piflow_bench.pipeline.plan import runtime_of
from piflow_bench.randomness import SampleRandom
from tests.world import world


@pytest.fixture(scope="module")
def dataset():
    return world().dataset()


@pytest.fixture(scope="module")
def teacher():
    return world(untrained=True, dim=16, depth=1).teacher()


@dataclass
class Stepping(Student):
    """Euler steps, with fresh noise between them; ``extra`` evaluations are not declared."""

    network: Any
    extra: int = 0
    hidden: Any = None

    def sample(self, noise, condition, nfe, random, **settings):
        x = noise
        times = flow.time_grid(nfe)
        for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
            at = t.expand(len(x))
            x = x - (t - s) * self.network(x, at, condition)
            x = x + 0.01 * random.normal(i, noise.shape[1:])
        for _ in range(self.extra):
            self.network(x, at, condition)
        if self.hidden is not None:
            self.hidden(x, at, condition)
        return x


def network_of():
    torch.manual_seed(0)
    network = digits.teacher_network(dim=16, depth=1)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return network


def draw(dataset, indices, batch, nfe=2, seed=0, **options):
    network = network_of()
    student = Stepping(network, **options)
    return sampling.sample(student, network, dataset, indices, nfe, seed, batch)


def test_samples_do_not_depend_on_the_batch(dataset):
    one = draw(dataset, range(10), 10).x
    for batch in (1, 3, 7):
        assert torch.allclose(draw(dataset, range(10), batch).x, one, atol=1e-5)
    assert torch.allclose(draw(dataset, range(6, 10), 2).x, one[6:], atol=1e-5)


def test_seeds_matter(dataset):
    assert not torch.allclose(draw(dataset, range(4), 4, seed=1).x, draw(dataset, range(4), 4).x)


def test_costs_of_a_sample(dataset):
    two, four = draw(dataset, range(8), 8, nfe=2), draw(dataset, range(8), 8, nfe=4)
    assert (two.nfe, four.nfe) == (2, 4)
    assert four.flops_per_sample == pytest.approx(2 * two.flops_per_sample)


def test_time_outside_the_network_is_told_apart(dataset, tmp_path):
    """A network that takes 20 ms and a policy that takes 60 ms, in two batches."""
    network = network_of()

    def slow(x, t, condition):
        time.sleep(0.02)
        return network(x, t, condition)

    class Pondering(Stepping):
        def sample(self, noise, condition, nfe, random, **settings):
            time.sleep(0.06)
            return super().sample(noise, condition, nfe, random)

    student = Pondering(slow)
    parts = Parts(tmp_path / "parts", 0.0)
    drawn = sampling.sample(student, slow, dataset, range(8), 1, 0, 4, parts=parts)
    outside = drawn.policy_seconds_per_sample * 8
    inside = drawn.seconds_per_sample * 8 - outside
    assert 0.12 <= outside < 0.4 and 0.04 <= inside < 0.4
    assert drawn.memory >= 0 or drawn.memory != drawn.memory
    # What an earlier process spent is kept with its samples.
    again = sampling.sample(
        student, slow, dataset, range(8), 1, 0, 4, parts=Parts(tmp_path / "parts", 0.0)
    )
    assert again.policy_seconds_per_sample == drawn.policy_seconds_per_sample


def test_the_clock_runs_in_sample_alone(dataset, monkeypatch):
    """By a clock that moves only when told: noise and labels cost nothing of a sample's time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def costing(seconds, function):
        def called(*args, **kwargs):
            now[0] += seconds
            return function(*args, **kwargs)

        return called

    network = network_of()
    timed = costing(2.0, network)

    class Pondering(Stepping):
        def sample(self, noise, condition, nfe, random, **settings):
            now[0] += 3.0
            return super().sample(noise, condition, nfe, random)

    monkeypatch.setattr(SampleRandom, "noise", costing(7.0, SampleRandom.noise))
    monkeypatch.setattr(sampling, "_check", costing(11.0, sampling._check))
    slow = dataclasses.replace(dataset, conditions=costing(5.0, dataset.conditions))
    drawn = sampling.sample(Pondering(timed), timed, slow, range(8), 2, 0, 4)
    assert drawn.seconds_per_sample == pytest.approx(2 * (3 + 2 * 2) / 8)
    assert drawn.policy_seconds_per_sample == pytest.approx(2 * 3 / 8)
    assert drawn.nfe == 2


def test_flops_are_counted_once_for_all_batches(dataset, monkeypatch):
    """Counting takes a multiple of the network's own time, which would be booked as its cost."""
    from torch.utils import flop_counter

    counters = []
    counter = flop_counter.FlopCounterMode
    counted = lambda **o: counters.append(o) or counter(**o)  # noqa: E731
    monkeypatch.setattr(flop_counter, "FlopCounterMode", counted)
    drawn = draw(dataset, range(8), 2)
    assert len(counters) == 2, "the audit, and within it the cost of a row"
    assert drawn.flops_per_sample == pytest.approx(draw(dataset, range(8), 8).flops_per_sample)


def test_more_evaluations_than_asked_for_are_named(dataset):
    with pytest.raises(sampling.DishonestNFE, match="evaluated its network 3 times"):
        draw(dataset, range(4), 4, extra=1)


def test_hidden_evaluations_are_named(dataset):
    with pytest.raises(sampling.DishonestNFE, match="outside self.network"):
        draw(dataset, range(4), 4, hidden=network_of())


def test_guidance_counts_twice(dataset, teacher):
    from piflow_methods.teacher import TeacherSampler

    method = TeacherSampler(TeacherSampler.Config(guided=True))
    assert "even" in method.serves(3) and method.serves(4) is None
    built = method.build(teacher, None)
    drawn = sampling.sample(built.student, teacher.network, dataset, range(4), 4, 0, 4)
    assert drawn.nfe == 4


@pytest.mark.parametrize("solver", list(flow.SOLVERS))
@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 5])
def test_every_solver_spends_what_it_is_given(dataset, teacher, solver, nfe):
    from piflow_methods.teacher import TeacherSampler

    built = TeacherSampler(TeacherSampler.Config(solver=solver)).build(teacher, None)
    sampling.sample(built.student, teacher.network, dataset, range(4), nfe, 0, 4)


@pytest.mark.slow
def test_the_digits_reference_is_near_the_exact_solution():
    """By as much as 16 uniform steps of UniPC, with 12 evaluations of the guided teacher."""
    (config,) = compose(["experiment=digits"])
    runtime, c = runtime_of(config), config.converged

    def solved(solver, steps, shift):
        settings = {"batch": 48, "shift": shift}
        return sampling.converged(
            runtime.teacher(), runtime.dataset(), range(48), 3, solver, steps, **settings
        )[0]

    exact = solved("heun", 100, 0.5)
    rms = (solved(c.solver, c.steps, c.shift) - exact).square().mean().sqrt()
    before = (solved("unipc", 16, 1.0) - exact).square().mean().sqrt()
    assert 0.005 < rms < before < 0.02


def test_converged_samples_are_shardable(dataset, teacher):
    whole, nfe = sampling.converged(teacher, dataset, range(6), 3, "heun", 3, 6)
    parts = [
        sampling.converged(teacher, dataset, range(a, a + 3), 3, "heun", 3, 2)[0] for a in (0, 3)
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.0, 0.7), (0.3, 0.6)])
@pytest.mark.parametrize("solver", list(flow.SOLVERS))
def test_the_converged_teachers_nfe_is_what_passes_its_network(dataset, teacher, solver, low, high):
    """Heun needs 2 N - 1 evaluations; guidance doubles those inside its interval alone."""
    teacher = teacher.guided(Guidance(2.0, low, high))
    rows = []

    def network(x, t, condition):
        rows.append(len(x))
        return teacher.network(x, t, condition)

    steps, n = 8, 5
    _, nfe = sampling.converged(teacher.bind(network), dataset, range(n), 3, solver, steps, 2)
    assert nfe == sum(rows) / n
    times = [1 - i / steps for i in range(steps)]
    if solver == "heun":
        times += times[1:]
    assert nfe == sum(2 if low <= t <= high else 1 for t in times)
