"""Students' weights: a small training."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from safetensors.torch import load_file

from piflow_bench.contracts.method import no_reward
from piflow_bench.pipeline.stages import distill
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.training import loop
from piflow_bench.training.output import checkpoints, log_rows, weights_file
from piflow_bench.training.scale import Scale
from tests.pipeline.stages import made

GIVEN = {**made.WORLD, "method": "kd", "version": 3, "train_nfe": 1, "train_seed": 0}
TRAIN = Distill(
    **GIVEN,
    settings={"lr": 0.1, "pairs": 4, "pair_steps": 1},
    training={"batch": 4, "warmup": 0, "threads": 1},
    budget={"unit": "images", "amount": 16, "checkpoints": [0.5, 1.0]},
)


def test_a_training_leaves_weights_at_every_checkpoint_of_its_budget(tmp_path):
    TRAIN.run({}, tmp_path, made.runtime(), made.silent)
    spent = checkpoints(tmp_path)
    assert [row["fraction"] for row in spent] == [0.5, 1.0]
    assert [row["images"] for row in spent] == [8, 16] and spent[0]["params"] == 1
    weights = [load_file(weights_file(tmp_path, i))["w"].item() for i in range(2)]
    assert len({0.5, *weights}) == 3, "both differ from the start and from each other"
    assert len(log_rows(tmp_path)) == 4


def test_it_is_the_same_training_again(tmp_path):
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        TRAIN.run({}, tmp_path / name, made.runtime(), made.silent)
        found.append(load_file(weights_file(tmp_path / name, 1))["w"])
    assert torch.equal(*found)


def test_several_processes_are_started_with_the_trainings_threads(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(distill, "in_processes", lambda *given: called.append(given))
    runtime = made.runtime(scale=Scale(processes=2))
    task = replace(TRAIN, training={**TRAIN.training, "threads": 3})
    task.run({}, tmp_path, runtime, made.silent)
    assert called == [(task, {}, tmp_path, runtime, 3)] and not list(tmp_path.iterdir())


def test_the_stages_that_follow_have_their_own_threads(tmp_path):
    task = replace(TRAIN, training={**TRAIN.training, "threads": 2})
    threads = torch.get_num_threads()
    task.run({}, tmp_path, made.runtime(), made.silent)
    assert torch.get_num_threads() == threads != 2


def test_a_training_is_given_the_reward_of_its_key(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        loop, "train", lambda method, teacher, data, *rest, **named: given.append(data.reward)
    )
    runtime = made.runtime()
    runtime.reward = lambda name: ("the reward", name)
    for reward in (None, {"name": "mine", "settings": {}}):
        task = replace(TRAIN, reward=reward)
        task.run({}, tmp_path, runtime, made.silent)
    assert given == [no_reward, ("the reward", "mine")]
    assert "reward" not in TRAIN.content


def test_events_are_those_of_its_own_folder(tmp_path, monkeypatch):
    followed = []

    @contextmanager
    def follow(log, folder, report):
        followed.append((log.name, folder))
        yield report

    monkeypatch.setattr(distill, "followed", follow)
    folder = tmp_path / "distill-1"
    folder.mkdir()
    TRAIN.run({}, folder, made.runtime(events={"distill-1": "events"}), made.silent)
    assert followed == [("log.jsonl", "events")]
