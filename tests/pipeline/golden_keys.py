"""The keys of every shipped experiment's stages, a digest for each kind, beside this file.

After a change that is meant to change keys: ``python -m tests.pipeline.golden_keys`` writes
``golden_keys.json`` anew. No file that is not in the repository is read: ImageNet's inputs are
stood in for by fixed digests.
"""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from piflow_bench.commands.list import experiments
from piflow_bench.config.compose import compose
from piflow_bench.contracts.condition import Classes, Prompts
from piflow_bench.contracts.data import Dataset, TensorRows
from piflow_bench.contracts.plugin import Plugin
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.data import images, latent_images
from piflow_bench.data.prompts import PromptList, _conditions
from piflow_bench.evaluation.extractors.inception import Inception
from piflow_bench.laws import BY_PROMPT
from piflow_bench.networks.dit import DiT
from piflow_bench.pipeline.plan import cells, make, world
from piflow_bench.settings import in_keys
from piflow_bench.spaces.latents import Latents
from piflow_bench.teachers.dit import DiTTeacher
from piflow_bench.teachers.text_to_image import TextToImage
from tests.pipeline.harness import forget

GOLDEN = Path(__file__).with_suffix(".json")
CLASSES = 10
SHAPE = (4, 32, 32)


class Rows:
    """A training set that is read from disk."""

    def __len__(self):
        return 5000

    def take(self, rows, random):
        return torch.zeros(len(rows), *SHAPE)


class Still(nn.Module):
    """A field that goes along its state."""

    def forward(self, x, t, condition):
        return x


class Whole(DiT):
    """A network with every part of a backbone."""

    def __init__(self):
        super().__init__(4, 8, 8, 8, 1, 1, 2, CLASSES)


def latents(plugin, space, place):
    """ImageNet's latents, of which no file is here."""
    labels = torch.arange(len(Rows())) % CLASSES
    return Dataset(
        name="imagenet",
        space=Space(SHAPE, lambda x: np.zeros((len(x), 256, 256, 3), np.uint8), bounded=False),
        train=torch.empty(0, *SHAPE),
        train_condition=Classes(labels, CLASSES),
        test=torch.empty(0, *SHAPE),
        test_condition=Classes(labels[:0], CLASSES),
        conditions=latent_images.conditions(CLASSES),
        digest="latents",
        rows=Rows(),
        reference=Path("reference.npz"),
        label_law="uniform",
    )


def pictures(plugin, space, place):
    """Pictures of one's own, of which none is here."""
    made = space.load((32, 32, 3), place)
    x, labels = torch.zeros(40, *made.shape) - 0.5, torch.arange(40) % CLASSES
    return Dataset(
        name="images",
        space=made,
        train=x,
        train_condition=Classes(labels, CLASSES),
        test=x,
        test_condition=Classes(labels, CLASSES),
        conditions=latent_images.conditions(CLASSES),
        digest="pictures",
        rows=TensorRows(x),
        label_law=plugin.config.label_law,
    )


def known(**files):
    """An identity of which files are stood in for by words; other settings are as they are."""

    def identity(plugin):
        with mock.patch("piflow_bench.files.hub.local_path", lambda source, what: source), \
             mock.patch("piflow_bench.files.digests.digest", lambda path: "a file"):  # fmt: skip
            return {**Plugin.identity(plugin), **files}

    return identity


def prompts(plugin, space, place):
    """Prompts, of which no list is here."""
    list_of = tuple(f"prompt {i}" for i in range(plugin.config.first or 3200))
    empty, shape = torch.empty(0, 16, 128, 128), (16, 128, 128)
    return Dataset(
        name="prompts",
        space=Space(shape, lambda x: np.zeros((len(x), 1024, 1024, 3), np.uint8), bounded=False),
        train=empty,
        train_condition=Prompts(torch.arange(len(list_of)), list_of),
        test=empty,
        test_condition=Prompts(torch.arange(0), list_of),
        conditions=_conditions(range(len(list_of)), plugin.config.seeds, list_of),
        digest="prompts",
        label_law=BY_PROMPT,
    )


def scorers(config, runtime):
    """Networks of metrics of prompts, of which no file is here."""
    asked = [name for name in config.protocol.metrics if name in world.WITH_PROMPTS]
    return {name: {"rule": name, "weights": "weights"} for name in asked}


def transformer(plugin):
    """A pipeline, of which no file is here."""
    settings = in_keys(plugin.config, vars(plugin.config))
    settings.pop("pipeline", None)
    return {**settings, "transformer": "a transformer", **plugin.encodings()}


STAND_INS = {
    latent_images.LatentImages: {
        "load": latents,
        "identity": lambda plugin: {"reference": "a reference"},
    },
    images.Images: {"load": pictures},
    Latents: {"identity": known(autoencoder="an autoencoder")},
    DiTTeacher: {
        "identity": known(checkpoint="a teacher"),
        "look": lambda plugin, dataset: "",
        "load": lambda plugin, dataset, made=None: Teacher(Still(), Still(), plugin.guidance),
        "fresh_network": lambda plugin, dataset: DiT(*dataset.shape, 8, 1, 1, 2, CLASSES),
    },
    PromptList: {"load": prompts},
    TextToImage: {
        "identity": transformer,
        "encodings": lambda plugin: {"encoders": "encoders", "length": plugin.config.length},
        "look": lambda plugin, dataset: "",
        "load": lambda plugin, dataset, made=None: Teacher(Still(), Still(), plugin.guidance),
    },
    Inception: {"identity": lambda plugin: {"rule": plugin.rule, "weights": "weights"}},
}


def plans(*settings):
    """The plan of every experiment that the settings describe, by name."""
    with ExitStack() as stack:
        for cls, methods in STAND_INS.items():
            stack.enter_context(mock.patch.multiple(cls, **methods))
        for check in ("check_machine", "check_reference", "check_published"):  # Of files.
            stack.enter_context(mock.patch.object(make, check, lambda *a: None))
        stack.enter_context(mock.patch.object(world, "_scorers", scorers))
        stack.enter_context(mock.patch.object(cells, "local_path", lambda source, where: source))
        stack.enter_context(mock.patch.object(cells, "digest", lambda path: f"of {path}"))
        stack.enter_context(mock.patch.object(world, "network_of", lambda *a: (Whole(), [])))
        forget()
        stack.callback(forget)
        return {c.name: make.make_plan(c) for c in compose(settings)}


def _digest(members):
    return hashlib.sha256("".join(sorted(members)).encode()).hexdigest()[:12]


def keys():
    """Digest of the keys of every kind of stage, by experiment."""
    found = {}
    for name in sorted(experiments()):
        for part, made in plans(f"experiment={name}", "scale.device=cpu").items():
            kinds = {}
            for stage in made.stages:
                kinds.setdefault(stage.kind, []).append(stage.key)
            found[part] = {"protocol": made.protocol_hash} | {
                kind: f"{len(members)} {_digest(members)}" for kind, members in kinds.items()
            }
    return found


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(keys(), indent=1, sort_keys=True) + "\n")
