"""Where MeanFlow's objectives from scratch have their optimum on submodes2d: closed forms.

A velocity from scratch is fitted to eps - x0, of which x_t leaves many. The least mean of squares
is the exact velocity, whose ODE ends in the data. With errors weighted by 1 / (|e|^2 + c)^p,
constant to the gradient, it is another, u = E[w v | x_t] / E[w | x_t]: found by fixed-point
iteration over the exact posterior of x0.
"""

import pytest
import torch

from piflow_bench.data import closed_form, submodes2d
from piflow_bench.evaluation.metrics.modes import mode_coverage

F64 = torch.float64
POINTS, STEPS, DRAWS, FLOOR = 600, 16, 8, 0.01


def optimum(x, t, labels, power, noise):
    """The velocity ``(B, 2)`` that has the least expected loss at x_t."""
    count, each = submodes2d.SHARES.shape
    table = torch.eye(count, dtype=F64).repeat_interleave(each, 1) * submodes2d.SHARES.flatten()
    flat = submodes2d.MEANS.flatten(0, 1)
    means, variance, logs = closed_form.posterior(x, t, flat, table[labels], submodes2d.STD)
    x0 = means[:, :, None] + variance.sqrt()[:, None, None] * noise
    v = ((x[:, None, None] - x0) / t).flatten(1, 2)
    chance = (logs.exp()[:, :, None] / len(noise)).expand(-1, -1, len(noise)).flatten(1)
    u = (chance[..., None] * v).sum(1)
    for _ in range(40 if power else 0):
        w = chance / ((v - u[:, None]).square().sum(2) + FLOOR) ** power
        u = (w[..., None] * v).sum(1) / w.sum(1, keepdim=True)
    return u


@pytest.mark.parametrize("power, low, high", [(0.0, 0.85, 1.1), (1.0, 0.0, 0.35)])
def test_squares_keep_rare_sub_modes_and_weighted_errors_do_not(power, low, high):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(DRAWS, 2, generator=generator, dtype=F64)
    noise = torch.cat([noise, -noise])
    x = torch.randn(POINTS, 2, generator=generator, dtype=F64)
    labels = torch.arange(POINTS) % submodes2d.CLASSES
    times = torch.linspace(1, 0, STEPS + 1, dtype=F64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = x - (t - s) * optimum(x, float(t), labels, power, noise)
    modes = submodes2d.MODES
    found = mode_coverage(x.numpy(), modes.means, modes.std, modes.weights)
    assert found.share > 0.9, "samples are sharp either way"
    assert low < found.rare < high
