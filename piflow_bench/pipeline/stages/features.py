"""What extractors give of samples, and of a reference that is a file of real images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from piflow_bench.evaluation.extractors.extractor import usual_batch
from piflow_bench.files.rows import Parts
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.runtime import Runtime, described
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task

JUDGE = "judge"
"""The name of the judge's logits among features."""
REFERENCE_CHUNK = 256
"""Images of a reference that are held at once."""


def precision_of(extractor: Identity) -> str:
    """In which precision an extractor's network runs; no identity names the usual one."""
    return str(extractor.get("precision", "float32"))


@dataclass(frozen=True, kw_only=True)
class Describe(Task):
    """Features of samples under every extractor, and the judge's logits."""

    kind = "features"
    reads = ("samples",)
    resumable = True
    networks = True

    space: Identity
    extractors: Mapping[str, Identity]
    judge: Mapping[str, Identity] | None
    """One, by its name."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        space = runtime.dataset().space
        x = artifacts.samples(inputs["samples"])
        names = {n: n for n in self.extractors}
        if self.judge:
            (names[JUDGE],) = self.judge
        # What is decoded is decoded once, for all of them.
        parts = {n: Parts(folder / "parts" / n, runtime.save_seconds) for n in names}
        begun = min(part.rows for part in parts.values())
        for i in range(begun, len(x), space.chunk):
            batch = np.array(x[i : i + space.chunk])
            seen = batch if space.pictures is None else space.pictures(torch.from_numpy(batch))
            for name, part in parts.items():
                if part.rows > i:  # It had come further.
                    continue
                known = (self.judge if name == JUDGE else self.extractors) or {}
                extractor = runtime.extractor(names[name], precision_of(known[names[name]]))
                found = described(extractor, seen, usual_batch(extractor.device))
                if name == JUDGE:
                    found = {"features": found["logits"]}
                part.add(len(batch), **found)
                report(part.rows / len(x), f"{names[name]}: {part.rows} samples")
        written: dict[str, np.ndarray] = {}
        for name, part in parts.items():
            written |= {artifacts.array_name(name, o): v for o, v in part.arrays().items()}
        artifacts.write_features(folder, written)
        shutil.rmtree(folder / "parts")


@dataclass(frozen=True, kw_only=True)
class DescribeReference(Task):
    """Features and moments of real images that are given as a file."""

    kind = "real_reference"
    networks = True

    dataset: Identity
    extractors: Mapping[str, Identity]

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.sources import open_reference

        path = runtime.dataset().reference
        assert path is not None
        written: dict[str, np.ndarray] = {}
        for name, known in self.extractors.items():
            report(0.0, f"{name}: the reference's images")
            extractor = runtime.extractor(name, precision_of(known))
            opened = open_reference(path, workers=2)
            found: dict[str, np.ndarray] = {}
            if opened.images is not None:
                parts = [
                    described(extractor, images, usual_batch(extractor.device))
                    for images in opened.images.batches(REFERENCE_CHUNK)
                ]
                found = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            statistics = opened.statistics
            if statistics is not None:
                for what, moments in (("", statistics.pooled), ("spatial/", statistics.spatial)):
                    if moments is not None:
                        found[f"{what}count"] = np.array([moments.n])
                        found[f"{what}mean"] = moments.mean
                        found[f"{what}scatter"] = moments.scatter
            written |= {artifacts.array_name(name, o): values for o, values in found.items()}
        artifacts.write_features(folder, written)
