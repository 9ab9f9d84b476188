"""The metrics beside torch-fidelity's own: ``python -m tests.benchmarks.metrics``.

Four tables: all neighbour, kernel and Fréchet metrics against torch-fidelity's FD, KID and
precision/recall at 10,000 + 10,000 samples of 2,048 features; the Fréchet distance alone from given
moments, where a scipy square root is timed as well; the peak memory of the neighbour metrics at
50,000 + 50,000 samples of 512; and ``evaluate`` of 2,000 + 2,000 image files against two other
tools (``end 200`` for fewer). Nothing here is asserted: machines differ.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import piflow_bench  # First: it says how OpenBLAS is to be loaded.  # isort: skip
import numpy as np

OURS = ["fd", "kid_exact", "precision", "recall", "density", "coverage", "authpct", "vendi"]
NEIGHBOURS = ["precision", "recall", "density", "coverage", "authpct"]


def features(n: int, d: int, seed: int, shift: float) -> np.ndarray:
    """Correlated, non-negative features ``(n, d)`` float32, their spectrum falling."""
    scales = np.arange(1, d + 1)[:, None] ** -0.3 / np.sqrt(d)
    mix = (np.random.default_rng(0).standard_normal((d, d)) * scales).astype(np.float32)
    z = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return np.maximum(3 * (z @ mix) + shift, 0)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor() -> str:
    """What this machine calls its processor, and how many of its cores there are."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def line(name: str, seconds: float, of: float) -> None:
    """A row of a table: seconds, and their share of ``of``."""
    print(f"{name:54}{seconds:9.2f} s{seconds / of:8.2f}")


def _whole_calls(tool: str, n: int) -> dict[str, Callable[[], object]]:
    """What ``whole`` times of a tool, on n + n samples: torch-fidelity, values or intervals."""
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = features(n, 2048, 1, 0.05), features(n, 2048, 2, 0.0)
    if tool != "torch-fidelity":
        intervals = tool == "intervals"
        return {tool: lambda: piflow_bench.evaluate_features(x, y, OURS, intervals=intervals)}
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    subsets = {"rng_seed": 2020, "kid_subset_size": min(n, 1000)}

    def fd() -> None:
        sides = [fid_features_to_statistics(each) for each in (a, b)]
        fid_statistics_to_metric(*sides, verbose=False)

    return {
        "FD": fd,
        "KID": lambda: kid_features_to_metric(a, b, **subsets, verbose=False),
        "precision/recall": lambda: prc_features_to_metric(a, b, verbose=False),
    }


def side(tool: str) -> None:
    """A round of ``whole`` for one tool, in a process of its own; prints seconds by name."""
    for call in _whole_calls(tool, 200).values():
        call()  # What is imported and started at a first call is no tool's work.
    seconds = {name: timed(call) for name, call in _whole_calls(tool, 10_000).items()}
    print(json.dumps(seconds))


def whole(rounds: int = 3) -> None:
    """All metrics; the median of ``rounds`` runs taken in turn.

    Every tool has fresh processes, torch loaded in all of them: in one process each would pay for
    the threads and the memory that the others leave behind.
    """
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for tool in ("torch-fidelity", "values", "intervals"):
            command = [sys.executable, "-m", "tests.benchmarks.metrics", "side", tool]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for name, seconds in json.loads(printed.splitlines()[-1]).items():
                times.setdefault(name, []).append(seconds)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    values, intervals = median.pop("values"), median.pop("intervals")
    total = sum(median.values())
    print(f"10,000 + 10,000 samples, 2,048 features; {processor()}, medians of {rounds}")
    for name, seconds in median.items():
        line(f"torch-fidelity: {name}", seconds, total)
    line("torch-fidelity: together", total, total)
    line(f"ours: {', '.join(OURS)}", values, total)
    line("ours: the same, each with its interval", intervals, total)


def frechet() -> None:
    """The Fréchet distance of given moments."""
    import torch
    from scipy.linalg import sqrtm
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from piflow_bench.evaluation.metrics.frechet import FrechetReference
    from piflow_bench.evaluation.moments import Moments

    x, y = features(10_000, 2048, 1, 0.05), features(10_000, 2048, 2, 0.0)
    sides = [fid_features_to_statistics(torch.from_numpy(each)) for each in (x, y)]
    moments = [Moments.from_features(each.astype(np.float64)) for each in (x, y)]
    found = {}

    def ours() -> None:
        found["ours"] = FrechetReference(moments[1]).distance(moments[0])

    def theirs() -> None:
        key = "frechet_inception_distance"
        found["torch-fidelity"] = fid_statistics_to_metric(*sides, verbose=False)[key]

    def root() -> None:
        s, t = (side["sigma"] for side in sides)
        gap = sides[0]["mu"] - sides[1]["mu"]
        trace = np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real
        found["scipy"] = float(gap @ gap + trace)

    calls = {"torch-fidelity": theirs, "scipy": root, "ours": ours}
    seconds = {name: min(timed(call) for _ in range(2)) for name, call in calls.items()}
    print("Fréchet distance of 2,048 features, given means and covariances")
    line("torch-fidelity", seconds["torch-fidelity"], seconds["ours"])
    line("a scipy square root", seconds["scipy"], seconds["ours"])
    line("ours (factor of the reference included)", seconds["ours"], seconds["ours"])
    print(", ".join(f"{name} {value:.9g}" for name, value in found.items()))


def memory() -> None:
    """Peak memory of this process over the neighbour metrics."""
    x, y = features(50_000, 512, 1, 0.05), features(50_000, 512, 2, 0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = timed(lambda: piflow_bench.evaluate_features(x, y, NEIGHBOURS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("50,000 + 50,000 samples, 512 features: precision, recall, density, coverage, authpct")
    print(f"peak {peak / 2**20:.2f} GiB in all, {before / 2**20:.2f} GiB of it before; "
          f"{seconds:.0f} s, intervals included")  # fmt: skip


def pictures(folder: Path, n: int, seed: int) -> None:
    """n coloured noises of 64x64 pixels, as PNG files."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        coarse = rng.integers(0, 256 - 20 * seed, (9, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:05d}.png")


def end(n: int = 2000) -> None:
    """FD of n + n image files with Inception, of one file of random weights, by three tools."""
    import torch
    from cleanfid.fid import compute_fid
    from torch_fidelity import calculate_metrics
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from piflow_bench.preparation.stand_ins import inception

    with tempfile.TemporaryDirectory() as root:
        a, b, weights = Path(root) / "a", Path(root) / "b", Path(root) / "inception.pth"
        for seed, folder in enumerate((a, b)):
            pictures(folder, n, seed)
        torch.manual_seed(0)
        inception(weights)
        found = {}

        def ours() -> None:
            protocol, chosen = "torch-fidelity", {"metrics": ["fd"], "cache": False}
            table = piflow_bench.evaluate(a, b, protocol, weights=str(weights), **chosen)
            found["ours"] = table["value"].item()

        def theirs() -> None:
            values = calculate_metrics(
                input1=str(a),
                input2=str(b),
                cuda=False,
                fid=True,
                feature_extractor="inception-v3-compat",
                feature_extractor_weights_path=str(weights),
                cache=False,
                verbose=False,
            )
            found["torch-fidelity"] = values["frechet_inception_distance"]

        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )

        def features(batch: torch.Tensor) -> torch.Tensor:
            return network(batch.round().clamp(0, 255).to(torch.uint8))[0]

        def clean() -> None:
            found["clean-fid"] = compute_fid(
                str(a),
                str(b),
                device=torch.device("cpu"),
                use_dataparallel=False,
                num_workers=2,
                custom_feat_extractor=features,
                verbose=False,
            )

        calls = {"torch-fidelity": theirs, "clean-fid": clean, "ours, with an interval": ours}
        seconds = {name: timed(call) for name, call in calls.items()}
    print(f"FD of {n} + {n} files of 64x64 pixels with Inception, on the CPU")
    least = min(seconds["torch-fidelity"], seconds["clean-fid"])
    for name, spent in seconds.items():
        line(name, spent, least)
    print(", ".join(f"{name} {value:.9g}" for name, value in found.items()))


PARTS = {"whole": whole, "frechet": frechet, "memory": memory, "end": end}

if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(sys.argv[2])
    elif len(sys.argv) > 1:
        PARTS[sys.argv[1]](*map(int, sys.argv[2:]))
    else:  # A process each: the peak of one is not that of another.
        for part in PARTS:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.metrics", part], check=True)
            print(flush=True)
