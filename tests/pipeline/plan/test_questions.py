"""Who is asked what: questions, extractors and numbers at the end of a budget and before it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from piflow_bench.contracts.data import Modes, Truth
from piflow_bench.contracts.space import Space
from piflow_bench.pipeline.plan import questions, samples
from piflow_bench.pipeline.stages.metrics import COSINE, MODES, RARE
from tests.pipeline.plan import made

SAMPLED = {"from": "conditions", "seed": 0, "law": "balanced"}
MIXTURE = Truth(None, None, Modes(np.zeros((2, 2)), 0.1, np.ones(2) / 2))


def measured(world, final=True, paired=True):
    """The tasks' stages of one set of samples of a student that shares the teacher's noise."""
    shared = made.shared_of(world)
    teachers = shared.teachers if paired else None
    found = questions.evaluate(
        world, shared.teachers, shared.references, final, "mine", SAMPLED, teachers
    )
    return {(s.task.question, s.task.extractor): s for s in found}


def test_the_end_asks_every_question_of_every_extractor_and_the_curve_the_first_of_one():
    world = made.world()
    final, curve = measured(world), measured(world, final=False)
    assert set(final) == {(q, e) for q in ("imitation", "data") for e in ("one", "two")}
    assert set(curve) == {("imitation", "one")}
    assert {tuple(s.task.metrics) for s in final.values()} == {("fd", "recall")}
    assert curve["imitation", "one"].task.metrics == ["fd"]
    assert {key: s.task.n for key, s in final.items() if key[1] == "one"} == {
        ("imitation", "one"): 50,
        ("data", "one"): 40,
    }
    assert curve["imitation", "one"].task.n == 30
    assert measured(made.world({"data_samples": 400}))["data", "one"].task.n == 50


def test_reference_labels_are_those_of_the_references_samples():
    found = measured(made.world())
    assert found["imitation", "one"].task.reference_labels == {**SAMPLED, "seed": 7}
    assert found["data", "one"].task.reference_labels == {"from": "test"}
    assert found["data", "one"].task.labels == SAMPLED
    file = made.world(data=made.dataset(reference=Path("x")))
    assert measured(file)["data", "one"].task.reference_labels is None


def test_the_teachers_cosine_is_of_the_primary_question_and_of_shared_noise_alone():
    world = made.world({"metrics": ["fd", "recall", COSINE]})
    found = measured(world)
    for (question, _), stage in found.items():
        assert (COSINE in stage.task.metrics) == (question == "imitation")
        assert (COSINE in stage.task.versions) == (question == "imitation")
        assert ("teacher" in stage.inputs) == (question == "imitation")
    other = measured(made.world({"metrics": ["fd", COSINE], "primary_question": "data"}))
    assert [key for key, s in other.items() if "teacher" in s.inputs] == [
        ("data", "one"),
        ("data", "two"),
    ]
    assert not any("teacher" in s.inputs for s in measured(world, paired=False).values())
    assert "teacher" not in measured(made.world())["imitation", "one"].inputs


def test_a_judge_is_asked_of_data_under_the_first_extractor():
    found = measured(made.world(judge={"j": {}}))
    asked = {key for key, s in found.items() if s.task.accuracy}
    assert asked == {("data", "one")}
    assert "class_accuracy" in found["data", "one"].task.versions
    assert not any(s.task.accuracy for s in measured(made.world()).values())


def test_modes_are_counted_at_the_end_of_what_is_known_to_be_a_mixture():
    world = made.world(data=made.dataset(truth=MIXTURE))
    assert all(s.task.modes and set(MODES) - {RARE} <= set(s.task.versions)
               for s in measured(world).values())  # fmt: skip
    assert not any(s.task.modes for s in measured(world, final=False).values())
    assert not any(s.task.modes for s in measured(made.world()).values())
    assert not questions.mode_metrics(made.dataset(truth=Truth(None, None)))


def test_rare_modes_are_counted_where_there_are_any():
    """Mixtures of equal modes have no such row, and their keys do not change with its rules."""
    asked = {}
    for name, weights in {"equal": [1 / 2, 1 / 2], "skewed": [0.9, 0.1]}.items():
        modes = Modes(np.eye(2), 0.1, np.array(weights))
        world = made.world(data=made.dataset(truth=Truth(None, None, modes)))
        (asked[name],) = {RARE in s.task.versions for s in measured(world).values()}
    assert asked == {"equal": False, "skewed": True}


@pytest.mark.parametrize("file", [None, Path("x")])
def test_references_are_made_or_given(file):
    rules = {"questions": ["imitation", "data", "truth"]}
    world = made.world(rules, data=made.dataset(reference=file, truth=MIXTURE), shard=40)
    found = questions.references(world, samples.teachers(world))
    drawn = {q: [s.inputs["samples"][0].task for s in stages if s.inputs]
             for q, stages in found.items()}  # fmt: skip
    assert [(t.seed, t.start, t.stop) for t in drawn["imitation"]] == [(7, 0, 40), (7, 40, 60)]
    (exact,) = drawn["truth"]
    assert (exact.split, exact.seed, exact.n) == ("exact", 7, 60)
    if file:
        assert [s.kind for s in found["data"]] == ["real_reference"]
    else:
        assert [t.split for t in drawn["data"]] == ["test"]


def scored(rules, paired=True, lpips=None):
    world = made.world(rules, lpips=lpips)
    shared = made.shared_of(world)
    found = questions.score_samples(world, shared.paired, shared.paired if paired else None, "mine")
    return found[0] if found else None


def test_samples_are_scored_one_by_one_by_what_looks_at_pairs():
    stage = scored({"agreement": "teacher_mse", "metrics": ["fd", "teacher_psnr", "teacher_mse"]})
    assert stage.task.metrics == ["teacher_mse", "teacher_psnr"]
    assert set(stage.inputs) == {"samples", "converged"} and stage.task.lpips is None
    assert stage.task.labels == SAMPLED
    assert scored({}) is None and scored({"agreement": "teacher_mse"}, paired=False) is None


def test_diversity_needs_no_teacher_and_lpips_is_in_the_key_of_its_metrics_alone():
    metrics = {"metrics": ["teacher_mse", "lpips_within"]}
    alone = scored(metrics, paired=False, lpips="weights")
    assert alone.task.metrics == ["lpips_within"] and set(alone.inputs) == {"samples"}
    assert alone.task.lpips == "weights"
    assert scored({"metrics": ["teacher_mse"]}, lpips="weights").task.lpips is None


def looked(world):
    shared = made.shared_of(world)
    given = (shared.paired, shared.teachers, shared.references, shared.paired)
    return questions.inspections(world, *given, "mine", {"variant": "kd"})


def test_a_closer_look_has_numbers_by_count_and_class_and_samples_beside_training_images():
    broken, selected = looked(made.world({"metrics": ["fd", "recall"]}))
    assert (broken.task.n, broken.task.by_size, broken.task.extractor) == (50, True, "one")
    assert broken.task.metrics == ["fd", "recall"]
    assert set(broken.task.versions) == {"fd", "recall", "fd_infinity"}
    assert set(selected.inputs) == set(selected.task.reads)
    assert broken.about == selected.about == {"variant": "kd"}


def test_a_closer_look_at_less():
    of_data = made.world({"primary_question": "data", "metrics": ["kid_exact", "recall"],
                          "primary_quality": "kid_exact"})  # fmt: skip
    broken, _ = looked(of_data)
    assert broken.task.n == 40 and not broken.task.by_size
    assert looked(made.world(data=made.dataset(space=Space((2,))))) == ()
    _, selected = looked(made.world(data=made.dataset(reference=Path("x"))))
    assert "train_features" in selected.inputs and "test_features" not in selected.inputs
    none = made.dataset(train=torch.zeros(0, 1, 2, 2))
    _, selected = looked(made.world(data=none))
    assert not {"train", "train_features", "test_features"} & set(selected.inputs)


def test_versions_are_the_metrics_own(monkeypatch):
    from piflow_bench.evaluation.metrics import metric

    monkeypatch.setattr(metric, "all_metrics", lambda: {"fd": SimpleNamespace(key=[3, "source"])})
    assert questions.versions(["fd"]) == {"fd": [3, "source"]}
