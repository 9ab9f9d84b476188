"""Tells its weights by reading them."""

from safetensors.torch import load_file

from piflow_bench.api import TeacherPlugin
from piflow_bench.teachers.digits import FILE
from tests.plugins.teachers._base import OfDigits


class IdentityReadsWeights(OfDigits, TeacherPlugin):
    """Tells its weights by reading them."""

    def identity(self):
        return {"weights": float(load_file(FILE)["proj_out_2.bias"].sum())}
