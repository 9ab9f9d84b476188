"""Runs from Python: start one, open one, read its results, sample and export its students.

``run`` calls the command line in a process of its own: what it prints passes through, a notebook
needs nothing, and a script needs no main guard. All else reads the run's folder and its store.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.config.compose import compose
from piflow_bench.config.paths import PATH_KEYS
from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from piflow_bench.pipeline.plan import Cell, Plan
    from piflow_bench.pipeline.stage import Stage
    from piflow_bench.pipeline.store.store import Store

WEIGHTS = "diffusion_pytorch_model.safetensors"
ENDED = (0, 3)
"""Exit codes of a run that has results: all cells, or all but some that failed."""


def run(experiment: str | Path = "digits", *settings: str, **named: Any) -> Run:
    """Run an experiment and open it; only what is missing is computed.

    Args:
        experiment: its name, or a file of one's own: ``"./my.yaml"``.
        settings: as on the command line, such as ``"budget.amount=6000"``.
        named: the same by name, nested as ``budget={"amount": 6000}``.

    Raises:
        UserError: what the command line would say in one line.
    """
    words = [f"experiment={experiment}", *settings, *_flat(named)]
    configs = compose(words)
    if len(configs) > 1:
        names = ", ".join(config.name for config in configs)
        raise UserError(f"{' '.join(words)}: is several runs ({names}); call each by its name")
    from piflow_bench.pipeline.run_folder import settled

    code, said = _passed_through([sys.executable, "-m", "piflow_bench", "run", *words])
    if code not in ENDED:
        if code == 130:
            raise KeyboardInterrupt
        last = said[-1] if said else f"exit code {code}"
        raise (UserError(last.removeprefix("error: ")) if code == 2 else RuntimeError(last))
    config, _ = settled(configs[0])  # Where its results lie, not those of other settings.
    return Run((Path(config.runs) / config.name).absolute())


def open_run(path: str | Path) -> Run:
    """A finished or partial run's folder.

    Raises:
        UserError: if there are no results in it.
    """
    folder = Path(path).absolute().resolve()
    if not (folder / "results.parquet").is_file():
        raise UserError(f"{folder}: no results.parquet there; name the folder of a run")
    return Run(folder)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as the command line takes them."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif key not in PATH_KEYS:
            yield f"{key}={_written(value)}"
        elif isinstance(value, list | tuple):
            yield f"{key}={','.join(map(str, value))}"
        elif value is not None:
            yield f"{key}={value}"


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{_written(v)}' for k, v in value.items())}}}"
    if isinstance(value, str | Path):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _passed_through(command: list[str]) -> tuple[int, list[str]]:
    """Run a command whose lines are printed as they come; its exit code and its last words."""
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.strip():
                    said = [*said[-9:], line.strip()]
        except BaseException:  # It keeps what it has, and goes on when it is called again.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    return process.returncode, said


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
        from piflow_bench.pipeline import artifacts

        cell = self._cell(variant, nfe, train_seed, sampler)
        return artifacts.samples(self._kept(s) for s in cell.samples)

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
    ) -> Path:
        """Write a student's weights, what made them, and some of its samples as PNGs.

        ``folder`` holds ``diffusion_pytorch_model.safetensors`` and ``config.json``, which
        ``student.checkpoint=`` reads, and ``samples/``. ``variant="teacher"`` writes a teacher that
        the run trained, which ``teacher=dit teacher.checkpoint=FOLDER`` reads.
        """
        import shutil

        from PIL import Image

        from piflow_bench.training.output import weights_file

        if variant == "teacher":
            return self._export_teacher(Path(folder))

        nfes = [c.columns["nfe"] for c in self._cells(variant)]
        cell = self._cell(variant, nfes[0] if nfe is None else nfe, train_seed, sampler)
        if cell.distill is None:
            raise UserError(f"{variant}: trains nothing, so there are no weights to write")
        self._kept(cell.distill)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = weights_file(self._store.path(cell.distill), cell.checkpoint)
        shutil.copyfile(weights, target / WEIGHTS)
        facts = {**cell.distill.task.content, "sampling": cell.samples[0].task.content["sampling"]}
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

    def _export_teacher(self, target: Path) -> Path:
        import shutil

        from piflow_bench.pipeline.stages.teacher import TrainTeacher
        from piflow_bench.training.output import weights_file

        teacher, dataset = self._plan.teacher, self._plan.dataset
        made = next((s for s in self._plan.stages if isinstance(s.task, TrainTeacher)), None)
        if made is None or teacher is None or dataset is None:
            raise UserError("teacher: the run trained none; its files are where it has it from")
        target.mkdir(parents=True, exist_ok=True)
        weights = weights_file(self._kept(made))
        shutil.copyfile(weights, target / WEIGHTS)
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
            for kind in ("dataset", "teacher", "space"):
                for key, value in plain.get(kind, {}).items():
                    if isinstance(value, str) and (called / value).exists():
                        plain[kind][key] = str(called / value)
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


class Sampler:
    """A student of a run: a function from noise, or a seed, to samples at its NFE."""

    def __init__(self, run: Run, cell: Cell) -> None:
        self.run, self.nfe = run, int(cell.columns["nfe"])
        self._stage = cell.samples[0]

    def __call__(
        self, noise: torch.Tensor | int = 0, labels: Any = None, *, n: int | None = None
    ) -> torch.Tensor:
        """Samples ``(n, *shape)`` float32 in the model's space.

        Args:
            noise: noise ``(n, *shape)`` at t = 1; or a sample seed, with which sample i has the
                noise, label and step noise that a run of that ``sample_seed`` gives it.
            labels: classes ``(n,)``; by default those of the samples' indices.
            n: how many, of a seed; the run's batch by default.
        """
        import torch

        from piflow_bench.pipeline.plan import runtime_of
        from piflow_bench.pipeline.stages.samples import Sample
        from piflow_bench.randomness import SampleRandom

        task, runtime = self._stage.task, runtime_of(self.run.config)
        assert isinstance(task, Sample)
        folders = {k: [self.run._kept(s) for s in v] for k, v in self._stage.inputs.items()}
        given = isinstance(noise, torch.Tensor)
        seed = task.sample_seed if given else int(noise)
        count = len(noise) if given else n or runtime.sample_batch
        with _threads(self.run.config.training.threads), torch.no_grad():
            ready = task.ready(folders, runtime)
            where, dataset = ready.arithmetic, ready.dataset
            if isinstance(ready.network, torch.nn.Module):
                ready.network.eval()
            found = []
            for low in range(0, count, runtime.sample_batch):
                part = range(low, min(low + runtime.sample_batch, count))
                random = SampleRandom(seed, part, where.device)
                start = noise[part.start : part.stop].to(where.device) if given else None
                condition = dataset.conditions(seed, part)
                if labels is not None:
                    condition = condition.unpack(torch.as_tensor(labels)[part.start : part.stop])
                bound = ready.student.bind(ready.network)
                with where.autocast():
                    x = bound.sample(
                        random.noise(dataset.shape) if start is None else start,
                        condition.to(where.device),
                        self.nfe,
                        random,
                        **task.sampling,
                    )
                found.append(x.float().cpu())
        return torch.cat(found)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The run's number of threads, on which the last bits of a product depend."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
