"""Trains a second network that it does not declare."""

import copy
from dataclasses import replace

from piflow_bench.api import Optimizer, Update
from tests.plugins._base import Base


class FalseFacts(Base):
    def build(self, teacher, spec):
        built = super().build(teacher, spec)
        modules = {**built.modules, "critic": copy.deepcopy(built.modules["student"])}
        optimizers = {**built.optimizers, "critic": Optimizer(("critic",), 1e-3)}
        return replace(built, modules=modules, optimizers=optimizers)

    def training_step(self, batch, context):
        yield from super().training_step(batch, context)
        t = context.random.uniform("critic time")
        critic = context.networks["critic"](batch.x0, t, batch.condition)
        yield Update("critic", critic.square().mean())
