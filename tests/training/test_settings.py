import pytest

from piflow_bench.errors import UserError
from piflow_bench.settings import build_dataclass
from piflow_bench.training.settings import Budget, TrainingSettings, learning_rate_scale


def test_learning_rate_warms_up_and_decays():
    assert learning_rate_scale(0, 0.0, 10, "constant") == pytest.approx(0.1)
    assert learning_rate_scale(9, 0.0, 10, "constant") == 1
    assert learning_rate_scale(50, 0.5, 10, "cosine") == pytest.approx(0.5)
    assert learning_rate_scale(50, 1.2, 10, "linear") == 0
    with pytest.raises(ValueError, match="schedule=sine"):
        learning_rate_scale(0, 0.0, 0, "sine")


@pytest.mark.parametrize(
    "values",
    [{"unit": "hours"}, {"amount": 0}, {"checkpoints": (0.5,)}, {"checkpoints": (0.5, 0.2, 1.0)}],
)
def test_impossible_budgets_are_refused(values):
    with pytest.raises(UserError, match="budget"):
        build_dataclass(Budget, values, "budget")


@pytest.mark.parametrize(
    "values",
    [{"batch": 0}, {"optimizer": "sgd"}, {"precision": "fp8"}, {"threads": 0}],
)
def test_impossible_training_settings_are_refused(values):
    with pytest.raises(UserError, match="training"):
        build_dataclass(TrainingSettings, values, "training")
