"""From settings to experiments of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from piflow_bench.config.compose import compose
from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.errors import UserError
from piflow_bench.settings import build_dataclass, nested
from piflow_bench.tuning.trials import Settings, trials_of

KEYS = tuple(field.name for field in dataclasses.fields(Settings))


def speaks_of_trials(arguments: Sequence[str]) -> bool:
    """Whether settings are of trials, not of a run."""
    return any(a.partition("=")[0] in KEYS for a in arguments)


def compose_trials(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """The trials of the experiments that the arguments describe.

    Raises:
        UserError: naming the key, the value and the nearest valid one.
    """
    own = [a for a in arguments if a.partition("=")[0] in KEYS]
    rest = [a for a in arguments if a not in own]
    settings = build_dataclass(Settings, nested(own), "")
    for argument in rest:
        if argument.startswith("tuned="):
            raise UserError(f"{argument}: trials begin with the published recipes; leave it out")
    named = any(a.startswith("name=") for a in rest)
    return [trials_of(config, settings, named) for config in compose([*rest, "tuned=null"])]
