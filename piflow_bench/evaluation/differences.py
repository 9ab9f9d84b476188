"""How far two sets of samples are apart in a metric, where both were scored alike.

Where samples pair up, replicates of both sets leave out the same of them, so that what both share
(noise, conditions, luck of the draw) cancels. Otherwise the errors of both add.
"""

from __future__ import annotations

import numpy as np

from piflow_bench.evaluation.features import MetricValue
from piflow_bench.evaluation.pairing import bare
from piflow_bench.evaluation.pictures.files import two_orders
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.sources import Sources
from piflow_bench.evaluation.uncertainty import (
    Difference,
    jackknife_difference,
    jackknife_error,
    t_difference,
    unknown,
)

BY_NAME, BY_PLACE, UNPAIRED = "by name", "by place", "no"


def pairing(a: Sources, b: Sources) -> str:
    """By what the samples of two sets are partners: ``BY_NAME``, ``BY_PLACE``, or ``UNPAIRED``.

    Partners lie in the same block of the jackknife. By place are those of sets without names, and
    paired they are told apart no worse than unpaired where they are none.
    """
    if a.count != b.count or a.design is None or b.design is None:
        return UNPAIRED
    if not np.array_equal(a.design.blocks(), b.design.blocks()):
        return UNPAIRED
    names = [each.samples.names for each in (a, b)]
    if names[0] is not None and names[1] is not None:
        return BY_NAME if bare(names[0]) == bare(names[1]) else UNPAIRED
    if any(known is not None and two_orders(known) for known in names):
        return UNPAIRED
    same = np.array_equal(_places(a.samples), _places(b.samples))
    return BY_PLACE if same else UNPAIRED


def _places(images: Images) -> np.ndarray:
    return np.arange(len(images)) if images.chosen is None else images.chosen


def difference(a: MetricValue, b: MetricValue, paired: bool, confidence: float) -> Difference:
    """``a - b`` in one metric, with its interval at ``confidence`` for one comparison.

    Without bounds where a side has no replicates, or where the two are estimated differently.
    """
    value = a.value - b.value
    if a.estimator != b.estimator or not (a.replicates and b.replicates):
        return unknown(value, 0)
    if paired:
        return jackknife_difference(a.value, a.replicates, b.value, b.replicates, confidence)
    errors = np.array([jackknife_error(each.replicates) for each in (a, b)])
    units = np.array([len(each.replicates) for each in (a, b)])
    error = float(np.hypot(*errors))
    if not np.isfinite(error):
        return unknown(value, int(units.sum()))
    # Welch and Satterthwaite.
    parts = float((errors**4 / (units - 1)).sum())
    freedom = error**4 / parts if parts > 0 else float(units.min() - 1)
    scale = max(abs(a.value), abs(b.value))
    return t_difference(value, error, freedom, int(units.sum()), confidence, scale)
