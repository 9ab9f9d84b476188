"""Stages that make samples, and features of them."""

from __future__ import annotations

import dataclasses

from piflow_bench.config.schema import to_plain
from piflow_bench.contracts.teacher import TeacherTraining
from piflow_bench.evaluation.protocols import unguided
from piflow_bench.pipeline.plan.world import World
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.features import Describe, DescribeReference
from piflow_bench.pipeline.stages.samples import Converge, Draw
from piflow_bench.pipeline.stages.teacher import CheckTeacher, EncodeText, MakeTeacher, TrainTeacher
from piflow_bench.settings import in_keys

Stages = tuple[Stage, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Teachers:
    """What the teacher comes from, and what it must pass before anything else is made."""

    made: dict[str, Stages]
    """The inputs of stages that use it: of its weights' stage, where it has one."""
    check: Stage | None

    @property
    def after(self) -> Stages:
        """What stages that use it come after."""
        return (self.check,) if self.check else ()


def teachers(world: World) -> Teachers:
    """The stages of the teacher itself; it is checked where there are data."""
    made: dict[str, Stages] = {}
    if world.teacher.made:
        training = world.teacher.training(world.dataset)
        made = {"teacher": (_trained(world, training) if training else _fitted(world),)}
    if world.teacher.encodes:
        made = {"teacher": (_encoded(world),)}
    if not world.config.check_teacher or not len(world.dataset.training_rows):
        return Teachers(made, None)
    return Teachers(made, Stage(CheckTeacher(**world.identities), made, "teacher: check"))


def _fitted(world: World) -> Stage:
    return Stage(MakeTeacher(**world.identities), label="common start of all students")


def _encoded(world: World) -> Stage:
    task = EncodeText(dataset=world.data, encodings=world.teacher.encodings())
    return Stage(task, label="prompts, encoded", weight=20)


def _trained(world: World, training: TeacherTraining) -> Stage:
    task = TrainTeacher(
        **unguided(world.identities),  # Guidance is of sampling: it trains nothing anew.
        training=in_keys(training.settings, to_plain(training.settings)),
        budget=to_plain(training.budget),
        train_seed=training.seed,
    )
    return Stage(task, label="teacher: training", weight=300)


def shards(world: World, n: int) -> list[tuple[int, int, str]]:
    """First and last index of every shard of ``n`` samples, with words where several."""
    size = world.config.shard
    edges = [(low, min(low + size, n)) for low in range(0, n, size)]
    return [(low, high, f" [{low}:{high}]" if len(edges) > 1 else "") for low, high in edges]


def converged(world: World, teacher: Teachers, n: int, seed: int, label: str) -> Stages:
    """Shards of converged teacher samples."""
    solved = world.config.converged
    return tuple(
        Stage(
            Converge(
                **world.identities,
                solver=solved.solver,
                steps=solved.steps,
                shift=solved.shift,
                terminal=solved.terminal,
                seed=seed,
                start=low,
                stop=high,
                precision=world.protocol.sampling_precision,
            ),
            teacher.made,
            f"{label}{words}",
            weight=(high - low) / 200,
            after=teacher.after,
        )
        for low, high, words in shards(world, n)
    )


def real(world: World, split: str, seed: int = 0, n: int = 0) -> Stage:
    """A split of the data, or fresh exact samples."""
    task = Draw(dataset=world.data, space=world.space, split=split, seed=seed, n=n)
    return Stage(task, label=f"{split} samples")


def training_images(world: World) -> Stage:
    """The training set, or as much of one that is read from disk as the protocol compares."""
    whole = world.dataset.rows is None and world.dataset.reference is None
    return real(world, "train", n=0 if whole else world.protocol.data_samples)


def features(world: World, samples: Stages, final: bool = True) -> Stages:
    """Features of every shard of samples; not ``final``: what the curve reads of them."""
    extractors, judge = world.extractors, world.judge
    if not final:
        extractors = {name: extractors[name] for name in curve_extractors(world)}
        judge = judge if world.protocol.primary_question == "data" else None
    task = Describe(space=world.space, extractors=extractors, judge=judge)
    return tuple(Stage(task, {"samples": (s,)}, f"features of {s.label}", s.about) for s in samples)


def curve_extractors(world: World) -> list[str]:
    """By which samples before the end of the budget are looked at."""
    p = world.protocol
    return p.extractors[:1] if p.curve_extractors is None else p.curve_extractors


def given_reference(world: World) -> Stage:
    """Features and moments of a reference that is given as a file."""
    task = DescribeReference(dataset=world.data, extractors=world.extractors)
    return Stage(task, label="features of the real reference", weight=20)
