"""The graph as Slurm jobs: it goes out in rounds.

Everything that is missing is submitted at once, as arrays of stages of one level, kind and shape of
resources, each array after those of the levels below. A job checks for itself that its inputs are
there. When all jobs of a round are over, what ended without a word (killed, out of memory, its node
lost) and what waited for it go out again.

Truth is in the store: artifacts, and one record a stage below ``store/slurm``. Slurm is only asked
which jobs are alive. A second run attaches to jobs that are alive instead of submitting their
stages again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from piflow_bench.config.schema import Resources
from piflow_bench.errors import UserError
from piflow_bench.pipeline.launchers.local import Interrupted
from piflow_bench.pipeline.launchers.schedule import Failure, Notice, Outcome
from piflow_bench.pipeline.launchers.slurm import queue
from piflow_bench.pipeline.launchers.slurm.job import Task
from piflow_bench.pipeline.launchers.slurm.records import (
    FOLDER,
    last_lines,
    logs,
    outcome_of,
    record_named,
    record_of,
    write_record,
)
from piflow_bench.pipeline.launchers.slurm.settings import Cluster
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.student import Training
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training.scale import division

SETTLE_SECONDS = 10.0
"""How long a shared file system may take to show what a job that is over wrote."""
ASKED = 24
"""Times that squeue is asked, a poll apart, before a run gives up on it."""
OFTEN = 1000
"""Times that a job may run into its time limit: every time it kept what it had."""


def _levels(stages: Sequence[Stage]) -> dict[str, int]:
    """How many of these stages lie below each, by key; stages come inputs first."""
    level: dict[str, int] = {}
    for stage in stages:
        below = [level[p.key] + 1 for p in stage.parents() if p.key in level]
        level[stage.key] = max(below, default=0)
    return level


def _arrays(
    stages: Sequence[Stage], cluster: Cluster
) -> list[tuple[str, Resources, int, list[tuple[Stage, ...]]]]:
    """Stages (inputs first) as arrays: kind, resources, processes, and the stages of every job."""
    groups: dict[tuple[int, str, str, int], list[Stage]] = {}
    level = _levels(stages)
    for stage in stages:
        shape = repr(cluster.of(stage)), cluster.processes_of(stage)
        groups.setdefault((level[stage.key], stage.kind, *shape), []).append(stage)
    largest = queue.largest_array() if len(stages) > queue.LARGEST_ARRAY else queue.LARGEST_ARRAY
    found = []
    for (_, kind, _, processes), members in sorted(groups.items(), key=lambda g: g[0][:2]):
        r = cluster.of(members[0])
        pack = 1 if processes * r.nodes > 1 else r.pack
        jobs = [tuple(members[i : i + pack]) for i in range(0, len(members), pack)]
        for i in range(0, len(jobs), largest):
            found.append((kind, r, processes, jobs[i : i + largest]))
    return found


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

    jobs = dict(attached)
    for kind, r, processes, members in _arrays(stages, cluster):
        parents = {p.key for job in members for s in job for p in s.parents()}
        after = sorted({jobs[k].partition("_")[0] for k in parents if k in jobs})
        executor = submitit.SlurmExecutor(logs(store), max_num_timeout=OFTEN, python=r.python)
        further = dict(r.extra)
        if after:
            further["dependency"] = "afterany:" + ":".join(after)
        if r.gpus:
            further["gpus-per-node"] = str(r.gpus)
        options = {k: getattr(r, k) for k in ("partition", "account", "qos", "constraint")}
        executor.update_parameters(
            job_name=f"piflow-{kind}",
            time=r.minutes,
            mem=f"{int(r.memory_gb * 1024)}M",
            nodes=r.nodes,
            ntasks_per_node=processes,
            cpus_per_task=r.cpus,
            array_parallelism=cluster.launcher.array,
            signal_delay_s=cluster.launcher.grace_seconds,
            setup=[*r.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
            srun_args=["--kill-on-bad-exit=1", *r.srun],
            additional_parameters=further,
            **{k: v for k, v in options.items() if v is not None},
        )
        try:
            with executor.batch():
                tasks = [Task(str(store.root), job, runtime, threads) for job in members]
                made = [executor.submit(task) for task in tasks]
        except submitit.core.utils.FailedJobError as error:
            words = " ".join(str(error).split())[:300]
            raise UserError(f"launcher=slurm: sbatch refused {kind} jobs: {words}") from error
        except FileNotFoundError as error:
            raise UserError(
                "launcher=slurm: sbatch is not here; run on a machine of the cluster, or set "
                "launcher=local"
            ) from error
        for job, submitted in zip(members, made, strict=True):
            for stage in job:
                write_record(store, stage, submitted.job_id, submitted.paths.stderr)
                jobs[stage.key] = submitted.job_id
    return jobs


def _check_division(stages: Sequence[Stage], runtime: Runtime, cluster: Cluster) -> None:
    """Refuse batches that cannot be divided among the processes of all nodes."""
    for stage in stages:
        if isinstance(stage.task, Training):
            world = cluster.processes_of(stage) * cluster.of(stage).nodes
            batch, group = stage.task.training["batch"], stage.task.group(runtime)
            try:
                division(batch, world, runtime.scale.micro_batch, group)
            except ValueError as error:
                raise UserError(f"{stage.label}, {world} processes: {error}") from error


class _Round:
    """The jobs of one round, and what became of their stages."""

    def __init__(self, jobs: dict[str, str], stages: Iterable[Stage]) -> None:
        self.jobs = jobs
        self.open = {s.key: s for s in stages if s.key in jobs}
        self.started: set[str] = set()
        self.silent_since: dict[str, float] = {}

    def poll(self, store: Store) -> list[tuple[Stage, str, dict[str, str]]]:
        """Stages of which there is news: (stage, started | done | failed | ..., outcome)."""
        settled: list[tuple[Stage, str, dict[str, str]]] = []
        jobs = queue.jobs()
        for key, stage in list(self.open.items()):
            job = None if jobs is None else jobs.get(self.jobs[key])
            if store.has(stage):
                settled.append((stage, "done", {}))
            elif jobs is None:  # Slurm does not answer: its jobs may well be running.
                self.silent_since.clear()
                continue
            elif job is not None and job.is_alive and outcome_of(store, stage) is None:
                self.silent_since.pop(key, None)
                if key not in self.started and job.state == "RUNNING" and store.begun(stage):
                    self.started.add(key)
                    settled.append((stage, "started", {}))
                continue
            elif outcome := outcome_of(store, stage):
                settled.append((stage, outcome["status"], outcome))
            elif job is not None and job.state == "CANCELLED":
                words = f"job {self.jobs[key]} was cancelled; run the same command to go on"
                settled.append((stage, "failed", {"reason": words, "traceback": ""}))
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
    _check_division(stages, runtime, cluster)
    logs(store).mkdir(parents=True, exist_ok=True)
    outcome, final = Outcome(), dict[str, Failure]()
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
            with store.guard(FOLDER):
                attached = _attached(left, store, cluster.launcher.poll_seconds)
                fresh = [s for s in left if s.key not in attached and not store.has(s)]
                jobs = _submit(fresh, store, runtime, cluster, threads, attached)
            current = _Round(jobs, left)
            if detach:
                break
            while current.open:
                time.sleep(cluster.launcher.poll_seconds)
                for stage, status, facts in current.poll(store):
                    if status == "started":
                        notice("start", stage, "")
                    elif status == "done":
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
                        if deaths[stage.key] > cluster.launcher.retries:
                            words = f"{facts['reason']}, {deaths[stage.key]} times"
                            log = (record_of(store, stage) or {}).get("log", "")
                            final[stage.key] = Failure(stage, words, "\n".join(last_lines(log)))
                            outcome.failures[stage.key] = final[stage.key]
                            notice("failed", stage, words)
                tick()
    except KeyboardInterrupt as error:
        raise Interrupted("its jobs go on: `cancel` with the same settings ends them") from error
    outcome.seconds = time.perf_counter() - started
    return outcome


def _attached(stages: Sequence[Stage], store: Store, every: float) -> dict[str, str]:
    """Jobs that are alive and have yet to come to these stages, by the stages' keys.

    Raises:
        UserError: if Slurm does not say which are alive: they would be submitted twice.
    """
    given = {s.key: r["job"] for s in stages if (r := record_of(store, s)) and r.get("job")}
    waited = {s.key for s in stages if s.key in given and outcome_of(store, s) is None}
    if not waited:
        return {}
    for attempt in range(ASKED):
        jobs = queue.jobs()
        if jobs is not None:
            alive = {name for name, job in jobs.items() if job.is_alive}
            return {key: given[key] for key in given if key in waited and given[key] in alive}
        if attempt + 1 < ASKED:
            time.sleep(every)
    raise UserError(
        f"squeue does not answer ({ASKED} times asked), and {len(waited)} stages were given to "
        "jobs that may be alive; run the same command again when it does"
    )


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


def cancel(names: Iterable[str], store: Store) -> list[str]:
    """Cancel the jobs that are alive of the stages of these names; returns their ids."""
    jobs = queue.jobs()
    if jobs is None:
        raise UserError("squeue does not answer: is this a machine of the cluster?")
    records = [record_named(store, name) for name in names]
    ids = sorted({r["job"] for r in records if r and r["job"] in jobs and jobs[r["job"]].is_alive})
    queue.cancel(ids)
    return ids
