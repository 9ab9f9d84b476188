"""Plugins in keys: what another project's code made is made anew when it is edited.

A method that is a file has its digest beside its settings, a dataset or teacher that is a file or
another project's beside its own, a metric beside its version. Code that is edited after the plan
makes nothing under the key of what it was, nor do data and weights that are other ones by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from piflow_bench import registry
from piflow_bench.config.schema import to_plain
from piflow_bench.contracts.plugin import Plugin
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Stage
from piflow_bench.pipeline.stages.published import Publish, source_of
from piflow_bench.pipeline.stages.student import OfStudent
from piflow_bench.sources import source_digest


class SourceChanged(RuntimeError):
    """Code or files are not what the run was planned with; the same command plans it anew."""


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
        raise SourceChanged(f"{what} after the run had begun; the same command plans it anew")
    return found


def _changed(stage: Stage, method: str, runtime: Runtime) -> Iterator[str]:
    """What of the stage's plugins, their code or files, is here not that of its key."""
    config = stage.task.content
    if config.get("source", method) != method:
        yield f"the source of method '{config['method']}' was edited"
    for kind in ("dataset", "space", "teacher", "reward"):
        known = config.get(kind) or {}
        source = {"source": known["source"]} if "source" in known else None
        if source and plugin_source(kind, known["name"], runtime) != source:
            yield f"the source of {kind} '{known['name']}' was edited"
    described = {**config.get("extractors", {}), **(config.get("judge") or {})}
    for name, known in described.items():
        source = {"source": known["source"]} if "source" in known else None
        if source and plugin_source("extractor", name, runtime) != source:
            yield f"the source of extractor '{name}' was edited"
    foreign = {n: key for n, key in config.get("versions", {}).items() if isinstance(key, list)}
    if foreign:
        from piflow_bench.evaluation.metrics.metric import all_metrics

        edited = [n for n, key in foreign.items() if all_metrics()[n].key != key]
        yield from (f"the source of metric '{name}' was edited" for name in edited)
    for kind in ("dataset", "space", "teacher", "reward"):
        known = config.get(kind) or {}
        if "settings" in known and not _same_files(kind, known, runtime):
            yield f"the files of {kind} '{known['name']}' were changed"
    for name, known in described.items():
        found = runtime.extractor_plugin(name).identity()
        if any(to_plain(known[key]) != to_plain(found[key]) for key in known.keys() & found.keys()):
            yield f"the files of extractor '{name}' were changed"
    if isinstance(stage.task, Publish) and not _same_weights(stage.task, runtime):
        yield f"the file of published weights was changed ({', '.join(runtime.students)})"


def _same_files(kind: str, known: Identity, runtime: Runtime) -> bool:
    """Whether a plugin's settings, by the content of their files, are those of the key."""
    plugins: dict[str, Callable[[], Plugin]] = {
        "dataset": runtime.dataset_plugin,
        "space": runtime.space_plugin,
        "teacher": runtime.teacher_plugin,
        "reward": partial(runtime.reward_plugin, known["name"]),
    }
    found = plugins[kind]().identity()
    # What trains a teacher holds a part of the settings.
    same = all(
        to_plain(found.get(key)) == to_plain(value) for key, value in known["settings"].items()
    )
    return same and (kind != "dataset" or runtime.dataset().digest == known.get("digest"))


def _same_weights(task: Publish, runtime: Runtime) -> bool:
    """Whether a published student's weights are those of the key."""
    return source_of(task.weights, runtime) is not None
