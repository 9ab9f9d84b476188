"""Declares that it lies between 0 and 1, where a variance need not."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    found = jackknife(lambda x: float(np.var(x, 0).mean()), inputs.generated, inputs.blocks)
    return {"beyond_range": (found.value, found.replicates)}


BEYOND = Metric(
    "beyond_range", "Beyond its range", True, "diversity", ("generated",), compute,
    "Mean variance of the features.", least=0, most=1.5,
)  # fmt: skip
