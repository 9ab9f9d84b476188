"""What `evaluate` takes beside the sets and the protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.measured import Report
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.evaluation.protocols import Protocol, load_protocol
from piflow_bench.file_plugins import places
from piflow_bench.files.atomic import check_writable
from piflow_bench.places import CACHE, RUNS

KEPT = str(Path(RUNS) / "store" / CACHE)
"""Where features are kept where nobody says."""


def silent(what: str, done: int, total: int) -> None:
    """A report to nobody."""


@dataclass(frozen=True)
class Options:
    """What `evaluate` takes beside the sets and the protocol; see there."""

    extractor: str | None = None
    weights: str | None = None
    metrics: str | Sequence[str] | None = None
    n: int | Sequence[int] | None = None
    teacher: Any = None
    prompts: Any = None
    labels: Any = None
    per_class: str | Sequence[str] = ()
    lpips_weights: str | None = None
    scorers: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    precision: str | None = None
    compiled: bool = False
    workers: int = 2
    processes: int = 1
    batch: int | None = None
    cache: str | Path | bool | None = KEPT
    plugins: str | Sequence[str] | None = None
    space: Mapping[str, str] = field(default_factory=dict)
    report: Report = silent
    settings: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> list[int]:
        """The different n, ascending; none where n is not given."""
        given: list[Any] = (
            list(self.n) if isinstance(self.n, list | tuple | np.ndarray) else [self.n]
        )
        if given == [None]:
            return []
        for count in given:
            if not isinstance(count, Integral) or isinstance(count, bool):
                raise UserError(f"n={count}: must be a whole number, or a list of such")
            if int(count) < 1:
                raise UserError(f"n={count}: must be at least 1")
        if not given:
            raise UserError("n=[]: at least one number is needed")
        return sorted({int(count) for count in given})

    def place(self) -> Path | None:
        """Where features are kept, which must be writable; None for nowhere."""
        if self.cache is None or self.cache is False:
            return None
        cache = Path(KEPT if self.cache is True else self.cache)
        check_writable("cache", cache)
        return cache

    def look(self) -> Look:
        """What it takes to look at samples of a run."""
        return Look(dict(self.space), tuple(places(self.plugins)), self.device, self.place())

    def rules(self, protocol: str | Protocol) -> Protocol:
        """The protocol with what is given beside it; how many are scored is apart from it."""
        rules = load_protocol(protocol) if isinstance(protocol, str) else protocol
        metrics = (self.metrics,) if isinstance(self.metrics, str) else self.metrics
        return dataclasses.replace(
            rules,
            extractors=[self.extractor or rules.extractor],
            metrics=list(metrics or rules.metrics),
            precision=self.precision or rules.precision,
            settings={**rules.settings, **self.settings},
        )
