"""What a call gives to stages: plugins with their settings, loaded once, and errors in one line."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.pipeline import runtime as R
from piflow_bench.pipeline.runtime import Given, Runtime, described, from_plain, plain
from piflow_bench.training.scale import Scale


@dataclass(frozen=True)
class Settings:
    size: int = 3


class Anything:
    """A plugin of any kind, which notes what is loaded."""

    Config, space = Settings, "of its own"
    loaded: list = []

    def __init__(self, config):
        self.config = config

    def load(self, *given):
        self.loaded.append(given)
        return SimpleNamespace(of=self.config)


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setattr(R.registry, "get", lambda kind, name, folders: Anything)
    monkeypatch.setattr(Anything, "loaded", [])
    caches = (R._dataset, R._teacher, R._extractor, R._reward)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


GIVEN = Given({"name": "d", "size": 5}, {"name": "t"}, {}, {"eye": {"size": 7}})


def test_plugins_have_the_settings_that_are_given():
    runtime = Runtime(given=GIVEN)
    assert runtime.dataset_plugin().config.size == 5
    assert runtime.teacher_plugin().config.size == 3
    assert runtime.extractor_plugin("eye").config.size == 7
    assert runtime.extractor_plugin("other").config.size == 3


def test_weights_are_asked_for_by_the_setting_of_a_run(monkeypatch):
    def refuse(self, *given):
        raise UserError("extractor.weights=x: no such file; give extractor.weights=FILE")

    monkeypatch.setattr(Anything, "load", refuse)
    with pytest.raises(UserError) as refused:
        Runtime(given=GIVEN).extractor("eye")
    assert str(refused.value) == (
        "extractors.eye.weights=x: no such file; give extractors.eye.weights=FILE"
    )


def test_the_space_is_the_datasets_own_where_none_is_given():
    assert Runtime(given=GIVEN).space_name == "of its own"
    given = replace(GIVEN, space={"name": "latents", "size": 9})
    assert Runtime(given=given).space_name == "latents"
    assert Runtime(given=given).space_plugin().config.size == 9


@pytest.mark.parametrize(
    "given, ask, words",
    [
        (Given(), Runtime.teacher_plugin, "teacher: not given; teacher=NAME, see `piflow_bench"),
        (Given({"name": "d", "sise": 1}), Runtime.dataset_plugin, "dataset.sise"),
        (
            Given(extractors={"eye": {"size": "big"}}),
            lambda r: r.extractor_plugin("eye"),
            "extractors.eye.size",
        ),
    ],
)
def test_a_mistake_is_one_line_and_named_as_the_user_would_set_it(given, ask, words):
    with pytest.raises(UserError) as error:
        ask(Runtime(given=given))
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_what_is_loaded_is_loaded_once_whatever_changes_nothing_of_it():
    runtime = Runtime(given=GIVEN)
    data, teacher = runtime.dataset(), runtime.teacher()
    other = replace(runtime, sample_batch=3, save_seconds=1.0, scale=Scale(micro_batch=2))
    assert other.dataset() is data and other.teacher() is teacher
    guided = replace(runtime, given=replace(GIVEN, teacher={"name": "t", "size": 4}))
    assert guided.dataset() is data and guided.teacher() is not teacher
    assert runtime.teacher(Path("made")) is not teacher
    elsewhere = replace(runtime, inputs="elsewhere")
    assert elsewhere.dataset() is not data


def test_a_teacher_is_loaded_for_its_data_and_from_what_its_stage_made():
    runtime = Runtime(given=GIVEN)
    runtime.teacher(Path("made"))
    assert Anything.loaded[-1] == (runtime.dataset(), Path("made"))


def test_a_reward_scores_the_pictures_of_samples(monkeypatch):
    asked = []

    def load(self, *given):
        if isinstance(given[0], SimpleNamespace):  # The data.
            asked.append(self.config.size)
            return lambda pictures, condition: pictures.mean((1, 2, 3)) * len(condition)
        look = SimpleNamespace(pictures=lambda x: x.numpy() + 1)
        return SimpleNamespace(of=self.config, space=look)

    monkeypatch.setattr(Anything, "load", load)
    runtime = Runtime(given=replace(GIVEN, rewards={"taste": {"size": 9}}))
    samples = torch.arange(24.0, dtype=torch.float64).reshape(2, 2, 3, 2).requires_grad_()
    reward = runtime.reward("taste")
    with torch.no_grad():
        found = reward(samples, range(2))
    assert found.dtype == torch.float64 and not found.requires_grad
    assert torch.equal(found, (samples.detach().mean((1, 2, 3)) + 1) * 2)
    assert runtime.reward("taste") is reward and asked == [9]
    assert runtime.reward("other") is not reward and asked == [9, 3]


@pytest.mark.parametrize(
    "told, words",
    [
        (lambda x: x.mean((1, 2, 3))[:, None], r"float64 \(2, 1\) for 2 pictures"),
        (lambda x: x.mean((1, 2, 3)) * np.nan, "not as many finite numbers"),
    ],
)
def test_a_rewards_false_numbers_are_no_training(told, words, monkeypatch):
    def load(self, *given):
        if isinstance(given[0], SimpleNamespace):  # The data.
            return lambda pictures, condition: told(pictures)
        return SimpleNamespace(space=SimpleNamespace(pictures=lambda x: x.numpy()))

    monkeypatch.setattr(Anything, "load", load)
    reward = Runtime(given=GIVEN).reward("taste")
    with pytest.raises(RuntimeError, match=f"reward taste: gives .*{words}"):
        reward(torch.zeros(2, 2, 3, 2, dtype=torch.float64), range(2))


def test_a_reward_that_fails_is_named(monkeypatch):
    def load(self, *given):
        if isinstance(given[0], SimpleNamespace):  # The data.
            return lambda pictures, condition: {}["scale"]
        return SimpleNamespace(space=SimpleNamespace(pictures=lambda x: x.numpy()))

    monkeypatch.setattr(Anything, "load", load)
    reward = Runtime(given=GIVEN).reward("taste")
    with pytest.raises(RuntimeError, match="^reward taste: KeyError: 'scale'$") as found:
        reward(torch.zeros(2, 2, 3, 2), range(2))
    assert isinstance(found.value.__cause__, KeyError)


@pytest.mark.parametrize("kind", ["extractor", "reward"])
def test_settings_of_one_do_not_name_another(kind):
    runtime = Runtime(given=replace(GIVEN, **{f"{kind}s": {"taste": {"name": "other"}}}))
    with pytest.raises(UserError, match=rf"^{kind}s\.taste\.name=other: .* {kind}s\.other\.KEY"):
        getattr(runtime, f"{kind}_plugin")("taste")


def test_a_reward_is_asked_in_float32_in_a_training_of_bfloat16(monkeypatch):
    def load(self, *given):
        if isinstance(given[0], SimpleNamespace):  # The data.
            return lambda pictures, condition: pictures.sum((1, 2, 3))
        decode = SimpleNamespace(pictures=lambda x: (x @ torch.eye(2)).float().numpy())
        return SimpleNamespace(space=decode)

    monkeypatch.setattr(Anything, "load", load)
    reward = Runtime(given=GIVEN).reward("taste")
    samples = torch.full((1, 1, 1, 2), 1 + 2**-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert reward(samples, range(1)).item() == samples.sum().item()


def test_a_rewards_missing_file_is_named_by_its_setting_in_a_run(monkeypatch):
    def refuse(self, *given):
        if isinstance(given[0], SimpleNamespace):  # The data.
            raise UserError("reward.weights=x: no such file")
        return SimpleNamespace(space=SimpleNamespace(pictures=lambda x: x))

    monkeypatch.setattr(Anything, "load", refuse)
    with pytest.raises(UserError, match=r"^rewards\.taste\.weights=x: no such file"):
        Runtime(given=GIVEN).reward("taste")


@dataclass(frozen=True)
class Extractor:
    precision: str = "float32"


def test_an_extractor_runs_in_the_precision_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(Anything, "load", lambda self, name, place: Extractor())
    runtime = Runtime(given=GIVEN)
    assert runtime.extractor("eye", "bfloat16").precision == "bfloat16"
    assert runtime.extractor("eye").precision == "float32"


def test_a_runtime_survives_the_way_to_another_process():
    runtime = Runtime("a,b", GIVEN, 7, 1.5, Scale("cuda", 2, micro_batch=4), "in", ("s",), "l",
                      {"clip_score": "w"}, {"distill-1": "events"})  # fmt: skip
    assert from_plain(json.loads(json.dumps(plain(runtime)))) == runtime


def test_folders_of_plugins_and_the_place_of_networks():
    runtime = Runtime(["a", "b"], scale=Scale("cuda"), inputs="in")
    assert runtime.folders == ["a", "b"] and Runtime().folders == []
    assert (runtime.place.device, runtime.place.inputs) == ("cuda", "in")


@pytest.mark.parametrize("own, sizes", [(None, [2, 2, 1]), (4, [4, 1])])
def test_pictures_are_described_in_batches_and_grey_ones_as_rgb(own, sizes):
    seen = []

    class Eye:
        batch = own

        def __call__(self, pictures):
            seen.append(pictures)
            return {"features": pictures.reshape(len(pictures), -1)}

    grey = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)
    found = described(Eye(), grey, 2)
    assert [len(each) for each in seen] == sizes
    assert np.array_equal(found["features"], np.repeat(grey, 3, axis=3).reshape(5, -1))
    points = np.ones((3, 2))
    assert described(Eye(), points, 2)["features"].shape == (3, 2)
