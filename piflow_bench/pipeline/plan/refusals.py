"""What is refused before any work, because it could only fail later."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from piflow_bench.config.schema import ExperimentConfig, keys_that_set
from piflow_bench.conformance.dataset import network_of
from piflow_bench.contracts.backbone import lacking
from piflow_bench.contracts.condition import Prompts, Unconditional
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.errors import UserError, nearest
from piflow_bench.pipeline.plan.cell import Cell
from piflow_bench.pipeline.plan.questions import of_features
from piflow_bench.pipeline.plan.variants import Variant
from piflow_bench.pipeline.plan.world import World
from piflow_bench.pipeline.stages.metrics import COSINE
from piflow_bench.pipeline.stages.published import Publish
from piflow_bench.pipeline.stages.scores import BY_SAMPLE, IN_MODEL_SPACE, WITH_PROMPTS
from piflow_bench.training.scale import Scale, division

if TYPE_CHECKING:
    from torch import nn


def check_protocol(world: World) -> None:
    """Refuse names and settings that the metric stages would fail on."""
    from piflow_bench.evaluation.metrics.metric import all_metrics
    from piflow_bench.evaluation.settings import make_settings

    p = world.protocol
    plugins = [world.runtime.extractor_plugin(name) for name in p.extractors]
    outputs = set.intersection(*(set(plugin.outputs) for plugin in plugins))
    for key in ("metrics", "curve_metrics"):
        names = getattr(p, key)
        if not names:
            raise UserError(f"protocol.{key}=[]: at least one metric is needed")
        for name in names:
            meant = all_metrics()[name].extractor
            other = next((each for each in p.extractors if meant not in (None, each)), None)
            if other is not None:
                raise UserError(
                    f"protocol.{key}={name}: is of the extractor {meant}, not of {other}; the "
                    "formula on any features is mmd_rbf_unit"
                )
            needs = set(all_metrics()[name].needs)
            if key == "curve_metrics" and needs & {"teacher", "lpips", "prompts"}:
                raise UserError(
                    f"protocol.{key}={name}: is measured at the end of the budget alone; name it "
                    "in protocol.metrics"
                )
            _check_sees(world.dataset, f"protocol.{key}={name}", name)
            beside = {"generated", "reference", "labels", "teacher", "lpips", "prompts"}
            beyond = needs - beside - outputs
            if beyond:
                raise UserError(
                    f"protocol.{key}={name}: needs {' and '.join(sorted(beyond))}, which this "
                    "dataset's extractors do not give"
                )
    if p.agreement:
        _check_sees(world.dataset, f"protocol.agreement={p.agreement}", p.agreement)
    for name in p.curve_extractors or []:
        if name not in p.extractors:
            raise UserError(
                f"protocol.curve_extractors={name}: not in protocol.extractors; "
                f"{nearest(name, list(p.extractors))}"
            )
    for key in ("primary_quality", "primary_diversity"):
        if getattr(p, key) not in p.metrics:
            raise UserError(
                f"protocol.{key}={getattr(p, key)}: not in protocol.metrics; "
                f"{nearest(getattr(p, key), list(p.metrics))}"
            )
        ranking = [*of_features(p.metrics), COSINE]
        if getattr(p, key) not in ranking:  # No row of a table of features would be of it.
            raise UserError(
                f"protocol.{key}={getattr(p, key)}: looks at samples and not at features, by which "
                f"the first table ranks; {nearest('', [n for n in p.metrics if n in ranking])}"
            )
    if p.primary_question not in p.questions:
        raise UserError(
            f"protocol.primary_question={p.primary_question}: not in protocol.questions; "
            f"{nearest(p.primary_question, list(p.questions))}"
        )
    make_settings(p.settings, "protocol.settings")


def _check_sees(dataset: Dataset, given: str, name: str) -> None:
    """Refuse metrics of pictures where samples are points, and of classes where there are none."""
    from piflow_bench.evaluation.metrics.metric import all_metrics

    if name in WITH_PROMPTS and not isinstance(dataset.train_condition, Prompts):
        raise UserError(
            f"{given}: looks at pictures with their prompts, and {dataset.name} has none"
        )
    of_pictures = {"teacher", "lpips", "prompts"} & set(all_metrics()[name].needs)
    if of_pictures and name not in (*BY_SAMPLE, COSINE):
        raise UserError(
            f"{given}: looks at samples one by one; of such metrics runs measure "
            f"{', '.join((*BY_SAMPLE, COSINE))}"
        )
    if of_pictures and name not in (IN_MODEL_SPACE, COSINE) and dataset.space.pictures is None:
        raise UserError(
            f"{given}: looks at pictures, which samples of {dataset.name} are not; "
            f"{IN_MODEL_SPACE} looks at samples as they are"
        )
    if name == "lpips_within" and isinstance(dataset.train_condition, Unconditional):
        raise UserError(f"{given}: compares samples of a class, and {dataset.name} has no classes")


def check_machine(config: ExperimentConfig, scale: Scale) -> None:
    """Refuse a layout of training that this machine cannot run."""
    asking = keys_that_set(config, "adamw8bit")
    if asking and not find_spec("bitsandbytes"):
        raise UserError(
            f"{asking[0]}=adamw8bit: needs bitsandbytes: pip install bitsandbytes, or set "
            + " ".join(f"{key}=adamw" for key in asking)
        )
    if scale.device == "cuda":
        import torch

        found = torch.cuda.device_count()
        if found < scale.processes:
            raise UserError(
                f"scale.device={scale.device}: {scale.processes} needed, {found} GPUs found; set "
                "scale.processes, or scale.device=cpu"
            )


def check_batches(variants: Iterable[Variant], scale: Scale) -> None:
    """Refuse batches that do not divide as their trainings would."""
    for v in variants:
        if v.facts.trained_here and not v.checkpoint:
            try:
                division(v.training["batch"], scale.processes, scale.micro_batch, v.facts.group)
            except ValueError as error:
                raise UserError(f"variants.{v.name}: {error}") from error


def check_batch(batch: int, scale: Scale) -> None:
    """Refuse a teacher's batch that does not divide as its training would."""
    try:
        division(batch, scale.processes, scale.micro_batch)
    except ValueError as error:
        words = str(error).replace("training.batch", "teacher.batch")
        raise UserError(words) from error


def check_data(world: World, variants: Iterable[Variant]) -> None:
    """Refuse variants that are trained on samples of data where there are none."""
    if len(world.dataset.training_rows):
        return
    for v in variants:
        if v.facts.trains and v.facts.needs_data and not v.checkpoint:
            raise UserError(
                f"variants.{v.name}: is trained on real samples, and {world.dataset.name} has "
                "prompts alone"
            )


def check_rewards(world: World, variants: Iterable[Variant]) -> None:
    """Refuse rewards that cannot look at these samples, and settings of unknown ones."""
    for name in world.config.rewards:
        world.runtime.reward_plugin(name)
    data = world.dataset
    for v in variants:
        if not v.facts.reward or v.checkpoint:
            continue
        reward = world.runtime.reward_plugin(v.facts.reward)
        points = data.space.pictures is None
        lack = "pictures (its samples are points)" if points else reward.lacks(data)
        if lack:
            raise UserError(
                f"variants.{v.name}: the reward {v.facts.reward} needs what {data.name} has not: "
                f"{lack}; name another in its settings, or leave it out with only=[NAME,...]"
            )


def check_reference(world: World) -> None:
    """Refuse a file of real pictures that its stage could not read."""
    path = world.dataset.reference
    if path is None:
        return
    from piflow_bench.evaluation.sources import open_reference

    try:
        open_reference(path, workers=1)
    except UserError as error:
        raise UserError(f"dataset.{error}") from error


def check_published(world: World, cells: Iterable[Cell]) -> None:
    """Refuse published weights that are not of the teacher's network, by their headers."""
    stages = {c.distill.key: c.distill for c in cells if c.distill is not None}
    tasks = [s.task for s in stages.values() if isinstance(s.task, Publish)]
    if not tasks:
        return
    network: Any = _network(world)
    if hasattr(network, "adapt_with"):  # Published weights bring their own rank.
        network.adapt_with(1, 0.0)
    for task in tasks:
        task.check(Teacher(network, network, world.teacher.guidance), world.runtime)


def _network(world: World) -> nn.Module:
    """The teacher's, without its weights."""
    if world.network is not None:
        return world.network
    network, _ = network_of(world.dataset, world.teacher)
    return network


def check_backbones(world: World, variants: Iterable[Variant]) -> None:
    """Refuse variants that need more of the teacher's network than it has."""
    needing = [v for v in variants if v.facts.backbone]
    if not needing:
        return
    network = _network(world)
    found = {v.name: lacking(network, v.facts.backbone) for v in needing}
    short = [name for name, parts in found.items() if parts]
    if short:
        others = [v.name for v in variants if v.name not in short]
        fix = f"; only=[{','.join(others)}] leaves such variants out" if others else ""
        parts = " and ".join(found[short[0]])
        raise UserError(
            f"variants.{short[0]}: needs {parts} of the teacher's network, which "
            f"{type(network).__name__} of teacher={world.config.teacher['name']} has not (see "
            f"docs/add-a-teacher.md){fix}"
        )
