"""A run's folder: its results as tables and words, its students as functions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.runs.sampler import Sampler
from piflow_bench.settings import build_dataclass

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from piflow_bench.pipeline.plan import Cell, Plan
    from piflow_bench.pipeline.stage import Stage
    from piflow_bench.pipeline.store.store import Store

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _write_weights(weights: Path, folder: Path, half: bool) -> None:
    """The weights as they are, or rounded to 16 bits."""
    import shutil

    if not half:
        shutil.copyfile(weights, folder / WEIGHTS)
        return
    from safetensors.torch import save_file

    from piflow_bench.files.weights import read_weights

    state = read_weights(weights).state
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.half()
            if not state[name].isfinite().all():
                raise UserError(f"half=True: {name} has values beyond those of 16 bits")
    save_file(state, folder / WEIGHTS)


def open_run(path: str | Path) -> Run:
    """A finished or partial run's folder.

    Raises:
        UserError: if there are no results in it.
    """
    folder = Path(path).absolute().resolve()
    if not (folder / "results.parquet").is_file():
        raise UserError(f"{folder}: no results.parquet there; name the folder of a run")
    return Run(folder)


@dataclass(frozen=True)
class Run:
    """A run's folder: its results as tables and words, its students as functions.

    Shown in a notebook it is a table of the primary metrics.
    """

    folder: Path

    @property
    def results(self) -> pd.DataFrame:
        """Tidy rows: one for each variant, seed, checkpoint, NFE, question, extractor, metric."""
        import pandas as pd

        return pd.read_parquet(self.folder / "results.parquet")

    @property
    def verdicts(self) -> list[str]:
        """The page's sentences on who is told apart from whom."""
        from piflow_reports.summary import read

        return [text for verdict in read(self.folder).verdicts for text in verdict.sentences]

    @property
    def table(self) -> pd.DataFrame:
        """The primary metrics of every variant at every NFE, best first, with intervals."""
        from piflow_reports.summary import primary_table, read

        return primary_table(read(self.folder))

    def report(self) -> Path:
        """Make the page anew; its path."""
        from piflow_reports import build

        return build(self.folder)

    def samples(
        self, variant: str, nfe: int, *, train_seed: int | None = None, sampler: str = ""
    ) -> np.ndarray:
        """The run's samples ``(n, *shape)`` float32 in the model's space, by sample index.

        ``sampler``: which, where a variant was sampled in several ways (as in the results).
        """
        import numpy as np

        return np.array(self.samples_of(self._cell(variant, nfe, train_seed, sampler)))

    def samples_of(self, cell: Cell) -> np.ndarray:
        """The samples of one cell, mapped to be read."""
        from piflow_bench.pipeline import artifacts

        return artifacts.samples([self._kept(stage) for stage in cell.samples])

    def sampled(self, variant: str | None = None, nfe: int | None = None) -> list[Cell]:
        """Cells with samples at the full budget, those of the converged teacher among them.

        Args:
            variant: of this one alone.
            nfe: at this one alone; the converged teacher is there at any.

        Raises:
            UserError: if there is none.
        """
        known = [c for c in self._plan.cells if c.samples and c.columns["budget_fraction"] == 1.0]
        names = list(dict.fromkeys(c.columns["variant"] for c in known))
        if variant is not None and variant not in names:
            raise UserError(f"{variant}: no such variant of this run; {nearest(variant, names)}")
        own = [c for c in known if variant in (None, c.columns["variant"])]
        found = [
            c for c in own if nfe in (None, c.columns["nfe"]) or c.columns["role"] == "control"
        ]
        if not [c for c in found if c.columns["role"] != "control"] and variant is None:
            at = sorted({c.columns["nfe"] for c in own if c.columns["role"] != "control"})
            raise UserError(f"nfe={nfe}: was run at {', '.join(map(str, at))}")
        if not found:
            at = sorted({c.columns["nfe"] for c in own})
            raise UserError(f"{variant} at {nfe} NFE: was run at {', '.join(map(str, at))}")
        return found

    def images(self, samples: np.ndarray | torch.Tensor) -> np.ndarray:
        """Pictures ``(n, h, w, c)`` uint8 of samples in the model's space, the run's or others."""
        import torch

        dataset = self._plan.dataset
        assert dataset is not None
        if dataset.space.pictures is None:
            raise UserError(f"{dataset.name}: its samples are points, no pictures")
        return dataset.space.pictures(torch.as_tensor(samples).cpu())

    def student(
        self, variant: str, nfe: int, *, train_seed: int | None = None, sampler: str = ""
    ) -> Sampler:
        """A trained student (or the teacher's sampler), to be called on noise or a seed."""
        return Sampler(self, self._cell(variant, nfe, train_seed, sampler))

    def export(
        self,
        variant: str,
        folder: str | Path,
        *,
        nfe: int | None = None,
        train_seed: int | None = None,
        sampler: str = "",
        pictures: int = 64,
        half: bool = False,
        published: bool = False,
    ) -> Path:
        """Write a student's weights, what made them, and some of its samples as PNGs.

        ``folder`` holds ``diffusion_pytorch_model.safetensors`` and ``config.json``, which
        ``student.checkpoint=`` reads, and ``samples/``. ``variant="teacher"`` writes a teacher that
        the run trained, which ``teacher=dit teacher.checkpoint=FOLDER`` reads. ``half`` rounds the
        weights to 16 bits (float16): half the size, and no longer what was scored to the last bit.
        ``published`` writes a text-to-image student in the form of pi-Flow's published adapters.
        """
        from PIL import Image

        from piflow_bench.training.output import weights_file

        if variant == "teacher":
            return self._export_teacher(Path(folder), half)

        nfes = [c.columns["nfe"] for c in self._cells(variant)]
        cell = self._cell(variant, nfes[0] if nfe is None else nfe, train_seed, sampler)
        if cell.distill is None:
            raise UserError(f"{variant}: trains nothing, so there are no weights to write")
        self._kept(cell.distill)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = weights_file(self._store.path(cell.distill), cell.checkpoint)
        if published:
            self._write_adapter(weights, cell, target, half)
        else:
            _write_weights(weights, target, half)
            content = cell.distill.task.content
            facts = {**content, "sampling": cell.samples[0].task.content["sampling"]}
            (target / "config.json").write_text(json.dumps(facts, indent=1))
        dataset = self._plan.dataset
        if dataset is not None and dataset.space.pictures is not None:
            (target / "samples").mkdir(exist_ok=True)
            found = self.samples(
                variant, cell.columns["nfe"], train_seed=train_seed, sampler=sampler
            )
            for i, image in enumerate(self.images(found[:pictures])):
                Image.fromarray(image.squeeze()).save(target / "samples" / f"{i:05d}.png")
        return target

    def _write_adapter(self, weights: Path, cell: Cell, target: Path, half: bool) -> None:
        import torch
        from safetensors.torch import load_file

        from piflow_bench.networks.text_to_image.published import as_published, write_adapter

        teacher, nfe = self._plan.teacher, cell.columns["nfe"]
        assert cell.distill is not None and teacher is not None
        if not hasattr(teacher, "facts"):
            raise UserError("published form: is of students of a text-to-image model")
        settings = cell.distill.task.content["settings"]
        state, policy, config = as_published(load_file(weights), settings, teacher.facts(), nfe)
        kept = {k: v.to(torch.float16) if half else v for k, v in state.items()}
        write_adapter(target, kept, policy, config)

    def _export_teacher(self, target: Path, half: bool) -> Path:
        from piflow_bench.pipeline.stages.teacher import TrainTeacher
        from piflow_bench.training.output import weights_file

        teacher, dataset = self._plan.teacher, self._plan.dataset
        made = next((s for s in self._plan.stages if isinstance(s.task, TrainTeacher)), None)
        if made is None or teacher is None or dataset is None:
            raise UserError("teacher: the run trained none; its files are where it has it from")
        target.mkdir(parents=True, exist_ok=True)
        weights = weights_file(self._kept(made))
        _write_weights(weights, target, half)
        facts = {**teacher.stated(dataset), "training": made.task.content}
        (target / "config.json").write_text(json.dumps(facts, indent=1))
        return target

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, border=0)

    # ------------------------------------------------------------------ the plan behind it

    @cached_property
    def config(self) -> ExperimentConfig:
        """The experiment as it was composed, its runs where this folder lies."""
        import yaml

        info = json.loads((self.folder / "run.json").read_text())
        plain = yaml.safe_load(info["config"])
        # Its paths were of the folder that it was called in, of which this one says where it lies.
        runs, called = Path(plain["runs"]), Path()
        if not runs.is_absolute():
            called = self.folder.parents[len(runs.parts)]
            plain["store"] = plain["store"] and str(called / plain["store"])
            plain["plugins"] = [str(called / path) for path in places(plain["plugins"])] or None
            of = ("dataset", "teacher", "space", "student", "lpips")
            for settings in (*map(plain.get, of), *(plain.get("extractors") or {}).values()):
                for key, value in (settings or {}).items():
                    if isinstance(value, str) and (called / value).exists():
                        settings[key] = str(called / value)
        use_plugins(places(plain["plugins"]))
        try:
            config = build_dataclass(ExperimentConfig, plain, "")
        except UserError as error:
            raise UserError(
                f"{self.folder}: of an earlier version, whose settings have other names ({error}); "
                "its results can be read, and the same command runs it again"
            ) from error
        config.runs, config.name = str(self.folder.parent), self.folder.name
        return config

    @cached_property
    def _plan(self) -> Plan:
        from piflow_bench.pipeline.plan import make_plan

        return make_plan(self.config, look=False)

    @cached_property
    def _store(self) -> Store:
        from piflow_bench.pipeline.runner import store_of

        return store_of(self.config)

    def _kept(self, stage: Stage) -> Path:
        """Where the store has what a stage made.

        Raises:
            UserError: if it has not.
        """
        if not self._store.has(stage):
            raise UserError(f"{stage.label}: not in the store {self._store.root}; run it again")
        return self._store.path(stage)

    def _cells(self, variant: str) -> list[Cell]:
        known = [c for c in self._plan.cells if c.samples and c.columns["role"] != "control"]
        found = [c for c in known if c.columns["variant"] == variant]
        if not found:
            names = list(dict.fromkeys(c.columns["variant"] for c in known))
            raise UserError(f"{variant}: no such variant of this run; {nearest(variant, names)}")
        return [c for c in found if c.columns["budget_fraction"] == 1.0]

    def _cell(self, variant: str, nfe: int, train_seed: int | None, sampler: str) -> Cell:
        """The one cell at the full budget that is meant; by default of the first train seed."""
        cells = self._cells(variant)
        found = [c for c in cells if c.columns["nfe"] == nfe]
        if not found:
            known = sorted({c.columns["nfe"] for c in cells})
            raise UserError(f"{variant} at {nfe} NFE: was run at {', '.join(map(str, known))}")
        seeds = list(dict.fromkeys(c.columns["train_seed"] for c in found))
        seed = seeds[0] if train_seed is None else train_seed
        found = [c for c in found if c.columns["train_seed"] == seed]
        if not found:
            raise UserError(f"{variant}: train_seed={train_seed}; has {', '.join(map(str, seeds))}")
        if len(found) > 1:
            ways = [c.columns["sampler"] for c in found]
            found = [c for c in found if c.columns["sampler"] == sampler]
            if len(found) != 1:
                raise UserError(f"{variant}: sampled in several ways; sampler= one of {ways}")
        return found[0]
