"""What a page says of an experiment's design before anything is run."""

from piflow_bench.config.compose import compose
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results.design import design_warnings


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
