"""The verbs run, status and prepare: plan, launch, collect, print."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.errors import UserError
from piflow_bench.pipeline.display import Display, beginning, print_causes, say
from piflow_bench.pipeline.forecast import worker_count, workers_of
from piflow_bench.pipeline.launchers.local import run
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.live import told
from piflow_bench.pipeline.loggers import FOLDER as TENSORBOARD
from piflow_bench.pipeline.loggers import complete, folders_of
from piflow_bench.pipeline.outdated import discard_outdated, warnings_of
from piflow_bench.pipeline.plan import Plan, make_plan, runtime_of
from piflow_bench.pipeline.repeated import Watch, tally
from piflow_bench.pipeline.results.declared import declare
from piflow_bench.pipeline.run_folder import one_at_a_time, settled
from piflow_bench.pipeline.stage import Stage, closure
from piflow_bench.pipeline.stages.teacher import note_of_check
from piflow_bench.pipeline.store.store import Store, environment_error
from piflow_bench.pipeline.store.uses import record_use, settings_digest, stages_of
from piflow_bench.places import store_root

UNFIT = "Unfit: "
"""Beginning of the reason of a teacher that is refused."""
UP_TO_DATE = ".up_to_date"
"""File in a run's folder: the fingerprint of what its results and its page were made from."""


def store_of(config: ExperimentConfig) -> Store:
    """The store: ``store=``, else PIFLOW_BENCH_STORE, else ``runs/store``."""
    return Store(store_root(config.store, config.runs).absolute())


def run_experiment(
    config: ExperimentConfig,
    command: str,
    detach: bool = False,
    force: bool = False,
    watch: Watch | None = None,
) -> int:
    """Run one experiment; returns the number of failed cells. The report's path is printed last.

    With ``detach`` Slurm's jobs are submitted and left alone: the same command collects them. With
    ``force`` what another source of an installed method made is made anew. ``watch`` remembers a
    run that came to its end, so that the same command need not plan it.
    """
    if detach and config.launcher.name != "slurm":
        raise UserError("--detach: needs launcher=slurm")
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    console = Console()
    plan = make_plan(config)
    config, elsewhere = settled(config)
    plan.config = config
    store, folder = store_of(config), Path(config.runs) / config.name
    _prepare_folders(folder, store, config)
    if elsewhere:
        say(console, elsewhere)
    if plan.taken:
        say(console, f"teacher: of the sets of weights in its file, {plan.taken}")
    stages = plan.stages
    with _machine():
        warned = _look_after(plan, store, console, force)
    missing = any(not store.has(s) for s in stages)
    # With nothing to make there is nothing to watch, and the disk may be full.
    live = told(folder, config, store, command) if missing else contextlib.nullcontext(_unheard)
    with _machine(), live as note:
        display = Display(stages, store, console, note)
        with display.progress:
            record_use(store, folder, stages, settings_digest(config))
            declare(store, plan)  # Before the first training begins.
            if missing:
                say(console, beginning(config.name, stages, store, workers_of(config)))
            # What is submitted and left alone waits for the check itself.
            made = Outcome() if detach else _pass_check(plan, store, display, folder)
            outcome = _launch(config, stages, store, display, detach, folder)
            outcome.seconds += made.seconds
        if detach and len(outcome.done) + len(outcome.failures) < len(stages):
            console.print("submitted; the same command without --detach collects", highlight=False)
            return 0
        if config.logger:
            complete(stages, store, folder)
            say(console, f"tensorboard --logdir {folder / TENSORBOARD}")
        with one_at_a_time(folder):
            # Meanwhile a run of more variants may have come to its end there.
            config, overtaken = settled(config)
            if overtaken:
                plan.config, folder = config, Path(config.runs) / config.name
                _prepare_folders(folder, store, config)
                record_use(store, folder, stages, settings_digest(config))
                say(console, overtaken)
            page = _collect(plan, store, outcome, folder, command, started)
    from piflow_reports.terminal import print_results

    print_results(console, folder)
    found = len(outcome.cached) - len(made.done)
    words = tally(len(outcome.done) - found, found, len(outcome.failures), outcome.seconds)
    console.print(words, highlight=False)
    print_causes(console, outcome.failures.values())
    print(page)
    said = warned or elsewhere or overtaken or plan.taken or config.logger
    if watch is not None and not outcome.failures and not said:
        watch.remember(folder, store, stages)
    return len(outcome.failures)


def _look_after(plan: Plan, store: Store, console: Console, force: bool) -> bool:
    """Remove what is damaged, so that it is made anew; name, or remove, what is outdated.

    Returns whether something outdated was named: the next call names it again.
    """
    labels = {stage.key: stage.label for stage in plan.stages}
    for key, words in store.set_aside_damaged(plan.stages).items():
        say(console, f"damaged {labels[key]}: {words}; it is made anew")
    if force:
        discard_outdated(plan, store)
    warnings = list(warnings_of(plan, store))
    for words in warnings:
        say(console, words)
    return bool(warnings)


def _unheard(stage: Stage, reason: str) -> None:
    """Nobody watches, so nobody is told of a stage that failed."""


@contextlib.contextmanager
def _machine() -> Iterator[None]:
    """A disk that is full or cannot be written, as a UserError."""
    try:
        yield
    except OSError as error:
        reason = environment_error(error)
        if reason:
            raise UserError(reason) from error
        raise


def _pass_check(plan: Plan, store: Store, display: Display, folder: Path) -> Outcome:
    """Make the teacher's check, and its weights where a stage makes them, before all others.

    Returns what was made.

    Raises:
        UserError: if the teacher is none of these data's, and what it seems to be.
    """
    config, check = plan.config, plan.check
    if check is None or store.has(check):
        return Outcome()
    before = [stage for stage in closure([check]) if not store.has(stage)]
    here = config.launcher.name != "slurm" and config.scale.device == "cpu"
    if len(before) == 1 and here:  # No worker is worth its start.
        outcome = run([check], store, runtime_of(config), "debug", 1, config.training.threads)
    else:
        outcome = _launch(config, before, store, display, False, folder)
    for failure in outcome.failures.values():
        if failure.stage.key == check.key and failure.reason.startswith(UNFIT):
            reason = failure.reason.removeprefix(UNFIT)
            raise UserError(
                f"teacher={config.teacher['name']}: {reason} (check_teacher=false goes on all the "
                "same)"
            )
    if check.key in outcome.done and (note := note_of_check(store.path(check))):
        say(display.console, f"teacher: {note}")
    return outcome


def _launch(
    config: ExperimentConfig,
    stages: list[Stage],
    store: Store,
    display: Display,
    detach: bool,
    folder: Path,
) -> Outcome:
    runtime, threads = runtime_of(config), config.training.threads
    if config.logger:
        runtime = replace(runtime, events=folders_of(stages, folder))
    if config.launcher.name == "slurm":
        from piflow_bench.pipeline.launchers.slurm.rounds import run_slurm
        from piflow_bench.pipeline.launchers.slurm.settings import cluster_of

        on_gpus = runtime.scale.device == "cuda"
        cluster = cluster_of(config.launcher, runtime.scale.processes, on_gpus)
        return run_slurm(
            stages, store, runtime, cluster, threads, display.notice, display.tick, detach
        )
    return run(
        stages,
        store,
        runtime,
        config.launcher.name,
        worker_count(config),
        threads,
        display.notice,
        display.tick,
        config.launcher.retries,
    )


def _collect(
    plan: Plan, store: Store, outcome: Outcome, folder: Path, command: str, started: str
) -> Path:
    """Write the results and the page, unless those in ``folder`` are of just these artifacts."""
    from piflow_reports import build, sources

    from piflow_bench.pipeline.results.run import fingerprint, write_run

    record, page = folder / UP_TO_DATE, folder / "report.html"
    current = fingerprint(plan, sources())
    kept = [record, page, folder / "results.parquet"]
    whole = len(outcome.cached) == len(plan.stages) and all(p.is_file() for p in kept)
    if whole and record.read_text() == current:
        return page
    record.unlink(missing_ok=True)
    write_run(plan, store, outcome, folder, command, started)
    _write_failures(folder, outcome)
    page = build(folder)
    if not outcome.failures:
        record.write_text(current)
    return page


def _prepare_folders(folder: Path, store: Store, config: ExperimentConfig) -> None:
    """Make the folders of the results and of the store; leaves nothing where one cannot be."""
    new = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        full = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(
            f"runs={config.runs}: cannot be written ({error.strerror}); {full}choose another "
            "runs=PATH"
        ) from error
    try:
        store.prepare()
    except UserError:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _write_failures(folder: Path, outcome: Outcome) -> None:
    """Tracebacks of failed stages, for the log; removed when there are none."""
    path = folder / "failures.log"
    texts = [
        f"{f.stage.label} ({f.stage.name})\n{f.traceback or f.reason}\n"
        for f in outcome.failures.values()
        if f.root is None
    ]
    if texts:
        path.write_text("\n".join(texts))
    else:
        path.unlink(missing_ok=True)


def show_status(config: ExperimentConfig, watch: bool) -> None:
    """What the stages of an experiment are doing."""
    from piflow_bench.pipeline.status import print_status

    print_status(config.name, store_of(config), make_plan(config, look=False).stages, watch)


def cancel_jobs(config: ExperimentConfig) -> None:
    """Cancel what Slurm runs, or will run, of an experiment.

    Its stages are those that the run of these settings named when it was called last: a dataset
    that is gone or broken, or a plugin that was edited, is no reason not to stop it.
    """
    from piflow_bench.pipeline.launchers.slurm.rounds import cancel

    store = store_of(config)
    names = stages_of(store, settings_digest(config))
    if names is None:
        names = frozenset(stage.name for stage in make_plan(config, look=False).stages)
    jobs = cancel(names, store)
    arrays = sorted({job.partition("_")[0] for job in jobs}, key=int)
    print(f"{len(jobs)} jobs cancelled" + (f", of {' '.join(arrays)}" if jobs else ""))


def prepare_digits(out: str | None) -> None:
    """Remake the digits weights."""
    from piflow_bench.data.digits import ASSETS
    from piflow_bench.teachers.digits_weights import make_assets

    folder = Path(out) if out else ASSETS
    last = 0.0

    def report(share: float, text: str) -> None:
        nonlocal last
        if time.time() - last > 5:
            last = time.time()
            print(f"{share:4.0%} {text}", file=sys.stderr)

    for name, accuracy in make_assets(folder, report).items():
        print(f"{name}: {accuracy:.1%} of held-out digits right")
    print(folder)
