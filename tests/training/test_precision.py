"""Under autocast every call of a network sees its weights as they are, and its gradient arrives.

torch keeps casts of weights for the length of a region unless told otherwise: a later change of a
weight is not seen then, and (in torch 2.6) what was cast without gradient stays without.
"""

from functools import partial

import pytest
import torch

from piflow_bench.precision import products
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer
from tests.plugins._base import Base
from tests.training.test_loop import parts

BF16 = TrainingSettings(batch=8, warmup=0, precision="bf16", clip=0.0)


def perturb(module, factor):
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(factor)


class Looking(Base):
    """Calls its student once more before its loss, in one of several ways."""

    before = "nothing"

    def loss(self, batch, context, noise=None):
        student, module = context.networks["student"], context.modules["student"]
        x, t = context.random.normal("looked at", batch.shape), context.random.uniform("when")
        call = partial(student, x, t, batch.condition)
        if self.before == "without gradient":
            with torch.no_grad():
                call()
        elif self.before == "frozen":
            with torch.no_grad():
                context.frozen("student")(x, t, batch.condition)
            context.thaw()
        elif self.before == "in bfloat16 without gradient":
            with torch.no_grad(), context.products("bfloat16"):
                call()
        elif self.before == "with other weights":
            perturb(module, 3.0)
            call()
            perturb(module, 1 / 3.0)
        return super().loss(batch, context, noise)


def gradients(before, monkeypatch):
    """Of the student's first step, by name."""
    monkeypatch.setattr(Looking, "before", before)
    _, teacher, data, spec = parts("kd")
    trainer = Trainer(Looking(Looking.Config()), teacher, data, spec, BF16, BUDGET, 3)
    found = {}

    def keep(name, progress):
        for key, p in trainer.modules["student"].named_parameters():
            found[key] = None if p.grad is None else p.grad.clone()
        return {}

    monkeypatch.setattr(trainer, "_optimizer_step", keep)
    trainer.run_step()
    return found


BUDGET = Budget("images", 64, (1.0,))
WAYS = ["without gradient", "frozen", "in bfloat16 without gradient", "with other weights"]


@pytest.mark.parametrize("before", WAYS)
def test_a_call_leaves_the_gradient_of_the_next_one_alone(before, monkeypatch):
    alone = gradients("nothing", monkeypatch)
    after = gradients(before, monkeypatch)
    assert {k for k, g in after.items() if g is None} == {k for k, g in alone.items() if g is None}
    for key, gradient in alone.items():
        if gradient is not None:
            torch.testing.assert_close(after[key], gradient, rtol=1e-4, atol=1e-7)


def test_a_weight_that_changes_inside_products_is_seen():
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with products("cpu", "bfloat16"):
        before = layer(x)
        perturb(layer, 3.0)
        assert not torch.equal(layer(x), before)
