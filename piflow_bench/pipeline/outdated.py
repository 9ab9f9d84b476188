"""Artifacts that another source of an installed method made: the same key, other code.

A plugin that is a file has its digest in the key, and so is never outdated.
"""

from __future__ import annotations

from collections.abc import Iterator

from piflow_bench.pipeline.plan import Cell, Plan
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store


def outdated(plan: Plan, store: Store) -> dict[str, list[Stage]]:
    """Stages, by variant, whose artifacts were begun with other modules than are loaded now."""
    sources = {variant.name: variant.source for variant in plan.variants}
    found: dict[str, dict[str, Stage]] = {}
    for cell in plan.cells:
        name = cell.columns["variant"]
        for stage in _made_by_the_method(cell) if name in sources else ():
            if store.has(stage) and store.source(stage) != sources[name]:
                found.setdefault(name, {})[stage.key] = stage
    return {name: list(stages.values()) for name, stages in found.items()}


def _made_by_the_method(cell: Cell) -> Iterator[Stage]:
    yield from cell.samples
    if cell.distill is not None:
        yield cell.distill


def warnings_of(plan: Plan, store: Store) -> list[str]:
    """One line for each variant of which something is outdated, with what to do."""
    methods = {variant.name: variant.config.method for variant in plan.variants}
    return [
        f"{name}: {len(stages)} artifacts in the store were made by another source of method "
        f"'{methods[name]}' than is installed now; raise its Facts.version, or make them anew "
        "with run --force"
        for name, stages in sorted(outdated(plan, store).items())
    ]


def discard_outdated(plan: Plan, store: Store) -> None:
    """Remove what is outdated, and what was made from it."""
    gone = {stage.key for stages in outdated(plan, store).values() for stage in stages}
    for stage in plan.stages:  # Inputs first.
        if stage.key in gone or any(parent.key in gone for parent in stage.parents()):
            gone.add(stage.key)
            with store.lock(stage):
                if store.has(stage):
                    store.discard(store.path(stage))
