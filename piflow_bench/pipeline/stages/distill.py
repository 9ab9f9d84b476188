"""Students' weights: trained, or published ones in a training's place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from piflow_bench.files.hub import local_path
from piflow_bench.pipeline.launchers.torchrun import in_processes
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Inputs, Report
from piflow_bench.pipeline.stages.student import OfStudent, Training, spec_of, teacher_of
from piflow_bench.pipeline.store.attempts import begin_anew
from piflow_bench.threads import threads_of_its_own
from piflow_bench.training.distributed import world
from piflow_bench.training.events import followed
from piflow_bench.training.output import CHECKPOINTS_FILE, LOG_FILE, weights_file


@dataclass(frozen=True, kw_only=True)
class Distill(OfStudent, Training):
    """Train one variant with one seed; leaves the weights at every checkpoint of the budget."""

    kind = "distill"
    reads = ("teacher",)

    train_nfe: int | None
    """None for an elastic student."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.training.loop import train
        from piflow_bench.training.trainer import TrainingData

        if runtime.scale.processes > world()[1]:
            in_processes(self, inputs, folder, runtime, self.training["threads"])
            return
        dataset, settings = runtime.dataset(), self.training_settings()
        device, seed = runtime.scale.device, self.train_seed
        events = runtime.events.get(folder.name)
        with threads_of_its_own(), followed(folder / LOG_FILE, events, report) as told:
            train(
                self.method_of(runtime),
                teacher_of(inputs, runtime),
                TrainingData(dataset.training_rows, dataset.train_condition),
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


@dataclass(frozen=True, kw_only=True)
class Publish(OfStudent):
    """A published student's weights, in the place of a training's last checkpoint."""

    kind = "published"
    reads = ("teacher",)

    train_nfe: int | None
    train_seed: int
    weights: str
    """Digest of the file."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from safetensors.torch import save_file

        from piflow_bench.files.weights import load_into, read_weights
        from piflow_bench.networks.checkpoints.dit import dit_state

        source = runtime.student or ""
        spec = spec_of(runtime, 1, 0, "cpu", self.train_nfe)
        built = self.method_of(runtime).build(teacher_of(inputs, runtime), spec)
        network: Any = built.modules["student"]
        state = read_weights(local_path(source)).state
        if set(state) != set(network.state_dict()):  # Not as `Run.export` writes them.
            state = dit_state(state, f"student.checkpoint={source}")
            if hasattr(network, "from_published"):
                state = network.from_published(state)
        load_into(network, {k: v.float() for k, v in state.items()}, f"student.checkpoint={source}")
        save_file(network.state_dict(), weights_file(folder))
        spent = {
            "fraction": 1.0,
            "step": 0,
            "tfe": float("nan"),
            "images": 0,
            "seconds": 0.0,
            "flops": 0.0,
            "rows": {},
            "params": sum(p.numel() for p in network.parameters()),
            "ema_updates": 0,
        }
        (folder / CHECKPOINTS_FILE).write_text(json.dumps([spent]))
        (folder / LOG_FILE).write_text("")
