"""What a section of the page is made of: a run's tables, grids and picks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Grid:
    """Samples that share noise and label column by column."""

    labels: np.ndarray
    index: np.ndarray
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Selections:
    """Samples picked by stated rules: what is known of each cell, and its pictures by name."""

    cells: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """All that a section of the page is made of."""

    name: str
    results: pd.DataFrame
    curves: pd.DataFrame
    grid: Grid | None
    info: dict[str, Any] = field(default_factory=dict)
    breakdown: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Values by sample count and by class."""
    selections: Selections | None = None
    merged: tuple[Run, ...] = ()
    """The runs that this one was put together from, each with its own rows."""
