from tests.plugins._base import Base, EulerStudent


class _Flat(EulerStudent):
    def sample(self, noise, condition, nfe, random, **settings):
        return super().sample(noise, condition, nfe, random).flatten(1)[:, :-1]


class WrongShape(Base):
    student = _Flat
