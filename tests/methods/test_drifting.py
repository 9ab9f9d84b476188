"""Drifting models: the force by hand, where it rests on Gaussians, and what its bank holds."""

from types import SimpleNamespace

import pytest
import torch
from piflow_methods.drifting import Config, Drifting, force
from piflow_methods.parts.banks import Bank, label_of
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    Unconditional,
)
from tests.methods import gaussian
from tests.methods.gaussian import MU, S

DIM = 2


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Scaled(nn.Module):
    """The velocity of ``eps -> MU + off + theta S eps``, which is exact at 1 and 0."""

    def __init__(self, theta=1.0, off=0.0):
        super().__init__()
        self.theta, self.off = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(off))

    def forward(self, x, t, condition):
        assert (t == 1).all()
        return x - (MU + self.off + self.theta * S * x)


def filled(samples):
    """A bank that holds ``samples`` ``(labels, size, *sample)``."""
    bank = Bank(len(samples), samples.shape[1], tuple(samples.shape[2:]))
    bank.samples.copy_(samples)
    bank.seen.fill_(samples.shape[1])
    return bank


def one_step(network, x0, held, labels=None, step=1, w=1.0, **settings):
    """The update of a batch whose rows are of labels of their own."""
    rows = len(x0)
    labels = torch.arange(rows) if labels is None else labels
    modules = {"student": network, "bank": held}
    teacher = Teacher(gaussian.velocity, nn.Linear(1, 1), Guidance(w), closed_form=True)
    context = Context(step, 0.0, TrainingRandom(5, step, 0, rows), teacher, modules, modules)
    batch = Batch(x0, Classes(labels, len(held.seen)), tuple(x0.shape[1:]))
    (found,) = Drifting(Config(**settings)).training_step(batch, context)
    return found


def real(rows, number, seed):
    generator = torch.Generator().manual_seed(seed)
    return MU + S * torch.randn(rows, number, DIM, generator=generator)


def mean_slopes(size, theta=1.0, off=0.0, draws=100_000, positives=None):
    """Gradients of (theta, off) over groups of ``size`` and as many real samples: mean, s.e.

    Every group has real samples of its own.
    """
    found, positives = [], positives or size
    rows = min(4000 // size, 250)
    network = Scaled(theta, off)
    for step in range(draws // (rows * size)):
        data = real(rows, positives, step)
        settings = {"generated": size, "positives": positives, "bank": positives - 1}
        loss = one_step(network, data[:, 0], filled(data[:, 1:]), step=step, **settings).loss
        found.append(torch.stack(torch.autograd.grad(loss, list(network.parameters()))))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / len(found) ** 0.5


def zeros(mean, error):
    return [abs(m) < 3 * e for m, e in zip(mean.tolist(), error.tolist(), strict=True)]


@pytest.mark.parametrize("size, positives, moved", [(8, 8, 1.04), (16, 64, 1.056)])
def test_the_mean_is_at_rest_and_the_spread_of_small_groups_moves(size, positives, moved):
    mean, error = mean_slopes(size, positives=positives)
    assert zeros(mean, error) == [False, True]
    assert mean[0] < -5 * error[0], "where they are few, samples are pushed apart"
    assert zeros(*mean_slopes(size, moved, positives=positives)) == [True, True]


def test_large_groups_rest_at_the_exact_map():
    assert zeros(*mean_slopes(64)) == [True, True]


@pytest.mark.parametrize(
    "parameter, given, sign",
    [(0, {"theta": 1.1}, 1), (0, {"theta": 0.9}, -1), (1, {"off": 0.1}, 1), (1, {"off": -0.1}, -1)],
)
def test_a_wrong_map_is_moved_to_the_data(parameter, given, sign):
    mean, error = mean_slopes(64, **given, draws=50_000)
    assert sign * mean[parameter] > 5 * error[parameter]


def by_hand(x, positives, negatives, weight, temperature):
    """Algorithm 2 for one group, sample by sample, unnormalised; and s."""
    size, pushing = len(x), len(x) + len(negatives)
    targets = [*x, *negatives, *positives]
    weights = [1.0] * size + [weight] * len(negatives) + [1.0] * len(positives)
    d = torch.stack([torch.stack([(a - b).norm() for b in targets]) for a in x])
    mean = sum(d[i, j] * weights[j] for i in range(size) for j in range(len(targets)))
    mean = mean / (size * sum(weights))
    far = d / mean
    for i in range(size):
        far[i, i] = float("inf")
    kernel = torch.exp(-far / temperature)
    row, column = kernel.sum(1), kernel.sum(0)
    drift = torch.zeros_like(x)
    for i in range(size):
        a = [
            max((kernel[i, j] / row[i] * kernel[i, j] / column[j]).sqrt().item(), 1e-3) * weights[j]
            for j in range(len(targets))
        ]
        pull, push = sum(a[pushing:]), sum(a[:pushing])
        for j, y in enumerate(targets):
            drift[i] += y * (a[j] * push if j >= pushing else -a[j] * pull)
    return drift, mean / x.shape[1] ** 0.5


def a_group(seed=0, negatives=3):
    g = torch.Generator().manual_seed(seed)
    shapes = (5, 3), (4, 3), (negatives, 3)
    return [torch.randn(*shape, generator=g) + i for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("temperatures", [(0.2,), (0.02, 0.05, 0.2), (1.0, 0.4)])
@pytest.mark.parametrize("negatives, weight", [(0, 0.0), (3, 0.7), (3, 2.5)])
def test_the_force_is_the_sum_of_each_temperatures_at_size_one(temperatures, negatives, weight):
    groups = [a_group(seed, negatives) for seed in (0, 1)]
    stacked = [torch.stack(parts) for parts in zip(*groups, strict=True)]
    drift, scale = force(*stacked, weight, temperatures)
    for i, group in enumerate(groups):
        total = torch.zeros_like(group[0])
        for temperature in temperatures:
            found, s = by_hand(*group, weight, temperature)
            total += found / found.square().mean().sqrt()
        assert torch.allclose(drift[i], total, atol=1e-9)
        assert scale[i].item() == pytest.approx(s.item(), rel=1e-9)


def test_neither_size_nor_place_of_the_data_matters():
    group = [part[None] for part in a_group()]
    drift, scale = force(*group, 0.5, (0.05, 0.2))
    moved, larger = force(*(7 * part - 3 for part in group), 0.5, (0.05, 0.2))
    assert torch.allclose(moved, drift, atol=1e-9)
    assert larger.item() == pytest.approx(7 * scale.item())
    alike = [torch.ones_like(part) for part in group]
    assert force(*alike, 0.5, (0.2,))[0].abs().max() < 1e-8, "of one point: nowhere to go"


def test_the_gradient_is_the_forces():
    data, network = real(6, 5, 0), Scaled(0.7, 0.2)
    settings = {"generated": 4, "positives": 5, "bank": 4, "temperatures": (0.1, 0.3)}
    update = one_step(network, data[:, 0], filled(data[:, 1:]), **settings)
    noise = TrainingRandom(5, 1, 0, 6).normal("noise", (4, DIM))
    x = MU + 0.2 + 0.7 * S * noise
    drift, scale = force(x, data, x[:, :0], 0.0, (0.1, 0.3))
    assert update.loss.item() == pytest.approx(drift.square().mean().item(), rel=1e-9)
    slopes = torch.autograd.grad(update.loss, list(network.parameters()))
    expected = [-2 * (drift / scale * way).mean().item() for way in (S * noise, 1.0)]
    assert [g.item() for g in slopes] == pytest.approx(expected, rel=1e-9)


class Given(nn.Module):
    """Whatever the noise is, these samples and a constant."""

    def __init__(self, samples):
        super().__init__()
        self.samples, self.off = samples, nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition):
        return x - (self.samples + self.off)


A, OTHER = 1.3, (0.5, 0.8)
"""q = A p_c - (A - 1) p_1 of p_c = N(0, 1) and p_1 = N(*OTHER) is a density."""


def accepted(number, generator):
    """Draws ``(number, 1)`` of q, by rejection."""
    x = torch.randn(3 * number, generator=generator)
    (m, s), log = OTHER, x.square() / 2
    ratio = torch.exp(log - ((x - m) / s).square() / 2) / s
    keep = torch.rand(len(x), generator=generator) < 1 - (A - 1) / A * ratio
    return x[keep][:number, None]


def pull(w, groups=1500, size=64):
    """Mean gradient of a constant where generated samples are q's, and its standard error.

    Labels' banks are half p_c's and half p_1's, so that all labels' distribution is their mean.
    """
    found, rows = [], 100
    for step in range(groups // rows):
        g = torch.Generator().manual_seed(step)
        own = torch.randn(rows, size, 1, generator=g)
        others = OTHER[0] + OTHER[1] * torch.randn(rows, size - 1, 1, generator=g)
        network = Given(accepted(rows * size, g))
        bank = filled(torch.cat([own[:, 1:], others]))
        update = one_step(network, own[:, 0], bank, step=step + 1, w=w, bank=size - 1)
        found.append(torch.autograd.grad(update.loss, network.off)[0])
    found = torch.stack(found)
    return found.mean().item(), found.std().item() / len(found) ** 0.5


def test_guidance_rests_where_its_mixture_is_the_class():
    """q with (w - 1) of all labels for each of its own: w p_c - (w - 1) (p_c + p_1) / 2 = q."""
    mean, error = pull(2 * A - 1)
    assert abs(mean) < 3 * error
    for w, sign in ((1.0, -1), (2 * (2 * A - 1), 1)):
        mean, error = pull(w, groups=500)
        assert sign * mean > 5 * error


def test_guidance_is_the_settings_or_the_teachers():
    data = real(4, 8, 0)

    def loss(w, **settings):
        given = {"generated": 4, "positives": 8, "bank": 7, **settings}
        return one_step(Scaled(), data[:, 0], filled(data[:, 1:]), w=w, **given).loss.item()

    assert loss(3.0) == loss(1.0, guidance=3.0) != loss(1.0)
    assert loss(3.0, guidance=1.0) == loss(1.0) == loss(0.0)
    assert loss(3.0, unconditional=4) != loss(3.0)
    assert loss(3.0, step=0) == loss(1.0, step=0), "of the first step nothing is held"


def test_eight_modes_are_all_reached_by_a_tiny_generator():
    torch.manual_seed(0)
    angle = torch.arange(8) * torch.pi / 4
    centres = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    network = nn.Sequential(
        nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
    )
    bank, steps = Bank(1, 128, (2,)), 400
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    method = Drifting(Config())
    modules = {"student": lambda x, t, condition: network(x), "bank": bank}

    def shares():
        """Of samples whose nearest mode it is, and of those that are in it."""
        with torch.no_grad():
            noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
            distance, mode = torch.cdist(noise - network(noise), centres).min(1)
        return [torch.bincount(m, minlength=8) / 2000 for m in (mode, mode[distance < 0.4])]

    before = shares()[1]
    for step in range(steps):
        mode = torch.randint(8, (2,), generator=generator)
        x0 = centres[mode] + 0.05 * torch.randn(2, 2, generator=generator)
        random = TrainingRandom(5, step, 0, 2)
        context = Context(step, 0.0, random, gaussian.teacher(), modules, modules)
        (update,) = method.training_step(Batch(x0, Unconditional(2), (2,)), context)
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    nearest, within = shares()
    assert nearest.min() > 0.07 and within.min() > 0.025
    assert within.sum() > 0.3 > 2 * before.sum()


class TestBank:
    def context(self, step=0, rows=4, last=True):
        teacher = gaussian.teacher()
        return Context(step, 0.0, TrainingRandom(5, step, 0, rows), teacher, {}, {}, last=last)

    def keep(self, bank, values, labels, **options):
        x0 = torch.tensor(values)[:, None]
        bank.keep(x0, torch.tensor(labels), self.context(rows=len(x0), **options))

    def test_it_holds_the_latest_of_each_label(self):
        bank = Bank(3, 2, (1,))
        self.keep(bank, [1.0, 2.0, 3.0], [0, 0, 2])
        assert bank.seen.tolist() == [2, 0, 1]
        assert bank.samples[..., 0].tolist() == [[1, 2], [0, 0], [3, 0]]
        self.keep(bank, [4.0, 5.0, 6.0, 7.0, 8.0], [2, 0, 2, 2, 1])
        assert bank.seen.tolist() == [3, 1, 4]
        assert bank.samples[..., 0].tolist() == [[5, 2], [8, 0], [6, 7]]

    def test_it_takes_a_step_in_at_its_end(self):
        bank = Bank(1, 4, (1,))
        self.keep(bank, [1.0], [0], last=False)
        assert bank.seen.item() == 0
        self.keep(bank, [2.0], [0])
        assert bank.samples[0, :, 0].tolist() == [1, 2, 0, 0]

    def test_every_process_holds_the_rows_of_all(self):
        bank = Bank(2, 4, (1,))
        all_rows = SimpleNamespace(last=True, gather=lambda x: torch.cat([x, x]))
        bank.keep(torch.tensor([[3.0]]), torch.tensor([1]), all_rows)
        assert bank.seen.tolist() == [0, 2] and bank.samples[1, :2, 0].tolist() == [3, 3]

    def test_positives_are_the_rows_own_and_others_of_its_label_without_repeats(self):
        samples = torch.arange(24.0).reshape(3, 8, 1)
        bank = filled(samples)
        own, labels = torch.tensor([[-1.0], [-2.0]]), torch.tensor([2, 0])
        random = TrainingRandom(5, 0, 0, 2)
        found = bank.of_label(own, labels, 6, random)[..., 0]
        assert found[:, 0].tolist() == [-1, -2]
        for row, label in zip(found, labels, strict=True):
            assert set(row[1:].tolist()) <= set(samples[label, :, 0].tolist())
            assert len(set(row.tolist())) == 6
        again = bank.of_label(own, labels, 6, TrainingRandom(5, 1, 0, 2))[..., 0]
        assert not torch.equal(again, found), "others in another step"

    def test_the_few_there_are_repeat_evenly(self):
        bank = Bank(2, 8, (1,))
        self.keep(bank, [1.0, 2.0], [0, 0])
        random = TrainingRandom(5, 0, 0, 2)
        found = bank.of_label(torch.tensor([[7.0], [9.0]]), torch.tensor([0, 1]), 6, random)[..., 0]
        assert sorted(found[0].tolist()) == [1, 1, 2, 2, 7, 7]
        assert found[1].tolist() == [9] * 6, "of its label nothing is held yet"

    def test_any_label_is_drawn_as_often_as_it_is_held(self):
        bank = Bank(3, 4, (1,))
        self.keep(bank, [1.0, 2.0, 3.0, 4.0], [0, 2, 2, 2])
        found = bank.of_any(1000, TrainingRandom(5, 0, 0, 4))
        assert found.shape == (4, 1000, 1)
        counts = torch.bincount(found.long().flatten(), minlength=5)
        assert counts[0] == 0 and (counts[1:] - 1000).abs().max() < 5 * 750**0.5

    def test_without_labels_all_rows_are_of_one(self):
        like = torch.zeros(3, 2)
        assert label_of(Unconditional(3), like).tolist() == [0, 0, 0]
        assert label_of(Classes(torch.tensor([2, 0, 1]), 3), like).tolist() == [2, 0, 1]


def test_a_row_is_a_group_of_its_label():
    asked = []

    class Seen(Scaled):
        def forward(self, x, t, condition):
            asked.append((len(x), condition.labels.tolist()))
            return super().forward(x, t, condition)

    bank = Bank(4, 8, (DIM,))
    one_step(Seen(), real(2, 1, 0)[:, 0], bank, torch.tensor([3, 1]), generated=3, positives=5)
    assert asked == [(6, [3, 3, 3, 1, 1, 1])]
    assert bank.seen.tolist() == [0, 1, 0, 1]


def test_it_is_built_for_the_labels_there_are():
    method = Drifting(Config(bank=5))
    spec = Spec((1, 4, 4), 1, 8, lambda: nn.Linear(1, 1), Classes(torch.tensor([0, 2]), 3))
    built = method.build(gaussian.teacher(), spec)
    assert built.modules["bank"].samples.shape == (3, 5, 1, 4, 4)
    spec = Spec((2,), 1, 8, lambda: nn.Linear(1, 1), Unconditional(4))
    assert method.build(gaussian.teacher(), spec).modules["bank"].samples.shape == (1, 5, 2)


def test_the_sampler_is_the_map():
    noise = torch.randn(6, DIM)
    spec = Spec((DIM,), 1, 8, Scaled, Unconditional(6))
    student = Drifting(Config()).build(gaussian.teacher(), spec).student
    found = student.sample(noise, Unconditional(6), 1, SampleRandom(0, range(6)))
    assert torch.allclose(found, MU + S * noise)


def test_settings():
    facts = Drifting(Config()).facts_for()
    assert facts.track == "from scratch" and not facts.needs_teacher and facts.nfes == (1,)
    with pytest.raises(ValueError, match="temperatures=.*: a force has at least one kernel"):
        Config(temperatures=())
