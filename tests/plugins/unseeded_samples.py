"""Samples with draws from outside `random`."""

import torch

from tests.plugins._base import Base, EulerStudent


class _Jittered(EulerStudent):
    def sample(self, noise, condition, nfe, random, **settings):
        return super().sample(noise + 0.1 * torch.randn_like(noise), condition, nfe, random)


class UnseededSamples(Base):
    student = _Jittered
