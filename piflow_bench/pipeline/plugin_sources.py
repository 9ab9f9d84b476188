"""The sources of plugins in keys: what another project's code made is made anew when it is edited.

A method that is a file has its digest beside its settings, a dataset or teacher that is a file or
another project's beside its own, a metric beside its version. Code that is edited after the plan
makes nothing under the key of what it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from piflow_bench import registry
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.student import OfStudent
from piflow_bench.sources import source_digest


class SourceChanged(RuntimeError):
    """A plugin's code is not what the run was planned with; the same command plans it anew."""


def plugin_source(kind: str, name: str, runtime: Runtime) -> dict[str, str]:
    """What a plugin's key has beside its identity: the source of one that is not this project's."""
    found = registry.find(kind, runtime.folders)[name].foreign_source()
    return {"source": found} if found else {}


def unchanged_source(stage: Stage, runtime: Runtime) -> str:
    """Digest of the modules of the stage's method, as this process has loaded them; "" without.

    Raises:
        SourceChanged: if a plugin of the stage is not what its key says.
    """
    found = ""
    if isinstance(stage.task, OfStudent):
        found = source_digest(registry.get("method", stage.task.method, runtime.folders))
    for what in _changed(stage, found, runtime):
        raise SourceChanged(f"the source of {what} was edited after the run had begun")
    return found


def _changed(stage: Stage, method: str, runtime: Runtime) -> Iterator[str]:
    """Plugins of the stage whose source here is not that of its key."""
    config = stage.task.content
    if config.get("source", method) != method:
        yield f"method '{config['method']}'"
    for kind in ("dataset", "space", "teacher"):
        known = config.get(kind, {})
        source = {"source": known["source"]} if "source" in known else None
        if source and plugin_source(kind, known["name"], runtime) != source:
            yield f"{kind} '{known['name']}'"
    described = {**config.get("extractors", {}), **(config.get("judge") or {})}
    for name, known in described.items():
        source = {"source": known["source"]} if "source" in known else None
        if source and plugin_source("extractor", name, runtime) != source:
            yield f"extractor '{name}'"
    foreign = {n: key for n, key in config.get("versions", {}).items() if isinstance(key, list)}
    if foreign:
        from piflow_bench.evaluation.metrics.metric import all_metrics

        yield from (f"metric '{n}'" for n, key in foreign.items() if all_metrics()[n].key != key)
