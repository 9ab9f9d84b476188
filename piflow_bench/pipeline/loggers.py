"""Where a run's trainings are drawn for TensorBoard: a folder a training, in the run's own."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from piflow_bench.errors import UserError
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training.events import convert
from piflow_bench.training.output import LOG_FILE

FOLDER = "tensorboard"


def check_logger(name: str | None) -> None:
    """Refuse a logger whose package is not here."""
    if name == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError(
            "logger=tensorboard: needs TensorBoard: pip install tensorboard, or leave logger out"
        )


def folders_of(stages: Iterable[Stage], run: Path) -> dict[str, str]:
    """The folders of event files, by the names of the trainings' stages."""
    found = {}
    for stage in stages:
        if isinstance(stage.task, Distill):
            about = stage.about
            words = [about["variant"], f"seed{about['train_seed']}"]
            words += [f"{about['train_nfe']}nfe"] if about["train_nfe"] is not None else []
            found[stage.name] = str((run / FOLDER / "-".join(words)).absolute())
    return found


def complete(stages: Iterable[Stage], store: Store, run: Path) -> None:
    """Draw what was trained before, or by another run."""
    stages = list(stages)
    folders = folders_of(stages, run)
    for stage in stages:
        if stage.name in folders and store.has(stage):
            convert(store.path(stage) / LOG_FILE, Path(folders[stage.name]))
