"""The verb ``evaluate``: settings from the command line, progress, a table, files."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.commands.evaluate_settings import (
    FILES,
    OF_THE_MACHINE,
    PATH_KEYS,
    SCORED,
    Settings,
    cache_of,
    parse,
)
from piflow_bench.errors import OK, UserError
from piflow_bench.evaluation.protocols import is_file, load_protocol
from piflow_bench.evaluation.sets import Sets, set_name, several, written_list
from piflow_bench.files.atomic import check_writable, read_json, write_json
from piflow_bench.files.digests import file_digest
from piflow_bench.provenance import git_commit, hardware, versions

if TYPE_CHECKING:
    import pandas as pd

    from piflow_bench.evaluation.measured import Report


def run_evaluate(arguments: Sequence[str]) -> Path | None:
    """Score and write ``scores.parquet`` and ``scores.json``.

    ``pictures.npz`` has a few pictures of every set, of the reference and of the teacher. Of
    several sets ``differences.parquet`` and ``differences.json`` hold every two of them.

    With ``statistics=FILE.npz`` the samples' statistics are written, and they are scored only where
    a ``reference`` or metrics are given. Returns the folder of the scores, if any.
    """
    settings, metric_values = parse(arguments)
    samples = written_list(settings.samples) or settings.samples
    sets = several(samples)
    of = _scored(settings, metric_values, sets)
    out = Path(
        settings.out
        or f"runs/scores/{_name(settings.samples, sets)}-{Path(settings.protocol).stem}"
    )
    scores_asked = settings.reference or settings.metrics or settings.per_class
    scoring = not settings.statistics or bool(scores_asked)
    cache = cache_of(settings)
    if cache is not None:
        check_writable("store", cache.parent)
    if scoring:  # Statistics alone leave nothing there.
        check_writable("out", out)
        if settings.out is None:
            _refuse_others(out, of)
    if settings.statistics:
        if sets is not None or isinstance(settings.n, list):
            raise UserError("statistics=FILE: are of one set and one n; give samples=PATH")
        _check_statistics(settings, Path(settings.statistics))
        _write_statistics(settings)
        if not scoring:
            return None
    from piflow_bench.evaluation.options import Options
    from piflow_bench.evaluation.pictures.images import printable
    from piflow_bench.evaluation.score import score
    from piflow_bench.evaluation.shown import pictures_of, write_pictures

    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    with _progress() as report:
        found = score(
            samples if sets is None else sets,
            settings.reference,
            settings.protocol,
            Options(
                extractor=settings.extractor,
                weights=settings.weights,
                metrics=settings.metrics,
                n=settings.n,
                teacher=settings.teacher,
                prompts=settings.prompts,
                labels=settings.labels,
                per_class=settings.per_class,
                lpips_weights=settings.lpips_weights,
                scorers=settings.scorers,
                device=settings.device,
                precision=settings.precision,
                compiled=settings.compiled,
                workers=settings.workers,
                processes=settings.processes,
                batch=settings.batch,
                cache=cache,
                plugins=settings.plugins,
                space=settings.space,
                report=report,
                settings=metric_values,
            ),
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(found.table, out / "scores")
    write_pictures(out / "pictures.npz", pictures_of(found.sources))
    if len(found.differences):
        _write(found.differences, out / "differences")
    command = shlex.join(["python", "-m", "piflow_bench", "evaluate", *arguments])
    facts: dict[str, Any] = {"command": printable(command)}
    facts |= {"started": started, "seconds": round(time.perf_counter() - clock, 1)}
    facts |= {"versions": versions(), "hardware": hardware(), "git_commit": git_commit()}
    write_json(out / "provenance.json", {**facts, "of": of}, indent=1)
    return out


def _name(samples: str, sets: Sets | None) -> str:
    """What samples are called: their folder, or their file without its ending."""
    if sets is None:
        # `resolve` does not bear links in a circle.
        return set_name(Path(os.path.realpath(samples)))
    first, *others = (name.replace("/", "-") for name in sets.sources)
    return f"{first}-and-{len(others)}-more" if others else first


def _scored(
    settings: Settings, metric_values: dict[str, Any], sets: Sets | None = None
) -> dict[str, Any]:
    """What the scores are of: with another of these they are other scores, not more of them."""
    from piflow_bench.evaluation.pictures.images import printable

    given = {name: getattr(settings, name) for name in SCORED}
    for name in FILES:
        if given[name] is not None:
            given[name] = printable(os.path.realpath(given[name]))
    scorers = {name: os.path.realpath(path) for name, path in settings.scorers.items()}
    given["scorers"] = scorers or None
    if is_file(settings.protocol):  # Edited, it is another protocol of the same name.
        path = Path(os.path.realpath(settings.protocol))
        given |= {"protocol": printable(str(path)), "protocol (sha256)": file_digest(path)[:12]}
    if sets is not None:
        given["samples"] = [printable(os.path.realpath(path)) for path in sets.sources.values()]
    return {k: v for k, v in (given | metric_values).items() if v is not None}


def _resolved(of: Mapping[str, Any]) -> dict[str, Any]:
    """``of`` with defaults written out: one that is given is no other choice than none."""
    from piflow_bench.evaluation.settings import Settings as MetricSettings
    from piflow_bench.evaluation.settings import make_settings

    rules = load_protocol(of["protocol"])
    of_metrics = {f.name: of[f.name] for f in fields(MetricSettings) if f.name in of}
    values = asdict(make_settings({**rules.settings, **of_metrics}))
    defaults = {
        "extractor": rules.extractor,
        "metrics": rules.metrics,
        "per_class": (),
        "n": rules.scored,
        "precision": rules.precision,
        "compiled": False,
    }
    found = {**defaults, **of, **values}
    # The order of metrics is that of rows alone.
    found |= {key: sorted(found[key]) for key in ("metrics", "per_class")}
    return {k: v for k, v in found.items() if k not in OF_THE_MACHINE}


def _refuse_others(out: Path, of: dict[str, Any]) -> None:
    """Refuse to write over the scores of something else."""
    try:
        found = dict(read_json(out / "provenance.json")["of"])
        protocol = found["protocol"]
    except (KeyError, TypeError, ValueError):
        return  # Nothing is there, or nobody knows what it is of.
    if protocol == of["protocol"]:
        found, of = _resolved(found), _resolved(of)
    written = {field: key for key, field in PATH_KEYS.items()}
    for key in sorted(found.keys() | of.keys()):
        if found.get(key) != of.get(key):
            name = written.get(key, key)
            raise UserError(
                f"{out}: holds scores with {name}={_shown(found.get(key))}, these are with "
                f"{name}={_shown(of.get(key))}; give these a folder by out=FOLDER"
            )


def _shown(value: Any) -> str:
    """A setting's value as one would write it."""
    if value is None:
        return "the default"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _check_statistics(settings: Settings, path: Path) -> None:
    """UserError where statistics cannot be written, and where they would replace something else."""
    from piflow_bench.evaluation.references.statistics import is_statistics

    check_writable("statistics", path.absolute().parent)
    for name in FILES:
        given = getattr(settings, name)
        if given is not None and os.path.realpath(given) == os.path.realpath(path):
            raise UserError(f"statistics={path}: is what {name}= reads; give another file")
    if path.exists() and not is_statistics(path, "statistics"):
        raise UserError(
            f"statistics={path}: something else than statistics is there; give another file"
        )


def _write_statistics(settings: Settings) -> None:
    from piflow_bench.evaluation.cautions import few_for_dimensions
    from piflow_bench.evaluation.references.from_images import reference_statistics
    from piflow_bench.evaluation.references.statistics import save_statistics

    assert settings.statistics is not None and not isinstance(settings.n, list)
    path = Path(settings.statistics)
    rules = load_protocol(settings.protocol)
    with _progress() as report:
        found = reference_statistics(
            settings.samples,
            settings.extractor or rules.extractor,
            settings.weights,
            device=settings.device,
            precision=settings.precision or rules.precision,
            compiled=settings.compiled,
            n=settings.n,
            workers=settings.workers,
            processes=settings.processes,
            batch=settings.batch,
            cache=cache_of(settings),
            plugins=settings.plugins,
            space=settings.space,
            report=report,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_statistics(path, found)
    taken = f" ({found.taken})" if found.taken else ""
    print(f"{path}: mean and covariance of {found.count} images{taken}, {found.extractor}")
    dimensions = len(found.pooled.mean)
    few = [few_for_dimensions(found.pooled.n, dimensions)] if found.pooled.n <= dimensions else []
    for text in [*found.warnings, *few]:
        print(f"warning: {text}")


def _progress() -> AbstractContextManager[Report]:
    """How far the work is, on stderr."""
    from rich.console import Console

    from piflow_bench.progress_bar import told

    return told(Console(stderr=True))


def _write(table: pd.DataFrame, path: Path) -> None:
    """A table as ``.parquet`` and as ``.json``."""
    table.to_parquet(path.with_suffix(".parquet"), index=False)
    plain = table.astype(object).where(table.notna(), None)
    text = json.dumps(plain.to_dict("records"), indent=1)  # Every digit; pandas writes ten.
    path.with_suffix(".json").write_text(text + "\n")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument(
        "settings",
        nargs="+",
        help="samples=PATH (of several sets [PATH,PATH], or a pattern) reference=PATH "
        "[protocol=NAME] [extractor=NAME] "
        "[extractor.weights=FILE] [metrics=[a,b]] [per_class=[a,b]] [labels=FILE] [n=N or [N,M]] "
        "[teacher=PATH] [prompts=FILE] [lpips.weights=FILE] [scorers.METRIC.weights=FILE] "
        "[device=cpu] [precision=float32] [compiled=false] [workers=2] [processes=1] [batch=N] "
        "[out=FOLDER] [store=PATH] [cache=true] [plugins=PATH] [space.autoencoder=PATH] "
        "[statistics=FILE to write], and settings of the metrics",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    folder = run_evaluate(options.settings)
    if folder is not None:
        from piflow_reports.scores.page import build_scores
        from piflow_reports.scores.terminal import print_scores
        from rich.console import Console

        print_scores(Console(), folder)
        print(build_scores([folder], folder / "report.html"))
    return OK
