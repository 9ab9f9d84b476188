"""Stages as Slurm jobs, through submitit.

The graph goes out in rounds: everything that is missing is submitted at once, as arrays of stages
of one level, kind and shape of resources, each array after those of the levels below. A job checks
for itself that its inputs are there. When all jobs of a round are over, what ended without a word
(killed, out of memory, its node lost) and what waited for it go out again.

Truth is in the store: artifacts, and one record a stage below ``store/slurm``. Slurm is only asked
which jobs are alive, by squeue, so no accounting is needed. A second run attaches to jobs that are
alive instead of submitting their stages again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from piflow_bench.errors import UserError, nearest
from piflow_bench.pipeline.graph import Stage
from piflow_bench.pipeline.launch import Failure, Interrupted, Notice, Outcome, execute
from piflow_bench.pipeline.stages import Runtime
from piflow_bench.pipeline.store import Store

ALIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
SETTLE_SECONDS = 10.0
"""How long a shared file system may take to show what a job that is over wrote."""


@dataclass(frozen=True)
class Resources:
    """What one job asks for."""

    minutes: int = 240
    cpus: int = 1
    memory_gb: float = 8.0
    gpus: int = 0
    nodes: int = 1
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """The launcher's settings."""

    resources: Resources = Resources()
    array: int = 64
    retries: int = 2
    poll_seconds: float = 5.0
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, stage: Stage) -> Resources:
        """The resources of one stage: its kind's, then its variant's, over the launcher's."""
        merged = asdict(self.resources)
        merged |= _checked(self.stages.get(stage.kind, {}), f"launcher.stages.{stage.kind}")
        variant = stage.about.get("variant")
        if variant in self.variants and stage.kind == "distill":
            merged |= _checked(self.variants[variant], f"launcher.variants.{variant}")
        merged["extra"] = tuple(sorted((str(k), str(v)) for k, v in dict(merged["extra"]).items()))
        merged["setup"] = tuple(merged["setup"])
        return Resources(**merged)


def _checked(settings: dict[str, Any], where: str) -> dict[str, Any]:
    known = list(Resources.__dataclass_fields__)
    for key in settings:
        if key not in known:
            raise UserError(f"{where}.{key}: no such resource; {nearest(key, known)}")
    return dict(settings)


def cluster_of(launcher: Any) -> Cluster:
    """The settings of a launcher's configuration.

    Raises:
        UserError: for resources that no job could ask for.
    """
    from piflow_bench.pipeline.stages import STAGES

    for name in ("minutes", "cpus", "memory_gb", "nodes", "array"):
        if getattr(launcher, name) <= 0:
            raise UserError(f"launcher.{name}={getattr(launcher, name)}: must be positive")
    for kind in launcher.stages:
        if kind not in STAGES:
            raise UserError(f"launcher.stages.{kind}: no such stage; {nearest(kind, list(STAGES))}")
    names = [n for n in Resources.__dataclass_fields__ if n not in ("extra", "setup")]
    shared = {name: getattr(launcher, name) for name in names}
    resources = Resources(
        **shared,
        extra=tuple(sorted((str(k), str(v)) for k, v in launcher.extra.items())),
        setup=tuple(launcher.setup),
    )
    return Cluster(
        resources,
        launcher.array,
        launcher.retries,
        launcher.poll_seconds,
        dict(launcher.stages),
        dict(launcher.variants),
    )


# ------------------------------------------------------------------ records


def _record_path(store: Store, stage: Stage) -> Path:
    return store.root / "slurm" / f"{stage.name}.json"


def record_of(store: Store, stage: Stage) -> dict[str, Any] | None:
    """What was last submitted for a stage: job, log, attempts."""
    try:
        return json.loads(_record_path(store, stage).read_text())
    except (OSError, ValueError):
        return None


def _outcome_path(store: Store, stage: Stage) -> Path:
    return store.root / "slurm" / f"{stage.name}.outcome.json"


def outcome_of(store: Store, stage: Stage) -> dict[str, str] | None:
    """What a job wrote that made no artifact: waiting or failed, and why."""
    try:
        return json.loads(_outcome_path(store, stage).read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    state: str
    node: str
    reason: str

    @property
    def alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state in ALIVE


def queue() -> dict[str, Job] | None:
    """This user's jobs by id (array members apart), those of late included; None: no answer."""
    command = ["squeue", "--me", "-h", "-r", "--states=all", "-o", "%i|%T|%N|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = {}
    for line in done.stdout.splitlines():
        name, state, node, reason = (line.split("|") + ["", "", ""])[:4]
        found[name.strip()] = Job(state, node, reason)
    return found


# ------------------------------------------------------------------ what a job does


@dataclass
class Task:
    """One stage, as a job runs it."""

    root: str
    stage: Stage
    runtime: Runtime
    threads: int

    def __call__(self) -> str:
        """Make the artifact; returns done, waiting (an input is missing) or failed."""
        import torch

        from piflow_bench.training import interruption

        torch.set_num_threads(self.threads)
        store = Store(Path(self.root))
        lacking = [p for p in self.stage.parents() if not store.has(p)]
        if lacking:
            _write(
                _outcome_path(store, self.stage),
                {"status": "waiting", "reason": f"needs {lacking[0].label}", "traceback": ""},
            )
            return "waiting"
        requeue = signal.getsignal(signal.SIGUSR2)

        def leave(number: int, frame: Any) -> None:
            if self.stage.kind == "distill":  # It stops at its next step, its state written.
                interruption.ask()
            elif callable(requeue):
                requeue(number, frame)

        signal.signal(signal.SIGUSR2, leave)
        try:
            status, reason, trace = execute(store, self.stage, self.runtime)
        except interruption.Stopped:
            if callable(requeue):
                requeue(signal.SIGUSR2, None)
            raise
        if status != "done":
            outcome = {"status": status, "reason": reason, "traceback": trace}
            _write(_outcome_path(store, self.stage), outcome)
        return status

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue when the job is preempted or out of time."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


# ------------------------------------------------------------------ submitting


def _levels(stages: Sequence[Stage]) -> dict[str, int]:
    """How many of these stages lie below each, by key; stages come inputs first."""
    level: dict[str, int] = {}
    for stage in stages:
        below = [level[p.key] + 1 for p in stage.parents() if p.key in level]
        level[stage.key] = max(below, default=0)
    return level


def _submit(
    stages: Sequence[Stage],
    store: Store,
    runtime: Runtime,
    cluster: Cluster,
    threads: int,
    attached: dict[str, str],
) -> dict[str, str]:
    """Submit stages (inputs first) as arrays; returns job ids by key.

    ``attached`` are jobs, alive already, of stages that these may wait for.
    """
    import submitit

    groups: dict[tuple[int, str, Resources], list[Stage]] = {}
    level = _levels(stages)
    for stage in stages:
        groups.setdefault((level[stage.key], stage.kind, cluster.of(stage)), []).append(stage)
    jobs = dict(attached)
    logs = store.root / "slurm" / "jobs"
    for (_, kind, r), members in sorted(groups.items(), key=lambda g: (g[0][0], g[0][1])):
        parents = {p.key for s in members for p in s.parents()}
        after = sorted({jobs[k].partition("_")[0] for k in parents if k in jobs})
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=1000)
        further = dict(r.extra)
        if after:
            further["dependency"] = "afterany:" + ":".join(after)
        if r.gpus:
            further["gpus_per_node"] = str(r.gpus)
        options = {k: getattr(r, k) for k in ("partition", "account", "qos", "constraint")}
        executor.update_parameters(
            job_name=f"piflow-{kind}",
            time=r.minutes,
            mem=f"{int(r.memory_gb * 1024)}M",
            nodes=r.nodes,
            ntasks_per_node=1,
            cpus_per_task=r.cpus,
            array_parallelism=cluster.array,
            setup=[*r.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
            additional_parameters=further,
            **{k: v for k, v in options.items() if v is not None and k != "partition"},
            **({"partition": r.partition} if r.partition else {}),
        )
        try:
            with executor.batch():
                made = [
                    executor.submit(Task(str(store.root), stage, runtime, threads))
                    for stage in members
                ]
        except (submitit.core.utils.FailedJobError, OSError) as error:
            words = " ".join(str(error).split())[:300]
            raise UserError(f"launcher=slurm: sbatch refused {kind} jobs: {words}") from error
        for stage, job in zip(members, made, strict=True):
            before = record_of(store, stage) or {"attempts": 0}
            _outcome_path(store, stage).unlink(missing_ok=True)
            record = {
                "job": job.job_id,
                "log": str(job.paths.stderr),
                "attempts": before["attempts"] + 1,
                "label": stage.label,
            }
            _write(_record_path(store, stage), record)
            jobs[stage.key] = job.job_id
    return jobs


class _Round:
    """The jobs of one round, and what became of their stages."""

    def __init__(self, jobs: dict[str, str], stages: Iterable[Stage]) -> None:
        self.jobs = jobs
        self.open = {s.key: s for s in stages if s.key in jobs}
        self.silent_since: dict[str, float] = {}

    def poll(self, store: Store) -> list[tuple[Stage, str, dict[str, str]]]:
        """Stages that are settled since the last poll: (stage, done | failed | ..., outcome)."""
        settled = []
        alive = queue()
        for key, stage in list(self.open.items()):
            if store.has(stage):
                settled.append((stage, "done", {}))
            elif alive is None:  # Slurm does not answer: its jobs may well be running.
                self.silent_since.clear()
                continue
            elif (job := alive.get(self.jobs[key])) is not None and job.alive:
                self.silent_since.pop(key, None)
                continue
            elif outcome := outcome_of(store, stage):
                settled.append((stage, outcome["status"], outcome))
            else:
                since = self.silent_since.setdefault(key, time.time())
                if time.time() - since < SETTLE_SECONDS:
                    continue
                state = job.state.lower() if job else "gone from the queue"
                settled.append(
                    (stage, "died", {"reason": f"the job ended without a word ({state})"})
                )
            del self.open[key]
        return settled


def run_slurm(
    stages: Sequence[Stage],
    store: Store,
    runtime: Runtime,
    cluster: Cluster,
    threads: int,
    notice: Notice,
    tick: Callable[[], None] = lambda: None,
    detach: bool = False,
) -> Outcome:
    """Make all stages by Slurm jobs; returns when none is left that could be made.

    With ``detach`` it returns as soon as the first round is submitted.
    """
    started = time.perf_counter()
    (store.root / "slurm" / "jobs").mkdir(parents=True, exist_ok=True)
    outcome, final = Outcome(), {}
    for stage in stages:
        if store.has(stage):
            outcome.cached.add(stage.key)
            outcome.done.add(stage.key)
            notice("cached", stage, "")
    deaths: dict[str, int] = {}
    try:
        while True:
            left = [s for s in stages if s.key not in outcome.done and s.key not in final]
            left = _without_orphans(left, final, outcome, notice)
            if not left:
                break
            # One submitter at a time: whoever comes second finds the other's records.
            with FileLock(store.root / "slurm" / "submit.lock"):
                alive = queue() or {}
                attached = {}
                for s in left:
                    record = record_of(store, s)
                    if record and (job := alive.get(record["job"])) and job.alive:
                        attached[s.key] = record["job"]
                fresh = [s for s in left if s.key not in attached and not store.has(s)]
                jobs = _submit(fresh, store, runtime, cluster, threads, attached)
            current = _Round(jobs, left)
            for s in current.open.values():
                notice("start", s, "")
            if detach:
                break
            while current.open:
                time.sleep(cluster.poll_seconds)
                for stage, status, facts in current.poll(store):
                    if status == "done":
                        outcome.done.add(stage.key)
                        notice("done", stage, "")
                    elif status == "environment":
                        raise UserError(facts["reason"])
                    elif status == "failed":
                        failure = Failure(stage, facts["reason"], facts["traceback"])
                        final[stage.key] = failure
                        outcome.failures[stage.key] = failure
                        notice("failed", stage, failure.reason)
                    elif status == "died":
                        deaths[stage.key] = deaths.get(stage.key, 0) + 1
                        if deaths[stage.key] > cluster.retries:
                            words = f"{facts['reason']}, {deaths[stage.key]} times"
                            final[stage.key] = Failure(stage, words)
                            outcome.failures[stage.key] = final[stage.key]
                            notice("failed", stage, words)
                tick()
    except KeyboardInterrupt as error:
        raise Interrupted from error
    outcome.seconds = time.perf_counter() - started
    return outcome


def _without_orphans(
    left: list[Stage], final: dict[str, Failure], outcome: Outcome, notice: Notice
) -> list[Stage]:
    """The stages none of whose ancestors has failed for good; the others fail with it."""
    kept = []
    for stage in left:  # Inputs first.
        lost = next((final[p.key] for p in stage.parents() if p.key in final), None)
        if lost is None:
            kept.append(stage)
            continue
        root = lost.root or lost.stage
        reason = lost.reason if lost.root else f"needs {root.label}: {lost.reason}"
        final[stage.key] = Failure(stage, reason, root=root)
        outcome.failures[stage.key] = final[stage.key]
        notice("failed", stage, reason)
    return kept


def cancel(stages: Iterable[Stage], store: Store) -> list[str]:
    """Cancel the jobs of these stages that are alive; returns their ids."""
    alive = queue()
    if alive is None:
        raise UserError("squeue does not answer: is this a machine of the cluster?")
    jobs = []
    for stage in stages:
        record = record_of(store, stage)
        if record and (job := alive.get(record["job"])) and job.alive:
            jobs.append(record["job"])
    for i in range(0, len(jobs), 200):
        subprocess.run(["scancel", *jobs[i : i + 200]], check=True, capture_output=True)
    return jobs
