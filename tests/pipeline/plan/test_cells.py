"""Cells: what is trained once, what is sampled how, and what is shown of it."""

import pytest

from piflow_bench.config.schema import VariantConfig
from piflow_bench.contracts.method import Facts
from piflow_bench.pipeline.plan import cells
from piflow_bench.pipeline.plan.cells import cells_of
from piflow_bench.pipeline.stages.metrics import COSINE
from tests.pipeline.plan import made

ELASTIC = Facts("flow map", elastic=True)
SOLVER = Facts("solver", track="none", trains=False, elastic=True, guidance="none")
ALL = {"metrics": ["fd", "recall", COSINE], "agreement": "teacher_mse"}


def planned(variant, rules=None, **others):
    return cells_of(variant, made.shared_of(made.world(rules or {}, **others)))


def trainings(found):
    return {cell.distill.key: cell.distill for cell in found}


def test_a_specialist_is_trained_for_every_nfe_and_seed_and_seen_at_every_checkpoint():
    found = planned(made.variant(), train_seeds=[2, 3])
    tasks = [s.task for s in trainings(found).values()]
    assert [(t.train_seed, t.train_nfe) for t in tasks] == [(2, 1), (2, 4), (3, 1), (3, 4)]
    seen = [(c.columns["train_seed"], c.columns["nfe"], c.columns["budget_fraction"])
            for c in found]  # fmt: skip
    assert seen == [(s, n, f) for s in (2, 3) for n in (1, 4) for f in (0.5, 1.0)]
    assert [c.checkpoint for c in found[:2]] == [0, 1]
    assert {c.columns["serves"] for c in found} == {"1", "4"}


def test_an_elastic_student_is_trained_once_for_all_nfes():
    found = planned(made.variant(facts=ELASTIC), train_seeds=[2, 3])
    tasks = [s.task for s in trainings(found).values()]
    assert [(t.train_seed, t.train_nfe) for t in tasks] == [(2, None), (3, None)]
    assert {c.columns["serves"] for c in found} == {"1,4"} and len(found) == 8
    assert {c.samples[0].task.train_nfe for c in found} == {None}


def test_a_twin_trains_under_another_seed_and_its_rows_say_the_experiments():
    twin = made.variant(config=VariantConfig("kd", seed_offset=1000), base="other")
    (cell, *_) = planned(twin, train_seeds=[2])
    assert cell.distill.task.train_seed == cell.samples[0].task.train_seed == 1002
    assert cell.columns["train_seed"] == cell.distill.about["train_seed"] == 2
    assert cell.distill.about["base"] == "other"


def test_every_way_of_sampling_is_a_competitor_of_one_training():
    config = VariantConfig("kd", sampling={"temperature": [0.3, 1.0], "steps": 2})
    found = planned(made.variant(nfes=[1], checkpoints=[1.0], config=config))
    assert [c.columns["sampler"] for c in found] == [
        "temperature=0.3, steps=2",
        "temperature=1.0, steps=2",
    ]
    assert len(trainings(found)) == 1
    assert [c.samples[0].task.sampling["temperature"] for c in found] == [0.3, 1.0]
    assert "(temperature=0.3, steps=2)" in found[0].samples[0].label
    single = VariantConfig("kd", sampling={"steps": 2})
    (cell,) = planned(made.variant(nfes=[1], checkpoints=[1.0], config=single))
    assert "(" not in cell.samples[0].label


def test_a_solver_trains_nothing_and_its_settings_are_its_sampler():
    found = planned(made.variant("euler", facts=SOLVER, settings={"solver": "euler"}))
    assert [c.columns["nfe"] for c in found] == [1, 4]
    for cell in found:
        assert cell.distill is None and cell.columns["train_seed"] is None
        assert (cell.columns["role"], cell.columns["serves"]) == ("teacher", "")
        assert cell.columns["sampler"] == "solver=euler" and cell.columns["guidance"] is None
        (drawn,) = cell.samples
        assert type(drawn.task).__name__ == "Sample" and "checkpoint" not in drawn.task.content


def test_guidance_is_the_teachers_where_it_is_baked_and_the_samplings_where_it_is_set():
    guided = made.teacher(guidance=2.5)
    (cell, *_) = planned(made.variant(), plugin=guided)
    assert cell.columns["guidance"] == 2.5
    own = VariantConfig("kd", sampling={"guidance": 4.0})
    (cell, *_) = planned(made.variant(config=own), plugin=guided)
    assert cell.columns["guidance"] == 4.0


def test_the_end_of_a_budget_is_scored_in_full_and_the_way_there_by_the_curve():
    way, end = planned(made.variant(nfes=[1]), ALL, shard=35)
    assert [s.kind for s in way.results] == ["metrics"] and way.closer == ()
    assert [s.kind for s in end.results] == ["metrics"] * 4 + ["scores"]
    assert [s.task.stop for s in way.samples] == [30] and [s.task.stop for s in end.samples] == [
        35,
        50,
    ]
    assert {s.kind for s in end.closer} == {"breakdown", "selection", "within"}


def test_a_closer_look_is_at_whole_budgets_and_the_whole_of_it_at_the_first_seed_alone():
    found = planned(made.variant(nfes=[1]), train_seeds=[2, 3])
    looks = [{s.kind for s in c.closer} for c in found]
    assert looks == [set(), {"breakdown", "selection", "within"}, set(), {"within"}]
    split = planned(made.variant(nfes=[1], shares=2))
    assert not any(c.closer for c in split) and {c.columns["shares"] for c in split} == {2}


def test_a_student_that_draws_more_than_its_noise_is_not_laid_beside_the_teacher():
    drawn = made.variant(facts=Facts("flow map", stochastic=True), checkpoints=[1.0])
    one, four = planned(drawn, ALL)
    for cell, paired in ((one, True), (four, False)):
        assert any(s.kind == "scores" for s in cell.results) == paired
        assert any("teacher" in s.inputs for s in cell.results) == paired


@pytest.mark.parametrize("facts, nfe", [(Facts("regression"), 1), (ELASTIC, None)])
def test_published_weights_stand_in_the_place_of_a_training(facts, nfe, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    monkeypatch.setattr(cells, "digest", lambda p: f"digest of {p.name}")
    config = {"train_seeds": [2, 3]}
    world = made.world(ALL, **config)
    found = cells_of(made.variant(facts=facts, checkpoint=str(path)), made.shared_of(world))
    (stage,) = trainings(found).values()
    assert (stage.kind, stage.task.train_nfe) == ("published", nfe)
    assert stage.task.weights == "digest of weights.safetensors"
    assert [c.columns["nfe"] for c in found] == [1, 4]
    for cell in found:
        assert cell.columns["train_seed"] is None and cell.checkpoint is None
        assert cell.columns["budget_fraction"] == 1.0
        assert cell.samples[0].inputs["distill"] == (stage,)
        assert any(s.kind == "scores" for s in cell.results) and cell.closer


def test_a_longer_budget_weighs_more():
    (cell, *_) = planned(made.variant())
    more = made.variant(budget={"unit": "tfe", "amount": 300.0, "checkpoints": [1.0]})
    (longer, *_) = planned(more)
    assert longer.distill.weight == 3 * cell.distill.weight
