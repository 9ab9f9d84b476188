"""Renoises, but does not say that it is stochastic."""

from tests.plugins._base import Base, EulerStudent


class _Renoising(EulerStudent):
    def sample(self, noise, condition, nfe, random, **settings):
        x = super().sample(noise, condition, nfe, random)
        return x + 0.1 * random.normal(0, noise.shape[1:]) if nfe > 1 else x


class UndeclaredNoise(Base):
    student = _Renoising
