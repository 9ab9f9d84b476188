"""Forgets to copy the teacher."""

from dataclasses import replace

from tests.plugins._base import Base


class TrainsTeacher(Base):
    def build(self, teacher, spec):
        built = super().build(teacher, spec)
        network = teacher.network.requires_grad_(True)
        return replace(built, student=self.student(network), modules={"student": network})
