"""Leaves its network to be trained."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfPictures


class TrainsOn(OfPictures, TeacherPlugin):
    """Leaves its network to be trained."""

    def load(self, dataset, made=None):
        teacher = super().load(dataset, made)
        teacher.network.train().requires_grad_(True)
        return teacher
