"""Replicates of the blocks themselves, not of what is left without them."""

import numpy as np

from piflow_bench.api import Metric


def compute(inputs):
    x, blocks = inputs.generated, inputs.blocks
    inside = [np.var(x[blocks == b], 0).mean() / 2 for b in range(inputs.block_count)]
    return {"other_replicates": (np.var(x, 0).mean(), inside)}


OTHER = Metric(
    "other_replicates", "Other replicates", True, "diversity", ("generated",), compute,
    "Mean variance of the features.", least=0,
)  # fmt: skip
