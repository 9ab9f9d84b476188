"""Refines its samples by calls that the harness is not to see."""

import torch

from tests.plugins._base import Base, EulerStudent


class _Hiding(EulerStudent):
    def __init__(self, network):
        super().__init__(network)
        self.own = network

    def sample(self, noise, condition, nfe, random, **settings):
        x = super().sample(noise, condition, nfe, random)
        return x - 0.1 * self.own(x, torch.full((len(x),), 0.1), condition)


class HiddenCall(Base):
    student = _Hiding
