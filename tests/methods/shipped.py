"""The variants of the experiments that ship."""

from __future__ import annotations

from pathlib import Path

import piflow_experiments

from piflow_bench.config.compose import compose
from piflow_bench.config.schema import ExperimentConfig, VariantConfig


def variants_of(method: str) -> dict[str, tuple[ExperimentConfig, VariantConfig]]:
    """Every variant of a method, under "EXPERIMENT: VARIANT"."""
    files = sorted((Path(piflow_experiments.__file__).parent / "experiment").glob("*.yaml"))
    return {
        f"{config.name}: {name}": (config, entry)
        for file in files
        for config in compose([f"experiment={file.stem}"])
        for name, entry in config.variants.items()
        if entry.method == method
    }
