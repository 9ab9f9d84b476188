"""Forgets the last block."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    found = jackknife(lambda x: float(np.var(x, 0).mean()), inputs.generated, inputs.blocks)
    return {"few_replicates": (found.value, found.replicates[:-1])}


FEW = Metric(
    "few_replicates", "Few replicates", True, "diversity", ("generated",), compute,
    "Mean variance of the features.", least=0,
)  # fmt: skip
