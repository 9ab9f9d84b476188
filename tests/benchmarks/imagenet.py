"""Costs at the size of ImageNet: ``python -m tests.benchmarks.imagenet [out=FILE]``.

On a GPU: DiT-XL/2 in bfloat16 on random latents and weights. For every method a training step
(images per second, peak memory, TFE per image, share of the GPU's peak FLOP/s) and the factor that
a forward-mode derivative costs over a forward pass; sampling at 1 NFE (batch 1 and 64, policies
fused and unfused), with and without decoding. Without a GPU the same code walks a tiny network, to
see that it runs, and says so. Nothing here is asserted.

Settings: ``out=FILE``, ``micro_batch=64``, ``only=piflow-gm32,dmd2``, ``peak=989e12``,
``autoencoder=PATH`` (random weights of the published size where it is not given).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from piflow_methods.dmd2 import DMD2
from piflow_methods.kd import KD
from piflow_methods.meanflow.method import MeanFlow
from piflow_methods.piflow.method import PiFlow
from piflow_methods.piflow.policies import GMPolicy

from piflow_bench.api import Classes, Guidance, SampleRandom, Spec, Teacher
from piflow_bench.contracts.data import TensorRows
from piflow_bench.networks.dit import DiT
from piflow_bench.provenance import hardware, versions
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "piflow-gm32": (PiFlow, {"policy": "gm", "components": 32}),
    "piflow-gm8": (PiFlow, {"policy": "gm", "components": 8}),
    "piflow-dx20": (
        PiFlow,
        {"policy": "dx-grid", "components": 20, "window_substeps": 5, "dropout": 0.0},
    ),
    "meanflow": (MeanFlow, {}),
    "dmd2": (DMD2, {"ratio": 1}),  # A generator update in every step: its dearest step.
    "kd": (KD, {"pairs": 64, "pair_steps": 2}),  # Filled at once: the steps after are its own.
}


@dataclass(frozen=True)
class Machine:
    """What is measured on."""

    device: str
    micro_batch: int
    peak: float
    repeats: int

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    def network(self) -> DiT:
        """The backbone: DiT-XL/2, or a tiny one."""
        return DiT() if self.cuda else DiT(height=8, dim=48, depth=2, heads=4, classes=1000)

    @property
    def side(self) -> int:
        """Rows of a latent."""
        return 32 if self.cuda else 8

    def wait(self) -> None:
        """Until all work is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object]) -> float:
        """Median seconds of a call after two of warm-up."""
        times = []
        for i in range(self.repeats + 2):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            if i > 1:
                times.append(time.perf_counter() - began)
        return statistics.median(times)


def trainer(name: str, machine: Machine) -> Trainer:
    """A training run of one method at its start."""
    cls, settings = METHODS[name]
    shape = (4, machine.side, machine.side)
    torch.manual_seed(0)
    network = machine.network()
    for parameter in network.parameters():
        if not parameter.any():  # What starts at zero would hide costs in zeros.
            torch.nn.init.normal_(parameter, std=0.02)
    teacher = Teacher(network, network, Guidance(3.2, 0.0, 0.7))
    rows = 4 * machine.micro_batch
    data = TrainingData(
        TensorRows(torch.randn(rows, *shape)), Classes(torch.arange(rows) % 1000, 1000)
    )
    elastic = cls is MeanFlow
    spec = Spec(shape, None if elastic else 1, machine.micro_batch, machine.network, data.condition)
    training = TrainingSettings(
        batch=machine.micro_batch,
        precision="bf16" if machine.cuda else "fp32",
        checkpointing=True,
        warmup=0,
    )
    budget = Budget("images", 1e9, (1.0,))
    method = cls(cls.Config(**settings))
    return Trainer(method, teacher, data, spec, training, budget, 0, Scale(machine.device))


def training(name: str, machine: Machine) -> dict[str, float]:
    """A method's step."""
    run = trainer(name, machine)
    run.run_step()
    run.run_step()
    if machine.cuda:
        torch.cuda.reset_peak_memory_stats()
    before = run.meter.flops
    seconds = machine.seconds(run.run_step)
    flops = (run.meter.flops - before) / (machine.repeats + 2)
    unit = run.tfe_flops / machine.micro_batch
    found = {
        "images/s": machine.micro_batch / seconds,
        "TFE per image": flops / machine.micro_batch / unit,
        "share of peak FLOP/s": flops / seconds / machine.peak,
        "steps/s": 1 / seconds,
    }
    if machine.cuda:
        found["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    jvp, grad = (run.meter.unit.get(f"student/{k}") for k in ("jvp", "grad"))
    if jvp and grad:
        found["JVP over forward, FLOPs"] = jvp / grad
    return found


@torch.no_grad()
def sampling(name: str, machine: Machine, decode: Callable[[Any], Any]) -> dict[str, float]:
    """A method's student at one evaluation."""
    run = trainer(name, machine)
    student, network = run.built.student, run.modules["student"].eval()
    found: dict[str, float] = {}
    policies = name.startswith("piflow-gm")
    original = GMPolicy.rollout
    for batch in (1, 64):
        noise = torch.randn(batch, 4, machine.side, machine.side, device=machine.device)
        classes = Classes(torch.zeros(batch, dtype=torch.int64, device=machine.device), 1000)
        random = SampleRandom(0, range(batch), machine.device)

        def draw(noise: Any = noise, classes: Any = classes, random: Any = random) -> Any:
            with torch.autocast(machine.device, torch.bfloat16, enabled=machine.cuda):
                return student.bind(network).sample(noise, classes, 1, random)

        found[f"latency of {batch}, ms"] = 1000 * machine.seconds(draw)
        if policies and machine.cuda:
            GMPolicy.rollout = lambda *a, **o: original(*a, **o, use_fused=False)  # type: ignore[method-assign]
            found[f"latency of {batch}, unfused, ms"] = 1000 * machine.seconds(draw)
            GMPolicy.rollout = original  # type: ignore[method-assign]
        if batch == 64:
            found["images/s"] = batch / found["latency of 64, ms"] * 1000
            whole = machine.seconds(lambda draw=draw: decode(draw()))
            found["images/s, decoded"] = batch / whole
    return found


def decoder(machine: Machine, source: str | None) -> Callable[[Any], Any]:
    """Stable Diffusion's decoder: given, or of its size with random weights."""
    from diffusers import AutoencoderKL

    if source:
        model = AutoencoderKL.from_pretrained(source)
    else:
        widths = (128, 256, 512, 512) if machine.cuda else (8, 8, 8, 8)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=32 if machine.cuda else 4,
        )
    model = model.to(machine.device, torch.bfloat16 if machine.cuda else torch.float32).eval()

    def decode(latents: Any) -> Any:
        parts = latents.to(next(model.parameters()).dtype).split(16)
        return [model.decode(part).sample for part in parts]

    return decode


def main(arguments: list[str]) -> None:
    """Print the tables; write them as JSON where asked."""
    given = dict(a.split("=", 1) for a in arguments)
    cuda = torch.cuda.is_available()
    machine = Machine(
        "cuda" if cuda else "cpu",
        int(given.get("micro_batch", 64 if cuda else 4)),
        float(given.get("peak", 989e12)),
        10 if cuda else 2,
    )
    names = given["only"].split(",") if "only" in given else list(METHODS)
    gpu = torch.cuda.get_device_name() if cuda else None
    print(gpu or f"{hardware()}: no GPU, a tiny network, only to see that this runs")
    decode = decoder(machine, given.get("autoencoder"))
    facts: dict[str, Any] = {
        "gpu": gpu, "hardware": hardware(), "versions": versions(), "peak": machine.peak,
        "micro_batch": machine.micro_batch, "training": {}, "sampling": {},
    }  # fmt: skip
    for name in names:
        facts["training"][name] = training(name, machine)
        facts["sampling"][name] = sampling(name, machine, decode)
        for kind in ("training", "sampling"):
            values = facts[kind][name].items()
            print(f"{kind:9}{name:13}" + ", ".join(f"{k} {v:.4g}" for k, v in values), flush=True)
        if "out" in given:
            Path(given["out"]).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
