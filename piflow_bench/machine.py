"""What a machine lacks for an experiment, how to mend it, and what the experiment would cost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from piflow_bench import registry
from piflow_bench.config.schema import ExperimentConfig, keys_that_set, to_plain
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.file_plugins import places
from piflow_bench.files.hub import in_cache, is_address
from piflow_bench.preparation.given import is_stand_in

OK, GAP, NOTE = "ok", "missing", "note"
PEAK, UTILISATION = 989e12, 0.4
"""FLOP/s of an H100 in bfloat16, and the share of it that is assumed where none is measured."""
MEASURED_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of the table; ``state`` is ok, missing or note."""

    what: str
    state: str
    detail: str
    mend: str = ""


# ------------------------------------------------------------------ what is there


def findings(config: ExperimentConfig) -> list[Finding]:
    """Everything that the experiment needs of this machine."""
    found = [*_gpus(config), *_packages(config), *_files(config)]
    return [*found, _disk(config)]


def gaps(config: ExperimentConfig) -> list[Finding]:
    """What is missing of GPUs, files and room, for experiments that need more than any machine has.

    The others say in one line what they could not do.
    """
    if not requirements(config) and config.scale.device != "cuda":
        return []
    return [f for f in findings(config) if f.state == GAP]


def _gpus(config: ExperimentConfig) -> Iterator[Finding]:
    scale = config.scale
    if scale.device != "cuda":
        yield Finding("GPU", OK, f"not needed: scale.device={scale.device}")
        return
    if config.launcher.name == "slurm":
        yield Finding("GPU", NOTE, "the cluster's: jobs ask for launcher.gpus a node")
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < scale.processes:
        yield Finding(
            "GPU",
            GAP,
            f"{scale.processes} wanted, {count} found",
            f"scale.processes={count}" if count else "a machine with GPUs; profile=smoke runs here",
        )
        return
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    yield Finding("GPU", OK, f"{count} x {name}, {size / 2**30:.0f} GiB")


def _packages(config: ExperimentConfig) -> Iterator[Finding]:
    wanted = {"bitsandbytes": bool(keys_that_set(config, "adamw8bit"))}
    wanted["triton"] = config.scale.device == "cuda"
    for name, needed in wanted.items():
        if not needed:
            continue
        there = find_spec(name) is not None
        what = f"package {name}"
        yield Finding(what, OK if there else GAP, "", "" if there else f"pip install {name}")


def requirements(config: ExperimentConfig) -> list[Requirement]:
    """The files that the experiment's plugins are read from, and of published students."""
    from piflow_bench.pipeline.plan import runtime_of

    runtime = replace(runtime_of(config), inputs="")  # What nobody gives is not made.
    plugins = [
        runtime.dataset_plugin(),
        runtime.teacher_plugin(),
        runtime.space_plugin(),
        *(runtime.extractor_plugin(name) for name in config.protocol.extractors),
    ]
    found = [r for p in plugins for r in p.requirements() if not is_stand_in(r.source)]
    if config.student.checkpoint:
        given = config.student.checkpoint
        found.append(Requirement("student.checkpoint", given, "student.checkpoint=PATH"))
    return found


def _files(config: ExperimentConfig) -> Iterator[Finding]:
    reachable: bool | None = None
    for r in requirements(config):
        if r.source is None:
            yield Finding(r.name, GAP, "not given", r.mend)
        elif (path := in_cache(r.source)) is not None:
            yield Finding(r.name, OK, str(path))
        elif is_address(r.source):
            reachable = _hub_answers() if reachable is None else reachable
            if reachable:
                yield Finding(r.name, NOTE, f"{r.source} will be downloaded")
            else:
                yield Finding(r.name, GAP, f"{r.source}: the hub cannot be reached", r.mend)
        else:
            yield Finding(r.name, GAP, f"{r.source}: no such file or folder", r.mend)


def _hub_answers() -> bool:
    """Whether the hub can be reached, within seconds."""
    import socket
    from urllib.parse import urlparse

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    from huggingface_hub.constants import ENDPOINT

    place = urlparse(ENDPOINT)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=3):
            return True
    except OSError:
        return False


def _disk(config: ExperimentConfig) -> Finding:
    needed = _stored_bytes(config)
    place = Path(config.store or os.environ.get("PIFLOW_BENCH_STORE") or config.runs).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.0f} GB free at {place}"
    if needed <= free:
        return Finding("disk", OK, text)
    return Finding("disk", GAP, text, "store=PATH on a larger disk")


# ------------------------------------------------------------------ what it would cost


@dataclass(frozen=True)
class Network:
    """A teacher's backbone in numbers."""

    parameters: int
    flops: float
    """Of one forward pass of one sample."""
    activations: float
    """Bytes kept for the backward pass of one sample."""
    sample: int
    """Values of a sample."""


def network_of(config: ExperimentConfig) -> Network | None:
    """The backbone of latent-image experiments, measured without memory on the meta device.

    The published XL/2 where the teacher's own file is not at hand; None for other datasets, which
    are small.
    """
    if config.dataset["name"] != "imagenet" or is_stand_in(config.teacher.get("checkpoint")):
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from piflow_bench.contracts.condition import Classes
    from piflow_bench.networks.dit import DiT

    with torch.device("meta"):
        network = DiT()
        network.place_positions()
    network.checkpointing = config.training.checkpointing
    kept = 0

    def keep(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += x.numel() * (2 if config.training.precision == "bf16" else 4)
        return x

    x = torch.zeros(1, 4, 32, 32, device="meta")
    t, classes = (
        torch.zeros(1, device="meta"),
        Classes(torch.zeros(1, dtype=torch.int64, device="meta"), 1000),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, t, classes)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(x, t, classes)
    parameters = sum(p.numel() for p in network.parameters())
    weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    # Weights are saved for the backward pass as well, but lie there anyway.
    kept -= weights * (2 if config.training.precision == "bf16" else 4)
    return Network(parameters, float(counter.get_total_flops()), max(kept, 0), 4 * 32 * 32)


def _chosen(config: ExperimentConfig) -> list[tuple[str, Any, Any]]:
    """(name, entry, facts) of the experiment's variants."""
    from piflow_bench.settings import build_dataclass

    folders = places(config.plugins)
    found = []
    for name, entry in config.variants.items():
        if config.only and name not in config.only:
            continue
        cls = registry.get("method", entry.method, folders)
        settings = build_dataclass(cls.Config, entry.settings, f"variants.{name}.settings")
        found.append((name, entry, cls(settings).facts_for()))
    return found


def _stored_bytes(config: ExperimentConfig) -> float:
    network = network_of(config)
    if network is None:
        return 0.5e9
    trained = [v for v in _chosen(config) if v[2].trains]
    runs = len(config.train_seeds) * len(config.nfes) * len(trained)
    checkpoints = 4 * network.parameters * len(config.budget.checkpoints) * runs
    state = 20 * network.parameters * min(runs, 2)
    p = config.protocol
    sets = runs * len(config.budget.checkpoints) + 4
    samples = sets * p.samples * (4 * network.sample + 4 * (2048 + 2023 + 1008))
    return float(checkpoints + state + samples)


def memory(config: ExperimentConfig, network: Network, entry: Any, facts: Any) -> float:
    """Bytes of GPU memory of one process that trains a variant, estimated."""
    optimizer = entry.training.get("optimizer", config.training.optimizer)
    moments = 2 if optimizer == "adamw8bit" else 8
    own = 4 + 4 + moments
    nets = network.parameters * (own + 4 + len(facts.auxiliary) * own)
    if config.scale.parallel == "fsdp":
        nets /= config.scale.processes
    batch = int(entry.training.get("batch", config.training.batch))
    rows = min(batch // config.scale.processes, config.scale.micro_batch or batch)
    passes = 2 if facts.auxiliary else 1
    pairs = entry.settings.get("pairs", 0) * 2 * 4 * network.sample
    return nets + 4 * network.parameters + rows * network.activations * passes + pairs + 2e9


def hours(config: ExperimentConfig, network: Network, rate: float) -> dict[str, float]:
    """GPU-hours by stage at ``rate`` FLOP/s; training by budget, sampling by evaluations."""
    found: dict[str, float] = {}
    budgets = to_plain(config.budget)
    steps = config.converged.steps * (1 if config.teacher.get("guidance") == 1 else 2)
    p = config.protocol
    converged = (p.reference_samples + p.samples) * steps * network.flops
    found["converged teacher"] = converged / rate / 3600
    for name, entry, facts in _chosen(config):
        nfes = [n for n in config.nfes if entry.nfes is None or n in entry.nfes]
        samples = p.samples * sum(nfes) * network.flops
        work = samples
        if facts.trains and not config.student.checkpoint:
            budget = {**budgets, **entry.budget}
            runs = len(config.train_seeds) * (1 if facts.elastic else len(nfes))
            if budget["unit"] == "tfe":
                work += runs * budget["amount"] * config.training.batch * network.flops
            elif budget["unit"] == "images":
                work += runs * budget["amount"] * 7.4 * network.flops
            else:
                found[f"training {name}"] = runs * budget["amount"] * config.scale.processes / 3600
                continue
        label = f"training {name}" if facts.trains else f"sampling {name}"
        found[label] = work / rate / 3600
    return found


def measured_rate(network: Network) -> float | None:
    """FLOP/s of the backbone's forward pass on this GPU, for up to half a minute."""
    import torch

    if not torch.cuda.is_available():
        return None
    from piflow_bench.contracts.condition import Classes
    from piflow_bench.networks.dit import DiT

    model = DiT().cuda().eval()
    batch = 64
    x = torch.randn(batch, 4, 32, 32, device="cuda")
    t = torch.rand(batch, device="cuda")
    classes = Classes(torch.zeros(batch, dtype=torch.int64, device="cuda"), 1000)
    done, started = 0, 0.0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        model(x, t, classes)
        torch.cuda.synchronize()
        started = time.perf_counter()
        while time.perf_counter() - started < MEASURED_SECONDS:
            model(x, t, classes)
            torch.cuda.synchronize()
            done += batch
    return done * network.flops / (time.perf_counter() - started)


# ------------------------------------------------------------------ the tables


def print_table(name: str, rows: Sequence[Finding]) -> None:
    """The findings, each gap with what mends it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {OK: "green", GAP: "bold red", NOTE: "yellow"}
    table = Table(title=f"doctor: {name}", title_justify="left")
    table.add_column("needed", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("to mend it", overflow="fold")
    for f in rows:
        table.add_row(Text(f.what), Text(f.state, colours[f.state]), Text(f.detail), Text(f.mend))
    Console().print(table)


def print_findings(config: ExperimentConfig, price: float | None = None) -> bool:
    """The whole report of the verb; True if nothing is missing."""
    from rich.console import Console
    from rich.table import Table

    rows = findings(config)
    print_table(config.name, rows)
    network = network_of(config)
    if network is not None:
        console = Console()
        rate = measured_rate(network)
        how = "measured here" if rate else f"{UTILISATION:.0%} of an H100's peak, assumed"
        rate = rate or UTILISATION * PEAK
        table = Table(title=f"estimate at {rate / 1e12:.0f} TFLOP/s a GPU ({how})")
        for column in ("stage", "GPU-hours", "cost", "memory a GPU, GiB"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        sizes = {
            f"training {n}": memory(config, network, e, f) / 2**30
            for n, e, f in _chosen(config)
            if f.trains and not config.student.checkpoint
        }
        total = 0.0
        for stage, value in hours(config, network, rate).items():
            total += value
            cost = f"{value * price:,.0f}" if price else ""
            size = f"{sizes[stage]:.0f}" if stage in sizes else ""
            table.add_row(stage, f"{value:,.1f}", cost, size)
        table.add_row("all", f"{total:,.1f}", f"{total * price:,.0f}" if price else "", "")
        console.print(table)
        if not price:
            console.print("price=X gives the cost at X per GPU-hour", highlight=False)
    return all(f.state != GAP for f in rows)
