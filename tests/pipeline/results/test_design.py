"""What a page says of an experiment's design before anything is run."""

from types import SimpleNamespace

from piflow_bench.config.compose import compose
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results.design import ENOUGH, design_warnings
from tests.pipeline.results.made import config as made_config
from tests.pipeline.results.made import plan_of


def warnings(*settings):
    (config,) = compose(["experiment=digits", "profile=smoke", *settings])
    return design_warnings(make_plan(config))


def test_data_under_guidance_is_one_methods_choice():
    words = "the primary question is data, under guidance 1.5"
    asked = "protocol.primary_question=data"
    assert any(words in text for text in warnings(asked))
    assert not any(words in text for text in warnings())
    assert not any("primary question" in t for t in warnings(asked, "teacher.guidance=1"))


def test_an_elastic_student_beside_specialists_is_told_of():
    def told(*settings):
        return [t for t in warnings(*settings) if "budget split" in t]

    alone = "split_budget=false"
    (text,) = told(alone)
    assert text.startswith("meanflow: one budget serves all NFEs")
    assert not told()  # Rows of the split budget stand beside it.
    for fair in ("nfes=[1]", "only=[meanflow]", "only=[dmd2,kd]"):
        assert not told(alone, fair)


def test_imagenet_asks_imitation_first():
    for config in compose(["experiment=imagenet_1nfe"]) + compose(["experiment=imagenet_2nfe"]):
        assert config.protocol.primary_question == "imitation"
        assert "data" in config.protocol.questions


def test_a_teacher_that_is_trained_briefly_makes_a_first_look():
    """By how often it sees each image; a dataset's own cautions come before it."""

    def told(images, unit="images"):
        budget = SimpleNamespace(amount=images, unit=unit)
        training = SimpleNamespace(budget=budget)
        teacher = SimpleNamespace(guidance=SimpleNamespace(scale=1), training=lambda data: training)
        data = SimpleNamespace(training_rows=range(100), cautions=("few images",))
        plan = plan_of(
            teacher=teacher,
            dataset=data,
            config=made_config(budget=SimpleNamespace(amount=60, unit="tfe")),
        )
        return design_warnings(plan)

    assert told(ENOUGH * 100 + 1) == told(500, "tfe") == ["few images"]
    first, text = told(500)
    assert first == "few images" and "on 500 images, each seen 5 times" in text
    assert "students for 60 TFE" in text


def test_a_reference_of_the_samples_own_noise_is_told_of():
    words = "the reference shares its noise"
    assert any(words in text for text in warnings("protocol.reference_seed=0"))
    assert not any(words in text for text in warnings())
