"""A small world, made by hand: nothing is read, planned from files, or run."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from piflow_bench.config.schema import ExperimentConfig, VariantConfig
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.method import Facts
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Guidance, Guided
from piflow_bench.evaluation.protocols import Protocol
from piflow_bench.pipeline.plan import samples
from piflow_bench.pipeline.plan.cells import Shared
from piflow_bench.pipeline.plan.questions import references
from piflow_bench.pipeline.plan.variants import Variant
from piflow_bench.pipeline.plan.world import World

IDENTITIES = {
    "dataset": {"name": "tiny", "settings": {}},
    "space": {"name": "pixels", "settings": {}},
    "teacher": {"name": "mine", "settings": {"dim": 8, "guidance": 1.0}},
}


def classes(n):
    return Classes(torch.arange(n) % 3, 3)


def dataset(**others):
    """12 pictures to train on and 8 held out, of three classes."""
    given = {
        "name": "tiny",
        "space": Space((1, 2, 2), lambda x: x),
        "train": torch.zeros(12, 1, 2, 2),
        "train_condition": classes(12),
        "test": torch.zeros(8, 1, 2, 2),
        "test_condition": classes(8),
        "conditions": lambda seed, indices: classes(len(indices)),
        "digest": "d",
        "label_law": "balanced",
    }
    return Dataset(**{**given, **others})


def teacher(made=False, training=None, guidance=1.0):
    """A plugin of which nothing is loaded; ``training``: of the stage that trains it."""
    return SimpleNamespace(
        made=made,
        encodes=False,
        training=lambda dataset: training,
        config=Guided(guidance),
        guidance=Guidance(guidance),
    )


def protocol(**others):
    given = {
        "name": "p",
        "extractors": ["one", "two"],
        "metrics": ["fd", "recall"],
        "curve_metrics": ["fd"],
        "samples": 50,
        "curve_samples": 30,
        "data_samples": 40,
        "reference_samples": 60,
        "reference_seed": 7,
        "agreement": None,
    }
    return Protocol(**{**given, **others})


def config(rules=None, **others):
    """An experiment of :func:`protocol` with the fields ``rules``."""
    return ExperimentConfig(name="e", protocol=protocol(**(rules or {})), **others)


def world(rules=None, data=None, plugin=None, judge=None, lpips=None, **others):
    """A world of :func:`config` with these rules and fields, and of :func:`dataset`."""
    made = config(rules, **others)
    extractors = {name: {"rule": name} for name in made.protocol.extractors}
    return World(
        config=made,
        runtime=SimpleNamespace(),
        dataset=data or dataset(),
        teacher=plugin or teacher(),
        taken="",
        identities=dict(IDENTITIES),
        extractors=extractors,
        lpips=lpips,
        judge=judge,
    )


def shared_of(world):
    """What the cells of a world have in common."""
    p, made = world.protocol, samples.teachers(world)
    paired = samples.converged(world, made, p.samples, world.config.sample_seed, "same noise")
    return Shared(world, made, references(world, made), paired, samples.features(world, paired))


def variant(name="kd", nfes=(1, 4), checkpoints=(0.5, 1.0), facts=None, **others):
    """A variant of a method that nothing asks for."""
    found = Variant(
        name=name,
        config=VariantConfig("kd"),
        method=None,
        facts=facts or Facts("regression"),
        settings={"lr": 0.1},
        training={"batch": 4},
        budget={"unit": "tfe", "amount": 100.0, "checkpoints": list(checkpoints)},
        nfes=list(nfes),
        source="digest",
        from_file=False,
    )
    return replace(found, **others)
