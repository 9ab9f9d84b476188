"""The pairs of endpoint regression: a ring that is renewed with a share of the compute."""

import pytest
import torch
from piflow_methods.kd import KD
from piflow_methods.parts.pairs import PairBuffer
from piflow_methods.parts.spending import spent
from torch import nn

from piflow_bench.api import Batch, Classes, Guidance, Spec, Teacher, TrainingRandom, Unconditional
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Context
from piflow_bench.networks.dit import DiT
from piflow_bench.pipeline.plan import runtime_of
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData
from tests.methods import gaussian
from tests.methods.shipped import variants_of

BATCH = 8
SHAPE = (1, 4, 4)


def backbone():
    return DiT(channels=1, height=4, dim=16, depth=1, heads=2, classes=3)


def trainer(budget, batch=BATCH, **settings):
    torch.manual_seed(0)
    start = backbone()
    for p in start.parameters():
        nn.init.normal_(p, std=0.15)
    labels = Classes(torch.arange(batch) % 3, 3)
    data = TrainingData(TensorRows(torch.zeros(batch, *SHAPE)), labels)
    return Trainer(
        KD(KD.Config(pair_steps=2, **settings)),
        Teacher(start, start, Guidance(1.5, 0.3, 1.0)),
        data,
        Spec(SHAPE, 1, batch, backbone, labels),
        TrainingSettings(batch=batch, warmup=2),
        Budget("tfe", budget, (1.0,)),
        0,
    )


def trained(budget, **settings):
    run = trainer(budget, **settings)
    while run.progress < 1:
        run.run_step()
    return run, run.modules["pairs"]


def share_of(run, buffer):
    return int(buffer.evaluations) * run.unit_flops / run.flops


@pytest.mark.parametrize("budget", [100, 400])
@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("pairs", [24, 4096])
def test_pairs_take_their_share_of_any_budget(budget, share, pairs):
    """Whether they are renewed, or all of them fit the buffer."""
    run, buffer = trained(budget, pairs=pairs, pair_share=share)
    assert int(buffer.evaluations) == run.meter.rows["teacher/forward"], "as the harness counts"
    one = int(buffer.evaluations) // int(buffer.solved) * BATCH * run.unit_flops / run.flops
    assert abs(share_of(run, buffer) - share) <= one


def test_a_pair_is_seen_as_often_however_long_the_training():
    """A buffer that stopped when it is full would be seen four times as often."""
    seen = []
    for budget in (150, 600):
        run, buffer = trained(budget, pairs=16)
        seen.append(run.images / int(buffer.solved))
    assert seen[1] == pytest.approx(seen[0], rel=0.15)


def test_a_short_training_has_its_pairs_early():
    run = trainer(200, pairs=4096)
    while run.progress < 0.35:
        run.run_step()
    early = int(run.modules["pairs"].solved)
    _, whole = trained(200, pairs=4096)
    assert early >= 0.85 * int(whole.solved)


def test_no_shipped_experiment_trains_on_few_pairs():
    """Rows trained per pair solved: a row's update costs about three forwards."""
    found = variants_of("kd")
    assert {"digits: kd", "imagenet_1nfe_repa: kd", "analytic_mixture2d: kd"} <= set(found)
    for name, (config, entry) in found.items():
        c = KD.Config(**entry.settings)
        guidance = runtime_of(config).teacher_plugin().guidance
        cost = spent("heun", c.pair_steps, {}, guidance, 1.0)
        pairs = c.pair_share / (1 - c.pair_share) * 3 / cost
        assert 1 / pairs < 100, f"{name} sees each pair {1 / pairs:.0f} times"


def test_the_oldest_pairs_are_replaced():
    labels = Classes(torch.arange(6), 6)
    buffer = PairBuffer(10, 0.5, 1, (1,), labels)
    held = []
    for step in range(4):
        batch = Batch(None, labels, (1,))
        teacher = Teacher(lambda x, t, c: torch.full_like(x, 0.0), nn.Linear(1, 1))
        random = TrainingRandom(0, step, 0, 6)
        context = Context(step, 0.9, random, teacher, {}, {}, forwards=1e9)
        buffer.draw(batch, context, 1)
        held.append(buffer.states[:, 0, 0].clone())
    drawn = [TrainingRandom(0, step, 0, 6).normal("pair noise", (1,))[:, 0] for step in range(4)]
    assert int(buffer.solved) == 24 and int(buffer.evaluations) == 24
    assert torch.equal(held[1], torch.cat([drawn[1][4:], drawn[0][2:], drawn[1][:4]]))
    last = torch.cat(drawn)[-10:]
    assert sorted(held[3].tolist()) == sorted(last.tolist())
    assert set(buffer.packed.tolist()) == set(range(6))


def test_students_do_not_know_their_pairs_by_heart():
    """After a long training the loss on new pairs is that on the buffer's."""

    def gap(**settings):
        run, buffer = trained(3000, lr=3e-3, **settings)
        states = buffer.states[: min(int(buffer.solved), buffer.pairs)]
        batch = Batch(None, Classes(torch.arange(512) % 3, 3), SHAPE)
        context = Context(10**6, 1.0, TrainingRandom(1, 0, 0, 512), run.teacher, {}, {})
        fresh = buffer._solve(batch, context, 2)
        network = run.modules["student"]

        @torch.no_grad()
        def loss(states, labels):
            one = torch.ones(len(states))
            error = network(states[:, 0], one, labels) - (states[:, 0] - states[:, 1])
            return error.square().mean().item()

        rows = Classes(buffer.packed[: len(states)], 3)
        return loss(fresh, batch.condition) / loss(states, rows)

    renewed, few = gap(pairs=64), gap(pairs=8, pair_share=0.001)
    assert renewed < 1.4 and few > 3, "eight pairs are learnt by heart"


@pytest.mark.parametrize("nfe", [1, 4])
@pytest.mark.parametrize("theta, rests", [(1.0, True), (1.05, False)])
def test_it_rests_at_the_mean_velocities_of_its_segments(nfe, theta, rests):
    class Mean(nn.Module):
        def forward(self, x, t, condition):
            return theta * gaussian.average_velocity(x, t, t - 1 / nfe)

    networks = {"student": Mean()}
    modules = {**networks, "pairs": PairBuffer(64, 0.25, nfe, (2,), Unconditional(1))}
    batch, context = gaussian.setting(networks, modules=modules)
    (update,) = KD(KD.Config(pair_steps=128)).training_step(batch, context)
    assert (update.loss < 1e-4) == rests
