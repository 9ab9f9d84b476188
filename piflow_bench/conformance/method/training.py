"""What a method must do when it is trained."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from piflow_bench.conformance.method.trial import STEPS, Trial, small
from piflow_bench.conformance.method.watched import (
    buffers_of,
    first_difference,
    state_of,
)
from piflow_bench.conformance.results import Failure, Skip, require
from piflow_bench.contracts.method import Update
from piflow_bench.errors import nearest
from piflow_bench.training import state

GRADIENT_TOLERANCE = 5e-3
"""Of a gradient's norm: between one batch and the same batch in two parts."""


def training_step(trial: Trial) -> str:
    """Updates of the right kind."""
    trainer = trial.trainer()
    optimizers = list(trainer.optimizers)
    names: list[str] = []
    steps = False
    for batch, context in trainer.micro_batches():
        for update in trainer.method.training_step(batch, context):
            require(
                isinstance(update, Update),
                f"training_step() yielded {type(update).__name__}, not Update",
            )
            name, loss = update.optimizer, update.loss
            require(
                name in optimizers,
                f"an update names optimizer '{name}'; {nearest(name, optimizers)}",
            )
            require(
                isinstance(loss, Tensor) and loss.ndim == 0,
                f"the loss of update '{name}' is not a scalar tensor",
            )
            value = float(loss.detach())
            require(math.isfinite(value), f"the loss of update '{name}' is {value}")
            require(loss.requires_grad, f"the loss of update '{name}' does not require gradient")
            for key, scalar in update.scalars.items():
                try:
                    float(scalar)
                except (TypeError, ValueError) as error:
                    raise Failure(f"scalars['{key}'] is not a number: {error}") from error
            loss.backward()
            context.thaw()
            names.append(name)
            steps = steps or update.step
    require(bool(names), "training_step() yielded no update")
    require(steps, "no update of the first training step has step=True")
    return "updates: " + ", ".join(names)


def gradients(trial: Trial) -> None:
    """They reach every trained module and neither the teacher nor others' modules."""
    trainer = trial.trainer()
    teacher = {"teacher": trainer.teacher.network}
    before = state_of(teacher)
    for _ in range(STEPS):
        trainer.run_step()
        changed = first_difference(before, state_of(teacher))
        require(changed is None, f"training changes the teacher's weights: {changed}")
    for p in trainer.teacher.network.parameters():
        require(
            p.grad is None and not p.requires_grad,
            "training leaves gradients, or the wish for them, on the teacher's parameters",
        )
    for name, optimizer in trainer.built.optimizers.items():
        require(
            name in trainer.reached_modules,
            f"optimizer '{name}' is never stepped in {STEPS} steps",
        )
        for module in optimizer.modules:
            require(
                module in trainer.reached_modules[name],
                f"no gradient reaches '{module}' from updates '{name}' in {STEPS} steps",
            )


def determinism(trial: Trial) -> None:
    """Two runs of one seed give the same bits."""
    changed = first_difference(state_of(trial.after(3).modules), state_of(trial.after(3).modules))
    require(
        changed is None,
        f"two runs of one seed differ after 3 steps (first: {changed}): draw from "
        "context.random only, and keep no state outside the method and its modules",
    )


def resume(trial: Trial) -> None:
    """An interrupted run ends in the same bits; weights load into a new build."""
    from safetensors.torch import load, save

    whole = trial.after(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        state.save(trial.after(STEPS // 2), path)
        resumed = trial.trainer()
        state.load(resumed, path)
        resumed.watch()
    for _ in range(STEPS - STEPS // 2):
        resumed.run_step()
    changed = first_difference(state_of(whole.modules), state_of(resumed.modules))
    require(
        changed is None,
        f"{STEPS} steps differ from {STEPS // 2} + {STEPS // 2} with save and load between "
        f"(first: {changed}): state outside modules' parameters and buffers is lost",
    )
    weights = whole.weights()
    changed = first_difference(weights, resumed.weights())
    require(changed is None, f"the resumed run's averaged weights differ (first: {changed})")
    stored = load(save(weights))
    whole.modules["student"].load_state_dict(weights)
    built = trial.built(trial.stand_in.teacher(0))
    built.modules["student"].load_state_dict(stored)
    trained, again = (
        trial.draw(b.student, b.modules["student"].eval(), trial.train_nfe, 4)
        for b in (whole.built, built)
    )
    require(
        torch.equal(trained, again),
        "weights loaded into a new build give other samples: the student keeps state outside "
        "modules['student']",
    )


def division(trial: Trial) -> None:
    """Two half batches give the gradients of the whole batch."""
    whole = trial.trainer()
    before = buffers_of(whole.modules)
    whole.run_step()
    filled = first_difference(before, buffers_of(whole.modules))
    parts = trial.after(1, micro_batch=trial.batch // 2)
    for (name, a), (_, b) in zip(whole.gradients, parts.gradients, strict=True):
        error = float((a - b).norm() / a.norm().clamp(min=1e-12))
        if error > GRADIENT_TOLERANCE and filled is not None:
            raise Skip(f"buffer {filled} changes within a step, so it sees the parts in turn")
        require(
            error <= GRADIENT_TOLERANCE,
            f"the gradient of update '{name}' changes by {error:.1%} when the batch is divided "
            "in two: losses must be means over rows, and draws must come from context.random",
        )


def needs(trial: Trial) -> str:
    """What is declared is what can be observed."""
    facts = trial.facts
    trainer = trial.after(3)
    auxiliary = {
        name
        for name, module in trainer.modules.items()
        if name != "student" and any(True for _ in module.parameters())
    }
    require(
        auxiliary == set(facts.auxiliary),
        f"facts.auxiliary is {sorted(facts.auxiliary)}, the networks beside the student are "
        f"{sorted(auxiliary)}",
    )
    rows = trainer.meter.rows
    if facts.needs_data:
        other = trial.after(3, data=-trial.dataset.train.flip(0))
        require(
            first_difference(state_of(trainer.modules), state_of(other.modules)) is not None,
            "facts.needs_data is True, but other data give the same training",
        )
    if facts.reward:
        other = trial.after(STEPS, reward=lambda x, condition: -small(x, condition))
        require(
            first_difference(state_of(trial.after(STEPS).modules), state_of(other.modules))
            is not None,
            f"facts.reward is '{facts.reward}', but another reward gives the same training",
        )
    if not facts.needs_teacher:
        used = sum(n for key, n in rows.items() if key.startswith("teacher/"))
        require(
            not used, f"facts.needs_teacher is False, but the teacher is evaluated {used} times"
        )
        first, second = (
            state_of(trial.built(trial.stand_in.teacher(seed)).modules) for seed in (0, 1)
        )
        require(
            first_difference(first, second) is None,
            "facts.needs_teacher is False, but build() starts from the teacher's weights",
        )
    require(
        facts.jvp == "exact" or not any(key.endswith("/jvp") for key in rows),
        f"facts.jvp is '{facts.jvp}', but a network is differentiated in forward mode",
    )
    return "evaluated: " + ", ".join(sorted({key.split("/")[0] for key in rows}))


def rounded_training(trial: Trial) -> None:
    """A few steps under bfloat16 autocast: dtypes fit, and all stays finite."""
    trainer = trial.after(3, precision="bf16")
    for name, gradient in trainer.gradients:
        require(
            bool(torch.isfinite(gradient).all()),
            f"the gradient of update '{name}' is not finite under bfloat16 autocast",
        )
    for name, module in trainer.modules.items():
        for key, value in module.state_dict().items():
            require(
                not value.is_floating_point() or bool(torch.isfinite(value).all()),
                f"{name}.{key} is not finite after 3 steps under bfloat16 autocast",
            )
