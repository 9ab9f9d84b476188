"""Sample grids as PNG data URIs: strips of images, or panels of points."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from piflow_reports.inputs import Grid
from piflow_reports.styles import TEACHER, Style
from PIL import Image

TILE = 56  # Pixels on the page that a tile should about fill.
LARGEST = 128  # Larger images are reduced: the page is for looking, the store keeps the samples.
STRIP = 1040  # Width of the page that is left for a strip.
PANEL = 320


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


@dataclass(frozen=True)
class Sheet:
    """The grid of one NFE, the teacher first."""

    nfe: int | None
    strips: list[Strip]


def png(image: Image.Image) -> str:
    """A PNG data URI; the same pixels give the same text."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale(size: int, count: int = 1) -> int:
    """Whole-number enlargement of a tile on the page, so that every pixel is equally large.

    A strip of ``count`` tiles is kept within the page unless its tiles would become too small.
    """
    fitting = max(STRIP // (count * (size + 1)), round(TILE / size / 2))
    return max(1, min(round(TILE / size), fitting))


def strip(images: np.ndarray, gap: int = 1) -> Image.Image:
    """Images ``(G, H, W, C)`` of uint8 side by side, with transparent gaps."""
    if images.ndim == 3:
        images = images[..., None]
    count, height, width, channels = images.shape
    tiles = images
    if max(height, width) > LARGEST:
        factor = LARGEST / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        tiles = np.stack([_reduced(tile, size) for tile in images])
        width, height = size
    out = np.zeros((height, count * width + (count - 1) * gap, 4), np.uint8)
    for i, tile in enumerate(tiles):
        left = i * (width + gap)
        colour = np.repeat(tile[..., :1], 3, axis=-1) if channels < 3 else tile[..., :3]
        out[:, left : left + width, :3] = colour
        out[:, left : left + width, 3] = 255
    return Image.fromarray(out)


def _reduced(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(tile[..., 0] if tile.shape[-1] < 3 else tile[..., :3])
    small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return small[..., None] if small.ndim == 2 else small


def panel(points: np.ndarray, limits: tuple[float, float, float, float], colour: str
          ) -> Image.Image:  # fmt: skip
    """Points ``(P, 2)`` as soft dots on a transparent ground, so that it suits light and dark."""
    low_x, high_x, low_y, high_y = limits
    x = (points[:, 0] - low_x) / (high_x - low_x) * (PANEL - 1)
    y = (high_y - points[:, 1]) / (high_y - low_y) * (PANEL - 1)
    inside = np.isfinite(x) & np.isfinite(y)
    inside &= (x >= 0) & (x <= PANEL - 1) & (y >= 0) & (y <= PANEL - 1)
    clear = np.ones((PANEL, PANEL))
    columns, rows = x[inside].round().astype(int), y[inside].round().astype(int)
    for dx, dy, cover in _disc(2.2):
        u, v = columns + dx, rows + dy
        valid = (u >= 0) & (u < PANEL) & (v >= 0) & (v < PANEL)
        np.multiply.at(clear, (v[valid], u[valid]), 1 - 0.6 * cover)
    out = np.zeros((PANEL, PANEL, 4), np.uint8)
    out[..., :3] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    out[..., 3] = np.round(255 * (1 - clear))
    return Image.fromarray(out)


def _disc(radius: float) -> list[tuple[int, int, float]]:
    reach = int(np.ceil(radius))
    steps = range(-reach, reach + 1)
    cover = {(i, j): radius + 0.5 - float(np.hypot(i, j)) for i in steps for j in steps}
    return [(i, j, min(c, 1.0)) for (i, j), c in cover.items() if c > 0]


def common_limits(arrays: list[np.ndarray]) -> tuple[float, float, float, float]:
    """A square window that holds nearly all points of all rows."""
    finite = [a[np.isfinite(a).all(axis=1)] for a in arrays]
    points = np.concatenate([a for a in finite if len(a)] or [np.zeros((1, 2))])
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) * 0.56, 1e-6)
    return (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)


def sheets(grid: Grid | None, looks: dict[str, Style], order: list[str]) -> dict[str, Any] | None:
    """The page's grids: kind ('images' or 'points'), labels, and one sheet per NFE."""
    rows = [row for row in grid.rows if len(grid.arrays[row["key"]])] if grid else []
    if grid is None or not rows:
        return None
    points = all(grid.arrays[row["key"]].ndim == 2 for row in rows)
    if not points:
        rows = [row for row in rows if grid.arrays[row["key"]].ndim in (3, 4)]
    limits = common_limits([grid.arrays[row["key"]] for row in rows]) if points else None
    place = {name: i for i, name in enumerate(order)}
    # The control and the converged teacher stand above every NFE; the teacher leads its own.
    above = [row for row in rows if row.get("role") == "control" or row.get("nfe") is None]
    kept = {id(row) for row in above}
    nfes = sorted({int(row["nfe"]) for row in rows if id(row) not in kept})
    students = {int(r["nfe"]) for r in rows if r.get("role") == "student" and r.get("nfe")}
    made = {}
    for row in rows:
        made[id(row)] = _strip(row, grid.arrays[row["key"]], limits, looks)
    result = []
    shown: list[int | None] = [n for n in nfes if n in students or not students]
    for nfe in shown or [None]:
        own = [row for row in rows if id(row) not in kept and int(row["nfe"]) == nfe]
        own.sort(
            key=lambda r: (
                r.get("role") != "teacher",
                place.get(str(r.get("variant")), len(place)),
                str(r.get("variant")),
                r.get("train_seed") or 0,
            )
        )
        result.append(Sheet(nfe, [made[id(row)] for row in above + own]))
    first = grid.arrays[rows[0]["key"]]
    top = made[id(rows[0])]
    gap = 0 if points else top.pixel
    return {
        "kind": "points" if points else "images",
        "labels": [] if points else [str(v) for v in grid.labels[: len(first)]],
        "index": [] if points else [int(i) for i in grid.index[: len(first)]],
        "count": len(first),
        "tile": PANEL if points else (top.width + gap) // len(first) - gap,
        "gap": gap,
        "reduced": not points and max(first.shape[1:3]) > LARGEST,
        "labelled": len({str(v) for v in grid.labels}) > 1,
        "sheets": result,
    }


def _strip(
    row: dict[str, Any],
    array: np.ndarray,
    limits: tuple[float, float, float, float] | None,
    looks: dict[str, Style],
) -> Strip:
    variant = str(row.get("variant", ""))
    nfe, seed = row.get("nfe"), row.get("train_seed")
    if limits is not None:
        colour = looks[variant].colour if variant in looks else TEACHER
        picture = panel(array.astype(float), limits, colour)
        what = f"{len(array)} points"
    else:
        picture = strip(_bytes(array))
        what = f"{len(array)} samples"
    size = picture.height if limits is None else PANEL
    times = 1 if limits is not None else scale(size, len(array))
    alt = f"{what} of {variant}"
    alt += f" at {nfe} NFE" if nfe is not None else ""
    alt += f", train seed {seed}" if seed is not None else ""
    return Strip(
        variant,
        str(row.get("role", "")),
        None if seed is None else int(seed),
        png(picture),
        picture.width * times,
        picture.height * times,
        times,
        alt,
    )


def _bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    values = np.nan_to_num(images.astype(float), nan=-1.0)
    return ((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
