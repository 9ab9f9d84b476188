"""The keys of every shipped experiment's stages, a digest for each kind, beside this file.

After a change that is meant to change keys: ``python -m tests.pipeline.golden_keys`` writes
``golden_keys.json`` anew. No file that is not in the repository is read: ImageNet's inputs are
stood in for by fixed digests.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

from piflow_bench.commands.list import experiments
from piflow_bench.config.compose import compose
from piflow_bench.data.digits import load
from piflow_bench.pipeline import plan

GOLDEN = Path(__file__).with_suffix(".json")
INCEPTION = "inception"


class Rows:
    """A training set that is read from disk."""

    def __len__(self):
        return 5000


def stand_in(config, runtime, held_out):
    """The dataset of a plan; one that is read from files that are not here by fixed digests."""
    if config["name"] != "imagenet":
        return LOAD(config, runtime, held_out)
    known = {k: v for k, v in config["settings"].items() if k not in PATHS}
    return replace(
        load({}),
        name="imagenet",
        shape=(4, 32, 32),
        teacher=lambda: SimpleNamespace(digest="a teacher", taken=""),
        test=torch.empty(0, 4, 32, 32),
        digest="latents",
        identity={**known, "autoencoder": "an autoencoder", "reference": "a reference"},
        rows=Rows(),
        extractors={INCEPTION: None},
        extractor_digests={INCEPTION: "weights"},
        outputs=("features", "logits", "spatial"),
        decode=lambda x: x,
        reference=lambda name: {},
        judge=None,
        notes={"guidance": known.get("guidance", 1.0)},
    )


LOAD = plan.checked_dataset
PATHS = ("latents", "reference", "autoencoder", "weights", "checkpoint", "generated")


def plans(*settings):
    """The plan of every experiment that the settings describe, by name."""
    with (
        mock.patch.object(plan, "checked_dataset", stand_in),
        mock.patch.object(plan, "_check_machine", lambda *a: None),
    ):
        return {c.name: plan.make_plan(c) for c in compose(settings)}


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
