"""What jobs ask of the cluster: the launcher's settings, by kind of stage and by variant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from piflow_bench.config.schema import LauncherConfig, Resources
from piflow_bench.errors import UserError, nearest
from piflow_bench.pipeline.stage import Stage, Task
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.stages.student import Training
from piflow_bench.settings import build_dataclass

_NAMES = [f.name for f in fields(Resources)]


@dataclass(frozen=True)
class Cluster:
    """The launcher's settings, and the processes of a training on every node, a GPU each."""

    launcher: LauncherConfig
    processes: int = 1

    def of(self, stage: Stage) -> Resources:
        """The resources of one stage."""
        return self.resources(type(stage.task), stage.about.get("base", ""))

    def resources(self, task: type[Task], variant: str = "") -> Resources:
        """Those of a kind: its own, then the variant's, over the launcher's."""
        training = issubclass(task, Training)
        shared = {name: getattr(self.launcher, name) for name in _NAMES}
        if not training:
            shared["nodes"] = 1
            shared["gpus"] = min(shared["gpus"], 1) if task.networks else 0
        shared |= self.launcher.stages.get(task.kind, {})
        if training:
            shared |= self.launcher.variants.get(variant, {})
        shared["extra"] = _options(shared["extra"])
        return build_dataclass(Resources, shared, f"launcher.stages.{task.kind}")

    def processes_of(self, stage: Stage) -> int:
        """Processes that train together on one node; other stages are made by one."""
        return self.processes if isinstance(stage.task, Training) else 1


def _options(given: Mapping[str, Any]) -> dict[str, str | bool]:
    """Options by name; one without a value is given as true."""
    kept = {str(k): v if v is True else str(v) for k, v in given.items() if v is not False}
    return dict(sorted(kept.items()))


def check_resources(launcher: LauncherConfig, variants: Collection[str]) -> None:
    """Refuse resources of stages and variants that there are not, or that no job could ask for.

    Raises:
        UserError: naming the key, its value and the nearest valid one.
    """
    from piflow_bench.pipeline.kinds import KINDS

    for group, known in (("stages", list(KINDS)), ("variants", list(variants))):
        for name, given in getattr(launcher, group).items():
            key = f"launcher.{group}.{name}"
            if name not in known:
                raise UserError(f"{key}: no such {group[:-1]}; {nearest(name, known)}")
            if not isinstance(given, Mapping):
                raise UserError(f"{key}={given}: resources are given as {key}.minutes=60")
            build_dataclass(Resources, given, key)


def cluster_of(launcher: LauncherConfig, processes: int = 1, on_gpus: bool = False) -> Cluster:
    """The settings of a launcher's configuration; trainings use ``processes`` on every node.

    Raises:
        UserError: for trainings whose processes have no GPU each.
    """
    cluster = Cluster(launcher, processes)
    training = cluster.resources(Distill)
    if on_gpus and training.gpus < processes:
        raise UserError(
            f"launcher.gpus={training.gpus}: scale.device=cuda trains with {processes} processes "
            f"on a node, a GPU each; set launcher.gpus={processes}"
        )
    return cluster
