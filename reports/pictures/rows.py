"""One row of samples as the page shows it, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from piflow_reports.format.styles import TEACHER, Style
from piflow_reports.pictures.images import Detail, scale, strip, uri
from piflow_reports.pictures.points import PANEL, density, panel

from piflow_bench.evaluation.pictures.uint8 import for_the_eye

SHOWN = 20  # Samples of a strip that are seen before a class is chosen.


@dataclass(frozen=True)
class Strip:
    """One row of samples."""

    series: str
    role: str
    seed: int | None
    uri: str
    width: int
    height: int
    pixel: int  # Size on the page of one pixel of the picture.
    alt: str
    density: str = ""
    """The same points as a density, as a data URI."""


def series_of(row: dict[str, Any]) -> str:
    """The row's name among the page's series."""
    return str(row.get("series") or row.get("variant") or "")


def alt(row: dict[str, Any], what: str) -> str:
    """What a row's picture shows, in words."""
    nfe, seed = row.get("nfe"), row.get("train_seed")
    text = f"{what} of {series_of(row)}"
    text += f" at {nfe} NFE" if nfe is not None else ""
    return text + (f", train seed {seed}" if seed is not None else "")


def strip_of(row: dict[str, Any], array: np.ndarray, what: str, detail: Detail) -> Strip:
    """Images ``(G, H, W, C)`` of a grid's row; ``what`` they are, in words."""
    images = for_the_eye(array)
    picture = strip(images, largest=detail.largest)
    times = scale(picture.height, min(len(images), SHOWN))
    seed = row.get("train_seed")
    return Strip(
        series_of(row),
        str(row.get("role", "")),
        None if seed is None else int(seed),
        uri(picture, lossy=max(images.shape[1:3]) > detail.exact),
        picture.width * times,
        picture.height * times,
        times,
        alt(row, what),
    )


def panel_of(
    row: dict[str, Any],
    points: np.ndarray,
    what: str,
    limits: tuple[float, float, float, float],
    looks: dict[str, Style],
) -> Strip:
    """Points ``(P, 2)`` of a grid's row, as dots and as a density."""
    name, seed = series_of(row), row.get("train_seed")
    colour = looks[name].colour if name in looks else TEACHER
    picture = panel(points.astype(float), limits, colour)
    dense = uri(density(points.astype(float), limits, colour))
    about = (name, str(row.get("role", "")), None if seed is None else int(seed))
    return Strip(*about, uri(picture), PANEL, PANEL, 1, alt(row, what), dense)
