"""What an experiment would cost: bytes on the disk and of a GPU, GPU-hours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from piflow_bench import registry
from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.file_plugins import places
from piflow_bench.preparation.given import is_stand_in

PEAK, UTILISATION = 989e12, 0.4
"""FLOP/s of an H100 in bfloat16, and the share of it that is assumed where none is measured."""
MEASURED_SECONDS = 30.0


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


def chosen_variants(config: ExperimentConfig) -> list[tuple[str, Any, Any]]:
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


def stored_bytes(config: ExperimentConfig) -> float:
    """Bytes on the disk of checkpoints, training states, samples and features, estimated."""
    network = network_of(config)
    if network is None:
        return 0.5e9
    trained = [v for v in chosen_variants(config) if v[2].trains]
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
    for name, entry, facts in chosen_variants(config):
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
