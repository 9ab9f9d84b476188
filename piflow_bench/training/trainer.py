"""One training run: its networks, optimizers and averages, and one step of it.

It owns backward passes, clipping, precision, gradient accumulation, averages and learning rates; a
method only yields updates. With several processes each holds the same trainer for its own rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench import interruption
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Rows, TensorRows
from piflow_bench.contracts.method import (
    Batch,
    Built,
    Context,
    Method,
    Optimizer,
    Spec,
    Update,
    no_reward,
)
from piflow_bench.contracts.reward import Reward
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.costs.flops import Handle, Meter
from piflow_bench.costs.memory import PeakMemory
from piflow_bench.errors import UserError
from piflow_bench.precision import bfloat16
from piflow_bench.randomness import TrainingRandom
from piflow_bench.training.distributed import (
    average_gradients,
    blocks_of,
    full,
    gather_rows,
    local,
    shard_roles,
    summed,
    summed_counts,
    world,
)
from piflow_bench.training.ema import EMA
from piflow_bench.training.readahead import ReadAhead
from piflow_bench.training.scale import Scale, division
from piflow_bench.training.settings import Budget, TrainingSettings, learning_rate_scale
from piflow_bench.training.teacher_cost import counted_teacher, teacher_forward_flops


@dataclass(frozen=True)
class TrainingData:
    """What a training has of the data: samples and conditions that batches are drawn from."""

    rows: Rows
    condition: Condition
    reward: Reward = no_reward
    """What scores samples, for a method whose facts name one."""


def _eager() -> AbstractContextManager[Any]:
    return torch.compiler.set_stance("force_eager")


class Trainer:
    """The state of one training run, and its step."""

    def __init__(
        self,
        method: Method,
        teacher: Teacher,
        data: TrainingData,
        spec: Spec,
        settings: TrainingSettings,
        budget: Budget,
        train_seed: int,
        scale: Scale | None = None,
    ) -> None:
        self.method, self.settings, self.budget = method, settings, budget
        self.data, self.train_seed = data, train_seed
        self.scale = scale or Scale()
        self.rank, self.world = world()
        self.parts, self.part_rows = division(
            settings.batch, self.world, self.scale.micro_batch, method.facts_for().group
        )
        self.device = self.scale.device
        self.spec = replace(spec, device=self.device)
        self.memory = PeakMemory(self.device)
        """Of this process."""
        self.dtype = torch.float64 if settings.precision == "fp64" else torch.float32
        self.eager: Callable[[], AbstractContextManager[Any]] = (
            _eager if self.scale.compile else nullcontext
        )
        self.meter = Meter(eager=self.eager)
        teacher = teacher.to(self.device, self.dtype)
        unit = teacher_forward_flops(teacher, spec.shape, data.condition)
        if not unit:
            raise UserError(
                f"teacher: {type(teacher.network).__name__} has no matrix product, in which costs "
                "are counted; a network needs a linear layer or a convolution"
            )
        self.unit_flops = unit
        self.tfe_flops = unit * (budget.batch or settings.batch)
        torch.manual_seed(train_seed)
        self.built: Built = method.build(teacher, self.spec)
        self.modules = dict(self.built.modules)
        self._lay_out(teacher.network)
        self.teacher = counted_teacher(teacher, self.meter, unit)
        self.reward = Handle("reward", data.reward, self.meter)
        self.networks = {name: Handle(name, m, self.meter) for name, m in self.modules.items()}
        self.optimizers = {n: self._optimizer(o) for n, o in self.built.optimizers.items()}
        self.trained = {
            n: [p for m in o.modules for p in self.modules[m].parameters() if p.requires_grad]
            for n, o in self.built.optimizers.items()
        }
        self.others = {n: self._all_but(parameters) for n, parameters in self.trained.items()}
        """Parameters, by optimizer, that its losses may pass through and must not train."""
        self.ema = {name: EMA(self.modules[name], settings.ema) for name in self.built.ema}
        # What lies on a disk is read while the step before it is computed.
        self.reader = ReadAhead(self._read, 0 if isinstance(data.rows, TensorRows) else 2)
        self.step = 0
        self.images = 0
        self.seconds = 0.0
        self.flops = 0.0
        self.is_asked_to_stop = False
        """Of all processes."""
        self.reached: list[dict[str, Any]] = []
        self.start_clock()

    def start_clock(self) -> None:
        """Count seconds from now on, after those already spent."""
        self._since = time.perf_counter() - self.seconds

    def _lay_out(self, teacher: nn.Module) -> None:
        """Place the networks: device, precision, recomputation, compilation, sharding."""
        for module in self.modules.values():
            module.to(self.device, self.dtype)
            if self.settings.checkpointing:
                parts: Iterator[Any] = module.modules()
                for part in parts:
                    if hasattr(part, "checkpointing"):
                        part.checkpointing = True
        if self.scale.compile:
            for module in (*self.modules.values(), teacher):
                for block in blocks_of(module):
                    block.compile()
        if self.sharded:
            shard_roles(teacher, self.modules.values(), self.device)

    @property
    def sharded(self) -> bool:
        """Whether weights are divided over processes."""
        return self.scale.parallel == "fsdp" and self.world > 1

    def _optimizer(self, o: Optimizer) -> torch.optim.Optimizer:
        parameters = [p for m in o.modules for p in self.modules[m].parameters() if p.requires_grad]
        options: dict[str, Any] = {"lr": o.lr, "betas": o.betas, "weight_decay": o.weight_decay}
        if self.settings.optimizer == "adamw8bit":
            try:
                from bitsandbytes.optim import AdamW8bit
            except ImportError as error:
                raise UserError(
                    "training.optimizer=adamw8bit: needs bitsandbytes: pip install bitsandbytes"
                ) from error
            return AdamW8bit(parameters, **options)
        return torch.optim.AdamW(parameters, fused=True, **options)

    # ------------------------------------------------------------------ budget

    @property
    def tfe(self) -> float:
        """Teacher-forward equivalents spent, by all processes."""
        return self.flops / self.tfe_flops

    @property
    def progress(self) -> float:
        """Spent share of the budget: the same number in every process."""
        spent = {"tfe": self.tfe, "images": float(self.images), "seconds": self.seconds}
        return spent[self.budget.unit] / self.budget.amount

    def _agree(self) -> None:
        """Take all processes' FLOPs together, the first one's clock, and any one's wish to stop."""
        seconds = time.perf_counter() - self._since
        mine = [self.meter.flops, seconds if self.rank == 0 else 0.0, float(interruption.asked())]
        self.flops, self.seconds, stop = summed(torch.tensor(mine, dtype=torch.float64)).tolist()
        self.is_asked_to_stop = stop > 0

    # ------------------------------------------------------------------ one step

    def micro_batches(self) -> Iterator[tuple[Batch, Context]]:
        """This process's rows of the step, in parts, each with its context."""
        for part, (index, x0) in enumerate(self.reader.get(self.step)):
            if x0 is not None:
                x0 = x0.to(self.device, self.dtype, non_blocking=True)
            condition = self.data.condition[index].to(self.device)
            first = (self.rank * self.parts + part) * self.part_rows
            random = TrainingRandom(
                self.train_seed, self.step, first, self.part_rows, self.device, self.dtype
            )
            context = Context(
                self.step,
                self.progress,
                random,
                self.teacher,
                self.networks,
                self.modules,
                gather_rows,
                part == self.parts - 1,
                self.eager,
                forwards=self.flops / self.unit_flops,
                reward=self.reward,
            )
            yield Batch(x0, condition, self.spec.shape), context

    def _read(self, step: int) -> list[tuple[Tensor, Tensor | None]]:
        """This process's training rows of a step, in parts, and their samples on the CPU."""
        needs_data = self.method.facts_for().needs_data
        found = []
        for part in range(self.parts):
            first = (self.rank * self.parts + part) * self.part_rows
            # A generator of the reader's own: its draws are keyed by their names.
            random = TrainingRandom(self.train_seed, step, first, self.part_rows)
            index = random.integers("data rows", len(self.data.condition))
            x0 = self.data.rows.take(index, random) if needs_data else None
            if x0 is not None and self.device == "cuda":
                x0 = x0.pin_memory()
            found.append((index, x0))
        return found

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return bfloat16(self.device)
        return nullcontext()

    def run_step(self) -> dict[str, Any]:
        """One training step; returns its scalars."""
        progress = self.progress
        streams = [(self.method.training_step(b, c), c) for b, c in self.micro_batches()]
        scalars: dict[str, Any] = {}
        while True:
            updates: list[Update | None] = []
            for stream, context in streams:
                with self._autocast():
                    update = next(stream, None)
                if update is not None:
                    with self._held(update.optimizer):
                        self.meter.backward(update.loss / len(streams), update.optimizer)
                    context.thaw()
                updates.append(update)
            update = self._agreed(updates)
            if update is None:
                break
            scalars.update(update.scalars)
            if update.step:
                scalars.update(self._optimizer_step(update.optimizer, progress))
        self.step += 1
        self.images += self.settings.batch
        self._agree()
        return scalars

    def _agreed(self, updates: list[Update | None]) -> Update | None:
        """The update that all micro-batches made; None where all had come to their end.

        Raises:
            RuntimeError: if they differ: gradients of some would wait for another step.
        """
        kinds = {u and (u.optimizer, u.step) for u in updates}
        if len(kinds) > 1:
            raise RuntimeError(
                f"{type(self.method).__name__}.training_step: the micro-batches of step "
                f"{self.step} yield different updates ({sorted(map(str, kinds))}); their number, "
                "order, optimizer and step must not depend on the rows"
            )
        return updates[0]

    def _all_but(self, trained: list[nn.Parameter]) -> list[nn.Parameter]:
        own = {id(p) for p in trained}
        return [p for m in self.modules.values() for p in m.parameters() if id(p) not in own]

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Keep what other optimizers accumulate from a loss that passes through their networks."""
        gradients = [p.grad for p in self.others[name]]
        for p in self.others[name]:
            p.grad = None
        try:
            yield
        finally:
            for p, gradient in zip(self.others[name], gradients, strict=True):
                p.grad = gradient

    def _optimizer_step(self, name: str, progress: float) -> dict[str, Any]:
        optimizer, parameters = self.optimizers[name], self.trained[name]
        declared = self.built.optimizers[name]
        if not self.sharded:  # Sharded gradients are averaged as they are divided.
            average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(
            parameters, self.settings.clip or float("inf"), foreach=True
        )
        scale = learning_rate_scale(self.step, progress, self.settings.warmup, declared.schedule)
        for group in optimizer.param_groups:
            group["lr"] = declared.lr * scale
        optimizer.step()
        for p in parameters:
            p.grad = None
        for trained in declared.modules:
            if trained in self.ema and self.step >= self.settings.warmup:
                self.ema[trained].update()
        label = "" if name == "student" else f"{name}_"
        return {f"{label}grad_norm": full(norm), f"{label}lr": declared.lr * scale}

    # ------------------------------------------------------------------ what is kept

    def weights(self) -> dict[str, Tensor]:
        """The student's weights to be evaluated, whole: the average, where one is kept.

        Where weights are sharded, all processes must call it.
        """
        if "student" in self.ema and self.ema["student"].updates:
            state = self.ema["student"].average
        else:
            state = self.modules["student"].state_dict()
        return {k: full(v).detach().clone().contiguous().cpu() for k, v in state.items()}

    def not_finite(self) -> str | None:
        """A network's parameter, or its average, that holds a NaN or an infinity, if there is one.

        Of this process's part, where weights are sharded.
        """
        for name, module in self.modules.items():
            average = self.ema[name].average if name in self.ema else {}
            for key, parameter in module.named_parameters():
                for label, value in (("", parameter), (" (average)", average.get(key))):
                    if value is not None and not bool(local(value).isfinite().all()):
                        return f"{name}.{key}{label}"
        return None

    def parameter_count(self) -> int:
        """Parameters of the student."""
        return sum(p.numel() for p in self.modules["student"].parameters())

    def rows_counted(self) -> Counter[str]:
        """Rows by role and mode, of all processes; all must call it."""
        return summed_counts(self.meter.rows)
