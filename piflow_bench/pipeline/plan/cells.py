"""The cells of a variant: every training's checkpoints, at every NFE, in every way of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.pipeline.plan import samples
from piflow_bench.pipeline.plan.cell import Cell
from piflow_bench.pipeline.plan.questions import (
    References,
    evaluate,
    inspections,
    labels,
    score_samples,
    within,
)
from piflow_bench.pipeline.plan.samples import Stages, Teachers
from piflow_bench.pipeline.plan.variants import Variant
from piflow_bench.pipeline.plan.world import World, inputs_of, reward_of
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.stages.published import Publish
from piflow_bench.pipeline.stages.samples import Sample, SampleTrained
from piflow_bench.preparation.given import path_of


@dataclass(frozen=True, eq=False)
class Shared:
    """What the cells of all variants have in common."""

    world: World
    teacher: Teachers
    references: References
    paired: Stages
    """The converged teacher's samples from the noise that all students share."""
    teachers: Stages
    """Their features."""


@dataclass(frozen=True)
class Trained:
    """Weights of a training, or published ones in its place."""

    stage: Stage
    task: Distill | Publish
    seed: int | None
    checkpoint: int | None
    """None: the only one."""


def cells_of(variant: Variant, shared: Shared) -> list[Cell]:
    """The cells of one variant."""
    config, facts = shared.world.config, variant.facts
    cells: list[Cell] = []
    if not facts.trains:
        return [_cell(variant, shared, n, None, s) for n in variant.nfes for s in variant.samplings]
    if variant.checkpoint:
        weights = _published(variant, shared)
        return [
            _cell(variant, shared, n, weights, s) for n in variant.nfes for s in variant.samplings
        ]
    for seed in config.train_seeds:
        elastic = _distilled(variant, shared, seed, None) if facts.elastic else None
        for nfe in variant.nfes:
            stage, task = elastic or _distilled(variant, shared, seed, nfe)
            cells += [
                _cell(variant, shared, nfe, Trained(stage, task, seed, i), sampling)
                for i in range(len(variant.budget["checkpoints"]))
                for sampling in variant.samplings
            ]
    return cells


def _student(variant: Variant, shared: Shared, nfe: int | None) -> dict[str, Any]:
    """What decides the student and its world: fields of ``stages.student.OfStudent``."""
    return {**shared.world.identities, **variant.student(nfe)}


def _distilled(
    variant: Variant, shared: Shared, seed: int, nfe: int | None
) -> tuple[Stage, Distill]:
    """A training for one NFE; None: for all of them."""
    task = Distill(
        **_student(variant, shared, nfe),
        training=variant.training,
        budget=variant.budget,
        train_nfe=nfe,
        reward=reward_of(shared.world.runtime, variant.facts.reward),
        train_seed=seed + variant.config.seed_offset,
    )
    what = "" if nfe is None else f" for {nfe} NFE"
    about = {
        "variant": variant.name,
        "base": variant.base or variant.name,
        "train_seed": seed,
        "train_nfe": nfe,
    }
    stage = Stage(
        task,
        shared.teacher.made,
        f"{variant.name}{what}, seed {seed}: training",
        about,
        weight=100 * variant.budget["amount"] / shared.world.config.budget.amount,
        after=shared.teacher.after,
    )
    return stage, task


def _published(variant: Variant, shared: Shared) -> Trained:
    """Weights that are given instead of trained."""
    nfe = None if variant.facts.elastic else variant.nfes[0]
    assert variant.checkpoint is not None
    source = path_of(variant.checkpoint, inputs_of(shared.world.config))
    own = variant.config.checkpoint is not None
    where = f"variants.{variant.name}.checkpoint" if own else "student.checkpoint"
    task = Publish(
        **_student(variant, shared, nfe),
        train_nfe=nfe,
        train_seed=0,
        weights=digest(local_path(source, where)),
    )
    about = {"variant": variant.name, "train_seed": None, "train_nfe": nfe}
    stage = Stage(task, shared.teacher.made, f"{variant.name}: published weights", about)
    return Trained(stage, task, None, None)


def _cell(
    variant: Variant, shared: Shared, nfe: int, weights: Trained | None, sampling: dict[str, Any]
) -> Cell:
    world, facts = shared.world, variant.facts
    fractions = [1.0] if variant.checkpoint else variant.budget["checkpoints"]
    seed = weights.seed if weights else None
    checkpoint = weights.checkpoint if weights else None
    fraction = 1.0 if checkpoint is None else fractions[checkpoint]
    final = checkpoint is None or checkpoint == len(fractions) - 1
    label = f"{variant.name} at {nfe} NFE"
    if sampling != variant.config.sampling:  # One of several settings.
        label += f" ({_words(sampling)})"
    if weights:
        label += f", seed {seed}, {fractions[checkpoint or 0]:.0%} of the budget"
    about = {"variant": variant.name, "train_seed": seed}
    drawn = _sampled(variant, shared, nfe, weights, sampling, final, label)
    generated = samples.features(world, drawn, final)
    classes = labels(world, world.config.sample_seed)
    beside = None if facts.stochastic_at(nfe) else shared.teachers
    results = evaluate(world, generated, shared.references, final, label, classes, beside)
    if final:
        results += score_samples(world, drawn, None if beside is None else shared.paired, label)
    first = seed in (None, world.config.train_seeds[0])
    shown = final and variant.shares == 1 and not variant.config.trial_of
    look = (drawn, generated, shared.references, shared.paired, label, about)
    closer = inspections(world, *look) if shown and first else ()
    return Cell(
        _columns(variant, world, nfe, seed, fraction, sampling),
        results,
        drawn,
        weights.stage if weights else None,
        checkpoint,
        closer + (within(world, generated, label, about) if shown else ()),
    )


def _sampled(
    variant: Variant,
    shared: Shared,
    nfe: int,
    weights: Trained | None,
    sampling: dict[str, Any],
    final: bool,
    label: str,
) -> Stages:
    """Shards of the cell's samples."""
    world, p = shared.world, shared.world.protocol
    content = {
        **_student(variant, shared, weights.task.train_nfe if weights else None),
        "nfe": nfe,
        "sampling": sampling,
        "sample_seed": world.config.sample_seed,
        "precision": p.sampling_precision,
    }
    kind: type[Sample] = Sample
    inputs = dict(shared.teacher.made)
    if weights:
        kind = SampleTrained
        content |= {
            "checkpoint": weights.checkpoint,
            "train_nfe": weights.task.train_nfe,
            "train_seed": weights.task.train_seed,
        }
        inputs["distill"] = (weights.stage,)
    return tuple(
        Stage(
            kind(**content, start=low, stop=high),
            inputs,
            f"samples of {label}{words}",
            {"variant": variant.name, "train_seed": weights.seed if weights else None},
            weight=3,
            after=shared.teacher.after,
        )
        for low, high, words in samples.shards(world, p.samples if final else p.curve_samples)
    )


def _columns(
    variant: Variant,
    world: World,
    nfe: int,
    seed: int | None,
    fraction: float,
    sampling: Mapping[str, Any],
) -> dict[str, Any]:
    facts = variant.facts
    scale = None if facts.guidance == "none" else world.guidance
    served = variant.nfes if facts.elastic else [nfe]
    return {
        "variant": variant.name,
        "method": variant.config.method,
        "family": facts.family,
        "track": facts.track,
        "role": variant.role,
        # The NFEs that one training serves; nothing where nothing is trained.
        "serves": ",".join(map(str, served)) if facts.trains else "",
        "shares": variant.shares,
        "train_seed": seed,
        "budget_fraction": fraction,
        "nfe": nfe,
        "guidance": sampling.get("guidance", scale),
        "sampler": _words({**({} if facts.trains else variant.settings), **sampling}),
    }


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items())
