"""Compares each sample with the one that comes after it."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    found = jackknife(
        lambda x: float(np.abs(np.diff(x, axis=0)).mean()), inputs.generated, inputs.blocks
    )
    return {"row_order": (found.value, found.replicates)}


ROW_ORDER = Metric(
    "row_order", "Order of rows", True, "diversity", ("generated",), compute,
    "Distance of neighbouring rows.", least=0,
)  # fmt: skip
