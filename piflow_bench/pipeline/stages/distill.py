"""Students' weights, trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from piflow_bench.contracts.method import no_reward
from piflow_bench.pipeline.launchers.torchrun import in_processes
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, left_out
from piflow_bench.pipeline.stages.student import OfStudent, Training, spec_of, teacher_of
from piflow_bench.pipeline.store.attempts import begin_anew
from piflow_bench.threads import threads_of_its_own
from piflow_bench.training.distributed import world
from piflow_bench.training.events import followed
from piflow_bench.training.output import LOG_FILE


@dataclass(frozen=True, kw_only=True)
class Distill(OfStudent, Training):
    """Train one variant with one seed; leaves the weights at every checkpoint of the budget."""

    kind = "distill"
    reads = ("teacher",)

    train_nfe: int | None
    """None for an elastic student."""
    reward: Identity | None = left_out(None)
    """What the method is trained to please, of one that is."""

    def group(self, runtime: Runtime) -> int:
        """Rows that its method keeps together."""
        return self.method_of(runtime).facts_for().group

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.training.loop import train
        from piflow_bench.training.trainer import TrainingData

        if runtime.scale.processes > world()[1]:
            in_processes(self, inputs, folder, runtime, self.training["threads"])
            return
        dataset, settings = runtime.dataset(), self.training_settings()
        device, seed = runtime.scale.device, self.train_seed
        asked = no_reward if self.reward is None else runtime.reward(self.reward["name"])
        events = runtime.events.get(folder.name)
        teacher = teacher_of(inputs, runtime)
        network: Any = teacher.network
        if hasattr(network, "adapt_with"):
            network.adapt_with(settings.adapter_rank, settings.adapter_dropout)
        with threads_of_its_own(), followed(folder / LOG_FILE, events, report) as told:
            train(
                self.method_of(runtime),
                teacher,
                TrainingData(dataset.training_rows, dataset.train_condition, asked),
                spec_of(runtime, settings.batch, seed, device, self.train_nfe),
                settings,
                self.training_budget(),
                seed,
                folder,
                told,
                save_seconds=runtime.save_seconds,
                scale=runtime.scale,
                anew=partial(begin_anew, folder),
            )
