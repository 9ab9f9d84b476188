"""An experiment's data and teacher without an experiment, for tests."""

from __future__ import annotations

from typing import Any

from piflow_bench.pipeline.runtime import Given, Runtime

TEACHERS = {
    "digits": "digits",
    "mixture2d": "closed-form",
    "checkerboard2d": "closed-form",
    "rings2d": "closed-form",
    "twomodes2d": "closed-form",
    "submodes2d": "closed-form",
}


def world(dataset: str = "digits", teacher: str | None = None, **settings: Any) -> Runtime:
    """A runtime of a dataset and a teacher with ``settings``; by default the dataset's usual one.

    ``world().dataset()``, ``.teacher()`` and ``.teacher_plugin()`` are what stages are given.
    """
    named = {"name": teacher or TEACHERS[dataset], **settings}
    return Runtime(given=Given(dataset={"name": dataset}, teacher=named))
