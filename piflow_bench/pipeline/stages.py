"""What every kind of stage does. A stage reads its inputs' folders and writes into its own.

Each function takes ``(config, inputs, folder, runtime, report)``; ``runtime`` holds what does not
determine results (plugin folders, batch sizes, paths).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from piflow_bench import registry
from piflow_bench.conformance.dataset import teacher_problems
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.method import Method, Spec
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.evaluation.extractors.extractor import usual_batch
from piflow_bench.files.hub import local_path
from piflow_bench.files.rows import Parts
from piflow_bench.pipeline import arrays
from piflow_bench.pipeline.closer import breakdown, selection
from piflow_bench.pipeline.labels import design_of, labels_of
from piflow_bench.pipeline.launchers.torchrun import in_processes
from piflow_bench.pipeline.runtime import Inputs, Report, Runtime, described
from piflow_bench.pipeline.store.attempts import begin_anew
from piflow_bench.settings import build_dataclass
from piflow_bench.training.distributed import world
from piflow_bench.training.events import followed
from piflow_bench.training.loop import LOG_FILE, train
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import TrainingData

if TYPE_CHECKING:
    from piflow_bench.evaluation.uncertainty import Interval
    from piflow_bench.sampling import Arithmetic


def load_method(config: Mapping[str, Any], runtime: Runtime) -> Method:
    """The configured method of a stage."""
    cls = registry.get("method", config["method"], runtime.folders)
    return cls(build_dataclass(cls.Config, config["settings"], f"variants.{config['method']}"))


def _teacher(inputs: Inputs, runtime: Runtime) -> Teacher:
    return runtime.teacher(inputs["teacher"][0] if "teacher" in inputs else None)


def _spec(config: Mapping[str, Any], runtime: Runtime, batch: int, seed: int, device: str) -> Spec:
    dataset, teacher = runtime.dataset(), runtime.teacher_plugin()

    def fresh() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return teacher.fresh_network(dataset)

    train_nfe = config.get("train_nfe")
    return Spec(dataset.shape, train_nfe, batch, fresh, dataset.train_condition, device, seed)


def _training(config: Mapping[str, Any]) -> TrainingSettings:
    return build_dataclass(TrainingSettings, config["training"], "training")


JUDGE = "judge"
"""The name of the judge's logits among features."""
REFERENCE_CHUNK = 256
"""Images of a reference that are held at once."""


class NotFinite(RuntimeError):
    """Samples with a NaN or an infinity: what made them is broken, and so would be all scores."""


def _save_samples(folder: Path, x: Tensor, first: int = 0) -> None:
    """Write ``samples.npy``: samples ``(n, *shape)``, from index ``first`` on.

    Raises:
        NotFinite: naming how many are not, and the first of them.
    """
    bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise NotFinite(
            f"{len(bad)} of {len(x)} samples are not finite; the first is sample {first + bad[0]}"
        )
    np.save(folder / "samples.npy", x.numpy())


# ------------------------------------------------------------------ stages


def fit_teacher(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Make the teacher's weights, or the common start of a closed form's students."""
    runtime.teacher_plugin().make(runtime.dataset(), folder, report)


def train_teacher(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Train the teacher from the dataset; leaves its averaged weights."""
    if runtime.scale.processes > world()[1]:
        in_processes("train_teacher", config, inputs, folder, runtime)
        return
    dataset, plugin = runtime.dataset(), runtime.teacher_plugin()
    training = plugin.training(dataset)
    assert training is not None
    spec = _spec(config, runtime, training.settings.batch, training.seed, runtime.scale.device)
    start = spec.fresh_network()
    threads = torch.get_num_threads()
    try:
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
    finally:
        torch.set_num_threads(threads)  # The stages that follow have their own.


class Unfit(RuntimeError):
    """A teacher that is none of the experiment's data as its settings have it."""


def teacher_check(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Measure the teacher on real samples, in its own and in other readings.

    Raises:
        Unfit: naming the reading that is clearly better than the one that is set.
    """
    from piflow_bench.conformance.teacher import look_at

    report(0.0, "the teacher on real samples")
    teacher = _teacher(inputs, runtime).to(runtime.scale.device)
    problems = teacher_problems(runtime.dataset(), teacher, runtime.scale.device)
    if problems:
        raise Unfit("; ".join(problems))
    found = look_at(runtime.dataset(), teacher, runtime.scale.device)
    if found.problem:
        raise Unfit(found.problem)
    (folder / "check.json").write_text(json.dumps(found.plain()))


def converged(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Samples of the guided teacher, solved to convergence."""
    from piflow_bench import sampling

    where = sampling.Arithmetic(runtime.scale.device, config.get("precision", "fp32"))
    x, nfe = sampling.converged(
        _teacher(inputs, runtime).to(where.device),
        runtime.dataset(),
        range(config["start"], config["stop"]),
        config["seed"],
        config["solver"],
        config["steps"],
        runtime.sample_batch,
        report,
        where,
        parts := Parts(folder / "parts", runtime.save_seconds),
        config.get("shift", 1.0),
    )
    _save_samples(folder, x, config["start"])
    (folder / "facts.json").write_text(json.dumps({"n": len(x), "nfe": nfe}))
    parts.forget()


def draw(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Real samples: a split of the dataset, or fresh exact draws."""
    dataset = runtime.dataset()
    if config["split"] == "exact":
        assert dataset.truth is not None
        x = dataset.truth.draw(config["seed"], config["n"])
    elif config["split"] == "train" and config["n"]:
        x = dataset.memorised(config["n"])
    else:
        rows = dataset.held_out if config["split"] == "test" else dataset.training_rows
        x = rows.take(torch.arange(len(rows)), None)
    _save_samples(folder, x)


def distill(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Train one variant with one seed; leaves the weights at every budget checkpoint."""
    if runtime.scale.processes > world()[1]:
        in_processes("distill", config, inputs, folder, runtime)
        return
    dataset = runtime.dataset()
    settings = _training(config)
    seed = config["train_seed"]
    with followed(folder / LOG_FILE, runtime.events.get(folder.name), report) as told:
        train(
            load_method(config, runtime),
            _teacher(inputs, runtime),
            TrainingData(dataset.training_rows, dataset.train_condition),
            _spec(config, runtime, settings.batch, seed, runtime.scale.device),
            settings,
            build_dataclass(Budget, config["budget"], "budget"),
            seed,
            folder,
            told,
            save_seconds=runtime.save_seconds,
            scale=runtime.scale,
            anew=partial(begin_anew, folder),
        )


def published(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """A published student's weights, in the place of a training run's last checkpoint."""
    from piflow_bench.files.weights import load_into, read_weights
    from piflow_bench.networks.pretrained import dit_state

    source = runtime.student or ""
    built = load_method(config, runtime).build(
        _teacher(inputs, runtime), _spec(config, runtime, 1, 0, "cpu")
    )
    network: Any = built.modules["student"]
    found = read_weights(local_path(source))
    state = found.state
    if set(state) != set(network.state_dict()):  # Not as `Run.export` writes them.
        state = dit_state(state, f"student.checkpoint={source}")
        if hasattr(network, "from_published"):
            state = network.from_published(state)
    load_into(network, {k: v.float() for k, v in state.items()}, f"student.checkpoint={source}")
    save_file(network.state_dict(), folder / "checkpoint_0.safetensors")
    row = {
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
    (folder / "checkpoints.json").write_text(json.dumps([row]))
    (folder / "log.jsonl").write_text("")


@dataclass(frozen=True)
class ReadyStudent:
    """A student with the weights of its checkpoint, and what it is sampled with."""

    student: Student
    network: Any
    dataset: Dataset
    arithmetic: Arithmetic


def ready_student(config: Mapping[str, Any], inputs: Inputs, runtime: Runtime) -> ReadyStudent:
    """The student of a ``sample`` stage."""
    from piflow_bench.sampling import Arithmetic

    where = Arithmetic(runtime.scale.device, config.get("precision", "fp32"))
    teacher: Teacher = _teacher(inputs, runtime).to(where.device)
    seed = config.get("train_seed") or 0
    spec = _spec(config, runtime, 1, seed, where.device)
    built = load_method(config, runtime).build(teacher, spec)
    network: Any = built.modules["student"]
    if "distill" in inputs:
        weights = inputs["distill"][0] / f"checkpoint_{config['checkpoint'] or 0}.safetensors"
        network.load_state_dict(load_file(weights))
        network = network.to(where.device)
    elif teacher.closed_form:
        network = teacher.field
    return ReadyStudent(built.student, network, runtime.dataset(), where)


def sample(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Samples of one checkpoint at one NFE, of a range of indices."""
    from piflow_bench import sampling

    ready = ready_student(config, inputs, runtime)
    drawn = sampling.sample(
        ready.student,
        ready.network,
        ready.dataset,
        range(config["start"], config["stop"]),
        config["nfe"],
        config["sample_seed"],
        runtime.sample_batch,
        config["sampling"],
        report,
        ready.arithmetic,
        parts := Parts(folder / "parts", runtime.save_seconds),
    )
    _save_samples(folder, drawn.x, config["start"])
    parts.forget()
    facts = {
        "nfe": drawn.nfe,
        "n": len(drawn.x),
        "flops_per_sample": drawn.flops_per_sample,
        "sample_seconds": drawn.seconds_per_sample,
        "policy_seconds": drawn.policy_seconds_per_sample,
        "memory": drawn.memory,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def features(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Features of samples under every extractor, and the judge's logits."""
    space = runtime.dataset().space
    x = torch.from_numpy(arrays.samples(inputs["samples"]))
    judges = config["judge"] or {}
    written: dict[str, np.ndarray] = {}
    # What is decoded is decoded once, for all of them.
    parts = {n: Parts(folder / "parts" / n, runtime.save_seconds) for n in config["extractors"]}
    parts |= {JUDGE: Parts(folder / "parts" / JUDGE, runtime.save_seconds)} if judges else {}
    names = {n: n for n in config["extractors"]}
    for judge in judges:  # One, or none.
        names[JUDGE] = judge
    begun = min(part.rows for part in parts.values())
    for i in range(begun, len(x), space.chunk):
        batch = x[i : i + space.chunk]
        seen = batch.numpy() if space.pictures is None else space.pictures(batch)
        for name, part in parts.items():
            if part.rows > i:  # It had come further.
                continue
            extractor = runtime.extractor(names[name])
            found = described(extractor, seen, usual_batch(extractor.device))
            if name == JUDGE:
                found = {"features": found["logits"]}
            part.add(len(batch), **found)
            report(part.rows / len(x), f"{names[name]}: {part.rows} samples")
    for name, part in parts.items():
        written |= {arrays.array_name(name, output): v for output, v in part.arrays().items()}
    np.savez(folder / "features.npz", **written)
    shutil.rmtree(folder / "parts")


def real_reference(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Features and moments of real images that are given as a file."""
    from piflow_bench.evaluation.sources import open_reference

    path = runtime.dataset().reference
    assert path is not None
    written: dict[str, np.ndarray] = {}
    for name in config["extractors"]:
        report(0.0, f"{name}: the reference's images")
        extractor = runtime.extractor(name)
        opened = open_reference(path, workers=2)
        found: dict[str, np.ndarray] = {}
        if opened.images is not None:
            parts = [
                described(extractor, images, usual_batch(extractor.device))
                for images in opened.images.batches(REFERENCE_CHUNK)
            ]
            found = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        statistics = opened.statistics
        if statistics is not None:
            for what, moments in (("", statistics.pooled), ("spatial/", statistics.spatial)):
                if moments is not None:
                    found[f"{what}count"] = np.array([moments.n])
                    found[f"{what}mean"] = moments.mean
                    found[f"{what}scatter"] = moments.scatter
        written |= {arrays.array_name(name, output): values for output, values in found.items()}
    np.savez(folder / "features.npz", **written)


def metrics(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Metrics of generated against reference features, with delete-block replicates."""
    from piflow_bench.evaluation.features import evaluate_with_replicates
    from piflow_bench.evaluation.inputs import Extras
    from piflow_bench.evaluation.metrics.metric import all_metrics

    n, name = config["n"], config["extractor"]
    generated = arrays.features(inputs["generated"], name)[:n]
    reference = arrays.output(inputs["reference"], name)
    logits = arrays.output(inputs["generated"], f"{name}/logits")
    spatial = arrays.output(inputs["generated"], f"{name}/spatial")
    reference_spatial: Any = arrays.output(inputs["reference"], f"{name}/spatial")
    if reference_spatial is None:
        reference_spatial = arrays.moments_of(inputs["reference"], f"{name}/spatial")
    dataset = runtime.dataset()
    m = 0 if reference is None else len(reference)
    labels = labels_of(dataset, config["labels"], len(generated))
    others = labels_of(dataset, config["reference_labels"], m)
    extras = Extras(
        None if logits is None else logits[:n],
        labels,
        None if spatial is None else spatial[:n],
        reference_spatial,
        design=design_of(config["labels"], labels, len(generated)),
        reference_design=design_of(config["reference_labels"], others, m),
    )
    known = all_metrics()
    # Of a control's samples the classes may be unknown: what needs them has no row there.
    asked = [m for m in config["metrics"] if labels is not None or "labels" not in known[m].needs]
    report(0.0, f"{config['question']} metrics on {name}")
    values = evaluate_with_replicates(
        generated,
        reference,
        asked,
        reference_moments=arrays.moments_of(inputs["reference"], name),
        reference_labels=others,
        extras=extras,
        **config["settings"],
    )
    rows = [_row(v.metric, v.interval, v.n, v.replicates, v.estimator) for v in values]
    assert extras.design is not None
    blocks = extras.design.blocks()
    if config["accuracy"] and labels is not None:
        judged = arrays.features(inputs["generated"], "judge")[:n].argmax(1)
        rows.append(_per_sample_row("class_accuracy", (judged == labels).astype(float), blocks))
    if config["modes"]:
        rows += _modes(dataset, generated, blocks)
    (folder / "metrics.json").write_text(json.dumps(rows))


def _row(
    metric: str,
    interval: Interval,
    n: int,
    replicates: Sequence[float] | np.ndarray,
    estimator: str,
) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": float(interval.value),
        "ci_low": float(interval.low),
        "ci_high": float(interval.high),
        "n": int(n),
        "replicates": [float(r) for r in replicates],
        "interval": interval.how,
        "estimand": interval.estimand,
        "estimator": estimator,
    }


def _per_sample_row(metric: str, scores: np.ndarray, blocks: np.ndarray) -> dict[str, Any]:
    """Mean of per-sample scores: bootstrap interval, and delete-block replicates for pairing."""
    from piflow_bench.evaluation.uncertainty import bootstrap_mean_interval, mean_with_replicates

    interval = bootstrap_mean_interval(scores, seed=0)
    left = mean_with_replicates(scores, blocks).replicates
    return _row(metric, interval, len(scores), left, "mean")


def _modes(dataset: Dataset, points: np.ndarray, blocks: np.ndarray) -> list[dict[str, Any]]:
    from piflow_bench.evaluation.metrics.modes import mode_replicates
    from piflow_bench.evaluation.uncertainty import jackknife_interval

    modes = dataset.truth.modes
    assert modes is not None
    n = len(points)
    whole, left = mode_replicates(points, modes.means, modes.std, modes.weights, blocks)
    rows = []
    for metric in ("mode_share", "modes_covered", "mode_mass", "mode_tv"):
        replicates = [float(getattr(part, MODE_FIELDS[metric])) for part in left]
        value = float(getattr(whole, MODE_FIELDS[metric]))
        interval = jackknife_interval(value, replicates)
        rows.append(_row(metric, interval, n, replicates, "plug-in"))
    return rows


def partition(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Real against real at the protocol's sizes: random re-partitions of all real samples."""
    from piflow_bench.evaluation.design import Design
    from piflow_bench.evaluation.features import evaluate_with_replicates
    from piflow_bench.evaluation.inference.seeds import seed_interval
    from piflow_bench.evaluation.inputs import Extras
    from piflow_bench.evaluation.metrics.metric import all_metrics

    pool = arrays.features(inputs["real"], config["extractor"])
    dataset = runtime.dataset()
    parts = [labels_of(dataset, source) for source in config["labels"]]
    labels = np.concatenate([each for each in parts if each is not None] or [np.zeros(0)])
    known = len(labels) == len(pool)
    asked = [m for m in config["metrics"] if known or "labels" not in all_metrics()[m].needs]
    rng = np.random.default_rng(0)
    values: dict[str, list[float]] = {}
    estimators: dict[str, str] = {}
    for repeat in range(config["repeats"]):
        report(repeat / config["repeats"], "real against real")
        order = rng.permutation(len(pool))
        reference = pool[order[: config["reference"]]]
        rows = order[config["reference"] :][: config["n"]]
        extras = Extras(
            labels=labels[rows] if known else None, design=Design.of(len(rows), law="as data")
        )
        for v in evaluate_with_replicates(
            pool[rows], reference, asked, extras=extras, **config["settings"]
        ):
            values.setdefault(v.metric, []).append(float(v.value))
            estimators[v.metric] = v.estimator
    found = []
    for metric, draws in values.items():
        over = replace(
            seed_interval(draws), method="t over re-partitions", estimand="mean over re-partitions"
        )
        found.append(_row(metric, over, config["n"], [], estimators[metric]))
    (folder / "metrics.json").write_text(json.dumps(found))


def agreement(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Mean squared distance to the converged teacher's sample from the same noise."""
    x = arrays.samples(inputs["samples"])
    target = arrays.samples(inputs["converged"])[: len(x)]
    scores = np.square(x.astype(np.float64) - target).reshape(len(x), -1).mean(1)
    dataset = runtime.dataset()
    labels = labels_of(dataset, config["labels"], len(x))
    blocks = design_of(config["labels"], labels, len(x)).blocks()
    rows = [_per_sample_row(config["metric"], scores, blocks)]
    (folder / "metrics.json").write_text(json.dumps(rows))


STAGES: dict[str, Callable[..., None]] = {
    "teacher": fit_teacher,
    "train_teacher": train_teacher,
    "teacher_check": teacher_check,
    "converged": converged,
    "draw": draw,
    "distill": distill,
    "published": published,
    "sample": sample,
    "features": features,
    "real_reference": real_reference,
    "metrics": metrics,
    "partition": partition,
    "agreement": agreement,
    "breakdown": breakdown,
    "selection": selection,
}
MODE_FIELDS = {
    "mode_share": "share",
    "modes_covered": "covered",
    "mode_mass": "mass",
    "mode_tv": "variation",
}
