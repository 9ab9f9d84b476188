"""Encodes pictures to [0, 1], and looks at [-1, 1]."""

from piflow_bench.api import SpacePlugin
from tests.plugins.spaces._base import Base


class EncodesToOne(Base, SpacePlugin):
    """Encodes pictures to [0, 1], and looks at [-1, 1]."""

    def encode(self, images):
        return (super().encode(images) + 1) / 2
