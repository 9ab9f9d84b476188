"""What a method must do when it is built and when it samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from piflow_bench import sampling
from piflow_bench.conformance.method.trial import Trial
from piflow_bench.conformance.method.watched import (
    first_difference,
    state_of,
)
from piflow_bench.conformance.results import Failure, require
from piflow_bench.contracts.method import Built
from piflow_bench.contracts.student import Student
from piflow_bench.costs.flops import Handle, Meter
from piflow_bench.errors import nearest

SAMPLE_TOLERANCE = 1e-4
"""Absolute and relative: between samples of different batch sizes."""


def build(trial: Trial) -> None:
    """Built, Student, and names that fit together."""
    built = trial.built(trial.stand_in.teacher(0))
    require(isinstance(built, Built), f"build() returned {type(built).__name__}, not Built")
    require(
        isinstance(built.student, Student),
        f"Built.student is {type(built.student).__name__}, not a Student",
    )
    modules = built.modules
    for name, module in modules.items():
        require(isinstance(module, nn.Module), f"modules['{name}'] is not a torch Module")
    require("student" in modules, f"modules has no 'student' (it has {', '.join(modules)})")
    for name, optimizer in built.optimizers.items():
        for key in optimizer.modules:
            require(
                key in modules,
                f"optimizer '{name}' names module '{key}'; {nearest(key, list(modules))}",
            )
    for key in built.ema:
        require(key in modules, f"ema names module '{key}'; {nearest(key, list(modules))}")
    if trial.facts.trained_here:
        named = {m for o in built.optimizers.values() for m in o.modules}
        require("student" in named, "no optimizer trains 'student', though facts.trains")


def untouched(trial: Trial) -> None:
    """Build copies the teacher instead of changing it."""
    teacher = trial.stand_in.teacher(0)
    before = state_of({"teacher": teacher.network})
    built = trial.built(teacher)
    changed = first_difference(before, state_of({"teacher": teacher.network}))
    require(changed is None, f"build() changes the teacher: {changed}")
    if not trial.facts.trains:
        return
    require(
        not any(p.requires_grad for p in teacher.network.parameters()),
        "build() makes the teacher's parameters require gradient: train a copy of "
        "teacher.network (copy.deepcopy)",
    )
    theirs = {p.untyped_storage().data_ptr() for p in teacher.network.parameters()}
    for name, module in built.modules.items():
        for key, p in module.named_parameters():
            require(
                not p.requires_grad or p.untyped_storage().data_ptr() not in theirs,
                f"{name}.{key} is trained and shares its memory with the teacher: copy it",
            )


def samples(trial: Trial) -> str:
    """Shape and finiteness at every served NFE."""
    for nfe in trial.served:
        teacher = trial.stand_in.teacher(0)
        built = trial.built(teacher, nfe)
        x = trial.draw(built.student, trial.network(built, teacher), nfe, 4)
        expected = (4, *trial.dataset.shape)
        require(isinstance(x, Tensor), f"sample(nfe={nfe}) returned {type(x).__name__}")
        require(
            tuple(x.shape) == expected,
            f"sample(nfe={nfe}) returned shape {tuple(x.shape)}, expected {expected}",
        )
        require(bool(torch.isfinite(x).all()), f"sample(nfe={nfe}) is not finite")
    return f"NFE {', '.join(map(str, trial.served))}"


def honest(trial: Trial) -> None:
    """Exactly nfe evaluations, and no network behind the counter's back."""
    for nfe in trial.served:
        teacher = trial.stand_in.teacher(0)
        built = trial.built(teacher, nfe)
        try:
            sampling.audit(built.student, trial.network(built, teacher), trial.dataset, nfe, {})
        except sampling.DishonestNFE as error:
            raise Failure(str(error)) from error


def reproducible(trial: Trial) -> None:
    """The same bits twice, the same samples in any batch, stochastic as declared."""
    for nfe in trial.served:
        teacher = trial.stand_in.teacher(0)
        built = trial.built(teacher, nfe)
        network = trial.network(built, teacher)
        whole = trial.draw(built.student, network, nfe, 8)
        require(
            torch.equal(whole, trial.draw(built.student, network, nfe, 8)),
            f"sample(nfe={nfe}) gives other samples when called again: draw from `random` only",
        )
        part = trial.draw(built.student, network, nfe, 3)
        require(
            torch.allclose(whole[:3], part, rtol=SAMPLE_TOLERANCE, atol=SAMPLE_TOLERANCE),
            f"sample(nfe={nfe}) depends on the batch size: samples 0-2 differ by up to "
            f"{(whole[:3] - part).abs().max():.2g} between batches of 8 and 3",
        )
        other = trial.draw(built.student, network, nfe, 8, step_seed=1)
        stochastic, declared = not torch.equal(whole, other), trial.facts.stochastic_at(nfe)
        require(
            stochastic == declared,
            f"sample(nfe={nfe}) {'uses' if stochastic else 'does not use'} draws beside its "
            f"initial noise, but facts.stochastic is {trial.facts.stochastic}",
        )


def rounded_samples(trial: Trial) -> None:
    """Samples under bfloat16 autocast: finite, and not themselves rounded."""
    for nfe in trial.served:
        teacher = trial.stand_in.teacher(0)
        built = trial.built(teacher, nfe)
        network = Handle("student", trial.network(built, teacher), Meter())
        with sampling.Arithmetic(precision="bf16").autocast():
            x = trial.draw(built.student, network, nfe, 4)
        require(
            bool(torch.isfinite(x).all()),
            f"sample(nfe={nfe}) is not finite under bfloat16 autocast",
        )
        require(
            x.dtype == torch.float32,
            f"sample(nfe={nfe}) returned {x.dtype} for float32 noise under bfloat16 autocast: "
            "keep what is added up in the noise's precision (x.to(noise))",
        )
