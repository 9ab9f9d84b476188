"""The artifact store and the keys of its artifacts."""

import os
import subprocess
import sys

import pytest
import torch
from filelock import Timeout
from safetensors.torch import load_file, save_file

from piflow_bench.config.compose import compose
from piflow_bench.data.digits import ASSETS
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.status import is_locked, status_of
from piflow_bench.pipeline.store.attempts import begin
from piflow_bench.pipeline.store.progress import Progress, progress_writer
from piflow_bench.pipeline.store.store import META, Store
from tests.pipeline.tasks import stage_of

CONFIG = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": None, "f": 0.5, "g": True}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def fill(store, stage, text="content"):
    work = store.work(stage)
    (work / "deep").mkdir(parents=True)
    (work / "one.txt").write_text(text)
    (work / "deep" / "two.txt").write_text(text)


def killed(*args, **options):
    raise KeyboardInterrupt


class TestCommit:
    def test_all_or_nothing(self, store, monkeypatch):
        stage = stage_of("draw", dataset=CONFIG)
        fill(store, stage)

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(os, "rename", full)
            store.commit(stage, {})
        assert not store.has(stage)
        assert not list((store.root / "artifacts").iterdir())
        store.commit(stage, {})
        assert store.has(stage)
        assert not store.work(stage).exists()

    def test_records_stage_config_inputs_and_files(self, store):
        parent = stage_of("draw", 1)
        stage = stage_of("features", inputs={"samples": (parent,)}, space=CONFIG)
        fill(store, stage)
        store.commit(stage, {"started": "now"})
        meta = store.meta(stage)
        assert meta["key"] == stage.key
        assert meta["config"] == stage.task.content and meta["config"]["space"] == CONFIG
        assert meta["inputs"] == {"samples": [parent.name]}
        assert set(meta["files"]) == {"one.txt", "deep/two.txt"}
        assert meta["started"] == "now"

    def test_replaces_a_folder_that_was_never_finished(self, store):
        stage = stage_of("draw", dataset=CONFIG)
        store.path(stage).mkdir()
        (store.path(stage) / "half").write_text("")
        assert not store.has(stage)
        fill(store, stage)
        store.commit(stage, {})
        assert not (store.path(stage) / "half").exists()

    @pytest.mark.parametrize("part", ["artifacts", "work"])
    def test_discarding_does_not_stumble_over_what_others_were_killed_in(self, store, part):
        """Nor over one of this process's own number."""
        stage = stage_of("draw", dataset=CONFIG)
        for _ in range(2):
            fill(store, stage)
            if part == "artifacts":
                store.commit(stage, {})
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("shutil.rmtree", killed)
                store.discard(store.root / part / stage.name)
            assert not store.has(stage) and not store.begun(stage)
        fill(store, stage)
        store.discard(store.work(stage))
        assert not (store.root / "trash").exists()

    def test_discarding_beside_another_who_empties_the_trash(self, store, monkeypatch):
        stage, rename = stage_of("draw", dataset=CONFIG), os.rename
        fill(store, stage)

        def late(source, target):
            (store.root / "trash").rmdir()
            monkeypatch.setattr(os, "rename", rename)
            return rename(source, target)

        monkeypatch.setattr(os, "rename", late)
        store.discard(store.work(stage))
        assert not store.begun(stage) and not (store.root / "trash").exists()
        with pytest.raises(FileNotFoundError):
            store.discard(store.work(stage))

    def test_progress_is_no_part_of_an_artifact(self, store):
        stage = stage_of("draw", dataset=CONFIG)
        fill(store, stage)
        begin(store.work(stage))
        progress_writer(store.work(stage))(0.5, "half")
        assert store.progress(stage) == Progress(0.5, "half", None)
        store.commit(stage, {})
        assert {p.name for p in store.path(stage).iterdir()} == {"one.txt", "deep", META}
        assert len(store.meta(stage)["starts"]) == 1


class TestBroken:
    def test_nothing_is_broken_after_a_commit(self, store):
        stage = stage_of("draw", dataset=CONFIG)
        fill(store, stage)
        store.commit(stage, {})
        assert store.broken() == []

    @pytest.mark.parametrize("harm", ["change", "delete", "no record", "bad record"])
    def test_finds_harm(self, store, harm):
        stages = [stage_of("draw", n) for n in (1, 2)]
        for stage in stages:
            fill(store, stage)
            store.commit(stage, {})
        folder = store.path(stages[0])
        if harm == "change":
            (folder / "deep" / "two.txt").write_text("other")
        elif harm == "delete":
            (folder / "one.txt").unlink()
        elif harm == "no record":
            (folder / META).unlink()
        else:
            (folder / META).write_text("{")
        assert store.broken() == [stages[0].name]


class TestLock:
    def test_excludes_a_second_process_until_its_owner_dies(self, store):
        stage = stage_of("draw", dataset=CONFIG)
        code = (
            "import sys; from pathlib import Path\n"
            "from tests.pipeline.tasks import stage_of\n"
            "from piflow_bench.pipeline.store.store import Store\n"
            f"with Store(Path(sys.argv[1])).lock(stage_of('draw', dataset={CONFIG!r})):\n"
            "    print('held', flush=True); sys.stdin.read()\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(store.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout.readline().strip() == "held"
            assert is_locked(store, stage)
            assert not is_locked(store, stage_of("draw", 2))
            store.work(stage).mkdir()
            assert status_of(store, stage).state == "running"
        finally:
            holder.kill()
            holder.communicate()
        assert not is_locked(store, stage)
        assert status_of(store, stage).state == "stopped"
        with store.lock(stage):
            pass


BASE = ("profile=smoke",)


def identity(*overrides):
    (config,) = compose([*BASE, *overrides])
    plan = make_plan(config)
    return {s.name for s in plan.stages}, plan.protocol_hash


@pytest.fixture(scope="module")
def base():
    return identity()


class TestExperimentKeys:
    @pytest.mark.parametrize(
        "override",
        [
            "launcher=debug",
            "launcher.workers=3",
            "sample_batch=7",
            "save_seconds=3",
            "name=other",
            "title=other",
            "question=other",
            "runs=/elsewhere",
            "store=/elsewhere",
            "variants.kd.tuning=none",
            "references=[{label: x}]",
        ],
    )
    def test_ignore_what_cannot_change_the_mathematics(self, base, override):
        assert identity(override) == base

    @pytest.mark.parametrize(
        "override",
        [
            "teacher.guidance=2",
            "converged.solver=dpmpp",
            "converged.steps=5",
            "protocol.samples=61",
            "protocol.curve_samples=41",
            "protocol.data_samples=59",
            "protocol.reference_samples=121",
            "protocol.reference_seed=5",
            "protocol.questions=[imitation]",
            "protocol.extractors=[digits]",
            "protocol.metrics=[fd,recall]",
            "protocol.curve_metrics=[fd]",
            "protocol.settings.k=4",
            "protocol.agreement=null",
            "budget.unit=images",
            "budget.amount=61",
            "budget.checkpoints=[0.4,1.0]",
            "training.batch=32",
            "training.checkpointing=true",
            "training.precision=bf16",
            "training.clip=1",
            "training.warmup=3",
            "training.threads=2",
            "training.ema.kind=fixed",
            "training.ema.gamma=6",
            "training.ema.decay=0.9",
            "nfes=[1]",
            "train_seeds=[1]",
            "sample_seed=1",
            "variants.kd.settings.lr=0.123",
            "variants.kd.settings.beta1=0.321",
            "variants.kd.nfes=[1]",
            "variants.kd.training.batch=32",
            "variants.kd.seed_offset=7",
            "aa=true",
        ],
    )
    def test_change_with_what_determines_results(self, base, override):
        assert identity(override)[0] != base[0]

    def test_a_protocols_name_is_for_people(self, base):
        assert identity("protocol.name=other") == base

    def test_another_primary_metric_changes_the_look_at_classes_alone(self, base):
        names, protocol = identity("protocol.primary_quality=kid_exact")
        assert {n.partition("-")[0] for n in names ^ base[0]} == {"breakdown"}
        assert protocol == base[1]

    def test_fewer_variants_are_a_part_of_all(self, base):
        names, protocol = identity("only=[kd,teacher-heun]")
        assert names < base[0]
        assert protocol == base[1]

    def test_a_checkpoint_counts_by_its_content_not_its_path(self, base, tmp_path):
        source = ASSETS / "digits_teacher.safetensors"
        copied = tmp_path / "a copy.safetensors"
        copied.write_bytes(source.read_bytes())
        assert identity(f"teacher.checkpoint={copied}") == base
        state = load_file(source)
        state[next(iter(state))] += torch.tensor(1e-3)
        save_file(state, copied)
        other = tmp_path / "other.safetensors"
        copied.rename(other)
        names, protocol = identity(f"teacher.checkpoint={other}")
        assert names != base[0]
        assert protocol != base[1]


def test_locks_of_a_shared_store_are_everyones(tmp_path):
    for mode, expected in ((0o755, 0o644), (0o2775, 0o664)):
        store = Store(tmp_path / oct(mode))
        store.prepare()
        store.root.chmod(mode)
        with store.guard("x"):
            assert (store.root / "locks" / "x.lock").stat().st_mode & 0o777 == expected


def test_a_lock_is_given_back_when_its_owner_is_killed(store):
    code = (
        "import sys, time; from pathlib import Path;"
        "from piflow_bench.pipeline.store.store import Store;"
        "lock = Store(Path(sys.argv[1])).guard('x'); lock.acquire(); print('has', flush=True);"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "has\n"
        with pytest.raises(Timeout), store.guard("x", timeout=0):
            pass
        # An old clock must not make the lock look abandoned, nor a new one held.
        os.utime(store.root / "locks" / "x.lock", (0, 0))
        with pytest.raises(Timeout), store.guard("x", timeout=0):
            pass
        owner.kill()
        owner.wait()
    with store.guard("x", timeout=5):
        pass
