"""Draws its noise from outside `context.random`."""

import torch

from piflow_bench.api import Update
from tests.plugins._base import Base


class Unseeded(Base):
    def training_step(self, batch, context):
        generator = torch.Generator()
        generator.seed()
        noise = torch.randn(batch.x0.shape, generator=generator)
        yield Update("student", self.loss(batch, context, noise))
