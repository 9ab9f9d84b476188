"""All that a plugin may import from the harness, in one place.

The fields of a method's ``Config`` are declared with ``setting``: its default, and what it may be.
"""

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.method import (
    Batch,
    Built,
    Context,
    Facts,
    Method,
    Optimizer,
    Spec,
    Update,
)
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Guidance, Teacher, solve
from piflow_bench.errors import UserError
from piflow_bench.randomness import SampleRandom, TrainingRandom
from piflow_bench.settings import setting
from piflow_bench.training.settings import SCHEDULES

__all__ = [
    "SCHEDULES",
    "Batch",
    "Built",
    "Classes",
    "Condition",
    "Context",
    "Dataset",
    "Facts",
    "Guidance",
    "Method",
    "Optimizer",
    "SampleRandom",
    "Spec",
    "Student",
    "Teacher",
    "TrainingRandom",
    "Unconditional",
    "Update",
    "UserError",
    "flow",
    "setting",
    "solve",
]
