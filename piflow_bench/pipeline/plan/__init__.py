"""From an experiment to its graph of stages and the cells of its results.

``make.py`` puts it together: the world is what samples are of (data, space, teacher) and how they
are looked at; from it come samples and features, the questions' references and measures, the cells
of the variants, and the controls.
"""

from piflow_bench.pipeline.plan.cell import Cell
from piflow_bench.pipeline.plan.make import Plan, make_plan
from piflow_bench.pipeline.plan.variants import Variant
from piflow_bench.pipeline.plan.world import runtime_of

__all__ = ["Cell", "Plan", "Variant", "make_plan", "runtime_of"]
