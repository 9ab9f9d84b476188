"""The world of an experiment: what of its plugins is in keys, and what is refused of them."""

from dataclasses import replace

import pytest

from piflow_bench.config.compose import compose
from piflow_bench.config.schema import StudentConfig, WeightsConfig
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics import lpips
from piflow_bench.pipeline.plan import world
from piflow_bench.pipeline.plan.world import runtime_of, world_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.training.scale import Scale
from tests.pipeline.plan import made

(DIGITS,) = compose(["profile=smoke"])


def config_of(rules=None, **others):
    """The small digits experiment with these rules and fields."""
    return replace(DIGITS, protocol=replace(DIGITS.protocol, **(rules or {})), **others)


@pytest.fixture(scope="module")
def digits():
    return world_of(DIGITS, look=False)


def test_identities_are_of_content_and_never_of_paths(digits):
    assert set(digits.identities) == {"dataset", "space", "teacher"}
    assert digits.data == {"name": "digits", "settings": {}, "digest": digits.dataset.digest}
    assert digits.space == {"name": "grey-levels", "settings": {"levels": 17}}
    teacher = digits.identities["teacher"]
    assert teacher["name"] == "digits" and teacher["settings"] == dict(digits.teacher.identity())
    assert digits.protocol is digits.config.protocol


def test_extractors_and_judge_are_the_protocols_and_the_datasets(digits):
    assert list(digits.extractors) == digits.protocol.extractors
    assert all({"rule", "weights"} <= set(each) for each in digits.extractors.values())
    ((judge, known),) = digits.judge.items()
    assert judge == digits.runtime.dataset_plugin().judge and known["weights"]
    assert not any("precision" in each for each in [*digits.extractors.values(), known])


def test_a_shorter_precision_is_in_the_key_of_what_looks():
    found = world_of(config_of({"precision": "bfloat16"}), look=False)
    for each in [*found.extractors.values(), *found.judge.values()]:
        assert each["precision"] == "bfloat16"


def test_lpips_is_in_the_world_of_its_metrics_alone(digits, monkeypatch):
    monkeypatch.setattr(lpips, "identity_of", lambda weights: f"digest of {weights}")
    assert digits.lpips is None
    config = config_of({"metrics": ["fd", "teacher_lpips"]}, lpips=WeightsConfig("w"))
    assert world_of(config, look=False).lpips == "digest of w"


@pytest.mark.parametrize(
    "rules, others, words",
    [
        ({"questions": []}, {}, "protocol.questions=[]: at least one of imitation, data"),
        ({"extractors": []}, {}, "protocol.extractors=[]: at least one of NAME is needed"),
        (
            {"extractors": ["points"]},
            {},
            "protocol.extractors=points: describes points, which the samples of digits are not",
        ),
        ({}, {"teacher": {"name": "digit"}}, "no teacher is called 'digit'; did you mean 'digits'"),
        ({}, {"teacher": {}}, "teacher: not given; teacher=NAME"),
        (
            {},
            {"extractors": {"digits": {"weights": "no.file"}}},
            "extractors.digits.weights=no.file: no such file",
        ),
    ],
)
def test_a_mistake_is_one_line(rules, others, words):
    with pytest.raises(UserError) as error:
        world_of(config_of(rules, **others), look=False)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_has_no_classes_is_not_guided(monkeypatch):
    data = made.dataset(train_condition=Unconditional(12))
    monkeypatch.setattr(Runtime, "dataset", lambda self: data)
    with pytest.raises(UserError, match=r"^teacher\.guidance=3: tiny has no classes to guide by; "
                       r"teacher\.guidance=1$"):  # fmt: skip
        world_of(config_of(teacher={**DIGITS.teacher, "guidance": 3}), look=False)


@pytest.mark.parametrize("error", [TypeError("odd"), ValueError("odd")])
def test_a_dataset_that_cannot_be_loaded_is_the_users(error, monkeypatch):
    def load(self):
        raise error

    monkeypatch.setattr(Runtime, "dataset", load)
    with pytest.raises(UserError, match="^dataset=digits: odd$"):
        world_of(DIGITS, look=False)


def test_problems_are_looked_for_once_and_only_by_who_asks(monkeypatch):
    monkeypatch.setattr(world, "_sound", {})
    found, asked = [["labels are odd", "too few"]], []

    def problems(dataset, held_out):
        asked.append(held_out)
        return found[0]

    monkeypatch.setattr(world, "dataset_problems", problems)
    monkeypatch.setattr(world, "network_of", lambda dataset, teacher: (None, found[0]))
    config = config_of({"questions": ["imitation"]})
    world_of(config, look=False)
    assert asked == []
    with pytest.raises(UserError, match="^dataset digits: labels are odd; too few$"):
        world_of(config, look=True)
    found[0] = []
    world_of(config, look=True)
    world_of(config, look=True)
    assert asked == [False, False]
    monkeypatch.setattr(world, "_sound", {})
    monkeypatch.setattr(world, "network_of", lambda dataset, teacher: (None, ["no field"]))
    with pytest.raises(UserError, match="^teacher digits: no field$"):
        world_of(config, look=True)


def test_the_call_is_what_the_configuration_says_of_this_machine():
    config = config_of(
        runs="there", sample_batch=3, save_seconds=1.5, scale=Scale(micro_batch=2),
        lpips=WeightsConfig("w"), student=StudentConfig("s"),
    )  # fmt: skip
    found = runtime_of(config)
    assert (found.sample_batch, found.save_seconds, found.scale.micro_batch) == (3, 1.5, 2)
    assert (found.inputs, found.students, found.lpips_weights) == ("there/inputs", ("s",), "w")
    assert found.given.dataset == config.dataset and found.given.teacher == config.teacher
