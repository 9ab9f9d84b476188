"""All that a plugin of any kind may import from the harness, in one place.

Methods derive from ``Method``, datasets from ``DatasetPlugin``, teachers from ``TeacherPlugin``,
spaces from ``SpacePlugin``, extractors from ``ExtractorPlugin``, rewards from ``RewardPlugin``; a
metric is a ``Metric``, computed from ``Inputs``, whose replicates (the value without each block of
samples) ``jackknife`` or, of a mean of scores, ``mean_with_replicates`` gives. The fields of a
``Config`` are declared with ``setting``: its default, what it may be, and where trials look for a
better value (``search=between(...)``, ``log_between(...)`` or ``among(...)``); files and folders
are of the type ``Location``, which ``local_path`` finds and ``read_weights`` reads.
"""

from piflow_bench import flow
from piflow_bench.contracts.backbone import Backbone
from piflow_bench.contracts.citation import cite
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset, DatasetPlugin, Modes, Rows, TensorRows, Truth
from piflow_bench.contracts.extractor import (
    FEATURES,
    LOGITS,
    SPATIAL,
    Extractor,
    ExtractorPlugin,
    Weights,
)
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
from piflow_bench.contracts.plugin import NoSettings, Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.reward import RewardPlugin, Score
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Guidance, Guided, Teacher, TeacherPlugin, solve
from piflow_bench.errors import UserError
from piflow_bench.evaluation.inputs import Inputs
from piflow_bench.evaluation.metrics.metric import Metric, Scored
from piflow_bench.evaluation.uncertainty import jackknife, mean_with_replicates
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import load_into, read_weights
from piflow_bench.networks.checkpoints.flow_maps import LAYOUTS, PublishedMap
from piflow_bench.networks.mit import Told
from piflow_bench.randomness import SampleRandom, TrainingRandom
from piflow_bench.search import among, between, log_between
from piflow_bench.settings import Location, setting
from piflow_bench.training.settings import SCHEDULES

__all__ = [
    "FEATURES",
    "LAYOUTS",
    "LOGITS",
    "SCHEDULES",
    "SPATIAL",
    "Backbone",
    "Batch",
    "Built",
    "Classes",
    "Condition",
    "Context",
    "Dataset",
    "DatasetPlugin",
    "Extractor",
    "ExtractorPlugin",
    "Facts",
    "Guidance",
    "Guided",
    "Inputs",
    "Location",
    "Method",
    "Metric",
    "Modes",
    "NoSettings",
    "Optimizer",
    "Place",
    "PublishedMap",
    "Requirement",
    "RewardPlugin",
    "Rows",
    "SampleRandom",
    "Score",
    "Scored",
    "Space",
    "SpacePlugin",
    "Spec",
    "Student",
    "Teacher",
    "TeacherPlugin",
    "TensorRows",
    "Told",
    "TrainingRandom",
    "Truth",
    "Unconditional",
    "Update",
    "UserError",
    "Weights",
    "among",
    "between",
    "cite",
    "flow",
    "jackknife",
    "mean_with_replicates",
    "load_into",
    "local_path",
    "log_between",
    "read_weights",
    "setting",
    "solve",
]
