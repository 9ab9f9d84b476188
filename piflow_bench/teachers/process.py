"""Settings of what a checkpoint predicts and of the process that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.teacher import Guided
from piflow_bench.errors import UserError
from piflow_bench.files.hub import download_command
from piflow_bench.settings import setting
from piflow_bench.teachers.parametrisation import PREDICTIONS
from piflow_bench.teachers.schedules import EDM, VP, Flow, Schedule

SCHEDULES = ("flow", "linear", "scaled_linear", "cosine", "edm")


@dataclass(frozen=True)
class Process(Guided):
    """Settings of a teacher whose checkpoint does not say what its numbers mean."""

    # velocity: of the flow, noise minus data; v: of a VP schedule; None: as the layout's
    predicts: str | None = setting(None, choices=PREDICTIONS)
    # flow, or VP by its betas, or edm; None: as the file beside it says, or the layout's
    schedule: str | None = setting(None, choices=SCHEDULES)
    units: float = setting(1.0, above=0)  # of a flow: the network's time at noise
    reverse: bool = False  # of a flow: whether time and velocity run from noise to data
    beta_first: float | None = setting(None, above=0, below=1)  # of linear and scaled_linear
    beta_last: float | None = setting(None, above=0, below=1)
    steps: int = setting(1000, least=2)  # of a VP schedule
    sigma_data: float = setting(0.5, above=0)  # of edm


def given_checkpoint(source: str | None) -> str:
    """Where a checkpoint is.

    Raises:
        UserError: if that is not said.
    """
    if source is None:
        raise UserError("teacher.checkpoint: not given; teacher.checkpoint=PATH")
    return str(source)


def checkpoint_requirement(source: str | None) -> Requirement:
    """The checkpoint, for `doctor`."""
    return Requirement(
        "teacher", source, f"{download_command(source)} teacher.checkpoint=PATH".strip()
    )


def reading(schedule: Schedule, prediction: str) -> str:
    """The prediction, its velocity turned round where the flow's time runs from noise to data."""
    turned = isinstance(schedule, Flow) and schedule.reverse and prediction == "velocity"
    return "reversed_velocity" if turned else prediction


def schedule_of(config: Process, default: Schedule) -> Schedule:
    """The schedule that the settings name; ``default`` where they name none."""
    name = config.schedule
    if name is None:
        return default
    if name == "flow":
        return Flow(config.units, config.reverse)
    if name == "edm":
        return EDM()
    if name == "cosine":
        return VP("cosine", steps=config.steps)
    first, last = (1e-4, 0.02) if name == "linear" else (0.00085, 0.012)
    return VP(
        name,
        config.beta_first if config.beta_first is not None else first,
        config.beta_last if config.beta_last is not None else last,
        config.steps,
    )
