"""Runs by Slurm jobs on a real cluster: equal to local ones, whatever happens to them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pandas as pd
import pytest

from piflow_bench.config.compose import compose
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results.schema import COST_AND_PROVENANCE
from piflow_bench.pipeline.runner import store_of
from piflow_bench.pipeline.store.attempts import starts_of
from piflow_bench.pipeline.store.store import Store
from tests.pipeline import harness
from tests.pipeline.forked import Forked

SMALL = [
    "experiment=digits",
    "profile=smoke",
    "only=[kd]",
    "nfes=[1]",
    "protocol.questions=[imitation]",
    "protocol.agreement=null",
    "protocol.extractors=[digits-pixels]",
    "budget={unit: images, amount: 1600, checkpoints: [1.0]}",
    "variants.kd.settings.pairs=64",
    "sample_batch=10",
    "save_seconds=0.3",
]
"""A training of 100 steps, some seconds, and six batches of samples."""
SLURM = [
    "launcher=slurm",
    "launcher.poll_seconds=0.3",
    "launcher.memory_gb=2",
    "launcher.minutes=20",
    "launcher.pack=20",
]
SLOW = """
import time
from piflow_bench.files.rows import Parts

add = Parts.add


def slowly(self, rows, **arrays):
    time.sleep(0.5)
    with open({log!r}, "a") as file:
        file.write(f"{{self.folder}} {{rows}}\\n")
    add(self, rows, **arrays)


Parts.add = slowly
"""
"""Python's own hook in a job: every batch of samples or features takes its time and is noted."""


SLOW_TRAINING = """
import os, time
from piflow_bench.training.trainer import Trainer

step = Trainer.run_step


def slowly(self):
    if os.path.exists(__file__):
        time.sleep(0.5)
    return step(self)


Trainer.run_step = slowly
"""
"""The same: a training is slow as long as the hook's file exists."""


def call(cluster, folder, *arguments, verb="run", small=SMALL, expect=0):
    """The command line in this process; returns what it prints."""
    done = harness.call(verb, *small, *arguments, cwd=folder, **cluster.environment)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(cluster, folder, *settings):
    """A process that can be killed; its errors are in a file."""
    given = ["run", *SMALL, *SLURM, *settings]
    return Forked(given, folder, errors=folder / "errors.txt", **cluster.environment)


def until(condition, seconds=300.0):
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def training_state(folder):
    return next(folder.glob("runs/store/work/distill-*/state/facts.json"), None)


def start_training(cluster, folder, *settings, setup=()):
    """A run whose training goes on, its job, and the file that makes it slow while it exists."""
    hook = folder / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(SLOW_TRAINING)
    setup = [f"export PYTHONPATH={hook.parent}", *setup]
    run = start(cluster, folder, f"launcher.setup={setup}", *settings)
    until(lambda: training_state(folder) or run.poll() is not None)
    assert run.poll() is None, (folder / "errors.txt").read_text()
    return run, job_of(folder), hook


def parts_of(folder, kind):
    return next(folder.glob(f"runs/store/work/{kind}-*/parts/**/*.npz"), None)


def job_of(folder, kind="distill"):
    """The id of the one job of a kind."""
    records = [p for p in folder.glob(f"runs/store/slurm/{kind}-*.json") if "outc" not in p.name]
    (job,) = {json.loads(record.read_text())["job"] for record in records}
    return job


def state_of(cluster, job):
    return cluster.call("squeue", "-h", "-j", job, "--states=all", "-o", "%T", check=False).strip()


def go_on_now(cluster, job):
    """Slurm holds a requeued job for two minutes.

    Not in the second of its end: a node refuses a job whose credential is as old as the one that it
    revoked ("Job credential revoked", a failure of its own that the run answers by another job).
    """
    until(lambda: state_of(cluster, job) == "PENDING")
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")


def results(folder):
    table = pd.read_parquet(folder / "runs" / "digits-smoke" / "results.parquet")
    return table.drop(columns=[c for c in COST_AND_PROVENANCE if c in table])


def arrays(folder):
    """The bytes of all checkpoints, samples, features and selections of a store."""
    artifacts = folder / "runs" / "store" / "artifacts"
    files = [p for end in ("npy", "npz", "safetensors") for p in artifacts.glob(f"*/*.{end}")]
    return {p.relative_to(artifacts): p.read_bytes() for p in files}


def same(a, b):
    pd.testing.assert_frame_equal(results(a), results(b), check_exact=True)
    mine, other = arrays(a), arrays(b)
    assert mine.keys() == other.keys() and [k for k in mine if mine[k] != other[k]] == []


def verified(folder):
    assert Store(folder / "runs" / "store").broken() == []


def meta_of(folder, kind):
    """Records of the artifacts of a kind."""
    found = folder.glob(f"runs/store/artifacts/{kind}-*/artifact.json")
    return [json.loads(p.read_text()) for p in found]


@pytest.fixture(scope="module")
def local(cluster, tmp_path_factory):
    """The small experiment by the local launcher, as it ends undisturbed."""
    folder = tmp_path_factory.mktemp("local")
    call(cluster, folder)
    return folder


@pytest.fixture
def begun(local, tmp_path, monkeypatch):
    """``begun("sample")``: a folder where all is done but that kind of kd's stages and the next.

    With ``rest``, nothing that comes of them is done either: for results that shall differ.
    """

    def make(kind="distill", rest=False):
        shutil.copytree(local / "runs" / "store", tmp_path / "runs" / "store")
        monkeypatch.chdir(tmp_path)
        (config,) = compose(SMALL)
        first, lost = set(), set()
        for stage in make_plan(config).stages:  # Inputs first.
            of_kd = stage.about.get("variant") == "kd" and stage.kind == kind
            if of_kd:
                first.add(stage.key)
            if of_kd or (lost if rest else first) & {p.key for p in stage.parents()}:
                lost.add(stage.key)
                shutil.rmtree(store_of(config).path(stage))
        assert lost
        return tmp_path

    return make


def test_results_by_jobs_equal_local_ones_to_the_last_bit(cluster, local, tmp_path):
    out = call(cluster, tmp_path, *SLURM, "launcher.pack=1")
    assert "0 failed" in out
    same(tmp_path, local)
    verified(tmp_path)
    scripts = list((tmp_path / "runs" / "store" / "slurm" / "jobs").glob("*_submission.sh"))
    (config,) = compose(SMALL)
    depth = {}
    # Inputs first; the teacher's check has passed before the others are submitted.
    for stage in make_plan(config).stages:
        read = [p for parents in stage.inputs.values() for p in parents]
        depth[stage.key] = 1 + max((depth[p.key] for p in read), default=0)
    kinds = {(depth[stage.key], stage.kind) for stage in make_plan(config).stages}
    assert len(scripts) == len(kinds) < len(depth), "one array a level and kind, not a stage"
    assert any("--array=0-" in s.read_text() for s in scripts)
    assert any("--dependency=afterany:" in s.read_text() for s in scripts)
    again = call(cluster, tmp_path, *SLURM)
    assert "0 stages computed" in again


def test_a_job_killed_without_a_word_is_noticed_and_tried_again(cluster, local, begun):
    folder = begun()
    run, job, hook = start_training(cluster, folder)
    os.kill(starts_of(training_state(folder).parent.parent)[-1].pid, signal.SIGKILL)
    hook.unlink()
    assert run.wait(timeout=900) == 0
    assert job_of(folder) != job, "another job"
    same(folder, local)
    verified(folder)
    starts = meta_of(folder, "distill")[0]["starts"]
    assert [s["job"] for s in starts] == [job, job_of(folder)]
    assert 0 <= starts[1]["lost"] < 5, "no more than was done since the last state"


@pytest.mark.parametrize(
    "kind", ["distill", "sample", pytest.param("features", marks=pytest.mark.thorough)]
)
def test_preempted_work_is_kept_and_goes_on_under_its_id(cluster, local, begun, kind):
    folder = begun(kind)
    if kind == "distill":
        run, job, hook = start_training(cluster, folder)
    else:
        hook = folder / "hook" / "sitecustomize.py"
        hook.parent.mkdir()
        log = folder / "batches.txt"
        hook.write_text(SLOW.format(log=str(log)))
        run = start(cluster, folder, f"launcher.setup=['export PYTHONPATH={hook.parent}']")
        until(log.exists)
        job = job_of(folder, kind)
    cluster.call("scancel", "--signal=USR2", job)
    until(lambda: state_of(cluster, job) == "PENDING")
    if kind == "distill":
        assert json.loads(training_state(folder).read_text())["step"] > 0
        hook.unlink()
    else:
        assert parts_of(folder, kind)
    go_on_now(cluster, job)
    assert run.wait(timeout=900) == 0
    assert job_of(folder, kind) == job, "the same job went on"
    same(folder, local)
    verified(folder)
    (starts,) = [m["starts"] for m in meta_of(folder, kind) if len(m["starts"]) > 1]
    assert [s["job"] for s in starts] == [job, job]
    if kind == "sample":
        assert len([n for n in log.read_text().split("\n") if "sample-" in n]) == 6, "none twice"


def test_a_time_limit_puts_the_job_back(cluster, local, begun):
    folder = begun()
    run, job, hook = start_training(cluster, folder, "launcher.grace_seconds=60")
    elapsed = cluster.call("squeue", "-h", "-j", job, "-o", "%M").strip()
    # Less than the grace is left by this limit, so Slurm tells the job of its end at once.
    minutes = int(elapsed.split(":")[0]) + 1
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    until(lambda: "Reason=BeginTime" in cluster.call("scontrol", "show", "job", job))
    assert "Requeue=1 Restarts=1" in cluster.call("scontrol", "show", "job", job)
    hook.unlink()
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=20", "StartTime=now+3")
    assert run.wait(timeout=900) == 0
    assert job_of(folder) == job
    same(folder, local)
    verified(folder)


def test_the_submitter_may_die_and_come_again(cluster, local, begun):
    folder = begun()
    run, job, hook = start_training(cluster, folder)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    status = call(cluster, folder, *SLURM, verb="status")
    (line,) = [text for text in status.splitlines() if text.startswith("running")]
    assert f"job {job}; on " in line and "kd for 1 NFE, seed 0: training; step" in line
    assert f"{job}_0_log.err" in line
    hook.unlink()
    call(cluster, folder, *SLURM)
    assert job_of(folder) == job, "it attached to the running job"
    same(folder, local)


def test_two_runs_at_once_do_each_stage_once(cluster, local, begun):
    folder = begun(rest=True)
    runs = [start(cluster, folder) for _ in range(2)]
    assert [run.wait(timeout=900) for run in runs] == [0, 0]
    for record in folder.glob("runs/store/slurm/*.json"):
        assert json.loads(record.read_text()).get("attempts", 1) == 1
    assert all(len(m["starts"]) == 1 for m in meta_of(folder, "*"))
    same(folder, local)
    verified(folder)


def test_a_cell_that_fails_is_not_retried_and_tells_why(cluster, begun):
    folder = begun()
    settings = [*SLURM, "variants.kd.settings.lr=1e30", "training.clip=0"]
    out = call(cluster, folder, *settings, expect=3)
    assert "diverged" in out
    job = job_of(folder)
    status = call(cluster, folder, *settings, verb="status")
    assert "diverged" in status and f"job {job}" in status
    records = list(folder.glob("runs/store/slurm/distill-*.json"))
    (record,) = [r for r in map(json.loads, (p.read_text() for p in records)) if "attempts" in r]
    assert record["attempts"] == 1


def test_scancel_by_hand_is_told_and_undone_by_the_same_command(cluster, local, begun):
    folder = begun(rest=True)
    run, job, hook = start_training(cluster, folder)
    before = json.loads(training_state(folder).read_text())["step"]
    cluster.call("scancel", job)
    assert run.wait(timeout=300) == 3
    assert json.loads(training_state(folder).read_text())["step"] >= before, "it wrote its state"
    table = pd.read_parquet(folder / "runs" / "digits-smoke" / "results.parquet")
    assert table[table.status == "failed"].reason.str.contains(f"job {job} was cancelled").all()
    assert (table[table.variant == "kd"].status == "failed").all()
    hook.unlink()
    assert "stopped" in call(cluster, folder, *SLURM, verb="status")
    call(cluster, folder, *SLURM)
    same(folder, local)
    verified(folder)


def test_cancel_stops_what_the_run_owns_and_nothing_else(cluster, begun):
    folder = begun(rest=True)
    other = cluster.call("sbatch", "--parsable", "--wrap=sleep 100").strip()
    call(cluster, folder, "--detach", *SLURM)
    out = call(cluster, folder, *SLURM, verb="cancel")
    assert "jobs cancelled" in out and other not in out.split()
    until(lambda: cluster.call("squeue", "-h", "-o", "%i").split() == [other])
    cluster.call("scancel", other)


def test_a_thousand_cells_go_out_in_a_few_calls(cluster, tmp_path):
    """Held, so that none runs: 1,280 cells of 2,700 stages."""
    settings = [
        "experiment=digits",
        "nfes=[1,4]",
        f"train_seeds={list(range(20))}".replace(" ", ""),
    ]
    settings += ["launcher=slurm", "launcher.extra.hold=true"]

    def told(verb, *flags):
        return call(cluster, tmp_path, *flags, verb=verb, small=settings)

    assert "submitted" in told("run", "--detach")
    calls = list(tmp_path.glob("runs/store/slurm/jobs/*_submission.sh"))
    assert 5 < len(calls) <= 24
    records = list(tmp_path.glob("runs/store/slurm/*.json"))
    assert len(records) > 2000
    status = told("status")
    assert "waits: JobHeldUser" in status and "missing" not in status
    told("run", "--detach")
    assert len(list(tmp_path.glob("runs/store/slurm/jobs/*_submission.sh"))) == len(calls)
    assert "jobs cancelled, of" in told("cancel")
    until(lambda: not cluster.call("squeue", "-h", "-o", "%i"))


def test_a_restarted_controller_loses_nothing(cluster, local, begun):
    folder = begun()
    run, _, hook = start_training(cluster, folder)
    cluster.stop_controller()
    time.sleep(2)
    cluster.start_controller()
    hook.unlink()
    assert run.wait(timeout=900) == 0
    same(folder, local)
    assert len(meta_of(folder, "distill")[0]["starts"]) == 1


@pytest.mark.parametrize("state", ["down", pytest.param("drain", marks=pytest.mark.thorough)])
def test_nodes_that_go_and_come_again(cluster, local, begun, state):
    folder = begun()
    run, job, hook = start_training(cluster, folder)
    cluster.set_nodes(state)
    hook.unlink()
    if state == "down":
        until(lambda: state_of(cluster, job) == "PENDING")
        # The job's last process ends its step; a node that runs a job still is not given it anew.
        until(lambda: f"slurmstepd: [{job}." not in cluster.call("ps", "-ef"))
        time.sleep(3)  # And its slurmd has noticed.
    else:
        until(lambda: not training_state(folder))
    cluster.set_nodes("resume")
    if state == "down":
        go_on_now(cluster, job)
    assert run.wait(timeout=900) == 0
    same(folder, local)
    verified(folder)
    starts = meta_of(folder, "distill")[0]["starts"]
    assert len(starts) == (2 if state == "down" else 1)


@contextmanager
def read_only(folder):
    """A folder whose files can be read alone, whoever has some of them open for writing."""
    twin = folder.with_name("twin")
    twin.mkdir()
    steps = [
        ["mount", "--bind", str(folder), str(twin)],
        ["mount", "-o", "remount,bind,ro", str(twin)],
        ["mount", "--bind", str(twin), str(folder)],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", "-l", str(twin)], capture_output=True)
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        for place in (folder, twin):
            subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_store_that_becomes_read_only(cluster, local, begun):
    folder = begun()
    store = folder / "runs" / "store"
    run, _, hook = start_training(cluster, folder)
    with read_only(store):
        hook.unlink()
        assert run.wait(timeout=300) == 2
    error = (folder / "errors.txt").read_text()
    assert "Read-only file system" in error, error
    assert error.strip().splitlines()[-1].startswith("error:")
    verified(folder)
    call(cluster, folder, *SLURM)
    same(folder, local)
    verified(folder)


def test_a_training_over_nodes_is_preempted_and_goes_on(cluster, local, begun):
    folder = begun(rest=True)
    settings = ["launcher.nodes=2", "logger=tensorboard"]
    run, job, hook = start_training(
        cluster, folder, *settings, setup=["export MASTER_ADDR=127.0.0.1"]
    )
    shown = cluster.call("scontrol", "show", "job", job)
    assert "NumNodes=2" in shown and "NumTasks=2" in shown
    cluster.call("scancel", "--signal=USR2", job)
    until(lambda: state_of(cluster, job) == "PENDING")
    hook.unlink()
    go_on_now(cluster, job)
    assert run.wait(timeout=900) == 0
    mine, alone = (results(f)[lambda t: t.variant == "kd"] for f in (folder, local))
    assert (mine.train_steps.to_numpy() == alone.train_steps.to_numpy()).all()
    assert mine.value.to_numpy() == pytest.approx(alone.value.to_numpy(), rel=0.05)
    (starts,) = [m["starts"] for m in meta_of(folder, "distill")]
    assert len(starts) == 2
    drawn_as_logged(folder)


def drawn_as_logged(folder):
    """The first process alone has drawn the training, every point once."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (log,) = folder.glob("runs/store/artifacts/distill-*/log.jsonl")
    (events,) = folder.glob("runs/*/tensorboard/kd-seed0-1nfe/events*")
    read = reading.EventAccumulator(str(events), size_guidance={"scalars": 0})
    read.Reload()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert [e.step for e in read.Scalars("training/loss")] == steps


def test_an_error_in_any_process_is_the_cells_reason(cluster, begun):
    folder = begun()
    (folder / "plugins").mkdir()
    (folder / "plugins" / "raises.py").write_text(RAISES)
    settings = [*SLURM, "scale.processes=2", "variants.kd.method=raises"]
    settings += [f"plugins={folder / 'plugins'}", "launcher.setup=['export MASTER_ADDR=127.0.0.1']"]
    out = call(cluster, folder, *settings, expect=3)
    assert "ValueError: process 1 cannot" in out


RAISES = """
import torch
from piflow_methods.kd import KD


class Raises(KD):
    "One of its processes fails."

    def training_step(self, batch, context):
        if torch.distributed.get_rank() == 1 and context.step == 5:
            raise ValueError("process 1 cannot")
        yield from super().training_step(batch, context)
"""


def test_python_on_a_node_may_be_another_command(cluster, local, begun):
    folder = begun("sample")
    python = f"env IN_CONTAINER=yes {sys.executable}"
    setup = "launcher.setup=['echo prepared > prepared.txt']"
    call(cluster, folder, *SLURM, f"launcher.python={python!r}", setup)
    same(folder, local)
    script = next(folder.glob("runs/store/slurm/jobs/*_submission.sh")).read_text()
    assert "IN_CONTAINER=yes" in script and (folder / "prepared.txt").exists()


@pytest.mark.parametrize(
    "setting, words",
    [
        ("launcher.cpus=0", "must be at least 1"),
        ("launcher.stages={training: {gpus: 1}}", "no such stage"),
        ("launcher.stages={distill: {gpu: 1}}", "did you mean"),
        ("launcher.partition=nowhere", "sbatch refused"),
        ("launcher.cpus=4000", "sbatch refused"),
        ("scale.processes=3", "16"),
    ],
)
def test_what_the_cluster_cannot_give_is_one_line(cluster, begun, setting, words):
    error = call(cluster, begun(), *SLURM, setting, expect=2)
    assert words in error and error.strip().splitlines()[-1].startswith("error:"), error
