"""Centres the features that all metrics look at."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    x = inputs.generated
    x -= x.mean(0)
    found = jackknife(lambda rows: float(np.square(rows).mean()), x, inputs.blocks)
    return {"centres_in_place": (found.value, found.replicates)}


CENTRES = Metric(
    "centres_in_place", "Variance", True, "diversity", ("generated",), compute,
    "Mean variance of the features.", least=0,
)  # fmt: skip
