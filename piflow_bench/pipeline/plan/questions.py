"""The questions of a protocol: what samples are compared with, and by which numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from piflow_bench.contracts.data import Dataset
from piflow_bench.evaluation.metrics.metric import Metric
from piflow_bench.evaluation.metrics.modes import rare_modes
from piflow_bench.evaluation.protocols import HALVES, OF_DATA
from piflow_bench.pipeline.labels import Source
from piflow_bench.pipeline.plan import samples
from piflow_bench.pipeline.plan.samples import Stages, Teachers
from piflow_bench.pipeline.plan.world import World
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.breakdown import BreakDown
from piflow_bench.pipeline.stages.metrics import COSINE, MODES, RARE, Measure
from piflow_bench.pipeline.stages.scores import ScoreSamples
from piflow_bench.pipeline.stages.selection import Select
from piflow_bench.pipeline.stages.within import METRIC, Within

References = Mapping[str, Stages]
"""Reference features of every question."""
BY_SIZE = ("fd", "fd_infinity")
"""Metrics of a closer look at the sample count."""


def versions(names: Iterable[str]) -> dict[str, Any]:
    """What decides metrics, by name."""
    from piflow_bench.evaluation.metrics.metric import all_metrics

    return {name: all_metrics()[name].key for name in names}


def references(world: World, teacher: Teachers) -> References:
    """Reference features of every question."""
    p = world.protocol
    found: dict[str, Stages] = {}
    for question in p.questions:
        if question == "imitation":
            label = "converged teacher, reference"
            drawn = samples.converged(world, teacher, p.reference_samples, p.reference_seed, label)
            found[question] = samples.features(world, drawn)
        elif question in OF_DATA and world.dataset.reference is not None:
            found[question] = (samples.given_reference(world),)
        elif question in OF_DATA:
            found[question] = samples.features(world, (samples.real(world, "test"),))
        elif question == "truth":
            fresh = samples.real(world, "exact", p.reference_seed, p.reference_samples)
            found[question] = samples.features(world, (fresh,))
    return found


def labels(world: World, seed: int) -> Source:
    """Where samples that are drawn with a seed have their classes from."""
    return {"from": "conditions", "seed": seed, "law": world.dataset.label_law}


def _reference_labels(world: World, question: str) -> Source:
    if question == "imitation":
        return labels(world, world.protocol.reference_seed)
    held_out = question in OF_DATA and world.dataset.reference is None
    return {"from": "test"} if held_out else None


def evaluate(
    world: World,
    generated: Stages,
    references: References,
    final: bool,
    label: str,
    labels: Source,
    teachers: Stages | None = None,
) -> Stages:
    """The metric stages of one set of samples: all at the end, the curve's before it.

    Args:
        world: the experiment's.
        generated: features of the samples.
        references: see :func:`references`.
        final: whether the samples are those of a whole budget.
        label: whose samples they are, in words.
        labels: where they have their classes from.
        teachers: features of the teacher's samples from the same noise, where they share it.
    """
    p = world.protocol
    stages = []
    asked = [name for name in (p.metrics if final else p.curve_metrics) if name not in _by_sample()]
    for question, reference in references.items():
        if not final and question != p.primary_question:
            continue
        n = p.samples if final else p.curve_samples
        if question in OF_DATA:
            n = min(n, p.data_samples)
        for extractor in p.extractors if final else samples.curve_extractors(world):
            first = extractor == p.extractors[0]
            accuracy = world.judge is not None and first and question == "data"
            known = mode_metrics(world.dataset) if final else []
            # Beside the teacher's they say the same whatever the question.
            paired = COSINE in asked and bool(teachers) and question == p.primary_question
            names = [name for name in asked if name != COSINE or paired]
            measured = [*names, *["class_accuracy"] * accuracy, *known]
            task = Measure(
                dataset=world.data,
                question=question,
                extractor=extractor,
                n=n,
                metrics=names,
                versions=versions(measured),
                settings=dict(p.settings),
                accuracy=accuracy,
                modes=bool(known),
                labels=labels,
                reference_labels=_reference_labels(world, question),
                half=1 + HALVES.index(question) if question in HALVES else 0,
            )
            inputs = {"generated": generated, "reference": reference}
            if paired and teachers:
                inputs["teacher"] = teachers
            stages.append(Stage(task, inputs, f"{question} metrics of {label}", weight=2))
    return tuple(stages)


def score_samples(world: World, drawn: Stages, paired: Stages | None, label: str) -> Stages:
    """The stage of metrics that look at samples one by one, where there are any.

    Args:
        world: the experiment's.
        drawn: the samples.
        paired: the teacher's from the same noise, where they share it.
        label: whose samples they are, in words.
    """
    p = world.protocol
    asked = [*([p.agreement] if p.agreement else []), *(m for m in p.metrics if m in _by_sample())]
    if paired is None:
        asked = [name for name in asked if "teacher" not in _by_sample()[name].needs]
    names = list(dict.fromkeys(asked))
    if not names:
        return ()
    task = ScoreSamples(
        dataset=world.data,
        space=world.space,
        metrics=names,
        versions=versions(names),
        lpips=world.lpips if any("lpips" in name for name in names) else None,
        labels=labels(world, world.config.sample_seed),
        scorers={n: world.scorers[n] for n in names if n in world.scorers} or None,
        clip_scale=p.settings.get("clip_scale", "cosine"),
    )
    inputs = {"samples": drawn, **({} if paired is None else {"converged": paired})}
    return (Stage(task, inputs, f"{label}, sample by sample"),)


def _by_sample() -> dict[str, Metric]:
    """Metrics of pictures or samples rather than of features."""
    from piflow_bench.evaluation.metrics.metric import all_metrics

    own = {"teacher", "lpips", "prompts"}
    found = {n: m for n, m in all_metrics().items() if own & set(m.needs)}
    return {name: metric for name, metric in found.items() if name != COSINE}


def of_features(names: Iterable[str]) -> list[str]:
    """Those metrics that look at features, and at no samples of the teacher."""
    return [name for name in names if name not in _by_sample() and name != COSINE]


def mode_metrics(dataset: Dataset) -> list[str]:
    """Metrics of samples of a known mixture, none of others."""
    if dataset.truth is None or dataset.truth.modes is None:
        return []
    rare = rare_modes(dataset.truth.modes.weights).any()
    return [name for name in MODES if name != RARE or rare]


def within(world: World, generated: Stages, label: str, about: Mapping[str, Any]) -> Stages:
    """How diverse one set of samples is within classes or prompts: for the page, as inspections.

    Args:
        world: the experiment's.
        generated: features of the samples.
        label: whose samples they are, in words.
        about: the same as facts.
    """
    p = world.protocol
    if world.dataset.space.pictures is None:
        return ()
    task = Within(
        dataset=world.data,
        extractor=p.extractors[0],
        sample_seed=world.config.sample_seed,
        n=p.samples,
        versions=versions([METRIC]),
    )
    return (Stage(task, {"generated": generated}, f"diversity within classes of {label}", about),)


def inspections(
    world: World,
    drawn: Stages,
    generated: Stages,
    references: References,
    paired: Stages,
    label: str,
    about: Mapping[str, Any],
) -> Stages:
    """A closer look at one set of samples, for the page: no rows of results come from it.

    Numbers by sample count and class, and selected samples, under the primary features.

    Args:
        world: the experiment's.
        drawn: the samples.
        generated: their features.
        references: see :func:`references`.
        paired: the converged teacher's samples from the same noise.
        label: whose samples they are, in words.
        about: the same as facts.
    """
    p = world.protocol
    if world.dataset.space.pictures is None:
        return ()
    shared: dict[str, Any] = {
        "dataset": world.data,
        "space": world.space,
        "extractor": p.extractors[0],
        "question": p.primary_question,
        "sample_seed": world.config.sample_seed,
    }
    reference = references[p.primary_question]
    primary = [p.primary_quality, p.primary_diversity]
    broken_down = BreakDown(
        **shared,
        n=p.samples if p.primary_question != "data" else min(p.samples, p.data_samples),
        metrics=primary,
        versions=versions([*primary, *BY_SIZE]),
        by_size="fd" in p.metrics,
        settings=dict(p.settings),
        reference_seed=p.reference_seed,
    )
    looked = {
        "samples": drawn,
        "features": generated,
        "converged": paired,
        "reference": reference,
    }
    if len(world.dataset.training_rows):
        train = samples.training_images(world)
        looked |= {"train": (train,), "train_features": samples.features(world, (train,))}
        if world.dataset.reference is None and len(world.dataset.held_out):
            held_out = samples.real(world, "test")
            looked["test_features"] = samples.features(world, (held_out,))
    return (
        Stage(
            broken_down,
            {"generated": generated, "reference": reference},
            f"sample counts and classes of {label}",
            about,
            weight=2,
        ),
        Stage(Select(**shared), looked, f"selected samples of {label}", about, weight=2),
    )
