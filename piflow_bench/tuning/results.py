"""What the trials of a run choose, as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.config.tuned import Tuned
from piflow_bench.tuning.choice import Choice, Trials, trials_of_run


def read_trials(folder: Path) -> Trials:
    """The trials of a run's folder."""
    import pandas as pd

    info = json.loads((folder / "run.json").read_text())
    return trials_of_run(pd.read_parquet(folder / "results.parquet"), info)


def chosen(config: ExperimentConfig, trials: Trials) -> dict[str, Tuned]:
    """What is written of every variant: of the experiment of trials, and what became of them."""
    found = {}
    for variant, own in trials.trials.items():
        choices = trials.choices(variant)
        if not choices:
            continue
        first = config.variants[own[0].name].settings
        settings = [_looked_for(config, choice.trial.name, first) for choice in choices]
        looked = len(_looked_for(config, own[1].name, first))
        words = [_words(trials, choice, len(own), looked) for choice in choices]
        every = len(choices) == 1 or all(each == settings[0] for each in settings)
        found[variant] = Tuned(
            settings=settings[0],
            settings_at={}
            if every
            else {str(c.nfe): s for c, s in zip(choices[1:], settings[1:], strict=True)},
            stated=dict(first),
            tuning="; ".join(dict.fromkeys(words)),
        )
    return found


def _looked_for(config: ExperimentConfig, trial: str, stated: dict[str, Any]) -> dict[str, Any]:
    own = config.variants[trial].settings
    return {key: value for key, value in own.items() if key not in stated}


def _words(trials: Trials, choice: Choice, count: int, looked: int) -> str:
    at = f"at {choice.nfe or next(iter(choice.trial.values))} NFE"
    if choice.nfe is None and len(choice.trial.values) > 1:
        at = f"at {', '.join(map(str, choice.trial.values))} NFE together"
    published = ", the published recipe" if choice.trial.number == 0 else ""
    what = "1 setting" if looked == 1 else f"{looked} settings"
    return f"best of {count} trials of {what} {at} ({trials.name}: {choice.trial.name}{published})"
