"""Teachers: what has no file of weights is made, or trained; every one is looked at before use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from piflow_bench.conformance.dataset import teacher_problems
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.files.atomic import write_json
from piflow_bench.pipeline.launchers.torchrun import in_processes
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task
from piflow_bench.pipeline.stages.student import OfWorld, Training, spec_of, teacher_of
from piflow_bench.pipeline.store.attempts import begin_anew
from piflow_bench.threads import threads_of_its_own
from piflow_bench.training.distributed import world

CHECK = "check.json"
ENCODED = "encoded.json"


@dataclass(frozen=True, kw_only=True)
class MakeTeacher(OfWorld):
    """Make the teacher's weights, or the common start of a closed form's students."""

    kind = "teacher"

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        runtime.teacher_plugin().make(runtime.dataset(), folder, report)


@dataclass(frozen=True, kw_only=True)
class TrainTeacher(OfWorld, Training):
    """Train the teacher from the dataset; leaves its averaged weights."""

    kind = "train_teacher"

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.training.loop import train
        from piflow_bench.training.trainer import TrainingData

        if runtime.scale.processes > world()[1]:
            in_processes(self, inputs, folder, runtime, self.training["threads"])
            return
        dataset, plugin = runtime.dataset(), runtime.teacher_plugin()
        training = plugin.training(dataset)
        assert training is not None
        spec = spec_of(runtime, training.settings.batch, training.seed, runtime.scale.device)
        start = spec.fresh_network()
        with threads_of_its_own():
            train(
                training.method,
                Teacher(start, start),
                TrainingData(dataset.training_rows, dataset.train_condition),
                spec,
                training.settings,
                training.budget,
                training.seed,
                folder,
                report,
                save_seconds=runtime.save_seconds,
                scale=runtime.scale,
                anew=partial(begin_anew, folder),
            )


@dataclass(frozen=True, kw_only=True)
class EncodeText(Task):
    """Encode the prompts as the teacher reads them; its text encoders are loaded here alone."""

    kind = "encode_text"
    resumable = True
    networks = True

    dataset: Identity
    encodings: Identity
    """What decides them of the teacher."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        plugin, device = runtime.teacher_plugin(), runtime.scale.device
        lines = plugin.encode(runtime.dataset(), folder, device, report)
        write_json(folder / ENCODED, lines)


class Unfit(RuntimeError):
    """A teacher that is none of the experiment's data as its settings have it."""


@dataclass(frozen=True, kw_only=True)
class CheckTeacher(OfWorld):
    """Measure the teacher on real samples, in its own and in other readings."""

    kind = "teacher_check"
    reads = ("teacher",)
    networks = True

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        """See :meth:`Task.run`.

        Raises:
            Unfit: naming the reading that is clearly better than the one that is set.
        """
        from piflow_bench.conformance.teacher import look_at

        report(0.0, "the teacher on real samples")
        teacher = teacher_of(inputs, runtime).to(runtime.scale.device)
        problems = teacher_problems(runtime.dataset(), teacher, runtime.scale.device)
        if problems:
            raise Unfit("; ".join(problems))
        found = look_at(runtime.dataset(), teacher, runtime.scale.device)
        if found.problem:
            raise Unfit(found.problem)
        (folder / CHECK).write_text(json.dumps(found.plain()))


def cut_prompts(folder: Path) -> list[str]:
    """The prompts of which the end was cut off, a line each."""
    return list(json.loads((folder / ENCODED).read_text()))


def note_of_check(folder: Path) -> str:
    """What a check that has passed has to say; empty: nothing."""
    return str(json.loads((folder / CHECK).read_text())["note"] or "")
