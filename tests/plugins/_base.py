"""A correct, cheap method; the bad plugins beside it break one rule each."""

import copy
from dataclasses import dataclass
from typing import Any

from piflow_bench.api import Built, Facts, Method, Optimizer, Student, Update, flow


@dataclass(frozen=True)
class Config:
    lr: float = 1e-3


@dataclass
class EulerStudent(Student):
    network: Any

    def sample(self, noise, condition, nfe, random, **settings):
        times = flow.time_grid(nfe)
        return flow.euler(lambda x, t: self.network(x, t, condition), noise, times)


class Base(Method):
    Config = Config
    facts = Facts(family="test", needs_data=True, elastic=True)
    student = EulerStudent

    def build(self, teacher, spec):
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        return Built(
            student=self.student(network),
            modules={"student": network},
            optimizers={"student": Optimizer(("student",), self.config.lr)},
        )

    def loss(self, batch, context, noise=None):
        noise = context.random.normal("noise", batch.shape) if noise is None else noise
        t = context.random.uniform("time")
        x = flow.interpolate(batch.x0, noise, t)
        target = context.teacher(x, t, batch.condition)
        return (context.networks["student"](x, t, batch.condition) - target).square().mean()

    def training_step(self, batch, context):
        loss = self.loss(batch, context)
        yield Update("student", loss, scalars={"loss": loss.detach()})
