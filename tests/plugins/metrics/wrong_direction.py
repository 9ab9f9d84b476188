"""A distance that is declared to be better where it is larger."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    mean = inputs.ref.features.mean(0)
    found = jackknife(
        lambda x: float(np.linalg.norm(x.mean(0) - mean)), inputs.generated, inputs.blocks
    )
    return {"wrong_direction": (found.value, found.replicates)}


WRONG = Metric(
    "wrong_direction", "Wrong direction", True, "quality", ("generated", "reference"), compute,
    "Distance of means.", least=0,
)  # fmt: skip
