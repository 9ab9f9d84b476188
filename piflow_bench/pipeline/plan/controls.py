"""Rows that say what any student can reach: never ranked."""

from __future__ import annotations

from typing import Any

from piflow_bench.pipeline.plan import samples
from piflow_bench.pipeline.plan.cell import Cell
from piflow_bench.pipeline.plan.cells import Shared
from piflow_bench.pipeline.plan.questions import (
    evaluate,
    inspections,
    labels,
    of_features,
    score_samples,
    versions,
    within,
)
from piflow_bench.pipeline.plan.samples import Stages
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.metrics import Partition
from piflow_bench.tracks import NONE

REPEATS = 5
"""Random partitions of the real samples."""


def controls(shared: Shared) -> list[Cell]:
    """The converged teacher, the training set itself, and real samples against real ones."""
    questions = shared.world.protocol.questions
    cells = [_converged(shared)]
    if "data" in questions:
        cells += _of_data(shared)
    if "truth" in questions:
        cells.append(_of_truth(shared))
    return cells


def _converged(shared: Shared) -> Cell:
    world, label = shared.world, "teacher-converged"
    generated, classes = shared.teachers, labels(world, world.config.sample_seed)
    measured = evaluate(world, generated, shared.references, True, label, classes)
    return Cell(
        _columns(label, str(world.config.converged), world.guidance),
        measured + score_samples(world, shared.paired, None, label),
        samples=shared.paired,
        closer=inspections(
            world, shared.paired, generated, shared.references, shared.paired, label, {}
        )
        + within(world, generated, label, {}),
    )


def _of_data(shared: Shared) -> list[Cell]:
    world, p = shared.world, shared.world.protocol
    images = samples.training_images(world)
    train = samples.features(world, (images,))
    of_train = {"from": "train", "n": images.task.content["n"]}
    measured = evaluate(world, train, shared.references, True, "memoriser", of_train)
    cells = [Cell(_columns("memoriser"), measured)]
    names = of_features(p.metrics)  # Real samples have none of the teacher beside them.
    if world.dataset.reference is not None or not names:  # A file has no samples to divide anew.
        return cells
    real: Stages = tuple(
        Stage(
            Partition(
                dataset=world.data,
                question="data",
                extractor=extractor,
                reference=len(world.dataset.held_out),
                n=min(p.samples, p.data_samples),
                metrics=names,
                versions=versions(names),
                settings=dict(p.settings),
                labels=[of_train, {"from": "test"}],
                repeats=REPEATS,
            ),
            {"real": train + shared.references["data"]},
            "real against real",
        )
        for extractor in p.extractors
    )
    return [*cells, Cell(_columns("real-vs-real"), real)]


def _of_truth(shared: Shared) -> Cell:
    world, p = shared.world, shared.world.protocol
    fresh = samples.real(world, "exact", p.reference_seed + 1, p.samples)
    exact = samples.features(world, (fresh,))
    truth = {"truth": shared.references["truth"]}
    measured = evaluate(world, exact, truth, True, "exact samples", None)
    return Cell(_columns("real-vs-real"), measured)


def _columns(name: str, sampler: str = "", guidance: float | None = None) -> dict[str, Any]:
    return {
        "variant": name,
        "method": "",
        "family": "control",
        "track": NONE,
        "role": "control",
        "serves": "",
        "shares": 1,
        "train_seed": None,
        "budget_fraction": 1.0,
        "nfe": None,  # Counted while it samples: see the stage's facts.
        "guidance": guidance,
        "sampler": sampler,
    }
