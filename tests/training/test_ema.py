import pytest
import torch
from torch import nn

from piflow_bench.training.ema import EMA
from piflow_bench.training.settings import EMASettings


def follow(settings, values):
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, settings)
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update()
    return ema


def test_power_law_weights():
    values = torch.randn(12).tolist()
    ema = follow(EMASettings("power", gamma=7.0), values)
    expected = 0.0
    for t, value in enumerate(values, start=1):
        beta = (1 - 1 / t) ** 8
        expected = beta * expected + (1 - beta) * value
    assert ema.average["weight"].item() == pytest.approx(expected, abs=1e-5)


def test_fixed_decay():
    ema = follow(EMASettings("fixed", decay=0.9), [1.0, 1.0])
    start = follow(EMASettings("fixed", decay=0.9), []).average["weight"]
    assert ema.updates == 2 and start.shape == (1, 1)
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema = EMA(module, EMASettings("fixed", decay=0.9))
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.update()
    ema.update()
    assert ema.average["weight"].item() == pytest.approx(0.19)
