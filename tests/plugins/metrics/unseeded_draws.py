"""Projects on directions that no seed decides."""

import numpy as np

from piflow_bench.api import Metric, jackknife


def compute(inputs):
    direction = np.random.default_rng().normal(size=inputs.generated.shape[1])
    found = jackknife(lambda x: float(np.var(x @ direction)), inputs.generated, inputs.blocks)
    return {"unseeded_draws": (found.value, found.replicates)}


UNSEEDED = Metric(
    "unseeded_draws", "Unseeded draws", True, "diversity", ("generated",), compute,
    "Variance along a direction.", least=0,
)  # fmt: skip
