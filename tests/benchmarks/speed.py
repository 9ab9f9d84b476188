"""Loop overhead against a bare PyTorch loop, and the policy rollout against a network forward.

``python -m tests.benchmarks.speed``: both sides of every ratio are timed in turn in one process;
medians over rounds.
"""

import statistics
import time
from functools import partial

import torch
from piflow_methods.meanflow.method import Config as MeanFlowConfig
from piflow_methods.meanflow.method import MeanFlow
from piflow_methods.piflow.policies import GMPolicy

from piflow_bench import flow
from piflow_bench.api import Spec
from piflow_bench.contracts.data import TensorRows
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData
from tests.world import world

BATCH, STEPS, ROUNDS = 64, 40, 7


def timed(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def loop_overhead() -> None:
    """The same loss (regression of the guided teacher's velocity) in the loop and without it."""
    dataset, teacher = world().dataset(), world().teacher()
    # With every row at r = t MeanFlow is plain regression of the teacher's velocity.
    method = MeanFlow(MeanFlowConfig(instant_share=1.0, power=0.0))
    data = TrainingData(TensorRows(dataset.train), dataset.train_condition)
    fresh = partial(world().teacher_plugin().fresh_network, dataset)
    spec = Spec(dataset.shape, None, BATCH, fresh, dataset.train_condition)
    settings = TrainingSettings(batch=BATCH, warmup=0)
    trainer = Trainer(method, teacher, data, spec, settings, Budget("images", 1e9), 0)

    network = fresh()
    network.load_state_dict(teacher.network.state_dict())
    network.add_duration()
    average = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    zero = torch.zeros(BATCH)

    def bare_step() -> None:
        rows = torch.randint(len(data.rows), (BATCH,))
        x0, condition = data.rows.take(rows, None), data.condition[rows]
        noise, t = torch.randn_like(x0), torch.rand(BATCH)
        x = flow.interpolate(x0, noise, t)
        target = teacher(x, t, condition)
        loss = (network(x, t, condition, duration=zero) - target).flatten(1).square().sum(1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 50.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 0.01)

    for step in (bare_step, trainer.run_step):
        for _ in range(5):
            step()
    # In turn, step by step: what else the machine does falls on both sides alike.
    pairs = [(timed(bare_step), timed(trainer.run_step)) for _ in range(STEPS * ROUNDS)]
    bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    low, _, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    print(
        f"loop against a bare loop of the same loss: {ours / bare:.3f} of medians over "
        f"{len(pairs)} steps in turn (quartiles of the pairs' ratios {low:.3f}, {high:.3f}), "
        f"{ours * 1e3:.1f} ms a step"
    )


def rollout_time(components: int, substeps: int) -> None:
    """One policy rollout over the unit interval against one teacher forward, both of one batch."""
    dataset, network = world().dataset(), world().teacher().network
    x = torch.randn(BATCH, *dataset.shape)
    condition = dataset.conditions(0, range(BATCH))
    one = torch.ones(BATCH)
    policy = GMPolicy(
        torch.randn(BATCH, components, *dataset.shape),
        torch.full((BATCH, 1, 1, 1, 1), -3.0),
        torch.zeros(BATCH, components, 1, *dataset.shape[1:]).log_softmax(1),
        x,
        one,
    )
    forwards, rollouts = [], []
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            forwards.append(timed(lambda: network(x, one, condition)))
            rollouts.append(timed(lambda: policy.rollout(x, one, 0 * one, substeps)))
    forward, rollout = statistics.median(forwards[1:]), statistics.median(rollouts[1:])
    print(
        f"GM policy K={components}, {substeps} substeps: {rollout * 1e3:.1f} ms, "
        f"{rollout / forward:.2f} x one network forward ({forward * 1e3:.1f} ms)"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop_overhead()
    for substeps in (32, 128):
        rollout_time(8, substeps)
