"""The plan of an experiment: validated, laid out as stages, nothing computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import TeacherPlugin
from piflow_bench.evaluation.protocols import IMAGES, Rules, rules_hash
from piflow_bench.pipeline.launchers.slurm.settings import check_resources
from piflow_bench.pipeline.loggers import check_logger
from piflow_bench.pipeline.plan import samples
from piflow_bench.pipeline.plan.cell import Cell
from piflow_bench.pipeline.plan.cells import Shared, cells_of
from piflow_bench.pipeline.plan.controls import controls
from piflow_bench.pipeline.plan.questions import references
from piflow_bench.pipeline.plan.refusals import (
    check_backbones,
    check_batch,
    check_batches,
    check_data,
    check_machine,
    check_protocol,
    check_published,
    check_reference,
    check_rewards,
)
from piflow_bench.pipeline.plan.variants import Variant, check_samplings, variants_of
from piflow_bench.pipeline.plan.world import World, runtime_of, world_of
from piflow_bench.pipeline.stage import Stage, closure


@dataclass
class Plan:
    """Everything that a run will do."""

    config: ExperimentConfig
    variants: list[Variant]
    cells: list[Cell] = field(default_factory=list)
    grid: tuple[Stage, ...] = ()
    """The converged teacher's samples from the noise that all students share."""
    protocol_hash: str = ""
    check: Stage | None = None
    """What the teacher must pass before anything else is made."""
    rules: Rules = field(default_factory=dict)
    """What the hash stands for."""
    dataset: Dataset | None = None
    teacher: TeacherPlugin | None = None
    taken: str = ""
    """Which of the several sets of weights in its file the teacher has."""

    @property
    def stages(self) -> list[Stage]:
        """All stages, inputs first."""
        targets = [s for c in self.cells for s in (*c.results, *c.closer)]
        return closure([*([self.check] if self.check else []), *targets, *self.grid])


def make_plan(config: ExperimentConfig, look: bool = True) -> Plan:
    """Validate an experiment and lay out its stages; computes nothing.

    Args:
        config: the experiment.
        look: whether to look at this machine, at the data, and once at what the teacher gives: who
            starts a run wants to know, not who asks what became of one.

    Raises:
        UserError: for settings that no run could satisfy.
    """
    if look:
        check_logger(config.logger)
        # Slurm's trainings run elsewhere; the launcher checks theirs.
        if config.launcher.name != "slurm":
            check_machine(config, runtime_of(config).scale)
    world = world_of(config, look)
    if world.teacher.made and (training := world.teacher.training(world.dataset)):
        check_batch(training.settings.batch, world.runtime.scale)
    check_protocol(world)
    variants = variants_of(config)
    check_resources(config.launcher, config.variants)
    if look and config.launcher.name != "slurm":
        check_batches(variants, world.runtime.scale)
    check_data(world, variants)
    check_rewards(world, variants)
    check_samplings(variants, world.teacher.guidance)
    if look:
        check_reference(world)
        check_backbones(world, variants)
    teacher = samples.teachers(world)
    p = config.protocol
    label = "converged teacher, same noise"
    paired = samples.converged(world, teacher, p.samples, config.sample_seed, label)
    found = references(world, teacher)
    shared = Shared(world, teacher, found, paired, samples.features(world, paired))
    cells = [cell for v in variants for cell in cells_of(v, shared)]
    if look:
        check_published(world, cells)
    rules = rules_of(world)
    return Plan(
        config,
        variants,
        [*cells, *controls(shared)],
        paired,
        rules_hash(rules),
        teacher.check,
        rules,
        world.dataset,
        world.teacher,
        world.taken,
    )


RULES = (
    "precision", "samples", "data_samples", "reference_samples", "reference_seed",
    "sampling_precision", "curve_samples",
)  # fmt: skip
"""Fields of the protocol that decide numbers. Which numbers there are, and which are primary, is
the experiment's: another metric or question changes none of the others."""


def rules_of(world: World) -> Rules:
    """All that must be the same where rows are ranked together."""
    p, solved = world.protocol, world.config.converged
    return {
        "images": IMAGES,
        **{name: getattr(p, name) for name in RULES},
        **p.measuring,
        **world.identities,
        "converged": [solved.solver, solved.steps, *solved.warped_for_key().values()],
        "label_law": world.dataset.label_law or "not stated",
        "extractors": world.extractors,
        "judge": world.judge,
    }
