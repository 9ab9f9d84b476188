"""Refusals before any work: each is one line that names the setting and mends it."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_bench.config.schema import VariantConfig
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.method import Facts
from piflow_bench.contracts.space import Space
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics import metric
from piflow_bench.evaluation.metrics.metric import Metric
from piflow_bench.pipeline.plan import refusals
from piflow_bench.pipeline.plan.refusals import (
    check_backbones,
    check_batch,
    check_batches,
    check_data,
    check_machine,
    check_protocol,
    check_reference,
    check_rewards,
)
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.rewards.class_probe import ClassProbe, Config
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import TrainingSettings
from tests.pipeline.plan import made

OUTPUTS = {"one": ("features", "logits"), "two": ("features",)}
POINTS = {"space": Space((2,))}
NO_CLASSES = {"train_condition": Unconditional(12)}


def world_of(rules=None, **data):
    found = made.world(rules or {}, data=made.dataset(**data))
    found.runtime.extractor_plugin = lambda name: SimpleNamespace(outputs=OUTPUTS.get(name, ()))
    return found


def refused(call, *given):
    with pytest.raises(UserError) as error:
        call(*given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, words",
    [
        ("stats.pkl", "dataset.reference=.*stats.pkl: statistics are read from npz files alone"),
        ("table.csv", "dataset.reference=.*neither a folder of images, an archive"),
        ("empty", "dataset.reference=.*empty"),
        ("one", "dataset.reference: 1 image, but at least 2"),
        ("half.npz", "dataset.reference=.*half.npz"),
    ],
)
def test_a_reference_that_no_stage_could_read(name, words, tmp_path):
    for folder, pictures in (("empty", 0), ("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        for i in range(pictures):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps({"mean": 0}))
    (tmp_path / "table.csv").write_text("a\n1\n")
    np.savez(tmp_path / "half.npz", mu=np.zeros(3))
    assert re.search(words, refused(check_reference, world_of(reference=tmp_path / name)))
    check_reference(world_of(reference=tmp_path / "two"))
    check_reference(world_of())


@pytest.mark.parametrize("reason", [None, "data", "untrained", "published", "data-free"])
def test_students_of_real_samples_need_some(reason):
    facts = Facts("any", trains=reason != "untrained", needs_data=reason != "data-free")
    variant = SimpleNamespace(
        name="mine", facts=facts, checkpoint="file" if reason == "published" else None
    )
    world = world_of() if reason == "data" else world_of(train=torch.zeros(0, 1, 2, 2))
    if reason is None:
        words = refused(check_data, world, [variant])
        assert words == "variants.mine: is trained on real samples, and tiny has prompts alone"
    else:
        check_data(world, [variant])


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(
    "data, words",
    [
        ({}, None),
        (NO_CLASSES, "class labels"),
        (POINTS, "pictures (its samples are points)"),
    ],
)
def test_rewards_that_cannot_look_at_the_data(data, words, published):
    facts = Facts("any", reward="class-probe")
    variant = SimpleNamespace(name="mine", facts=facts, checkpoint="file" if published else None)
    world = world_of(**data)
    world.runtime.reward_plugin = lambda name: ClassProbe(Config())
    if words is None or published:
        check_rewards(world, [variant])
        return
    assert refused(check_rewards, world, [variant]) == (
        f"variants.mine: the reward class-probe needs what tiny has not: {words}; name another in "
        "its settings, or leave it out with only=[NAME,...]"
    )


@pytest.mark.parametrize(
    "given, words",
    [
        ({"class-prob": {}}, "no reward is called 'class-prob'"),
        ({"class-probe": {"cell": 3}}, "rewards.class-probe.cell"),
        (
            {"class-probe": 5},
            "rewards.class-probe=5: its settings are rewards.class-probe.KEY=",
        ),
    ],
)
def test_settings_of_rewards_that_there_are_not(given, words):
    config = SimpleNamespace(rewards=given)
    runtime = Runtime(given=Given(rewards=given))
    world = SimpleNamespace(config=config, runtime=runtime, dataset=made.dataset())
    assert words in refused(check_rewards, world, [])


@pytest.mark.parametrize(
    "rules, data",
    [
        ({}, {}),
        ({"extractors": ["one"], "metrics": ["fd", "recall", "is"]}, {}),
        ({"metrics": ["fd", "recall", "teacher_mse", "lpips_within", "teacher_cosine"]}, {}),
        ({"metrics": ["fd", "recall", "teacher_cosine"], "agreement": "flow_map_error"}, POINTS),
        ({"curve_extractors": ["two"]}, {}),
    ],
)
def test_what_can_be_measured_passes(rules, data):
    check_protocol(world_of(rules, **data))


@pytest.mark.parametrize(
    "rules, data, words",
    [
        ({"metrics": []}, {}, "protocol.metrics=[]: at least one metric is needed"),
        ({"curve_metrics": []}, {}, "protocol.curve_metrics=[]: at least one metric is needed"),
        (
            {"metrics": ["cmmd"]},
            {},
            "protocol.metrics=cmmd: is of the extractor clip, not of one; the formula on any "
            "features is mmd_rbf_unit",
        ),
        (
            {"curve_metrics": ["teacher_mse"]},
            {},
            "protocol.curve_metrics=teacher_mse: is measured at the end of the budget alone; name "
            "it in protocol.metrics",
        ),
        (
            {"metrics": ["fd", "is"]},
            {},
            "protocol.metrics=is: needs logits, which this dataset's extractors do not give",
        ),
        (
            {"metrics": ["teacher_mse"]},
            POINTS,
            "protocol.metrics=teacher_mse: looks at pictures, which samples of tiny are not; "
            "flow_map_error looks at samples as they are",
        ),
        ({"agreement": "teacher_mse"}, POINTS, "protocol.agreement=teacher_mse: looks at pictures"),
        (
            {"metrics": ["lpips_within"]},
            NO_CLASSES,
            "protocol.metrics=lpips_within: compares samples of a class, and tiny has no classes",
        ),
        (
            {"curve_extractors": ["tow"]},
            {},
            "protocol.curve_extractors=tow: not in protocol.extractors; did you mean 'two'?",
        ),
        (
            {"primary_quality": "kid_exact"},
            {},
            "protocol.primary_quality=kid_exact: not in protocol.metrics",
        ),
        (
            {"metrics": ["fd"]},
            {},
            "protocol.primary_diversity=recall: not in protocol.metrics",
        ),
        (
            {"primary_question": "truth"},
            {},
            "protocol.primary_question=truth: not in protocol.questions",
        ),
        ({"settings": {"kk": 3}}, {}, "protocol.settings.kk"),
    ],
)
def test_what_no_metric_stage_could_do_is_refused(rules, data, words):
    assert words in refused(check_protocol, world_of(rules, **data))


def test_a_plugin_that_looks_at_samples_one_by_one_is_evaluates(monkeypatch):
    odd = Metric("odd", "Odd", None, "agreement", ("teacher",))
    known = {**metric.all_metrics(), "odd": odd}
    monkeypatch.setattr(metric, "all_metrics", lambda: known)
    words = refused(check_protocol, world_of({"metrics": ["fd", "recall", "odd"]}))
    assert words.startswith("protocol.metrics=odd: looks at samples one by one; of such metrics")


def of_batch(batch, checkpoint=None, **facts):
    facts = Facts("any", **facts)
    return SimpleNamespace(
        name="mine", facts=facts, checkpoint=checkpoint, training={"batch": batch}
    )


def test_rows_that_belong_together_are_parted_by_no_process_and_no_micro_batch():
    variant = of_batch(24, group=4)
    check_batches([variant], Scale(processes=3, micro_batch=5))
    words = refused(check_batches, [variant], Scale(processes=4))
    assert words == (
        "variants.mine: training.batch=24: 6 rows of a process must be a multiple of 4, the rows "
        "of a group"
    )
    words = refused(check_batches, [variant], Scale(micro_batch=3))
    assert words == "variants.mine: scale.micro_batch=3: must hold 4, the rows of a group"


def test_batches_divide_among_processes():
    variant = of_batch(6)
    check_batches([variant], Scale(processes=3))
    words = refused(check_batches, [variant], Scale(processes=4))
    assert words == "variants.mine: training.batch=6: must be a multiple of 4 processes"
    untrained = [of_batch(6, trains=False), of_batch(6, published=True)]
    check_batches([*untrained, of_batch(6, checkpoint="file")], Scale(processes=4))
    check_batch(6, Scale(processes=2))
    assert refused(check_batch, 6, Scale(processes=4)).startswith("teacher.batch=6: must be")


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = made.config(training=TrainingSettings(batch=6))
    check_machine(config, Scale("cuda"))
    assert refused(check_machine, config, Scale("cuda", processes=2)) == (
        "scale.device=cuda: 2 needed, 1 GPUs found; set scale.processes, or scale.device=cpu"
    )


def test_moments_in_8_bits_need_their_package_where_a_chosen_variant_asks(monkeypatch):
    own = VariantConfig("kd", training={"optimizer": "adamw8bit"})
    config = made.config(variants={"a": own, "b": VariantConfig("kd")})
    monkeypatch.setattr(refusals, "find_spec", lambda name: None)
    assert refused(check_machine, config, Scale()) == (
        "variants.a.training.optimizer=adamw8bit: needs bitsandbytes: pip install bitsandbytes, "
        "or set variants.a.training.optimizer=adamw"
    )
    config.only = ["b"]
    check_machine(config, Scale())
    config.only = None
    monkeypatch.setattr(refusals, "find_spec", lambda name: object())
    check_machine(config, Scale())


class Short(torch.nn.Module):
    """A network that has nothing beyond its forward pass."""


def test_a_network_without_what_a_variant_needs_is_named_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(refusals, "network_of", lambda dataset, teacher: (Short(), []))
    world = world_of()
    world.config.teacher = {"name": "mine"}
    needing = made.variant("kd", facts=Facts("x", backbone=("heads",)))
    check_backbones(world, [made.variant("other")])
    words = refused(check_backbones, world, [needing, made.variant("other")])
    assert words.startswith("variants.kd: needs ") and "Short of teacher=mine has not" in words
    assert words.endswith("; only=[other] leaves such variants out")
    assert "only=" not in refused(check_backbones, world, [needing])


def test_no_network_is_made_where_nobody_needs_more_of_one(monkeypatch):
    monkeypatch.setattr(refusals, "network_of", None)
    check_backbones(world_of(), [made.variant()])
