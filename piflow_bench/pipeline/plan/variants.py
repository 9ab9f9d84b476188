"""The variants of an experiment, validated: methods with settings, budgets and NFEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from piflow_bench import registry
from piflow_bench.config.schema import SPLIT, ExperimentConfig, VariantConfig, to_plain
from piflow_bench.contracts.method import Facts, Method
from piflow_bench.contracts.teacher import Guidance
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.pipeline.sampling_settings import check_sampling
from piflow_bench.settings import build_dataclass, in_keys
from piflow_bench.sources import is_file_plugin, source_digest
from piflow_bench.tracks import DISTILLED, ONE_BUDGET
from piflow_bench.training.settings import Budget, TrainingSettings


@dataclass(frozen=True)
class Variant:
    """A validated variant."""

    name: str
    config: VariantConfig
    method: Method
    facts: Facts
    settings: dict[str, Any]
    training: dict[str, Any]
    budget: dict[str, Any]
    nfes: list[int]
    source: str
    """Digest of the plugin's modules."""
    from_file: bool
    """Whether the plugin is a file, whose digest is its version."""
    base: str = ""
    """The variant that this one repeats, under another seed or budget; empty: none."""
    shares: int = 1
    """Trainings that share the budget which others have for each NFE."""
    checkpoint: str | None = None
    """Published weights that are scored in the place of a training."""
    settings_at: Mapping[int | None, dict[str, Any]] = field(default_factory=dict)
    """Of the trainings for one NFE, where they have settings of their own."""

    @property
    def role(self) -> str:
        """student | teacher."""
        return "student" if self.facts.trains else "teacher"

    def student(self, nfe: int | None) -> dict[str, Any]:
        """What decides the student that the method builds: see ``stages.student.OfStudent``.

        Args:
            nfe: the one that a training is for; None: a training for all.
        """
        return {
            "method": self.config.method,
            "version": self.facts.version,
            "settings": self.settings_at.get(nfe, self.settings),
            "source": self.source if self.from_file else None,
        }

    def method_at(self, nfe: int) -> Method:
        """The method with the settings of the student that serves ``nfe``."""
        own = self.settings_at.get(nfe)
        if own is None:
            return self.method
        cls = type(self.method)
        return cls(build_dataclass(cls.Config, own, f"variants.{self.name}.settings_at.{nfe}"))

    @property
    def samplings(self) -> list[dict[str, Any]]:
        """The settings of every way in which it is sampled: a list holds several values.

        They share one training; in the results each is a competitor of its own.
        """
        entries = self.config.sampling.items()
        choices = [v if isinstance(v, (list, tuple)) else [v] for _, v in entries]
        names = [name for name, _ in entries]
        return [dict(zip(names, values, strict=True)) for values in product(*choices)]


def variants_of(config: ExperimentConfig) -> list[Variant]:
    """The chosen variants, with the twins that ``split_budget`` and ``aa`` ask for.

    Raises:
        UserError: for settings, budgets or NFEs that a method has not.
    """
    chosen = {n: e for n, e in config.variants.items() if not config.only or n in config.only}
    chosen = {n: chosen[n] for n in config.only or chosen if n in chosen}
    if not config.variants:
        raise UserError("variants: the experiment has none")
    variants = _entered(config, chosen)
    named = _named_twins(config)
    if not variants and not named:
        raise UserError(
            f"nfes={config.nfes}: no chosen variant is entered there; "
            + "; ".join(f"{name}: {entry.nfes}" for name, entry in chosen.items())
        )
    _check_roles(config, variants)
    twins = {v.name: v for v in [*_sharing_one_budget(config, variants), *named]}
    first = next((v for v in variants if v.facts.trains), None)
    if config.aa and first is not None:
        name = _twin_name(config, first, "-aa", "aa=true")
        twin = replace(first.config, seed_offset=first.config.seed_offset + 1000)
        variants.append(replace(first, name=name, config=twin, base=first.name))
    return [*variants, *twins.values()]


def _entered(config: ExperimentConfig, entries: Mapping[str, VariantConfig]) -> list[Variant]:
    """Those of the entries that have a number of evaluations here."""
    folders = places(config.plugins)
    found = (_variant(config, name, entry, folders) for name, entry in entries.items())
    return [variant for variant in found if variant.nfes]


def _named_twins(config: ExperimentConfig) -> list[Variant]:
    """Twins that ``only`` names: of a part, as they are in the whole experiment.

    Raises:
        UserError: if the whole experiment enters no such twin.
    """
    names = [name for name in config.only or [] if name not in config.variants]
    if not names:
        return []
    whole = {v.name: v for v in _sharing_one_budget(config, _entered(config, config.variants))}
    for name in names:
        if name not in whole:
            raise UserError(
                f"only={name}: the experiment has no such variant; of one budget for all NFEs it "
                f"has {', '.join(whole) or 'none'}"
            )
    return [whole[name] for name in names]


def _check_roles(config: ExperimentConfig, variants: Sequence[Variant]) -> None:
    """Refuse a leader or entry that trains nothing, and published weights of no one variant."""
    trained = [v.name for v in variants if v.facts.trains]
    unnamed = [v.name for v in variants if v.facts.trains and not v.config.checkpoint]
    named: dict[str, list[str | None]] = {"leader": [config.family.leader]}
    named |= {f"entries.{nfe}": list(names) for nfe, names in config.family.entries.items()}
    for key, names in named.items():
        for name in names:
            if name in [v.name for v in variants] and name not in trained:
                raise UserError(
                    f"family.{key}={name}: trains nothing, so no student is compared with it; name "
                    f"one of {', '.join(trained) or 'the trained variants'}"
                )
    if config.student.checkpoint and len(unnamed) != 1:
        raise UserError(
            "student.checkpoint: needs the one variant whose weights it holds, not "
            f"{', '.join(unnamed) or 'none'}; name it (and the teacher's rows) with only=[NAME,...]"
        )


def _variant(
    config: ExperimentConfig, name: str, entry: VariantConfig, folders: Sequence[str]
) -> Variant:
    """One entry of ``variants``; without NFEs where it is entered at none of the experiment's."""
    cls = registry.get("method", entry.method, folders)
    settings = build_dataclass(cls.Config, entry.settings, f"variants.{name}.settings")
    method = cls(settings)
    check_sampling(entry, method, f"variants.{name}.sampling")
    training = {**to_plain(config.training), **entry.training}
    if "ema" in entry.training:
        training["ema"] = {**to_plain(config.training)["ema"], **entry.training["ema"]}
    checked = build_dataclass(TrainingSettings, training, f"variants.{name}.training")
    training = in_keys(checked, training)
    # One unit for all: a variant of another batch gets the same compute.
    batch = config.budget.batch or config.training.batch
    budget = {**to_plain(config.budget), "batch": batch, **entry.budget}
    build_dataclass(Budget, budget, f"variants.{name}.budget")
    nfes = [n for n in config.nfes if entry.nfes is None or n in entry.nfes]
    for nfe in nfes:
        reason = method.serves(nfe)
        if reason:
            served = ",".join(str(n) for n in nfes if not method.serves(n))
            own = f"variants.{name}.nfes"
            advice = f"{own}=[{served}]" if served else f"{own} or nfes"
            raise UserError(
                f"variants.{name}: cannot do NFE {nfe}: {entry.method} {reason}; set {advice}"
            )
    return Variant(
        name,
        entry,
        method,
        method.facts_for(),
        in_keys(settings, to_plain(settings)),
        training,
        budget,
        nfes,
        source_digest(cls),
        is_file_plugin(cls),
        checkpoint=_published(config, name, entry, method),
        settings_at=_settings_at(name, entry, method, nfes),
    )


def _settings_at(
    name: str, entry: VariantConfig, method: Method, nfes: Sequence[int]
) -> dict[int | None, dict[str, Any]]:
    """The settings of trainings that have some of their own, whole.

    Raises:
        UserError: where there is no training for one NFE, and for what the method has not.
    """
    where = f"variants.{name}.settings_at"
    facts = method.facts_for()
    if entry.settings_at and (facts.elastic or not facts.trains):
        what = "one training serves all NFEs" if facts.trains else "it trains nothing"
        raise UserError(f"{where}: {entry.method}: {what}; set variants.{name}.settings")
    found: dict[int | None, dict[str, Any]] = {}
    for key, own in entry.settings_at.items():
        if not str(key).isdigit() or not isinstance(own, Mapping):
            raise UserError(f"{where}.{key}: must be settings by NFE, such as {{4: {{lr: 1e-4}}}}")
        settings = build_dataclass(type(method).Config, {**entry.settings, **own}, f"{where}.{key}")
        other = type(method)(settings)
        if other.facts_for() != facts:
            raise UserError(f"{where}.{key}: makes another method of it; enter it as a variant")
        if int(key) in nfes:
            found[int(key)] = in_keys(settings, to_plain(settings))
    return found


def _published(
    config: ExperimentConfig, name: str, entry: VariantConfig, method: Method
) -> str | None:
    """The weights that stand for a variant's training, if any do."""
    given = entry.checkpoint or config.student.checkpoint
    if method.facts_for().published and not given:
        raise UserError(
            f"variants.{name}: {entry.method} scores published weights; "
            f"variants.{name}.checkpoint=FILE names them"
        )
    if not method.facts_for().trains:
        if entry.checkpoint:
            raise UserError(f"variants.{name}.checkpoint: {entry.method} trains nothing")
        return None
    return given


def _twin_name(config: ExperimentConfig, variant: Variant, suffix: str, setting: str) -> str:
    name = f"{variant.name}{suffix}"
    if name in config.variants:
        raise UserError(
            f"{setting}: enters {variant.name} again as {name}, a variant that the experiment "
            "has; name that one otherwise"
        )
    return name


def _sharing_one_budget(config: ExperimentConfig, variants: list[Variant]) -> list[Variant]:
    """Specialists again, all NFEs within the budget of an elastic student's one training.

    Trainings of their own, since learning rates fall with the spent share of the budget.
    """
    if not config.split_budget:
        return []
    own = [v for v in variants if v.facts.trains and not v.checkpoint]
    distilled = [v for v in own if v.facts.track == DISTILLED]
    served = {n for v in distilled if v.facts.elastic and len(v.nfes) > 1 for n in v.nfes}
    found = []
    for v in distilled:
        nfes = [n for n in v.nfes if n in served]
        if v.facts.elastic or len(nfes) < 2:  # For one NFE alone the whole budget is its share.
            continue
        budget = {**v.budget, "amount": v.budget["amount"] / len(nfes), "checkpoints": [1.0]}
        found.append(
            replace(
                v,
                name=_twin_name(config, v, SPLIT, "split_budget=true"),
                config=replace(v.config, tuning=f"settings of {v.name}"),
                facts=replace(v.facts, track=ONE_BUDGET),
                budget=budget,
                nfes=nfes,
                base=v.name,
                shares=len(nfes),
            )
        )
    return found


def check_samplings(variants: Sequence[Variant], guidance: Guidance) -> None:
    """Refuse ways of sampling that a student's own settings, or the teacher's guidance, forbid.

    Raises:
        UserError: naming the variant, the way and the number of evaluations.
    """
    for variant in variants:
        for nfe in variant.nfes:
            method = variant.method_at(nfe)
            for way in variant.samplings:
                reason = method.samples_with(way, nfe, guidance)
                if reason:
                    named = "".join(f", {key}={value}" for key, value in way.items())
                    raise UserError(
                        f"variants.{variant.name}: cannot sample at NFE {nfe}{named}: {reason}"
                    )
