"""Points in the plane, which have no pictures."""

from __future__ import annotations

from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import Space, SpacePlugin


class Points(SpacePlugin):
    """Points in the plane: nothing but two numbers."""

    def load(self, pictures: tuple[int, int, int], place: Place) -> Space:
        """Samples ``(2,)``."""
        return Space((2,), bounded=False)
