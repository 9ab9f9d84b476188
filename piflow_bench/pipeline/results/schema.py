"""The columns of a run's tables: name, type, unit and meaning, for all who write or read them.

``frames`` holds writers and readers to it; ``described`` makes a page of it. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from piflow_bench.tracks import NONE, ONE_BUDGET, TRACKS

TEXT, LIST, BOOLEAN = "text", "list of float64", "boolean"
INT, MAYBE_INT, FLOAT = "int64", "Int64", "float64"
"""``Int64`` and ``boolean`` are pandas' types that may lack a value; of ``float64`` it is NaN."""
ROLES = ("student", "teacher", "control")


class Status(StrEnum):
    """What became of a row's measurement."""

    OK = "ok"
    FAILED = "failed"
    PENDING = "pending"
    """Neither made nor failed: the run goes on, or was stopped."""


@dataclass(frozen=True)
class Column:
    """What stands under one name."""

    name: str
    dtype: str
    meaning: str
    unit: str = ""
    default: str | float | None = None
    """What a file that lacks it, or a value, is read as; None: an empty text, no number."""
    varies: bool = False
    """Whether two runs of one experiment may differ in it: costs by the clock, and provenance."""
    choices: tuple[str, ...] = ()
    """The only values that a text may have; empty: any."""


@dataclass(frozen=True)
class Table:
    """A file of a run's folder."""

    file: str
    rows: str
    """What one row is."""
    columns: tuple[Column, ...]
    required: tuple[str, ...] = ()
    """Columns without which a file is refused: too old, or no such table."""
    more: str = ""
    """What numbers its rows may hold under other names; empty: none."""

    @property
    def names(self) -> list[str]:
        """All columns' names, in order."""
        return [column.name for column in self.columns]


VARIANT = Column(
    "variant", TEXT, "name of a method with its settings, of the teacher's sampler, or of a control"
)
METRIC = Column("metric", TEXT, "name of what was measured")
ROLE = Column(
    "role",
    TEXT,
    "a trained student, the teacher's own sampler, or a control, which is never ranked",
    default="student",
    choices=ROLES,
)
TRAIN_SEED = Column("train_seed", MAYBE_INT, "seed of the training; none where nothing is trained")
NFE = Column(
    "nfe",
    MAYBE_INT,
    "network evaluations, as counted while sampling; none of real samples",
    "evaluations a sample",
)
GUIDANCE = Column(
    "guidance", FLOAT, "scale of the guidance that it is sampled under; none: not guided"
)
SAMPLER = Column("sampler", TEXT, "settings of the sampler, as name=value")

OF_CELL = (
    Column("run", TEXT, "the run's name, of its folder too", varies=True),
    Column("experiment", TEXT, "name of the experiment's file"),
    VARIANT,
    Column("method", TEXT, "the method's name; empty of controls"),
    Column("family", TEXT, "methods of one idea"),
    Column("track", TEXT, "what a student is given: only one track's are compared",
           default=NONE, choices=(*TRACKS, ONE_BUDGET)),
    ROLE,
    Column("serves", TEXT, "NFEs that one training serves, with commas; empty: nothing is trained"),
    Column("shares", INT, "trainings that share a budget which others have for each NFE",
           "trainings", default=1),
    TRAIN_SEED,
    Column("sample_seed", INT, "seed of the noise and labels that are sampled from", default=0),
    Column("budget_fraction", FLOAT, "where in the training it stands; 1: at its end",
           "share of the budget", default=1.0),
    NFE,
    GUIDANCE,
    SAMPLER,
)  # fmt: skip
MEASURED = (
    Column("question", TEXT, "imitation: against converged samples of the teacher; data: against "
           "held-out real samples; truth: against exact samples; first_half, second_half: data, of "
           "one half of both sides"),
    Column("extractor", TEXT, "whose features were compared; samples: the samples themselves"),
    Column("reference", TEXT, "what was compared with, in words"),
    METRIC,
    Column("value", FLOAT, "the metric's value", "the metric's"),
    Column("ci_low", FLOAT, "lower end of its 95 % interval; none: unknown", "the metric's"),
    Column("ci_high", FLOAT, "upper end of it", "the metric's"),
    Column("n", INT, "samples that the value is of", "samples", default=0),
    Column("replicates", LIST, "the value without each block of samples in turn; pairs of rows "
           "leave out the same blocks", "the metric's"),
    Column("interval", TEXT, "how the interval was made"),
    Column("estimand", TEXT, "what the interval is of"),
    Column("estimator", TEXT, "the metric's estimator, where it has several"),
    Column("higher_is_better", BOOLEAN, "the metric's direction; none: it has no better one"),
    Column("status", TEXT, "whether there is a value, or none: it failed, or is still to come",
           default=Status.OK, choices=tuple(Status)),
    Column("reason", TEXT, "why there is no value"),
    Column("protocol", TEXT, "hash of the rules: only rows of one are ranked together"),
    Column("rules", TEXT, "the rules behind the hash, as JSON", default="{}"),
)  # fmt: skip
COSTS = (
    Column("budget_tfe", FLOAT, "what the training had spent (train_tfe)",
           "forward passes of the teacher at the training's batch"),
    Column("train_tfe", FLOAT, "what the training had spent, measured",
           "forward passes of the teacher at the training's batch"),
    Column("train_images", FLOAT, "samples that the training had drawn", "samples"),
    Column("train_seconds", FLOAT, "how long the training had taken", "s", varies=True),
    Column("train_steps", FLOAT, "steps of the training", "steps"),
    Column("train_rows", TEXT, "samples through each network, by its role and whether gradients "
           "were kept, as JSON", default="{}"),
    Column("params", FLOAT, "the student's parameters", "parameters"),
    Column("train_memory", FLOAT, "most memory that the training took", "bytes", varies=True),
    Column("flops_per_sample", FLOAT, "floating-point operations of sampling",
           "operations a sample"),
    Column("sample_seconds", FLOAT, "time of the student's sampling alone", "s a sample",
           varies=True),
    Column("policy_seconds", FLOAT, "the part of it outside the network", "s a sample",
           varies=True),
    Column("sample_memory", FLOAT, "most memory that sampling took", "bytes", varies=True),
)  # fmt: skip
PROVENANCE = (
    Column("artifact", TEXT, "key of the measurement in the store"),
    Column("start", TEXT, "when the measurement began", "UTC, ISO 8601", varies=True),
    Column("duration", FLOAT, "how long it took", "s", varies=True),
    Column("git_commit", TEXT, "commits that training, samples and measurement were made by; + "
           "after one: with changes", varies=True),
    Column("versions", TEXT, "of Python and packages that made them, as JSON", default="{}",
           varies=True),
    Column("hardware", TEXT, "processors that made them", varies=True),
    Column("node", TEXT, "machines that made them", varies=True),
    Column("train_hardware", TEXT, "processors of the training", varies=True),
    Column("sample_hardware", TEXT, "processors that sampled", varies=True),
)  # fmt: skip

RESULTS = Table(
    "results.parquet",
    "a metric of a cell: of a variant's training, at a checkpoint, sampled in one way",
    (*OF_CELL, *MEASURED, *COSTS, *PROVENANCE),
    required=("variant", "metric", "value"),
)
CURVES = Table(
    "curves.parquet",
    "a logged step of a training",
    (
        VARIANT,
        Column("base", TEXT, "the variant that this one repeats; itself where it repeats none"),
        TRAIN_SEED,
        Column("train_nfe", MAYBE_INT, "the NFE it is trained for; none: for all", "evaluations"),
        Column("step", INT, "steps so far", "steps", default=0),
        Column("tfe", FLOAT, "compute so far", "forward passes of the teacher"),
        Column("images", INT, "samples drawn so far", "samples", default=0),
        Column("seconds", FLOAT, "time so far", "s", varies=True),
    ),
    more="what the method logs, as float64: loss, grad_norm, ...; none where a step has none",
)
BREAKDOWN = Table(
    "breakdown.parquet",
    "a metric of some of a cell's samples: of so many, or of a class or prompt",
    (
        VARIANT,
        ROLE,
        TRAIN_SEED,
        NFE,
        GUIDANCE,
        SAMPLER,
        Column("kind", TEXT, "size: by the number of samples; class: of a class against that of "
               "the reference; within: of a class or prompt by itself"),
        Column("group", TEXT, "the number of samples, or infinity; the class or prompt"),
        METRIC,
        Column("value", FLOAT, "the metric's value", "the metric's"),
        Column("n", INT, "samples that it is of", "samples", default=0),
        Column("replicates", LIST, "the value without each block of the group's samples in turn; "
               "none where there is no interval", "the metric's"),
    ),
)  # fmt: skip
TABLES = (RESULTS, CURVES, BREAKDOWN)

ORDER = (
    "role", "track", "variant", "sampler", "guidance", "nfe", "question", "extractor", "metric",
    "protocol", "train_seed", "sample_seed", "budget_fraction", "artifact",
)  # fmt: skip
"""The columns of results that rows are sorted by, the first one first."""
COST_AND_PROVENANCE = tuple(column.name for column in RESULTS.columns if column.varies)
"""Columns of results that may differ between two runs of the same experiment."""
