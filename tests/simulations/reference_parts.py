"""The converged teacher's own samples against each other: a distance of 0, on real features.

``python -m tests.simulations.reference_parts`` (tens of minutes on a core): the 20,000 reference
samples of ``digits`` in ten parts of 2,000 in order, each against the other nine, with the labels
that a run knows. An unbiased distance is 0 on average, and its interval holds 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from piflow_bench import sampling
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.pipeline.runtime import described
from tests.world import world

METRICS = ("kid_exact", "energy_distance")
REFERENCE_SEED = 1_000_003
"""Of the shipped protocols."""
RESULTS = Path(__file__).parent / "results" / "reference_parts.csv"


def converged_features(count: int, steps: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(count, 64)`` of the classifier, and labels ``(count,)``."""
    runtime = world()
    dataset, teacher = runtime.dataset(), runtime.teacher()
    x, _ = sampling.converged(teacher, dataset, range(count), REFERENCE_SEED, "unipc", steps, 500)
    labels = dataset.conditions(REFERENCE_SEED, range(count)).pack().numpy()
    classifier = runtime.extractor("digits")
    return described(classifier, dataset.space.pictures(x), len(x))["features"], labels


def part_against_the_others(features: np.ndarray, labels: np.ndarray, parts: int) -> pd.DataFrame:
    """A row for each part and metric: value, interval, and the estimator."""
    rows = []
    size = len(features) // parts
    for part in range(parts):
        mine = np.arange(len(features)) // size == part
        found = evaluate_with_replicates(
            features[mine], features[~mine], METRICS,
            labels=labels[mine], reference_labels=labels[~mine],
        )  # fmt: skip
        rows += [(part, v.metric, v.value, v.ci_low, v.ci_high, v.estimator) for v in found]
    return pd.DataFrame(rows, columns=["part", "metric", "value", "low", "high", "estimator"])


def main() -> None:
    """Sample, score, and write the table."""
    parser = argparse.ArgumentParser(description="Parts of the digits reference")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    table = part_against_the_others(*converged_features(arguments.samples), parts=10)
    table.to_csv(arguments.results, index=False, float_format="%.6g")
    for metric, rows in table.groupby("metric"):
        holds = ((rows.low <= 0) & (rows.high >= 0)).sum()
        error = rows.value.std() / np.sqrt(len(rows))
        print(f"{metric}: {holds} of {len(rows)} hold 0; mean {rows.value.mean():.4g}, {error:.4g}")


if __name__ == "__main__":
    main()
