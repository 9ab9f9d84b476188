"""The training loop. It owns backward passes, clipping, precision, accumulation, EMA, learning
rates, the budget, logging and checkpoints; a method only yields updates."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from piflow_bench.condition import Condition
from piflow_bench.costs import Handle, Meter, count_all_flops
from piflow_bench.method import Batch, Built, Context, Method, Optimizer, Spec, Update
from piflow_bench.randomness import TrainingRandom
from piflow_bench.teacher import Teacher
from piflow_bench.training.distributed import average_gradients, world
from piflow_bench.training.ema import EMA
from piflow_bench.training.settings import Budget, TrainingSettings, learning_rate_scale

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
CHECKPOINTS_FILE = "checkpoints.json"


class Diverged(RuntimeError):
    """Training left the finite numbers."""


@dataclass(frozen=True)
class TrainingData:
    """What batches are drawn from: x0 ``(n, *shape)`` and conditions of the training set."""

    x0: Tensor
    condition: Condition


@torch.no_grad()
def teacher_forward_flops(teacher: Teacher, shape: tuple[int, ...], condition: Condition) -> float:
    """FLOPs of one forward pass of the teacher's network for one sample."""
    rows = condition[torch.arange(1)]
    with count_all_flops() as counter:
        teacher.network(torch.zeros(1, *shape), torch.full((1,), 0.5), rows)
    return float(counter.get_total_flops())


def counted_teacher(teacher: Teacher, meter: Meter, unit_flops: float) -> Teacher:
    """The teacher with its evaluations booked; a closed form costs one network forward a row."""
    fixed = unit_flops if teacher.closed_form else None
    return teacher.bind(Handle("teacher", teacher.field, meter, flops_per_row=fixed))


class _Trainer:
    """The state of one training run and its step."""

    def __init__(
        self,
        method: Method,
        teacher: Teacher,
        data: TrainingData,
        spec: Spec,
        settings: TrainingSettings,
        budget: Budget,
        train_seed: int,
    ) -> None:
        self.method, self.settings, self.budget = method, settings, budget
        self.data, self.spec, self.train_seed = data, spec, train_seed
        self.rank, self.world = world()
        if settings.batch % (self.world * settings.micro_batches):
            raise ValueError("the global batch must divide by processes times micro-batches")
        self.meter = Meter()
        unit = teacher_forward_flops(teacher, spec.shape, data.condition)
        self.tfe_flops = unit * settings.batch
        self.teacher = counted_teacher(teacher, self.meter, unit)
        torch.manual_seed(train_seed)
        self.built: Built = method.build(teacher, spec)
        self.modules = dict(self.built.modules)
        self.networks = {name: Handle(name, m, self.meter) for name, m in self.modules.items()}
        self.optimizers = {n: self._optimizer(o) for n, o in self.built.optimizers.items()}
        self.trained = {
            n: [p for m in o.modules for p in self.modules[m].parameters() if p.requires_grad]
            for n, o in self.built.optimizers.items()
        }
        self.ema = {name: EMA(self.modules[name], settings.ema) for name in self.built.ema}
        self.step = 0
        self.images = 0
        self.seconds = 0.0
        self.reached: list[dict[str, Any]] = []

    def _optimizer(self, o: Optimizer) -> torch.optim.Optimizer:
        parameters = [p for m in o.modules for p in self.modules[m].parameters()]
        return torch.optim.AdamW(
            [p for p in parameters if p.requires_grad],
            lr=o.lr,
            betas=o.betas,
            weight_decay=o.weight_decay,
            fused=True,
        )

    # ------------------------------------------------------------------ budget

    @property
    def tfe(self) -> float:
        """Teacher-forward equivalents spent, by all processes."""
        return self.meter.flops * self.world / self.tfe_flops

    @property
    def progress(self) -> float:
        """Spent share of the budget."""
        spent = {"tfe": self.tfe, "images": float(self.images), "seconds": self.seconds}
        return spent[self.budget.unit] / self.budget.amount

    # ------------------------------------------------------------------ one step

    def _context(self, random: TrainingRandom) -> Context:
        return Context(self.step, self.progress, random, self.teacher, self.networks, self.modules)

    def _micro_batches(self) -> Iterator[tuple[Batch, Context]]:
        parts = self.settings.micro_batches
        rows = self.settings.batch // (self.world * parts)
        for part in range(parts):
            first = (self.rank * parts + part) * rows
            random = TrainingRandom(self.train_seed, self.step, first, rows)
            index = random.integers("data rows", len(self.data.x0))
            x0 = self.data.x0[index] if self.method.facts_for().needs_data else None
            batch = Batch(x0, self.data.condition[index], self.spec.shape)
            yield batch, self._context(random)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.spec.device, dtype=torch.bfloat16)
        return nullcontext()

    def run_step(self) -> dict[str, float]:
        """One training step; returns its scalars."""
        progress = self.progress
        streams = [self.method.training_step(b, c) for b, c in self._micro_batches()]
        scalars: dict[str, Any] = {}
        while True:
            updates: list[Update] = []
            for stream in streams:
                with self._autocast():
                    update = next(stream, None)
                if update is None:
                    break
                self.meter.backward(update.loss / len(streams), update.optimizer)
                updates.append(update)
            if len(updates) < len(streams):
                break
            update = updates[0]
            scalars.update(update.scalars)
            if update.step:
                scalars.update(self._optimizer_step(update.optimizer, progress))
        self.step += 1
        self.images += self.settings.batch
        return scalars

    def _optimizer_step(self, name: str, progress: float) -> dict[str, Any]:
        optimizer, parameters = self.optimizers[name], self.trained[name]
        declared = self.built.optimizers[name]
        average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(
            parameters, self.settings.clip or float("inf"), foreach=True
        )
        scale = learning_rate_scale(self.step, progress, self.settings.warmup, declared.schedule)
        for group in optimizer.param_groups:
            group["lr"] = declared.lr * scale
        optimizer.step()
        # Other networks' gradients may have been touched by a loss that passed through them.
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)
        for trained in declared.modules:
            if trained in self.ema and self.step >= self.settings.warmup:
                self.ema[trained].update()
        label = "" if name == "student" else f"{name}_"
        return {f"{label}grad_norm": norm, f"{label}lr": declared.lr * scale}

    # ------------------------------------------------------------------ checkpoints

    def weights(self) -> dict[str, Tensor]:
        """The student's weights to be evaluated: the average, where one is kept."""
        if "student" in self.ema and self.ema["student"].updates:
            state = self.ema["student"].average
        else:
            state = self.modules["student"].state_dict()
        return {k: v.detach().clone().contiguous() for k, v in state.items()}

    def save(self, path: Path) -> None:
        """Everything that is needed to go on, with every random state, atomically."""
        state = {
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "reached": json.dumps(self.reached),
            "meter": self.meter.state(),
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "ema": {k: e.state() for k, e in self.ema.items()},
            "torch_rng": torch.get_rng_state(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """The inverse of :meth:`save`."""
        state = torch.load(path, weights_only=True)
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        self.reached = json.loads(state["reached"])
        self.meter.load(state["meter"])
        for k, m in self.modules.items():
            m.load_state_dict(state["modules"][k])
        for k, o in self.optimizers.items():
            o.load_state_dict(state["optimizers"][k])
        for k, e in self.ema.items():
            e.load(state["ema"][k])
        torch.set_rng_state(state["torch_rng"])


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
    _write(path, "".join(kept))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


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
) -> list[dict[str, Any]]:
    """Train one variant within its budget; resumes from ``folder`` where it was stopped.

    Writes to ``folder``: ``checkpoint_{i}.safetensors`` (the student's averaged weights at every
    fraction of the budget), ``checkpoints.json`` (their costs) and ``log.jsonl``.

    Returns:
        The rows of ``checkpoints.json``.

    Raises:
        Diverged: if a loss is not finite.
    """
    finished = folder / CHECKPOINTS_FILE
    if finished.exists():  # Killed between its last line and the caller's.
        (folder / STATE_FILE).unlink(missing_ok=True)
        return json.loads(finished.read_text())
    torch.set_num_threads(settings.threads)
    trainer = _Trainer(method, teacher, data, spec, settings, budget, train_seed)
    state_path, log_path = folder / STATE_FILE, folder / LOG_FILE
    if state_path.exists():
        trainer.load(state_path)
    _truncate_log(log_path, trainer.step)
    started, before = time.perf_counter(), trainer.seconds
    saved = started
    log_every = 1
    with log_path.open("a") as log:
        while len(trainer.reached) < len(budget.checkpoints):
            scalars = trainer.run_step()
            now = time.perf_counter()
            trainer.seconds = before + now - started
            progress = trainer.progress
            log_every = max(round(trainer.step / max(progress, 1e-9) / log_rows), 1)
            if trainer.step % log_every == 0 or progress >= 1:
                row = _log_row(trainer, scalars)
                log.write(json.dumps(row) + "\n")
                log.flush()
                report(min(progress, 1.0), _progress_text(row, trainer, now - started, before))
            while (
                len(trainer.reached) < len(budget.checkpoints)
                and progress >= budget.checkpoints[len(trainer.reached)]
            ):
                i = len(trainer.reached)
                save_file(trainer.weights(), folder / f"checkpoint_{i}.safetensors")
                trainer.reached.append(_costs(trainer, budget.checkpoints[i]))
            if now - saved > save_seconds:
                trainer.save(state_path)
                saved = now
    _write(finished, json.dumps(trainer.reached, indent=1))
    state_path.unlink(missing_ok=True)
    return trainer.reached


def _log_row(trainer: _Trainer, scalars: dict[str, Any]) -> dict[str, float]:
    values = {k: float(v) for k, v in scalars.items()}
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


def _progress_text(row: dict[str, float], trainer: _Trainer, elapsed: float, before: float) -> str:
    rate = trainer.step / max(elapsed + before, 1e-9)
    return f"step {trainer.step}, {rate:.1f} steps/s, loss {row.get('loss', float('nan')):.3g}"


def _costs(trainer: _Trainer, fraction: float) -> dict[str, Any]:
    student = trainer.modules["student"]
    return {
        "fraction": fraction,
        "step": trainer.step,
        "tfe": trainer.tfe,
        "images": trainer.images,
        "seconds": trainer.seconds,
        "flops": trainer.meter.flops * trainer.world,
        "rows": dict(trainer.meter.rows),
        "params": sum(p.numel() for p in student.parameters()),
        "ema_updates": trainer.ema["student"].updates if "student" in trainer.ema else 0,
    }
