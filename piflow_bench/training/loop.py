"""The training loop: steps until the budget is spent, with a log, checkpoints and a state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from piflow_bench import interruption
from piflow_bench.contracts.method import Method, Spec
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.files.atomic import write_json, write_text
from piflow_bench.training import state
from piflow_bench.training.distributed import from_first, summed, wait_for_all
from piflow_bench.training.output import CHECKPOINTS_FILE, LOG_FILE, weights_file
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData


class Diverged(RuntimeError):
    """Training left the finite numbers."""


def _truncate_log(path: Path, steps: int) -> None:
    """Drop lines of steps that will be run again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # The last line of a killed run may be half-written.
        if row["step"] <= steps:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def train(
    method: Method,
    teacher: Teacher,
    data: TrainingData,
    spec: Spec,
    settings: TrainingSettings,
    budget: Budget,
    train_seed: int,
    folder: Path,
    report: Callable[[float, str], None] = lambda share, text: None,
    save_seconds: float = 20.0,
    log_rows: int = 200,
    scale: Scale | None = None,
    anew: Callable[[str], None] = lambda why: None,
) -> list[dict[str, Any]]:
    """Train one variant within its budget; resumes from ``folder`` where it was stopped.

    Writes to ``folder``: ``checkpoint_{i}.safetensors`` (the student's averaged weights at every
    fraction of the budget), ``checkpoints.json`` (their costs) and ``log.jsonl``. In a process
    group every process calls it with one folder, and the first one writes. ``anew`` is told why a
    state that is there is not gone on from.

    Returns:
        The rows of ``checkpoints.json``.

    Raises:
        Diverged: if a loss or a weight is not finite; neither is ever kept.
    """
    finished = folder / CHECKPOINTS_FILE
    # The first process decides for all: another machine may see a shared disk as it was before.
    rows = from_first(lambda: json.loads(finished.read_text()) if finished.exists() else None)
    if rows is not None:  # Killed between its last line and the caller's.
        state.forget(folder)
        return rows
    torch.set_num_threads(settings.threads)

    def fresh() -> Trainer:
        return Trainer(method, teacher, data, spec, settings, budget, train_seed, scale)

    trainer = fresh()
    try:
        state.load(trainer, folder)
    except state.Unusable as error:
        trainer.reader.close()
        state.forget(folder)
        if trainer.rank == 0:
            anew(f"the state it had kept cannot be gone on from: {error}")
        trainer = fresh()
    try:
        return _steps(trainer, folder, report, save_seconds, log_rows)
    finally:
        trainer.reader.close()


def _steps(
    trainer: Trainer,
    folder: Path,
    report: Callable[[float, str], None],
    save_seconds: float,
    log_rows: int,
) -> list[dict[str, Any]]:
    """Steps until the budget is spent."""
    budget, writes = trainer.budget, trainer.rank == 0
    log_path = folder / LOG_FILE
    if writes:
        _truncate_log(log_path, trainer.step)
    saved = trainer.seconds
    log_every = 1
    loss: float | None = None  # The last known: not every step of every method has one.
    with log_path.open("a") as log:
        while len(trainer.reached) < len(budget.checkpoints):
            scalars = trainer.run_step()
            progress = trainer.progress
            log_every = max(round(trainer.step / max(progress, 1e-9) / log_rows), 1)
            if trainer.step % log_every == 0 or progress >= 1:
                row = _log_row(trainer, scalars)
                if writes:
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    loss = row.get("loss", loss)
                    report(min(progress, 1.0), _progress_text(trainer, loss))
            while (
                len(trainer.reached) < len(budget.checkpoints)
                and progress >= budget.checkpoints[len(trainer.reached)]
            ):
                i = len(trainer.reached)
                _check_finite(trainer)
                weights = trainer.weights()
                if writes:
                    save_file(weights, weights_file(folder, i))
                trainer.reached.append(_costs(trainer, budget.checkpoints[i]))
            stop = trainer.is_asked_to_stop
            if stop or trainer.seconds - saved > save_seconds:
                _check_finite(trainer)
                state.save(trainer, folder)
                saved = trainer.seconds
            if stop:
                raise interruption.Stopped
    if writes:
        write_json(folder / CHECKPOINTS_FILE, trainer.reached, indent=1)
    wait_for_all()
    state.forget(folder)
    return trainer.reached


def _check_finite(trainer: Trainer) -> None:
    """Refuse to keep weights that are not finite, in all processes if in any."""
    bad = trainer.not_finite()
    if summed(torch.tensor([float(bad is not None)])).item():
        name = bad or "a weight of another process"
        raise Diverged(f"{name} is not finite at step {trainer.step}: training diverged")


def _log_row(trainer: Trainer, scalars: dict[str, Any]) -> dict[str, float]:
    values = {k: float(v) for k, v in scalars.items()}
    if trainer.world > 1:  # Each process saw its own rows.
        names = sorted(values)
        total = summed(torch.tensor([values[k] for k in names], dtype=torch.float64))
        values = dict(zip(names, (total / trainer.world).tolist(), strict=True))
    for name, value in values.items():
        if value != value or value in (float("inf"), float("-inf")):
            raise Diverged(f"{name} is {value} at step {trainer.step}: training diverged")
    return {
        "step": trainer.step,
        "tfe": trainer.tfe,
        "images": trainer.images,
        "seconds": trainer.seconds,
        **values,
    }


def _progress_text(trainer: Trainer, loss: float | None) -> str:
    rate = trainer.step / max(trainer.seconds, 1e-9)
    words = f"step {trainer.step}, {rate:.1f} steps/s"
    return words if loss is None else f"{words}, loss {loss:.3g}"


def _costs(trainer: Trainer, fraction: float) -> dict[str, Any]:
    earlier = [row.get("memory", 0.0) for row in trainer.reached]
    return {
        "fraction": fraction,
        "step": trainer.step,
        "tfe": trainer.tfe,
        "images": trainer.images,
        "seconds": trainer.seconds,
        "flops": trainer.flops,
        "rows": dict(trainer.rows_counted()),
        "memory": max([trainer.memory.read(), *earlier]),
        "params": trainer.parameter_count(),
        "ema_updates": trainer.ema["student"].updates if "student" in trainer.ema else 0,
    }
