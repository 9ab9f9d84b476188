"""What a metric is. Each is a plugin of the entry-point group ``piflow_bench.metrics``, or a file.

An entry names one ``Metric`` or several; the built-in ones (``built_in.py``) come through the same
door. So do files that ``plugins=`` names (``use_plugins``), with all that they assign at their top
level. A metric that has no ``compute`` is measured elsewhere, by a dataset or the pipeline.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from piflow_bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from piflow_bench.evaluation.inputs import Inputs

Scored = Mapping[str, tuple[float, "Sequence[float] | np.ndarray"]]
"""Value and delete-one-block replicates (none for a spread) by metric name."""

PAIRS, SUBSETS = "pairs", "pairs of subsets"
"""Means over pairs of different samples, weighed by the designs (see ``stratified``)."""


@dataclass(frozen=True)
class Metric:
    """A metric: its facts, and how it is computed.

    ``needs`` names the inputs: ``generated`` and ``reference`` features, ``spatial`` features of
    both, ``logits`` and ``labels`` of the generated samples, ``teacher`` (its samples for the same
    noise), ``prompts``, ``modes`` of a known mixture.
    """

    name: str
    label: str
    higher_is_better: bool | None
    """None where neither direction is better in itself."""
    role: str
    """quality | diversity | agreement | other."""
    needs: tuple[str, ...]
    compute: Callable[[Inputs], Scored] | None = None
    """Scores under this name, and under others that come with it (``spread``)."""
    meaning: str = ""
    """What a value says, in a sentence or two; else the first sentence of ``compute``'s
    docstring is taken for it."""
    least: float = -math.inf
    """No value lies below: an interval for readers ends here."""
    most: float = math.inf
    """No value lies above."""
    spread: str | None = None
    """A metric that is always shown after this one."""
    from_moments: bool = False
    """Whether the reference's mean and covariance suffice."""
    optional: bool = False
    """Whether some samples have no value: NaN, which makes no row in a run's results."""
    extractor: str | None = None
    """The extractor that its definition names; on any other its name would promise too much."""
    passes: str | None = None
    """What it reads off the passes over pairs: kernel:NAME | balls | recall | authentic."""
    estimator: str = "plug-in"
    """What stands for an expectation; of ``PAIRS`` and ``SUBSETS`` it depends on the design."""
    version: int = 1
    """Raise it when the same features give another value: stored values are computed anew."""
    Config: type | None = None
    """A frozen dataclass of its own settings, given as ``protocol.settings.NAME.KEY=``, and to
    ``evaluate`` as ``NAME.KEY=``; ``compute`` reads them by ``inputs.config(NAME)``."""
    source: str = ""
    """Digest of the modules of a plugin that is a file or another project's, set as it is loaded:
    edited, it is computed anew without a word from its author."""

    @property
    def key(self) -> int | list[int | str]:
        """What decides its values, given the same features."""
        return [self.version, self.source] if self.source else self.version

    @property
    def summary(self) -> str:
        """What a value says, wherever its author wrote it; empty if nowhere."""
        written = inspect.getdoc(self.compute) if self.compute else None
        return self.meaning or " ".join((written or "").partition("\n\n")[0].split())

    def within(self, value: float) -> float:
        """An end of an interval, kept in the range of the metric; NaN stays NaN."""
        return min(max(value, self.least), self.most) if value == value else value


_folders: tuple[str, ...] = ()
"""Files and folders whose metrics this process knows, beside those that are installed."""


def use_plugins(folders: Sequence[str]) -> None:
    """Let this process know the metrics of these files and folders, and of no others before them.

    A metric is named wherever there are features, so what is known is a matter of the process:
    every verb and every stage that is made says it anew, and files are read anew then.
    """
    global _folders
    if folders or _folders:
        _folders = tuple(folders)
        _forget()


@lru_cache(maxsize=1)
def all_metrics() -> dict[str, Metric]:
    """Every metric by name, built-in ones first.

    Raises:
        UserError: if two metrics have one name, or a file that ``plugins=`` names is not there.
    """
    from piflow_bench import registry

    found: dict[str, tuple[Metric, str]] = {}
    plugins = registry.find("metric", _folders).values()
    for plugin in sorted(plugins, key=lambda each: (each.source != "piflow-bench", each.name)):
        try:
            loaded, foreign = plugin.load(), plugin.foreign_source()
        except registry.PluginError as error:  # It must not break the others.
            print(f"warning: {error}", file=sys.stderr)
            continue
        metrics: Iterable[Metric] = (loaded,) if isinstance(loaded, Metric) else loaded
        for metric in metrics:
            if metric.name in found:
                raise UserError(
                    f"two metrics are called '{metric.name}': one from {found[metric.name][1]}, "
                    f"one from {plugin.source}; rename or uninstall one"
                )
            found[metric.name] = (replace(metric, source=foreign), plugin.source)
    return {name: metric for name, (metric, _) in found.items()}


_forget = all_metrics.cache_clear
