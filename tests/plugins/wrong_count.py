from tests.plugins._base import Base, EulerStudent


class _Twice(EulerStudent):
    def sample(self, noise, condition, nfe, random, **settings):
        return super().sample(noise, condition, 2 * nfe, random)


class WrongCount(Base):
    student = _Twice
