"""Samples: of the converged teacher, real ones, and a student's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.method import Spec
from piflow_bench.contracts.student import Student
from piflow_bench.files.rows import Parts
from piflow_bench.pipeline.artifacts import finite, sample_file, write_facts, write_samples
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task, left_out
from piflow_bench.pipeline.stages.published import whole_model
from piflow_bench.pipeline.stages.student import OfStudent, OfWorld, frame_of, spec_of, teacher_of
from piflow_bench.training.output import weights_file

if TYPE_CHECKING:
    from piflow_bench.sampling import Arithmetic


@dataclass(frozen=True, kw_only=True)
class Converge(OfWorld):
    """Samples of the guided teacher, solved to convergence, of a range of indices."""

    kind = "converged"
    revision = 2
    reads = ("teacher",)
    resumable = True
    networks = True

    solver: str
    steps: int
    shift: float = left_out(1.0)
    terminal: float = left_out(0.0)
    seed: int
    start: int
    stop: int
    precision: str

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench import sampling

        where = sampling.Arithmetic(runtime.scale.device, self.precision)
        x, nfe = sampling.converged(
            teacher_of(inputs, runtime).to(where.device),
            runtime.dataset(),
            range(self.start, self.stop),
            self.seed,
            self.solver,
            self.steps,
            runtime.sample_batch,
            report,
            where,
            parts := Parts(folder / "parts", runtime.save_seconds),
            self.shift,
            self.terminal,
        )
        write_samples(folder, x, self.start)
        write_facts(folder, {"n": len(x), "nfe": nfe})
        parts.forget()


AT_ONCE = 1024
"""Real samples that are held at once."""


@dataclass(frozen=True, kw_only=True)
class Draw(Task):
    """Real samples: a split of the dataset, or fresh exact draws."""

    kind = "draw"
    networks = True  # Where pictures are encoded.

    dataset: Identity
    space: Identity
    split: str
    """train | test | exact."""
    seed: int
    """Of exact draws."""
    n: int
    """Of exact draws, or of the first of a large training set; 0: the whole split."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        dataset = runtime.dataset()
        if self.split == "exact":
            assert dataset.truth is not None
            write_samples(folder, dataset.truth.draw(self.seed, self.n))
            return
        if self.split == "train" and self.n:
            write_samples(folder, dataset.memorised(self.n))
            return
        rows = dataset.held_out if self.split == "test" else dataset.training_rows
        count = min(self.n or len(rows), len(rows))
        written = sample_file(folder, (count, *dataset.shape))
        for i in range(0, count, AT_ONCE):
            part = torch.arange(i, min(i + AT_ONCE, count))
            written[i : i + len(part)] = finite(rows.take(part, None), i).numpy()
            report((i + len(part)) / count, f"{self.split} samples")
        written.flush()


@dataclass(frozen=True)
class ReadyStudent:
    """A student with the weights of its checkpoint, and what it is sampled with."""

    student: Student
    network: Any
    dataset: Dataset
    arithmetic: Arithmetic


@dataclass(frozen=True, kw_only=True)
class Sample(OfStudent):
    """Samples at one NFE of a range of indices, of a student as its method builds it."""

    kind = "sample"
    reads: ClassVar[tuple[str, ...]] = ("teacher",)
    resumable = True
    networks = True

    nfe: int
    sampling: dict[str, Any]
    sample_seed: int
    precision: str
    start: int
    stop: int

    def spec(self, runtime: Runtime, device: str) -> Spec:
        """What the student was built for."""
        return spec_of(runtime, 1, 0, device)

    def weights(self, inputs: Inputs) -> Path | None:
        """The file of the student's weights; None for those that it is built with."""
        return None

    def model(self, inputs: Inputs, runtime: Runtime) -> Path | None:
        """The folder of a whole model that is sampled in the teacher's place, if it is one."""
        return None

    def ready(self, inputs: Inputs, runtime: Runtime) -> ReadyStudent:
        """The student that is sampled."""
        from safetensors.torch import load_file

        from piflow_bench.sampling import Arithmetic

        where = Arithmetic(runtime.scale.device, self.precision)
        if model := self.model(inputs, runtime):
            built = self.method_of(runtime).build(
                frame_of(inputs, runtime), self.spec(runtime, where.device)
            )
            whole: Any = built.modules["student"]
            whole.use_model(model, f"checkpoint={model}")
            return ReadyStudent(built.student, whole.to(where.device), runtime.dataset(), where)
        teacher = teacher_of(inputs, runtime).to(where.device)
        built = self.method_of(runtime).build(teacher, self.spec(runtime, where.device))
        network: Any = built.modules["student"]
        if path := self.weights(inputs):
            network.load_state_dict(load_file(path))
            network = network.to(where.device)
        elif teacher.closed_form:
            network = teacher.field
        return ReadyStudent(built.student, network, runtime.dataset(), where)

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench import sampling

        ready = self.ready(inputs, runtime)
        drawn = sampling.sample(
            ready.student,
            ready.network,
            ready.dataset,
            range(self.start, self.stop),
            self.nfe,
            self.sample_seed,
            runtime.sample_batch,
            self.sampling,
            report,
            ready.arithmetic,
            parts := Parts(folder / "parts", runtime.save_seconds),
        )
        write_samples(folder, drawn.x, self.start)
        parts.forget()
        facts = {
            "nfe": drawn.nfe,
            "n": len(drawn.x),
            "flops_per_sample": drawn.flops_per_sample,
            "sample_seconds": drawn.seconds_per_sample,
            "policy_seconds": drawn.policy_seconds_per_sample,
            "memory": drawn.memory,
        }
        write_facts(folder, facts)


@dataclass(frozen=True, kw_only=True)
class SampleTrained(Sample):
    """The same of a training's checkpoint, or of published weights."""

    reads = ("teacher", "distill")

    checkpoint: int | None
    """None: the only one."""
    train_nfe: int | None
    train_seed: int

    def spec(self, runtime: Runtime, device: str) -> Spec:
        return spec_of(runtime, 1, self.train_seed, device, self.train_nfe)

    def weights(self, inputs: Inputs) -> Path | None:
        return weights_file(inputs["distill"][0], self.checkpoint)

    def model(self, inputs: Inputs, runtime: Runtime) -> Path | None:
        return whole_model(inputs["distill"][0], runtime)
