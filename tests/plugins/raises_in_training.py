from tests.plugins._base import Base


class RaisesInTraining(Base):
    def training_step(self, batch, context):
        raise RuntimeError("this step is broken on purpose")
        yield
