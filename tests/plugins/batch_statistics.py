"""Centres the batch: a sample depends on those beside it."""

from tests.plugins._base import Base, EulerStudent


class _Centred(EulerStudent):
    def sample(self, noise, condition, nfe, random, **settings):
        x = super().sample(noise, condition, nfe, random)
        return x - x.mean(0, keepdim=True)


class BatchStatistics(Base):
    student = _Centred
