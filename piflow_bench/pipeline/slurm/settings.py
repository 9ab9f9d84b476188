"""What jobs ask of the cluster: the launcher's settings, by kind of stage and by variant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.pipeline.graph import Stage

NETWORKS = {"converged", "sample", "features", "real_reference"}
"""Kinds beside training that run networks, on one GPU where jobs have any."""


@dataclass(frozen=True)
class Resources:
    """What one job asks for."""

    minutes: int = 240
    cpus: int = 1
    """Of every process."""
    memory_gb: float = 8.0
    """Of a node."""
    gpus: int = 0
    """Of a node, for a training; other stages that run networks get one of them."""
    nodes: int = 1
    """Of a training; other stages use one."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: tuple[tuple[str, str | bool], ...] = ()
    """Further options of sbatch."""
    setup: tuple[str, ...] = ()
    """Shell lines before the command."""
    python: str | None = None
    """The command that is Python on a node, such as one inside a container; None: this one."""
    srun: tuple[str, ...] = ()
    """Further arguments of srun, such as those of a container plugin."""
    pack: int = 1
    """Stages that one job makes, one after the other."""


@dataclass(frozen=True)
class Cluster:
    """The launcher's settings."""

    resources: Resources = Resources()
    array: int = 64
    retries: int = 2
    grace_seconds: int = 120
    poll_seconds: float = 5.0
    processes: int = 1
    """Of a training on every node, one for each GPU."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, stage: Stage) -> Resources:
        """The resources of one stage: its kind's, then its variant's, over the launcher's."""
        merged = asdict(self.resources)
        if stage.kind != "distill":
            merged["nodes"] = 1
            merged["gpus"] = min(merged["gpus"], 1) if stage.kind in NETWORKS else 0
        merged |= self.stages.get(stage.kind, {})
        if stage.kind == "distill":
            merged |= self.variants.get(stage.about.get("variant", ""), {})
        merged["extra"] = _options(merged["extra"])
        for name in ("setup", "srun"):
            merged[name] = tuple(merged[name])
        return Resources(**merged)

    def processes_of(self, stage: Stage) -> int:
        """Processes that train together on one node; other stages are made by one."""
        return self.processes if stage.kind == "distill" else 1


def _options(given: Any) -> tuple[tuple[str, str | bool], ...]:
    """Options by name; one without a value is given as true."""
    kept = {str(k): v if v is True else str(v) for k, v in dict(given).items() if v is not False}
    return tuple(sorted(kept.items()))


def _check(settings: dict[str, Any], where: str) -> None:
    known = list(Resources.__dataclass_fields__)
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{where}.{key}: no such resource; {nearest(key, known)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in ("minutes", "cpus", "nodes", "pack") and not (isinstance(value, int) and number):
            raise UserError(f"{where}.{key}={value}: must be a whole number")
        if key in ("minutes", "cpus", "memory_gb", "nodes", "pack") and not (number and value > 0):
            raise UserError(f"{where}.{key}={value}: must be positive")
        if key == "gpus" and not (isinstance(value, int) and number and value >= 0):
            raise UserError(f"{where}.gpus={value}: must be at least 0")


def cluster_of(launcher: Any, processes: int = 1, on_gpus: bool = False) -> Cluster:
    """The settings of a launcher's configuration; trainings use ``processes`` on every node.

    Raises:
        UserError: for resources that no job could ask for.
    """
    from piflow_bench.pipeline.stages import STAGES

    names = [n for n in Resources.__dataclass_fields__ if hasattr(launcher, n)]
    shared = {name: getattr(launcher, name) for name in names}
    _check(shared, "launcher")
    for name in ("array", "poll_seconds", "grace_seconds"):
        if getattr(launcher, name) <= 0:
            raise UserError(f"launcher.{name}={getattr(launcher, name)}: must be positive")
    if launcher.retries < 0:
        raise UserError(f"launcher.retries={launcher.retries}: must be at least 0")
    for kind, settings in launcher.stages.items():
        if kind not in STAGES:
            raise UserError(f"launcher.stages.{kind}: no such stage; {nearest(kind, list(STAGES))}")
        _check(settings, f"launcher.stages.{kind}")
    for variant, settings in launcher.variants.items():
        _check(settings, f"launcher.variants.{variant}")
    shared["extra"] = _options(shared["extra"])
    for name in ("setup", "srun"):
        shared[name] = tuple(shared[name])
    cluster = Cluster(
        Resources(**shared),
        launcher.array,
        launcher.retries,
        launcher.grace_seconds,
        launcher.poll_seconds,
        processes,
        {k: dict(v) for k, v in launcher.stages.items()},
        {k: dict(v) for k, v in launcher.variants.items()},
    )
    training = cluster.of(Stage("distill", {}))
    if on_gpus and training.gpus < processes:
        raise UserError(
            f"launcher.gpus={training.gpus}: scale.device=cuda trains with {processes} processes "
            f"on a node, a GPU each; set launcher.gpus={processes}"
        )
    return cluster
