"""From an experiment to its graph of stages and the cells of its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from piflow_bench import registry
from piflow_bench.config.schema import (
    QUESTIONS,
    ExperimentConfig,
    VariantConfig,
    keys_that_set,
    to_plain,
)
from piflow_bench.conformance.dataset import dataset_problems, network_of
from piflow_bench.contracts.backbone import lacking
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.method import Facts, Method
from piflow_bench.contracts.teacher import Guided, TeacherPlugin
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.files.hub import digest, local_path
from piflow_bench.pipeline.launchers.slurm.settings import check_resources
from piflow_bench.pipeline.loggers import check_logger
from piflow_bench.pipeline.plugin_sources import plugin_source
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.pipeline.sampling_settings import check_sampling
from piflow_bench.pipeline.stage import Stage, closure
from piflow_bench.settings import build_dataclass
from piflow_bench.sources import is_file_plugin, source_digest
from piflow_bench.tracks import DISTILLED, NONE, ONE_BUDGET
from piflow_bench.training.scale import Scale, division
from piflow_bench.training.settings import Budget, TrainingSettings

MODES = ("mode_share", "modes_covered", "mode_mass", "mode_tv")
"""Metrics of samples of a known mixture."""
BY_SIZE = ("fd", "fd_infinity")
"""Metrics of a closer look at the sample count."""


@dataclass(frozen=True)
class Variant:
    """A validated variant."""

    name: str
    config: VariantConfig
    method: Method
    facts: Facts
    settings: dict[str, Any]
    training: dict[str, Any]
    budget: dict[str, Any]
    nfes: list[int]
    source: str
    """Digest of the plugin's modules."""
    from_file: bool
    """Whether the plugin is a file, whose digest is its version."""
    base: str = ""
    """The variant that this one repeats, under another seed or budget; empty: none."""
    shares: int = 1
    """Trainings that share the budget which others have for each NFE."""

    @property
    def role(self) -> str:
        """student | teacher."""
        return "student" if self.facts.trains else "teacher"

    def key(self, world: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the student that the method builds; ``world`` is data and teacher."""
        content = {
            "method": self.config.method,
            "version": self.facts.version,
            "settings": self.settings,
            **world,
        }
        return {**content, "source": self.source} if self.from_file else content


@dataclass(frozen=True)
class Cell:
    """One result: where its parts are, and the columns of its rows."""

    columns: dict[str, Any]
    results: tuple[Stage, ...]
    samples: tuple[Stage, ...] = ()
    distill: Stage | None = None
    checkpoint: int | None = None
    closer: tuple[Stage, ...] = ()
    """A closer look at one set of samples for the page: no rows of results come from it."""


@dataclass
class Plan:
    """Everything that a run will do."""

    config: ExperimentConfig
    variants: list[Variant]
    cells: list[Cell] = field(default_factory=list)
    grid: tuple[Stage, ...] = ()
    """The converged teacher's samples from the noise that all students share."""
    protocol_hash: str = ""
    check: Stage | None = None
    """What the teacher must pass before anything else is made."""
    rules: dict[str, Any] = field(default_factory=dict)
    """What the hash stands for."""
    dataset: Dataset | None = None
    teacher: TeacherPlugin | None = None
    taken: str = ""
    """Which of the several sets of weights in its file the teacher has."""

    @property
    def stages(self) -> list[Stage]:
        """All stages, inputs first."""
        targets = [s for c in self.cells for s in (*c.results, *c.closer)]
        return closure([*([self.check] if self.check else []), *targets, *self.grid])


def runtime_of(config: ExperimentConfig) -> Runtime:
    """What the configuration says about this call and machine."""
    return Runtime(
        config.plugins,
        Given(config.dataset, config.teacher, config.space, config.extractors),
        config.sample_batch,
        config.save_seconds,
        config.scale,
        str(Path(config.runs) / "inputs"),
        config.student.checkpoint,
    )


def _variants(config: ExperimentConfig) -> list[Variant]:
    chosen = dict(config.variants)
    if config.only:
        chosen = {name: chosen[name] for name in config.only}
    if not chosen:
        raise UserError("variants: the experiment has none")
    folders = places(config.plugins)
    variants = []
    for name, entry in chosen.items():
        cls = registry.get("method", entry.method, folders)
        settings = build_dataclass(cls.Config, entry.settings, f"variants.{name}.settings")
        method = cls(settings)
        check_sampling(entry, cls, f"variants.{name}.sampling")
        training = to_plain(config.training)
        overrides = dict(entry.training)
        merged = {**training, **overrides}
        if "ema" in overrides:
            merged["ema"] = {**training["ema"], **overrides["ema"]}
        build_dataclass(TrainingSettings, merged, f"variants.{name}.training")
        # One unit for all: a variant of another batch gets the same compute.
        batch = config.budget.batch or config.training.batch
        budget = {**to_plain(config.budget), "batch": batch, **entry.budget}
        build_dataclass(Budget, budget, f"variants.{name}.budget")
        nfes = [n for n in config.nfes if entry.nfes is None or n in entry.nfes]
        for nfe in nfes:
            reason = method.serves(nfe)
            if reason:
                served = ",".join(str(n) for n in nfes if not method.serves(n))
                own = f"variants.{name}.nfes"
                advice = f"{own}=[{served}]" if served else f"{own} or nfes"
                raise UserError(
                    f"variants.{name}: cannot do NFE {nfe}: {entry.method} {reason}; set {advice}"
                )
        if not nfes:
            continue
        variants.append(
            Variant(
                name,
                entry,
                method,
                method.facts_for(),
                to_plain(settings),
                merged,
                budget,
                nfes,
                source_digest(cls),
                is_file_plugin(cls),
            )
        )
    if not variants:
        raise UserError(
            f"nfes={config.nfes}: no chosen variant is entered there; "
            + "; ".join(f"{name}: {entry.nfes}" for name, entry in chosen.items())
        )
    trained = [v.name for v in variants if v.facts.trains]
    leader = config.family.leader
    if leader in [v.name for v in variants] and leader not in trained:
        raise UserError(
            f"family.leader={leader}: trains nothing, so no student is compared with it; name one "
            f"of {', '.join(trained) or 'the trained variants'}"
        )
    if config.student.checkpoint and len(trained) != 1:
        raise UserError(
            "student.checkpoint: needs the one variant whose weights it holds, not "
            f"{', '.join(trained) or 'none'}; name it (and the teacher's rows) with only=[NAME,...]"
        )
    split_budgets = _sharing_one_budget(config, variants)
    if config.aa:
        first = next((v for v in variants if v.facts.trains), None)
        if first is not None:
            name = _twin_name(config, first, "aa", "aa=true")
            twin = replace(first.config, seed_offset=first.config.seed_offset + 1000)
            variants.append(replace(first, name=name, config=twin, base=first.name))
    return variants + split_budgets


def _twin_name(config: ExperimentConfig, variant: Variant, suffix: str, setting: str) -> str:
    name = f"{variant.name}-{suffix}"
    if name in config.variants:
        raise UserError(
            f"{setting}: enters {variant.name} again as {name}, a variant that the experiment "
            "has; name that one otherwise"
        )
    return name


def _sharing_one_budget(config: ExperimentConfig, variants: list[Variant]) -> list[Variant]:
    """Specialists again, all NFEs within the budget of an elastic student's one training.

    Trainings of their own, since learning rates fall with the spent share of the budget.
    """
    if not config.split_budget or config.student.checkpoint:
        return []
    distilled = [v for v in variants if v.facts.trains and v.facts.track == DISTILLED]
    served = {n for v in distilled if v.facts.elastic and len(v.nfes) > 1 for n in v.nfes}
    found = []
    for v in distilled:
        own = [n for n in v.nfes if n in served]
        if v.facts.elastic or len(own) < 2:  # For one NFE alone the whole budget is its share.
            continue
        budget = {**v.budget, "amount": v.budget["amount"] / len(own), "checkpoints": [1.0]}
        found.append(
            replace(
                v,
                name=_twin_name(config, v, "split", "split_budget=true"),
                config=replace(v.config, tuning=f"settings of {v.name}"),
                facts=replace(v.facts, track=ONE_BUDGET),
                budget=budget,
                nfes=own,
                base=v.name,
                shares=len(own),
            )
        )
    return found


def _check_protocol(config: ExperimentConfig, outputs: Iterable[str]) -> None:
    """Refuse names and settings that the metric stages would fail on."""
    from piflow_bench.evaluation.metrics.metric import all_metrics
    from piflow_bench.evaluation.settings import make_settings

    p = config.protocol
    for key in ("metrics", "curve_metrics"):
        names = getattr(p, key)
        if not names:
            raise UserError(f"protocol.{key}=[]: at least one metric is needed")
        for name in names:
            meant = all_metrics()[name].extractor
            other = next((each for each in p.extractors if meant not in (None, each)), None)
            if other is not None:
                raise UserError(
                    f"protocol.{key}={name}: is of the extractor {meant}, not of {other}; the "
                    "formula on any features is mmd_rbf_unit"
                )
            given = {"generated", "reference", "labels", *outputs}
            beyond = set(all_metrics()[name].needs) - given
            if beyond:
                raise UserError(
                    f"protocol.{key}={name}: needs {' and '.join(sorted(beyond))}, which this "
                    "dataset's extractors do not give"
                )
    for key in ("primary_quality", "primary_diversity"):
        if getattr(p, key) not in p.metrics:
            raise UserError(
                f"protocol.{key}={getattr(p, key)}: not in protocol.metrics; "
                f"{nearest(getattr(p, key), list(p.metrics))}"
            )
    if p.primary_question not in p.questions:
        raise UserError(
            f"protocol.primary_question={p.primary_question}: not in protocol.questions; "
            f"{nearest(p.primary_question, list(p.questions))}"
        )
    make_settings(p.settings, "protocol.settings")


def _check_machine(config: ExperimentConfig, scale: Scale) -> None:
    """Refuse a layout of training that this machine cannot run."""
    try:
        division(config.training.batch, scale.processes, scale.micro_batch)
    except ValueError as error:
        raise UserError(str(error)) from error
    asking = keys_that_set(config, "adamw8bit")
    if asking and not find_spec("bitsandbytes"):
        raise UserError(
            f"{asking[0]}=adamw8bit: needs bitsandbytes: pip install bitsandbytes, or set "
            + " ".join(f"{key}=adamw" for key in asking)
        )
    if scale.device == "cuda":
        import torch

        found = torch.cuda.device_count()
        if found < scale.processes:
            raise UserError(
                f"scale.device={scale.device}: {scale.processes} needed, {found} GPUs found; set "
                "scale.processes, or scale.device=cpu"
            )


def _check_batch(batch: int, scale: Scale) -> None:
    """Refuse a teacher's batch that does not divide as its training would."""
    try:
        division(batch, scale.processes, scale.micro_batch)
    except ValueError as error:
        words = str(error).replace("training.batch", "teacher.batch")
        raise UserError(words) from error


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _world(
    config: ExperimentConfig, runtime: Runtime, look: bool
) -> tuple[Dataset, TeacherPlugin, str]:
    """Data, teacher, and which set of weights it takes; with ``look`` both are tried.

    Raises:
        UserError: with all that is wrong with data, conditions or teacher.
    """
    name, teacher = config.dataset.get("name"), runtime.teacher_plugin()
    try:
        dataset = runtime.dataset()
        if teacher.guidance.on and isinstance(dataset.train_condition, Unconditional):
            raise UserError(
                f"teacher.guidance={teacher.guidance.scale:g}: {dataset.name} has no classes to "
                "guide by; teacher.guidance=1"
            )
        taken = teacher.look(dataset)
    except (TypeError, ValueError) as error:
        raise UserError(f"dataset={name}: {error}") from error
    key = (id(dataset), json.dumps(config.teacher, sort_keys=True))
    if look and key not in _sound:
        problems = dataset_problems(dataset, "data" in config.protocol.questions)
        if problems:
            raise UserError(f"dataset {name}: {'; '.join(problems)}")
        _, problems = network_of(dataset, teacher)
        if problems:
            raise UserError(f"teacher {config.teacher['name']}: {'; '.join(problems)}")
        _sound[key] = dataset  # Kept, so that the number is its own.
    return dataset, teacher, taken


_sound: dict[tuple[int, str], Dataset] = {}
"""Datasets that were looked at, with the teacher they were."""


class _Planner:
    """Builds the stages of one experiment."""

    def __init__(self, config: ExperimentConfig, look: bool) -> None:
        self.config, self.protocol = config, config.protocol
        self.runtime = runtime_of(config)
        use_plugins(self.runtime.folders)
        # Slurm's trainings run elsewhere; the launcher checks theirs.
        if look and config.launcher.name != "slurm":
            _check_machine(config, self.runtime.scale)
        self.dataset, self.teacher, self.taken = _world(config, self.runtime, look)
        for key, choices in (("extractors", ["NAME"]), ("questions", QUESTIONS)):
            if not getattr(self.protocol, key):
                raise UserError(
                    f"protocol.{key}=[]: at least one of {', '.join(choices)} is needed"
                )
        plugins = {n: self.runtime.extractor_plugin(n) for n in self.protocol.extractors}
        for name, extractor in plugins.items():
            if extractor.of_points != (self.dataset.space.pictures is None):
                what = "points" if extractor.of_points else "pictures"
                raise UserError(
                    f"protocol.extractors={name}: describes {what}, which the samples of "
                    f"{self.dataset.name} are not"
                )
        # What is in the key of which stage: data and labels, how samples are looked at, teacher.
        self.dataset_key = {
            "name": config.dataset["name"],
            "settings": dict(self.runtime.dataset_plugin().identity()),
            "digest": self.dataset.digest,
            **plugin_source("dataset", config.dataset["name"], self.runtime),
        }
        self.space_key = {
            "name": self.runtime.space_name,
            "settings": dict(self.runtime.space_plugin().identity()),
            **plugin_source("space", self.runtime.space_name, self.runtime),
        }
        self.world_key = {
            "dataset": self.dataset_key,
            "space": self.space_key,
            "teacher": {
                "name": config.teacher["name"],
                "settings": dict(self.teacher.identity()),
                **plugin_source("teacher", config.teacher["name"], self.runtime),
            },
        }
        self.judge_name = self.runtime.dataset_plugin().judge
        described = [*plugins, *([self.judge_name] if self.judge_name else [])]
        self.extractor_keys = {
            n: {
                **self.runtime.extractor_plugin(n).identity(),
                **plugin_source("extractor", n, self.runtime),
            }
            for n in described
        }
        self.teacher_inputs: dict[str, tuple[Stage, ...]] = {}
        if self.teacher.made:
            self.teacher_inputs = {"teacher": (self.teacher_stage(),)}
        self.check = self.check_stage()
        self.after = (self.check,) if self.check else ()
        given = [set(extractor.outputs) for extractor in plugins.values()]
        _check_protocol(config, set.intersection(*given))
        self.judged = self.judge_name is not None
        protocol = to_plain(self.protocol)
        others = {
            **self.world_key,
            "converged": [
                config.converged.solver,
                config.converged.steps,
                *config.converged.shift_for_key().values(),
            ],
            "label_law": self.dataset.label_law or "not stated",
            "extractors": self.extractors(),
            "judge": self.judge(),
        }
        self.protocol_hash = _hash({"protocol": protocol, **others})
        self.rules = protocol | others

    def teacher_stage(self) -> Stage:
        """What makes the teacher's weights."""
        training = self.teacher.training(self.dataset)
        if training is not None:
            _check_batch(training.settings.batch, self.runtime.scale)
        if training is None:
            return Stage("teacher", self.world_key, {}, "common start of all students")
        # Guidance is of sampling: it trains nothing anew.
        guided = {f.name for f in dataclasses.fields(Guided)}
        teacher = self.world_key["teacher"]
        settings = {k: v for k, v in teacher["settings"].items() if k not in guided}
        content = {
            **self.world_key,
            "teacher": {**teacher, "settings": settings},
            "training": to_plain(training.settings),
            "budget": to_plain(training.budget),
            "train_seed": training.seed,
        }
        return Stage("train_teacher", content, {}, "teacher: training", weight=300)

    def check_stage(self) -> Stage | None:
        """What the teacher must pass before anything else is made, where there are data."""
        if not self.config.check_teacher or not len(self.dataset.training_rows):
            return None
        return Stage("teacher_check", self.world_key, self.teacher_inputs, "teacher: check")

    # -------------------------------------------------------------- samples and features

    def extractors(self) -> dict[str, Any]:
        """The protocol's extractors with what decides their outputs."""
        return {n: self.extractor_keys[n] for n in self.protocol.extractors}

    def judge(self) -> dict[str, Any] | None:
        """The judge with what decides its logits, where there is one."""
        return {self.judge_name: self.extractor_keys[self.judge_name]} if self.judge_name else None

    def versions(self, names: Iterable[str]) -> dict[str, Any]:
        """What decides metrics, by name."""
        from piflow_bench.evaluation.metrics.metric import all_metrics

        return {name: all_metrics()[name].key for name in names}

    def shards(self, n: int) -> list[tuple[int, int, str]]:
        """First and last index of every shard of ``n`` samples, with words where several."""
        edges = [(low, min(low + self.config.shard, n)) for low in range(0, n, self.config.shard)]
        return [(low, high, f" [{low}:{high}]" if len(edges) > 1 else "") for low, high in edges]

    def converged(self, n: int, seed: int, label: str) -> tuple[Stage, ...]:
        """Shards of converged teacher samples."""
        return tuple(
            Stage(
                "converged",
                {
                    **self.world_key,
                    "solver": self.config.converged.solver,
                    "steps": self.config.converged.steps,
                    **self.config.converged.shift_for_key(),
                    "seed": seed,
                    "start": low,
                    "stop": high,
                    "precision": self.protocol.precision,
                },
                self.teacher_inputs,
                f"{label}{words}",
                weight=(high - low) / 200,
                after=self.after,
            )
            for low, high, words in self.shards(n)
        )

    def real(self, split: str, seed: int = 0, n: int = 0) -> Stage:
        """A split of the data, or fresh exact samples."""
        content = {
            "dataset": self.dataset_key,
            "space": self.space_key,
            "split": split,
            "seed": seed,
            "n": n,
        }
        return Stage("draw", content, {}, f"{split} samples")

    def training_images(self) -> Stage:
        """The training set, or as much of one that is read from disk as the protocol compares."""
        whole = self.dataset.rows is None and self.dataset.reference is None
        return self.real("train", n=0 if whole else self.protocol.data_samples)

    def real_reference(self) -> Stage:
        """Features and moments of a reference that is given as a file."""
        content = {"dataset": self.dataset_key, "extractors": self.extractors()}
        return Stage("real_reference", content, {}, "features of the real reference", weight=20)

    def features(self, samples: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """Features of every shard of samples."""
        content = {
            "space": self.space_key,
            "extractors": self.extractors(),
            "judge": self.judge(),
        }
        return tuple(
            Stage("features", content, {"samples": (s,)}, f"features of {s.label}", s.about)
            for s in samples
        )

    def metrics(
        self,
        generated: tuple[Stage, ...],
        reference: tuple[Stage, ...],
        question: str,
        extractor: str,
        n: int,
        names: list[str],
        label: str,
        labels: dict[str, Any] | None,
    ) -> Stage:
        """Metrics of one question on one extractor; ``labels``: see ``pipeline.labels``."""
        first = extractor == self.protocol.extractors[0]
        accuracy = self.judged and first and question == "data"
        modes = _modes(self.dataset) and len(names) > 2
        measured = [*names, *["class_accuracy"] * accuracy, *MODES * modes]
        content = {
            "dataset": self.dataset_key,
            "question": question,
            "extractor": extractor,
            "n": n,
            "metrics": names,
            "versions": self.versions(measured),
            "settings": dict(self.protocol.settings),
            "accuracy": accuracy,
            "modes": modes,
            "labels": labels,
            "reference_labels": self.reference_labels(question),
        }
        inputs = {"generated": generated, "reference": reference}
        return Stage("metrics", content, inputs, f"{question} metrics of {label}", weight=2)

    # -------------------------------------------------------------- questions

    def references(self) -> dict[str, tuple[Stage, ...]]:
        """Reference features of every question."""
        p = self.protocol
        found: dict[str, tuple[Stage, ...]] = {}
        for question in p.questions:
            if question == "imitation":
                label = "converged teacher, reference"
                shards = self.converged(p.reference_samples, p.reference_seed, label)
                found[question] = self.features(shards)
            elif question == "data" and self.dataset.reference is not None:
                found[question] = (self.real_reference(),)
            elif question == "data":
                found[question] = self.features((self.real("test"),))
            elif question == "truth":
                fresh = self.real("exact", p.reference_seed, p.reference_samples)
                found[question] = self.features((fresh,))
        return found

    def labels(self, seed: int) -> dict[str, Any]:
        """Where samples that are drawn with a seed have their classes from."""
        return {"from": "conditions", "seed": seed, "law": self.dataset.label_law}

    def reference_labels(self, question: str) -> dict[str, Any] | None:
        """The same for the reference of a question."""
        if question == "imitation":
            return self.labels(self.protocol.reference_seed)
        held_out = question == "data" and self.dataset.reference is None
        return {"from": "test"} if held_out else None

    def evaluate(
        self,
        generated: tuple[Stage, ...],
        references: Mapping[str, tuple[Stage, ...]],
        final: bool,
        label: str,
        labels: dict[str, Any] | None,
    ) -> tuple[Stage, ...]:
        """The metric stages of one set of samples: all at the end, the curve's before it."""
        p = self.protocol
        stages = []
        for question, reference in references.items():
            if not final and question != p.primary_question:
                continue
            for extractor in p.extractors if final else p.extractors[:1]:
                n = p.samples if final else p.curve_samples
                if question == "data":
                    n = min(n, p.data_samples)
                names = list(p.metrics if final else p.curve_metrics)
                stages.append(
                    self.metrics(generated, reference, question, extractor, n, names, label, labels)
                )
        return tuple(stages)

    # -------------------------------------------------------------- a closer look

    def closer(
        self,
        samples: tuple[Stage, ...],
        generated: tuple[Stage, ...],
        references: Mapping[str, tuple[Stage, ...]],
        paired: tuple[Stage, ...],
        label: str,
        about: Mapping[str, Any],
    ) -> tuple[Stage, ...]:
        """Numbers by sample count and class, and selected samples, under the primary features."""
        p = self.protocol
        if self.dataset.space.pictures is None:
            return ()
        content = {
            "dataset": self.dataset_key,
            "space": self.space_key,
            "extractor": p.extractors[0],
            "question": p.primary_question,
            "sample_seed": self.config.sample_seed,
        }
        reference = references[p.primary_question]
        n = p.samples if p.primary_question != "data" else min(p.samples, p.data_samples)
        asked = {
            "n": n,
            "metrics": [p.primary_quality, p.primary_diversity],
            "versions": self.versions([p.primary_quality, p.primary_diversity, *BY_SIZE]),
            "by_size": "fd" in p.metrics,
            "settings": dict(p.settings),
            "reference_seed": p.reference_seed,
        }
        given = self.dataset.reference is not None
        looked = {
            "samples": samples,
            "features": generated,
            "converged": paired,
            "reference": reference,
        }
        if len(self.dataset.training_rows):
            train = self.training_images()
            looked |= {"train": (train,), "train_features": self.features((train,))}
            if not given and len(self.dataset.held_out):
                looked["test_features"] = self.features((self.real("test"),))
        return (
            Stage(
                "breakdown",
                content | asked,
                {"generated": generated, "reference": reference},
                f"sample counts and classes of {label}",
                about,
                weight=2,
            ),
            Stage("selection", content, looked, f"selected samples of {label}", about, weight=2),
        )

    # -------------------------------------------------------------- variants

    def published_cells(
        self,
        variant: Variant,
        references: Mapping[str, tuple[Stage, ...]],
        paired: tuple[Stage, ...],
    ) -> list[Cell]:
        """The cells of a variant whose weights are given instead of trained."""
        nfe = variant.nfes[0] if not variant.facts.elastic else None
        source = self.config.student.checkpoint
        assert source is not None
        content = {
            **variant.key(self.world_key),
            "train_nfe": nfe,
            "train_seed": 0,
            "weights": digest(local_path(source, "student.checkpoint")),
        }
        about = {"variant": variant.name, "train_seed": None, "train_nfe": nfe}
        stage = Stage(
            "published", content, self.teacher_inputs, f"{variant.name}: published weights", about
        )
        base = variant.key(self.world_key)
        return [
            self._cell(variant, base, references, paired, n, None, stage, None, sampling)
            for n in variant.nfes
            for sampling in _each_sampling(variant)
        ]

    def variant_cells(
        self,
        variant: Variant,
        references: Mapping[str, tuple[Stage, ...]],
        paired: tuple[Stage, ...],
    ) -> list[Cell]:
        """The cells of one variant."""
        cells = []
        facts = variant.facts
        if facts.trains and self.config.student.checkpoint:
            return self.published_cells(variant, references, paired)
        base = variant.key(self.world_key)
        if not facts.trains:
            return [
                self._cell(variant, base, references, paired, nfe, None, None, None, sampling)
                for nfe in variant.nfes
                for sampling in _each_sampling(variant)
            ]
        budget = variant.budget
        for seed in self.config.train_seeds:
            shared: Stage | None = None
            for nfe in variant.nfes:
                train_nfe = None if facts.elastic else nfe
                if shared is None or not facts.elastic:
                    content = {
                        **base,
                        "training": variant.training,
                        "budget": budget,
                        "train_nfe": train_nfe,
                        "train_seed": seed + variant.config.seed_offset,
                    }
                    what = "" if facts.elastic else f" for {nfe} NFE"
                    shared = Stage(
                        "distill",
                        content,
                        self.teacher_inputs,
                        f"{variant.name}{what}, seed {seed}: training",
                        {
                            "variant": variant.name,
                            "base": variant.base or variant.name,
                            "train_seed": seed,
                            "train_nfe": train_nfe,
                        },
                        weight=100 * budget["amount"] / self.config.budget.amount,
                        after=self.after,
                    )
                cells += [
                    self._cell(variant, base, references, paired, nfe, seed, shared, i, sampling)
                    for i in range(len(budget["checkpoints"]))
                    for sampling in _each_sampling(variant)
                ]
        return cells

    def _cell(
        self,
        variant: Variant,
        base: dict[str, Any],
        references: Mapping[str, tuple[Stage, ...]],
        paired: tuple[Stage, ...],
        nfe: int,
        seed: int | None,
        distill: Stage | None,
        checkpoint: int | None,
        sampling: dict[str, Any],
    ) -> Cell:
        p, facts = self.protocol, variant.facts
        fractions = variant.budget["checkpoints"]
        final = checkpoint is None or checkpoint == len(fractions) - 1
        n = p.samples if final else p.curve_samples
        content = {
            **base,
            "nfe": nfe,
            "sampling": sampling,
            "sample_seed": self.config.sample_seed,
            "precision": p.precision,
        }
        inputs = dict(self.teacher_inputs)
        about: dict[str, Any] = {"variant": variant.name, "train_seed": seed}
        label = f"{variant.name} at {nfe} NFE"
        if sampling != variant.config.sampling:  # One of several settings.
            label += f" ({_words(sampling)})"
        if distill is not None:
            content |= {
                "checkpoint": checkpoint,
                "train_nfe": distill.config["train_nfe"],
                "train_seed": distill.config["train_seed"],
            }
            inputs["distill"] = (distill,)
            label += f", seed {seed}, {fractions[checkpoint or 0]:.0%} of the budget"
        samples = tuple(
            Stage(
                "sample",
                {**content, "start": low, "stop": high},
                inputs,
                f"samples of {label}{words}",
                about,
                weight=3,
                after=self.after,
            )
            for low, high, words in self.shards(n)
        )
        generated = self.features(samples)
        labels = self.labels(self.config.sample_seed)
        results = list(self.evaluate(generated, references, final, label, labels))
        if final and p.agreement and not facts.stochastic_at(nfe):
            results.append(
                Stage(
                    "agreement",
                    {
                        "dataset": self.dataset_key,
                        "metric": p.agreement,
                        "versions": self.versions([p.agreement]),
                        "labels": labels,
                    },
                    {"samples": samples, "converged": paired},
                    f"agreement with the teacher of {label}",
                )
            )
        guided = facts.guidance != "none" and isinstance(self.teacher.config, Guided)
        scale = self.teacher.guidance.scale if guided else None
        shown = final and seed in (None, self.config.train_seeds[0]) and variant.shares == 1
        look = (samples, generated, references, paired, label, about)
        columns = {
            "variant": variant.name,
            "method": variant.config.method,
            "family": facts.family,
            "track": facts.track,
            "role": variant.role,
            "serves": _serves(variant, nfe),
            "shares": variant.shares,
            "train_seed": seed,
            "budget_fraction": fractions[checkpoint] if checkpoint is not None else 1.0,
            "nfe": nfe,
            "guidance": sampling.get("guidance", scale),
            "sampler": _sampler_text(variant, sampling),
        }
        closer = self.closer(*look) if shown else ()
        return Cell(columns, tuple(results), samples, distill, checkpoint, closer)

    # -------------------------------------------------------------- controls

    def controls(
        self, references: Mapping[str, tuple[Stage, ...]], paired: tuple[Stage, ...]
    ) -> list[Cell]:
        """Rows that say what any student can reach: never ranked."""
        p = self.protocol

        def columns(name: str, sampler: str = "") -> dict[str, Any]:
            return {
                "variant": name,
                "method": "",
                "family": "control",
                "track": NONE,
                "role": "control",
                "serves": "",
                "shares": 1,
                "train_seed": None,
                "budget_fraction": 1.0,
                "nfe": None,  # Counted while it samples: see the stage's facts.
                "guidance": None,
                "sampler": sampler,
            }

        generated = self.features(paired)
        label = "teacher-converged"
        solved = str(self.config.converged)
        cells = [
            Cell(
                columns(label, solved),
                self.evaluate(
                    generated, references, True, label, self.labels(self.config.sample_seed)
                ),
                samples=paired,
                closer=self.closer(paired, generated, references, paired, label, {}),
            )
        ]
        if "data" in p.questions:
            given = self.dataset.reference is not None
            images = self.training_images()
            train = self.features((images,))
            test = references["data"]
            of_train = {"from": "train", "n": images.config["n"]}
            cells.append(
                Cell(
                    columns("memoriser"),
                    self.evaluate(train, references, True, "memoriser", of_train),
                )
            )
            # A reference that is a file has no samples to divide anew.
            real = tuple(
                Stage(
                    "partition",
                    {
                        "dataset": self.dataset_key,
                        "question": "data",
                        "extractor": extractor,
                        "reference": len(self.dataset.held_out),
                        "n": min(p.samples, p.data_samples),
                        "metrics": list(p.metrics),
                        "versions": self.versions(p.metrics),
                        "settings": dict(p.settings),
                        "labels": [of_train, {"from": "test"}],
                        "repeats": 5,
                    },
                    {"real": train + test},
                    "real against real",
                )
                for extractor in (() if given else p.extractors)
            )
            if real:
                cells.append(Cell(columns("real-vs-real"), real))
        if "truth" in p.questions:
            fresh = self.real("exact", p.reference_seed + 1, p.samples)
            exact = self.features((fresh,))
            cells.append(
                Cell(
                    columns("real-vs-real"),
                    self.evaluate(
                        exact, {"truth": references["truth"]}, True, "exact samples", None
                    ),
                )
            )
        return cells


def _modes(dataset: Dataset) -> bool:
    return dataset.truth is not None and dataset.truth.modes is not None


def _serves(variant: Variant, nfe: int) -> str:
    """The NFEs that one training serves, as "1,4"; empty where nothing is trained."""
    if not variant.facts.trains:
        return ""
    return ",".join(map(str, variant.nfes if variant.facts.elastic else [nfe]))


def _each_sampling(variant: Variant) -> list[dict[str, Any]]:
    """The settings of every way in which a variant is sampled: a list holds several values.

    They share one training; in the results each is a competitor of its own.
    """
    entries = variant.config.sampling.items()
    choices = [v if isinstance(v, (list, tuple)) else [v] for _, v in entries]
    names = [name for name, _ in entries]
    return [dict(zip(names, values, strict=True)) for values in product(*choices)]


def _sampler_text(variant: Variant, sampling: Mapping[str, Any]) -> str:
    return _words({**({} if variant.facts.trains else variant.settings), **sampling})


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items())


def _check_backbones(
    config: ExperimentConfig, variants: Iterable[Variant], planner: _Planner
) -> None:
    """Refuse variants that need more of the teacher's network than it has."""
    needing = [v for v in variants if v.facts.backbone]
    if not needing:
        return
    network, _ = network_of(planner.dataset, planner.teacher)
    found = {v.name: lacking(network, v.facts.backbone) for v in needing}
    short = [name for name, parts in found.items() if parts]
    if short:
        others = [v.name for v in variants if v.name not in short]
        fix = f"; only=[{','.join(others)}] leaves such variants out" if others else ""
        parts = " and ".join(found[short[0]])
        raise UserError(
            f"variants.{short[0]}: needs {parts} of the teacher's network, which "
            f"{type(network).__name__} of teacher={config.teacher['name']} has not (see "
            f"docs/add-a-teacher.md){fix}"
        )


def make_plan(config: ExperimentConfig, look: bool = True) -> Plan:
    """Validate an experiment and lay out its stages; computes nothing.

    Args:
        config: the experiment.
        look: whether to look at this machine, at the data, and once at what the teacher gives: who
            starts a run wants to know, not who asks what became of one.

    Raises:
        UserError: for settings that no run could satisfy.
    """
    if look:
        check_logger(config.logger)
    planner = _Planner(config, look)
    variants = _variants(config)
    check_resources(config.launcher, config.variants)
    if look:
        _check_backbones(config, variants, planner)
    plan = Plan(
        config,
        variants,
        protocol_hash=planner.protocol_hash,
        rules=planner.rules,
        check=planner.check,
        dataset=planner.dataset,
        teacher=planner.teacher,
        taken=planner.taken,
    )
    references = planner.references()
    paired = planner.converged(
        config.protocol.samples, config.sample_seed, "converged teacher, same noise"
    )
    for variant in variants:
        plan.cells += planner.variant_cells(variant, references, paired)
    plan.cells += planner.controls(references, paired)
    plan.grid = paired
    return plan
