"""What a run will do, and how long that takes here.

Stages are counted from the plan. For their time some steps of the trainings are run, on samples of
zeros, for about half a second: what a step costs beside the network (policies, discriminators,
optimizers) differs tenfold between methods and between networks, and a forward pass says nothing
of it. Solvers and samplers cost forward passes. Metrics are not foreseen, and this is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.contracts.method import Context
from piflow_bench.pipeline.display import say
from piflow_bench.pipeline.plan import Plan, runtime_of
from piflow_bench.pipeline.run_folder import settled
from piflow_bench.pipeline.stage import Stage, Task
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.stages.features import Describe
from piflow_bench.pipeline.stages.samples import Converge, Draw, Sample
from piflow_bench.pipeline.stages.teacher import TrainTeacher
from piflow_bench.pipeline.store.store import Store
from piflow_bench.progress_bar import duration
from piflow_bench.threads import cores

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_bench.contracts.data import Dataset
    from piflow_bench.contracts.teacher import Teacher, TeacherPlugin

BOX = 0.15
"""Seconds after which no further method is tried."""
PASSES, FEWEST = 10, 8
"""Passes of a step, about, and rows of which one is tried at least."""
ENOUGH = 0.2
"""Seconds after which a forward pass is timed no more."""
SLOW = 0.1
"""Seconds of a forward pass beyond which no step is tried."""
EVALUATIONS = {"heun": 2}
"""Forward passes that a solver's step takes, where they are not one."""


@dataclass(frozen=True)
class Forecast:
    """Seconds that one worker needs."""

    training: float
    sampling: float
    tried: tuple[str, ...]
    """Methods of which steps were run; the others are taken for as quick as these. None: training
    is given by the teacher's forward passes alone, and takes longer."""
    describing: float = 0.0
    """Of extractors whose pace is known."""
    unknown: tuple[str, ...] = ()
    """Extractors whose pace is not."""

    @property
    def seconds(self) -> float:
        """All that is known."""
        return self.training + self.sampling + self.describing

    @property
    def on_top(self) -> str:
        """What is not counted, in words."""
        return " and ".join([*(f"features by {name}" for name in self.unknown), "metrics"])


def worker_count(config: ExperimentConfig) -> int:
    """Worker processes of the local launcher: as many as cores or GPUs serve at once."""
    if config.launcher.workers is None and config.scale.device == "cuda":
        import torch

        return max(torch.cuda.device_count() // config.scale.processes, 1)
    return config.launcher.workers or max(cores() // config.training.threads, 1)


def workers_of(config: ExperimentConfig) -> str:
    """Who makes the stages, in words."""
    if config.launcher.name == "slurm":
        return "jobs of Slurm"
    count = 1 if config.launcher.name == "debug" else worker_count(config)
    return f"{count} worker{'s' if count != 1 else ''}"


def print_plan(plan: Plan, store: Store) -> None:
    """The stages of an experiment, what is cached, what is left to do and for how long."""
    console = Console()
    config, elsewhere = settled(plan.config)
    if elsewhere:
        say(console, elsewhere)
    out = Table(title=f"{config.name}: plan")
    for name in ("stage", "total", "cached", "to do"):
        out.add_column(name, justify="left" if name == "stage" else "right")
    kinds: dict[str, list[Stage]] = {}
    for stage in plan.stages:
        kinds.setdefault(stage.kind, []).append(stage)
    left: list[Stage] = []
    for kind, stages in kinds.items():
        to_do = [s for s in stages if not store.has(s)]
        left += to_do
        done = len(stages) - len(to_do)
        out.add_row(kind, str(len(stages)), str(done), str(len(to_do)))
    console.print(out)
    console.print(_words(plan, left), highlight=False)


def _words(plan: Plan, left: Sequence[Stage]) -> str:
    text = f"{len(left)} stages to do"
    training = [s.task for s in left if isinstance(s.task, Distill)]
    if training:
        amounts: dict[str, float] = {}
        for task in training:
            budget = task.budget
            amounts[budget["unit"]] = amounts.get(budget["unit"], 0.0) + budget["amount"]
        budgets = ", ".join(f"{amount:g} {unit}" for unit, amount in amounts.items())
        text += f"; training {len(training)} students for {budgets}"
    if not training and not any(isinstance(s.task, (Sample, Converge)) for s in left):
        return text
    found, workers = forecast(plan, left), workers_of(plan.config)
    count = 1 if plan.config.launcher.name == "debug" else worker_count(plan.config)
    seconds = duration(found.seconds / count)
    if plan.config.launcher.name == "slurm":
        workers = f"{count} worker{'s' if count != 1 else ''} here"
    if found.tried or not training:
        how = f"by steps of {', '.join(found.tried)} run here" if found.tried else "by its forwards"
        return f"{text}: about {seconds} on {workers}, {how}; {found.on_top} come on top"
    return (
        f"{text}: at least {seconds} on {workers}, by the time of a teacher forward here; "
        f"policies, optimizers, {found.on_top} come on top"
    )


def forecast(plan: Plan, stages: Sequence[Stage]) -> Forecast:
    """Seconds that one worker takes for these stages."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(plan.config.training.threads)
    try:
        forward = _forward_seconds(plan)
        training = [s.task for s in stages if isinstance(s.task, Distill)]
        rates = _rates(plan, training, forward) if forward < SLOW else {}
    finally:
        torch.set_num_threads(before)
    rows, trained = plan.config.training.batch, 0.0
    for stage in stages:
        if isinstance(stage.task, TrainTeacher):  # A backward pass takes as long as two forwards.
            trained += 3 * stage.task.budget["amount"] * forward / rows
    sampled = sum(_rows_forward(s.task, plan) for s in stages) * forward / rows
    for task in training:
        budget = task.budget
        of_unit = [r for (_, unit), r in rates.items() if unit == budget["unit"]]
        alike = sum(of_unit) / len(of_unit) if of_unit else forward
        trained += budget["amount"] * rates.get((task.method, budget["unit"]), alike)
    described, unknown = _describing(plan, stages)
    tried = tuple(sorted({method for method, _ in rates}))
    return Forecast(trained, sampled, tried, described, unknown)


def _describing(plan: Plan, stages: Sequence[Stage]) -> tuple[float, tuple[str, ...]]:
    """Seconds of one worker's extractors on a CPU, and those whose pace nobody has said."""
    runtime, counts = runtime_of(plan.config), dict[str, int]()
    for stage in stages:
        if isinstance(stage.task, Describe):
            count = sum(_count(s.task, plan) for s in stage.inputs["samples"])
            for name in stage.task.extractors:
                counts[name] = counts.get(name, 0) + count
    paces = {name: runtime.extractor_plugin(name).seconds for name in counts}
    seconds = sum(counts[name] * paces[name] for name in counts) / plan.config.training.threads
    on_cpu = plan.config.scale.device == "cpu"
    return seconds, tuple(name for name in counts if not (paces[name] and on_cpu))


def _count(task: Task, plan: Plan) -> int:
    """How many samples a stage makes."""
    if isinstance(task, (Converge, Sample)):
        return task.stop - task.start
    if isinstance(task, Draw) and plan.dataset is not None and not task.n:
        test = task.split == "test"
        return len(plan.dataset.held_out if test else plan.dataset.training_rows)
    return task.n if isinstance(task, Draw) else 0


def _forward_seconds(plan: Plan, repeats: int = 5) -> float:
    """Seconds of one forward pass of the teacher's network at the training batch."""
    import torch

    from piflow_bench.costs.flops import Stopwatch

    dataset, teacher = plan.dataset, plan.teacher
    assert dataset is not None and teacher is not None
    scale, batch = plan.config.scale, plan.config.training.batch
    # Jobs of a cluster are planned where there may be no GPU.
    device = scale.device if torch.cuda.is_available() else "cpu"
    rows = min(scale.micro_batch or batch, batch)
    network = teacher.fresh_network(dataset).to(device)
    x, t = torch.zeros(rows, *dataset.shape).to(device), torch.full((rows,), 0.5).to(device)
    condition = dataset.conditions(0, range(rows)).to(device)
    times = []
    for _ in range(repeats + 1):  # The first warms up.
        watch = Stopwatch(device)
        with torch.no_grad(), watch.running():
            network(x, t, condition)
        times.append(watch.seconds())
        if len(times) > 2 and sum(times) > ENOUGH:
            break
    return min(times[1:]) * batch / rows  # Other work on the machine only adds.


def _rates(plan: Plan, training: Sequence[Distill], forward: float) -> dict[tuple[str, str], float]:
    """Seconds of a unit of budget, by method and unit, for as many methods as time allows.

    ``forward``: seconds of the teacher's pass of a batch; where it is slow a part of one is tried.
    """
    first: dict[tuple[str, str], Distill] = {}
    for task in sorted(training, key=lambda task: -task.budget["amount"]):
        first.setdefault((task.method, task.budget["unit"]), task)
    began, found = time.perf_counter(), {}
    for key, task in first.items():
        if time.perf_counter() - began > BOX:
            break
        # An estimate is no place to fail: what is wrong with a method, its training says.
        with suppress(Exception):
            found[key] = _seconds_of_a_unit(plan, task, min(1.0, BOX / (PASSES * forward)))
    return found


@dataclass
class _Rows:
    """Rows that passed networks, and those of them that a gradient goes back through."""

    passed: int = 0
    with_gradient: int = 0

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its rows counted."""
        import torch

        def call(x: Tensor, *arguments: Any, **settings: Any) -> Any:
            self.passed += len(x)
            self.with_gradient += len(x) if torch.is_grad_enabled() else 0
            return function(x, *arguments, **settings)

        return call

    @property
    def forwards(self) -> float:
        """Forward passes of a row: a backward pass costs two."""
        return self.passed + 2.0 * self.with_gradient


@dataclass(frozen=True)
class _Foreseen(Context):
    """A step whose time alone is wanted."""

    def jvp(
        self, function: Callable[..., Tensor], primals: Sequence[Tensor], *_: Any
    ) -> tuple[Tensor, Tensor]:
        """What a derivative in forward mode costs, without torch's rules: 1.2 s to import."""
        import torch

        with torch.no_grad():
            return function(*primals), function(*primals)


def _seconds_of_a_unit(plan: Plan, task: Distill, share: float) -> float:
    """By the second step of a training, since the first one warms up, of a share of its batch.

    The methods' part of a step alone: optimizers and averages add a few per cent, and what counts
    FLOPs in a training takes longer to import than all of this.
    """
    import torch

    from piflow_bench.contracts.method import Batch, Spec
    from piflow_bench.randomness import TrainingRandom

    settings, budget = task.training_settings(), task.training_budget()
    dataset, plugin = plan.dataset, plan.teacher
    assert dataset is not None and plugin is not None
    teacher = _of_any_weights(plugin, dataset)
    size = min(settings.batch, max(FEWEST, round(share * settings.batch)))
    condition = dataset.conditions(0, range(size))
    method = task.method_of(runtime_of(plan.config))
    spec = Spec(
        dataset.shape, task.train_nfe, size, lambda: plugin.fresh_network(dataset), condition
    )
    modules = method.build(teacher, spec).modules
    # What a dataset draws first may take longer than all steps here.
    batch = Batch(torch.zeros(size, *dataset.shape), condition, dataset.shape)
    for step in range(2):
        rows, since = _Rows(), time.perf_counter()
        networks: Any = {name: rows.counted(module) for name, module in modules.items()}
        counted = teacher.bind(rows.counted(teacher.field))
        random = TrainingRandom(0, step, 0, size)
        context = _Foreseen(step, 0.0, random, counted, networks, modules)
        for update in method.training_step(batch, context):
            update.loss.backward()
            context.thaw()
            for module in modules.values() if update.step else ():
                module.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - since
    spent = {
        "tfe": rows.forwards / (budget.batch or settings.batch),
        "images": float(size),
        "seconds": seconds,
    }
    return seconds / spent[budget.unit]


def _of_any_weights(plugin: TeacherPlugin, dataset: Dataset) -> Teacher:
    """A teacher whose weights mean nothing: time alone is wanted of it, and no file is opened."""
    from piflow_bench.contracts.teacher import Teacher
    from piflow_bench.teachers.closed_form import exact

    network = plugin.fresh_network(dataset)
    if dataset.truth is None:
        return Teacher(network, network, plugin.guidance)
    field = partial(exact, dataset.truth)
    return Teacher(field, network, plugin.guidance, closed_form=True)


def _rows_forward(task: Task, plan: Plan) -> float:
    """Rows that pass a network in a stage that samples."""
    if isinstance(task, Converge):
        both = 2 if plan.teacher and plan.teacher.guidance.on else 1
        each = task.steps * EVALUATIONS.get(task.solver, 1) * both
    elif isinstance(task, Sample):
        each = task.nfe
    else:
        return 0.0
    return float(each * (task.stop - task.start))
