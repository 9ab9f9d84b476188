"""The fused policy rollout beside PyTorch's own: ``python -m tests.benchmarks.rollout [out=FILE]``.

128 substeps of a Gaussian mixture of 32 components on latents of 4x32x32, batch 64: forward, and
forward with backward, against the same rollout in PyTorch operations and against one forward pass
of DiT-XL/2 in bfloat16, all in one run. Without a GPU a small case runs on the CPU, where there is
no fused rollout. Nothing here is asserted: machines differ.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from piflow_methods.piflow.policies import GMPolicy

from piflow_bench.api import Classes
from piflow_bench.networks.dit import DiT
from piflow_bench.provenance import hardware, versions


def seconds(call: Callable[[], object], cuda: bool, repeats: int) -> float:
    """Median seconds of a call, after a warm-up."""
    for _ in range(3 if cuda else 1):
        call()
    times = []
    for _ in range(repeats):
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def case(batch: int, k: int, c: int, side: int, device: str) -> tuple[GMPolicy, list[torch.Tensor]]:
    """A policy with gradients to its parameters, and the rollout from noise to data."""
    g = torch.Generator().manual_seed(0)
    means = torch.randn(batch, k, c, side, side, generator=g).to(device).requires_grad_()
    logweights = torch.randn(batch, k, 1, side, side, generator=g).log_softmax(1)
    logstds = torch.full((batch, 1, 1, 1, 1), -1.0)
    x = torch.randn(batch, c, side, side, generator=g).to(device)
    one = torch.ones(batch, device=device)
    policy = GMPolicy(
        means, logstds.to(device).requires_grad_(), logweights.to(device).requires_grad_(), x, one
    )
    return policy, [x, one, torch.zeros_like(one)]


def main(out: str | None) -> None:
    """Print the table; write it as JSON where asked."""
    cuda = torch.cuda.is_available()
    device, repeats = ("cuda", 20) if cuda else ("cpu", 3)
    batch, k, substeps = (64, 32, 128) if cuda else (4, 32, 128)
    policy, path = case(batch, k, 4, 32, device)

    def forward(fused: bool) -> Callable[[], object]:
        @torch.no_grad()
        def call() -> object:
            return GMPolicy(*_parts(policy)).rollout(*path, substeps, use_fused=fused)

        return call

    def both(fused: bool) -> Callable[[], object]:
        def call() -> None:
            GMPolicy(*_parts(policy)).rollout(*path, substeps, use_fused=fused).sum().backward()
            for name in ("means", "logweights", "logstds"):
                getattr(policy, name).grad = None

        return call

    print(f"{hardware()}; 128 substeps, K = {k}, 4x32x32, batch {batch}")
    found: dict[str, float] = {}
    ways = [("unfused", False)] + ([("fused", True)] if cuda else [])
    for name, fused in ways:
        found[f"{name} forward"] = seconds(forward(fused), cuda, repeats)
        found[f"{name} forward and backward"] = seconds(both(fused), cuda, max(repeats // 4, 2))
    network = DiT(depth=28 if cuda else 2).to(device).eval()
    x, t = path[0], path[1]
    classes = Classes(torch.zeros(batch, dtype=torch.int64, device=device), 1000)

    @torch.no_grad()
    def one_forward() -> None:
        with torch.autocast(device, torch.bfloat16):
            network(x, t, classes)

    found["DiT-XL/2 forward, bf16" if cuda else "2 of DiT-XL/2's 28 blocks, bf16"] = seconds(
        one_forward, cuda, repeats
    )
    reference = list(found.values())[-1]
    for name, value in found.items():
        print(f"{name:36}{1000 * value:12.3f} ms{100 * value / reference:10.2f} % of the network")
    if cuda:
        for what in ("forward", "forward and backward"):
            ratio = found[f"unfused {what}"] / found[f"fused {what}"]
            print(f"fused {what}: {ratio:.1f} times as fast as unfused")
    else:
        print("no GPU here: the fused rollout was not measured")
    if out:
        facts = {"hardware": hardware(), "versions": versions(), "batch": batch, "seconds": found}
        if cuda:
            facts["gpu"] = torch.cuda.get_device_name()
        Path(out).write_text(json.dumps(facts, indent=1) + "\n")


def _parts(policy: GMPolicy) -> tuple[torch.Tensor, ...]:
    return policy.means, policy.logstds, policy.logweights, policy.x_src, policy.t_src


if __name__ == "__main__":
    main(next((a.removeprefix("out=") for a in sys.argv[1:] if a.startswith("out=")), None))
