"""The experiment that chooses an experiment's settings: trials of every variant, all alike.

Trial 0 of a variant is its published recipe: what the experiment states of it, and the method's
defaults. The others are points of one Sobol sequence (scrambled by a seed that is the same for all)
over what the method's ``Config`` declares to be looked for and the variant leaves open. Every trial
of every variant is one training with the same share of its variant's budget. Trials have train
seeds, sample seeds and a reference of their own: nothing that results are drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from piflow_bench import registry
from piflow_bench.config.schema import ExperimentConfig, FamilyConfig, VariantConfig, to_plain
from piflow_bench.contracts.method import Method
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.search import Search, check_ranges, declared, searched
from piflow_bench.settings import build_dataclass, setting
from piflow_bench.training.settings import Budget

APART = 1_000_000
"""What is added to the seeds of results: theirs and a trial's never meet."""
SUFFIX = "_tuning"


@dataclass(frozen=True)
class Settings:
    """Settings of ``tune``."""

    trials: int = setting(8, least=2)  # of every variant, the published recipe among them
    share: float = setting(0.5, above=0, most=1)  # of a variant's budget, for each of its trials
    # settings for each NFE of students that serve one; else those of the least serve all
    per_nfe: bool = False


def trial_name(variant: str, number: int) -> str:
    """Trials are variants of their own."""
    return f"{variant}-t{number}"


def trials_of(
    config: ExperimentConfig, settings: Settings, named: bool = False
) -> ExperimentConfig:
    """The experiment of all trials of the chosen variants.

    Args:
        config: the experiment.
        settings: how many trials, and how long.
        named: whether the name is the user's own, and stays.

    Raises:
        UserError: where nothing can be chosen, and for ranges that no variant has.
    """
    chosen = {n: v for n, v in config.variants.items() if config.only is None or n in config.only}
    folders = places(config.plugins)
    methods = {name: _method(v, name, folders) for name, v in config.variants.items()}
    trained = {
        name: v
        for name, v in chosen.items()
        if methods[name].facts_for().trained_here
        and not (v.checkpoint or config.student.checkpoint)
    }
    if not trained:
        raise UserError(
            f"tune {config.name}: none of {', '.join(chosen) or 'its variants'} is trained"
        )
    every = {name: declared(method.Config) for name, method in methods.items()}
    check_ranges(config.search, every)
    spaces = {
        name: searched(methods[name].Config, v.settings, config.search)
        for name, v in trained.items()
    }
    open_ = {name: space for name, space in spaces.items() if space}
    if not open_:
        raise UserError(
            f"tune {config.name}: the variants state every setting that trials look for "
            f"({', '.join(sorted({n for s in every.values() for n in s})) or 'none'})"
        )
    variants = {}
    for name, space in open_.items():
        entry = trained[name]
        for number, found in enumerate(points(space, settings.trials)):
            build_dataclass(
                methods[name].Config, {**entry.settings, **found}, f"variants.{name}.settings"
            )
            trial = trial_name(name, number)
            if trial in config.variants:
                raise UserError(
                    f"tune {config.name}: {trial} is a variant already; a trial of {name} would be "
                    "called so"
                )
            variants[trial] = replace(
                entry,
                settings={**entry.settings, **found},
                nfes=_nfes(config, entry, methods[name], settings.per_nfe),
                budget=_of_budget(config, entry, settings.share),
                sampling={key: _one(value) for key, value in entry.sampling.items()},
                tuning=f"trial {number} of {settings.trials}",
                trial_of=name,
                settings_at={},
            )
    return replace(
        config,
        name=config.name if named else f"{config.name[: 64 - len(SUFFIX)]}{SUFFIX}",
        title=f"Trials: {config.title or config.name}",
        question="Which settings of each method are best, on seeds that results never use?",
        variants=variants,
        only=None,
        family=FamilyConfig(),
        budget=replace(config.budget, amount=config.budget.amount * settings.share,
                       checkpoints=(1.0,)),
        nfes=sorted({n for v in variants.values() for n in v.nfes or []}),
        train_seeds=[max(config.train_seeds) + APART],
        sample_seed=config.sample_seed + APART,
        split_budget=False,
        aa=False,
        references=[],
        tuned=None,
        search={},
        protocol=_protocol(config),
    )  # fmt: skip


def points(space: Mapping[str, Search], trials: int) -> list[dict[str, Any]]:
    """Settings of every trial; those of the first are empty: the method's own defaults."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(space), scramble=True, rng=0).random_base2((trials - 1).bit_length())
    return [{}] + [
        {name: search.value(float(u)) for (name, search), u in zip(space.items(), row, strict=True)}
        for row in sequence[: trials - 1]
    ]


def _method(entry: VariantConfig, name: str, folders: list[str]) -> Method:
    cls = registry.get("method", entry.method, folders)
    return cls(build_dataclass(cls.Config, entry.settings, f"variants.{name}.settings"))


def _nfes(
    config: ExperimentConfig, entry: VariantConfig, method: Method, per_nfe: bool
) -> list[int]:
    """Where a variant's trials are sampled."""
    entered = sorted(n for n in config.nfes if entry.nfes is None or n in entry.nfes)
    served = [n for n in entered if not method.serves(n)]
    return served if per_nfe else served[:1]


def _of_budget(config: ExperimentConfig, entry: VariantConfig, share: float) -> dict[str, Any]:
    """A variant's own budget, of which a trial has a share."""
    own = {**to_plain(config.budget), **entry.budget}
    amount = build_dataclass(Budget, own, "budget").amount * share
    return {**entry.budget, "amount": amount, "checkpoints": [1.0]} if entry.budget else {}


def _one(value: Any) -> Any:
    """The first of several ways of sampling."""
    return value[0] if isinstance(value, list | tuple) else value


def _protocol(config: ExperimentConfig) -> Any:
    """What trials are compared in: the primary metrics, against a reference of their own.

    Held-out data are those of results: where they are the primary question, trials imitate.
    """
    p = config.protocol
    question = "imitation" if p.primary_question == "data" else p.primary_question
    return replace(
        p,
        reference_seed=p.reference_seed + APART,
        questions=[question],
        primary_question=question,
        extractors=p.extractors[:1],
        curve_extractors=None,
        metrics=list(dict.fromkeys([p.primary_quality, p.primary_diversity])),
    )
