"""An optimizer over a module that no loss reaches."""

from dataclasses import replace

from torch import nn

from piflow_bench.api import Facts, Optimizer
from tests.plugins._base import Base


class Unreached(Base):
    facts = Facts(family="test", needs_data=True, elastic=True, auxiliary=("head",))

    def build(self, teacher, spec):
        built = super().build(teacher, spec)
        return replace(
            built,
            modules={**built.modules, "head": nn.Linear(2, 2)},
            optimizers={"student": Optimizer(("student", "head"), 1e-3)},
        )
