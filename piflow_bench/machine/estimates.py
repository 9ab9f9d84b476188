"""What an experiment would cost: bytes on the disk and of a GPU, GPU-hours."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from piflow_bench import registry
from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.preparation.given import is_stand_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from piflow_bench.contracts.condition import Condition

PEAK, UTILISATION = 989e12, 0.4
"""FLOP/s of an H100 in bfloat16, and the share of it that is assumed where none is measured."""
MEASURED_SECONDS = 30.0


@dataclass(frozen=True)
class Subject:
    """A network of fresh weights, and what it is called on."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    conditions: Callable[[int], Condition]
    """Those of so many samples."""
    encoded: float = 0.0
    """Bytes on the disk of what they are encoded as."""

    def inputs(self, n: int, device: str) -> tuple[Tensor, Tensor, Condition]:
        """Samples ``(n, *shape)``, times ``(n,)`` and conditions, of values that mean nothing."""
        import torch

        x, t = torch.zeros(n, *self.shape, device=device), torch.full((n,), 0.5, device=device)
        return x, t, self.conditions(n).to(device)


@dataclass(frozen=True)
class Network:
    """A teacher's network in numbers."""

    subject: Subject
    parameters: int
    trained: int
    """Of a student: all, or those of its adapters on a frozen network."""
    flops: float
    """Of one forward pass of one sample."""
    activations: float
    """Bytes kept for the backward pass of one sample."""
    sample: int
    """Values of a sample."""
    conditions: float = 0.0
    """Bytes on the disk of what its conditions are encoded as."""

    @property
    def is_shared(self) -> bool:
        """Whether students are adapters on it."""
        return self.trained != self.parameters


def network_of(config: ExperimentConfig) -> Network | None:
    """The network of the experiment's teacher, measured without memory on the meta device.

    Of ImageNet's the published XL/2 where latents or teacher are not at hand yet; None for others
    of which that is so, and for experiments that run on a CPU, which are small.
    """
    if config.scale.device == "cpu":
        return None
    subject = _own(config) or _published(config)
    return None if subject is None else _measured(subject, config)


def _own(config: ExperimentConfig) -> Subject | None:
    """The network that the plan is made with; None where it cannot be made from what is there."""
    from piflow_bench.pipeline.plan import runtime_of

    given = (config.dataset, config.teacher, config.space)
    if any(is_stand_in(value) for settings in given for value in settings.values()):
        return None  # What nobody gives is not made for this.
    runtime = runtime_of(config)
    plugin = runtime.teacher_plugin()
    try:
        dataset = runtime.dataset()
        subject = Subject(
            lambda: plugin.fresh_network(dataset),
            dataset.shape,
            lambda n: dataset.conditions(0, range(n)),
            plugin.encoded_bytes(dataset) if plugin.encodes else 0.0,
        )
        _on_meta(subject)
    except (UserError, OSError, TypeError, ValueError):
        return None
    return subject


def _published(config: ExperimentConfig) -> Subject | None:
    if config.dataset["name"] != "imagenet" or is_stand_in(config.teacher.get("checkpoint")):
        return None
    import torch

    from piflow_bench.contracts.condition import Classes
    from piflow_bench.networks.dit import DiT

    def conditions(n: int) -> Classes:
        return Classes(torch.zeros(n, dtype=torch.int64), 1000)

    return Subject(DiT, (4, 32, 32), conditions)


def _on_meta(subject: Subject) -> nn.Module:
    import torch

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return subject.build()


def _measured(subject: Subject, config: ExperimentConfig) -> Network:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = _on_meta(subject)
    student = _student(network, config)
    parts: list[Any] = [*network.modules(), *student.modules()]
    for part in parts:
        if hasattr(part, "checkpointing"):
            part.checkpointing = config.training.checkpointing
    kept, each = 0, 2 if config.training.precision == "bf16" else 4

    def keep(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel() * each
        return x

    given = subject.inputs(1, "meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*given)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        student(*given)
    parameters = sum(p.numel() for p in network.parameters())
    # Weights are saved for the backward pass as well, but lie there anyway.
    kept -= each * sum(p.numel() for p in student.parameters() if p.ndim > 1)
    flops = float(counter.get_total_flops())
    trained = sum(p.numel() for p in student.parameters())
    values = math.prod(subject.shape)
    return Network(subject, parameters, trained, flops, max(kept, 0), values, subject.encoded)


def _student(network: nn.Module, config: ExperimentConfig) -> nn.Module:
    """What is trained: the network, or adapters on it."""
    import torch

    if not hasattr(network, "adapt_with"):
        return network
    t = config.training
    network.adapt_with(t.adapter_rank, t.adapter_dropout)  # type: ignore[operator]
    with torch.device("meta"):
        return copy.deepcopy(network).requires_grad_(True)


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
    checkpoints = 4 * network.trained * len(config.budget.checkpoints) * runs
    state = 20 * network.trained * min(runs, 2)
    p = config.protocol
    sets = runs * len(config.budget.checkpoints) + 4
    samples = sets * p.samples * (4 * network.sample + 4 * (2048 + 2023 + 1008))
    return float(checkpoints + state + samples + network.conditions)


def memory(config: ExperimentConfig, network: Network, entry: Any, facts: Any) -> float:
    """Bytes of GPU memory of one process that trains a variant, estimated."""
    optimizer = entry.training.get("optimizer", config.training.optimizer)
    moments = 2 if optimizer == "adamw8bit" else 8
    own = 4 + 4 + moments
    nets: float = network.trained * (own + 4 + len(facts.auxiliary) * own)
    # A frozen network is there once, in 16 bits; another teacher in 32, beside its students.
    base: float = network.parameters * (2 if network.is_shared else 4)
    in_eight_bits = config.teacher.get("weights") == "int8"
    if in_eight_bits:
        base /= 2
    if config.scale.parallel == "fsdp":
        nets /= config.scale.processes
        # Weights of 8 bits are no parameters, and whole in every process.
        base /= config.scale.processes if network.is_shared and not in_eight_bits else 1
    batch = int(entry.training.get("batch", config.training.batch))
    rows = min(batch // config.scale.processes, config.scale.micro_batch or batch)
    passes = 2 if facts.auxiliary else 1
    pairs = entry.settings.get("pairs", 0) * 2 * 4 * network.sample
    return nets + base + rows * network.activations * passes + pairs + 2e9


def hours(config: ExperimentConfig, network: Network, rate: float) -> dict[str, float]:
    """GPU-hours by stage at ``rate`` FLOP/s; training by budget, sampling by evaluations."""
    found: dict[str, float] = {}
    budgets = to_plain(config.budget)
    steps = config.converged.steps * (2 if _is_guided(config) else 1)
    p = config.protocol
    converged = (p.reference_samples + p.samples) * steps * network.flops
    found["converged teacher"] = converged / rate / 3600
    for name, entry, facts in chosen_variants(config):
        nfes = [n for n in config.nfes if entry.nfes is None or n in entry.nfes]
        samples = p.samples * sum(nfes) * network.flops
        work = samples
        if facts.trains and not (config.student.checkpoint or entry.checkpoint):
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


def _is_guided(config: ExperimentConfig) -> bool:
    from piflow_bench.pipeline.plan import runtime_of

    return replace(runtime_of(config), inputs="").teacher_plugin().guidance.on


def measured_rate(network: Network) -> float | None:
    """FLOP/s of the backbone's forward pass on this GPU, for up to half a minute."""
    import torch

    if not torch.cuda.is_available():
        return None
    if network.is_shared:  # Of tens of gigabytes, which the host may not have room for.
        batch, model = 1, _on_gpu(network.subject)
    else:
        batch, model = 64, network.subject.build().cuda().eval()
    given = network.subject.inputs(batch, "cuda")
    done, started = 0, 0.0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        model(*given)
        torch.cuda.synchronize()
        started = time.perf_counter()
        while time.perf_counter() - started < MEASURED_SECONDS:
            model(*given)
            torch.cuda.synchronize()
            done += batch
    return done * network.flops / (time.perf_counter() - started)


def _on_gpu(subject: Subject) -> nn.Module:
    """A large network of fresh weights in 16 bits, made where it is called."""
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return subject.build().eval()
    finally:
        torch.set_default_dtype(usual)
