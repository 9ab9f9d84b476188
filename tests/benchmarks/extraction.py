"""Costs of feature extraction: ``python -m tests.benchmarks.extraction [out=FILE]``.

Images per second, peak memory and the share of the GPU's peak FLOP/s of Inception, DINOv2 ViT-L/14,
CLIP ViT-L/14-336 and EfficientNet-Lite0 at their published sizes, with random weights, on random
images of 256x256: the network alone, on a batch that lies on the GPU, and the whole way from uint8
pictures in memory to features in memory. Without a GPU the same code looks at four pictures with
the smaller two networks, to see that it runs, and says so. Nothing here is asserted.

Settings: ``out=FILE``, ``batch=64``, ``only=inception,clip``, ``precision=float32,bfloat16``,
``peak=989e12`` (of dense bfloat16 products; float32 ones have less).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from piflow_bench.contracts.extractor import Extractor
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.provenance import hardware, versions

SIDE = 256


def inception(folder: Path, device: str) -> Extractor:
    """As torch-fidelity has it."""
    from piflow_bench.preparation.stand_ins import inception as write

    write(folder / "inception.pth")
    return get_extractor("inception", str(folder / "inception.pth"), device)


def dinov2(folder: Path, device: str) -> Extractor:
    """ViT-L/14 at 224."""
    import timm

    from piflow_bench.evaluation.extractors import dinov2 as published

    network = timm.create_model(published.ARCHITECTURE, num_classes=0, img_size=published.SIDE)
    torch.save(network.state_dict(), folder / "dinov2.pth")
    return get_extractor("dinov2", str(folder / "dinov2.pth"), device)


def clip(folder: Path, device: str) -> Extractor:
    """ViT-L/14 at 336."""
    import open_clip

    from piflow_bench.evaluation.extractors import clip as published

    torch.save(open_clip.create_model(published.MODEL).state_dict(), folder / "clip.pt")
    return get_extractor("clip", str(folder / "clip.pt"), device)


def efficientnet(folder: Path, device: str) -> Extractor:
    """Lite0 at 224, with the weights of its package."""
    return get_extractor("efficientnet-lite0", None, device)


NETWORKS: dict[str, Callable[[Path, str], Extractor]] = {
    "inception": inception,
    "efficientnet-lite0": efficientnet,
    "dinov2": dinov2,
    "clip": clip,
}
SMALL = ("inception", "efficientnet-lite0")


def wait(cuda: bool) -> None:
    """Until all work is done."""
    if cuda:
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], cuda: bool, repeats: int) -> float:
    """Median seconds of a call, after a warm-up."""
    times = []
    for i in range(repeats + 2 * cuda):
        wait(cuda)
        began = time.perf_counter()
        call()
        wait(cuda)
        if i >= 2 * cuda:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def measured(extractor: Extractor, batch: int, repeats: int, peak: float) -> dict[str, float]:
    """What one batch costs."""
    cuda = extractor.device == "cuda"
    pictures = np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8)
    one = extractor.prepare(pictures[:1]).to(extractor.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        extractor.network(one)
    flops = float(counter.get_total_flops())
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    prepared = extractor.prepare(pictures).to(extractor.device)
    # What extraction does on the device, without resizing on the CPU and without the way there.
    alone = replace(extractor, prepare=lambda images: prepared)
    found = {
        "images/s, network": batch / seconds(lambda: alone(pictures), cuda, repeats),
        "images/s, from pictures": batch / seconds(lambda: extractor(pictures), cuda, repeats),
        "GFLOP an image": flops / 1e9,
    }
    if cuda:
        found["share of peak FLOP/s"] = flops * found["images/s, network"] / peak
        found["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main(arguments: list[str]) -> None:
    """Print the table; write it as JSON where asked."""
    given = dict(a.split("=", 1) for a in arguments)
    cuda = torch.cuda.is_available()
    device, batch = "cuda" if cuda else "cpu", int(given.get("batch", 64 if cuda else 4))
    precisions = given.get("precision", "float32,bfloat16" if cuda else "float32").split(",")
    names = given["only"].split(",") if "only" in given else list(NETWORKS if cuda else SMALL)
    peak = float(given.get("peak", 989e12))
    gpu = torch.cuda.get_device_name() if cuda else None
    print(gpu or f"{hardware()}: no GPU, only to see that this runs")
    facts: dict[str, Any] = {
        "gpu": gpu, "hardware": hardware(), "versions": versions(), "peak": peak, "batch": batch,
        "extraction": {},
    }  # fmt: skip
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            extractor = NETWORKS[name](Path(folder), device)
        for precision in precisions:
            row = measured(replace(extractor, precision=precision), batch, 10 if cuda else 1, peak)
            facts["extraction"][f"{name}, {precision}"] = row
            text = ", ".join(f"{k} {v:.4g}" for k, v in row.items())
            print(f"{name:20}{precision:10}{text}", flush=True)
        if "out" in given:
            Path(given["out"]).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
