"""An experiment on latents without an experiment, for tests."""

from __future__ import annotations

from collections.abc import Mapping

from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.preparation.stand_ins import HEADS


def latent_world(made: Mapping[str, str], **teacher: object) -> Runtime:
    """A runtime of latents, autoencoder and a DiT, of the files that ``generate`` made.

    ``teacher`` holds further settings of the teacher.
    """
    return Runtime(
        given=Given(
            dataset={
                "name": "imagenet",
                "latents": made["latents"],
                "reference": made["reference"],
            },
            teacher={"name": "dit", "checkpoint": made["teacher"], "heads": HEADS, **teacher},
            space={"name": "latents", "autoencoder": made["autoencoder"]},
            extractors={"inception": {"weights": made["inception"]}},
        )
    )
