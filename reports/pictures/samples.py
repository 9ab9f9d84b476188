"""Samples as data URIs: strips of images that share noise or were picked by rules, or panels."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from piflow_reports.data.run import Grid, Selections
from piflow_reports.format.styles import TEACHER, Style
from PIL import Image

TILE = 56  # Pixels on the page that a tile should about fill.
QUALITY = 78
BUDGET = 7.5e6  # Bytes of all pictures as text, so that a page of ten variants stays below 15 MB.
SHOWN = 20  # Samples of a strip that are seen before a class is chosen.
STRIP = 1040  # Width of the page that is left for a strip.
PANEL = 320
CELLS = 80  # Cells of a density on each side.


@dataclass(frozen=True)
class Detail:
    """What pictures keep: the page is for looking, the store keeps the samples."""

    largest: int
    """Pixels from which on an image is reduced."""
    exact: int
    """Pixels up to which an image keeps every pixel; larger ones are compressed with loss."""


DETAILS = (Detail(128, 32), Detail(64, 32), Detail(32, 32), Detail(32, 0), Detail(16, 0))
"""From the best to the least: the first that keeps within the budget is taken."""


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


@dataclass(frozen=True)
class Sheet:
    """The grid of one NFE, the teacher first."""

    nfe: int | None
    strips: list[Strip]


def uri(image: Image.Image, lossy: bool = False) -> str:
    """A data URI, PNG or (lossy) WebP; the same pixels give the same text."""
    buffer = io.BytesIO()
    if lossy:
        image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    else:
        image.save(buffer, format="PNG", optimize=True)
    kind = "webp" if lossy else "png"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale(size: int, count: int = 1) -> int:
    """Whole-number enlargement of a tile on the page, so that every pixel is equally large.

    A strip of ``count`` tiles is kept within the page unless its tiles would become too small.
    """
    fitting = max(STRIP // (count * (size + 1)), round(TILE / size / 2))
    return max(1, min(round(TILE / size), fitting))


def strip(images: np.ndarray, gap: int = 1, largest: int = DETAILS[0].largest) -> Image.Image:
    """Images ``(G, H, W, C)`` of uint8 side by side, with transparent gaps."""
    if images.ndim == 3:
        images = images[..., None]
    count, height, width, channels = images.shape
    tiles = images
    if max(height, width) > largest:
        factor = largest / max(height, width)
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


def panel(
    points: np.ndarray,
    limits: tuple[float, float, float, float],
    colour: str,
    size: int = PANEL,
) -> Image.Image:
    """Points ``(P, 2)`` as soft dots on a transparent ground, so that it suits light and dark."""
    low_x, high_x, low_y, high_y = limits
    x = (points[:, 0] - low_x) / (high_x - low_x) * (size - 1)
    y = (high_y - points[:, 1]) / (high_y - low_y) * (size - 1)
    inside = np.isfinite(x) & np.isfinite(y)
    inside &= (x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1)
    clear = np.ones((size, size))
    columns, rows = x[inside].round().astype(int), y[inside].round().astype(int)
    for dx, dy, cover in _disc(2.2 * size / PANEL):
        u, v = columns + dx, rows + dy
        valid = (u >= 0) & (u < size) & (v >= 0) & (v < size)
        np.multiply.at(clear, (v[valid], u[valid]), 1 - 0.6 * cover)
    out = np.zeros((size, size, 4), np.uint8)
    out[..., :3] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    out[..., 3] = np.round(255 * (1 - clear))
    return Image.fromarray(out)


def density(points: np.ndarray, limits: tuple[float, float, float, float], colour: str
            ) -> Image.Image:  # fmt: skip
    """Points ``(P, 2)`` as a smoothed density, the darker the denser, on a transparent ground."""
    from scipy.ndimage import gaussian_filter

    low_x, high_x, low_y, high_y = limits
    inside = points[np.isfinite(points).all(axis=1)]
    bins = [np.linspace(low_y, high_y, CELLS + 1), np.linspace(low_x, high_x, CELLS + 1)]
    counts, _, _ = np.histogram2d(inside[:, 1], inside[:, 0], bins=bins)
    smooth = gaussian_filter(counts[::-1], 1.2)
    # The root shows modes of little weight beside heavy ones.
    cover = np.sqrt(smooth / smooth.max()) if smooth.max() > 0 else smooth
    out = np.zeros((CELLS, CELLS, 4), np.uint8)
    out[..., :3] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    out[..., 3] = np.round(255 * cover)
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


def sheets(
    grid: Grid | None, looks: dict[str, Style], order: list[str], detail: Detail = DETAILS[0]
) -> dict[str, Any] | None:
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
        array = grid.arrays[row["key"]]
        what = f"{len(array)} {'points' if points else 'samples'}"
        if limits is None:
            made[id(row)] = _strip(row, array, what, detail)
        else:
            made[id(row)] = _panel(row, array, what, limits, looks)
    result = []
    shown: list[int | None] = [n for n in nfes if n in students or not students]
    for nfe in shown or [None]:
        own = [row for row in rows if id(row) not in kept and int(row["nfe"]) == nfe]
        own.sort(
            key=lambda r: (
                r.get("role") != "teacher",
                place.get(series_of(r), len(place)),
                series_of(r),
                r.get("train_seed") or 0,
            )
        )
        result.append(Sheet(nfe, [made[id(row)] for row in above + own]))
    first = grid.arrays[rows[0]["key"]]
    top = made[id(rows[0])]
    gap = 0 if points else top.pixel
    tile = PANEL if points else (top.width + gap) // len(first) - gap
    labels = [] if points else [str(v) for v in grid.labels[: len(first)]]
    return {
        "kind": "points" if points else "images",
        "labels": labels,
        "classes": sorted(set(labels), key=lambda v: (len(v), v)) if len(set(labels)) > 1 else [],
        "index": [] if points else [int(i) for i in grid.index[: len(first)]],
        "count": len(first),
        "shown": len(first) if points else min(SHOWN, len(first)),
        "tile": tile,
        "gap": gap,
        "window": min(SHOWN, len(first)) * (tile + gap) - gap,
        "reduced": not points and max(first.shape[1:3]) > detail.largest,
        "lossy": not points and max(first.shape[1:3]) > detail.exact,
        "labelled": len(set(labels)) > 1,
        "sheets": result,
    }


def series_of(row: dict[str, Any]) -> str:
    """The row's name among the page's series."""
    return str(row.get("series") or row.get("variant") or "")


def alt(row: dict[str, Any], what: str) -> str:
    """What a row's picture shows, in words."""
    nfe, seed = row.get("nfe"), row.get("train_seed")
    text = f"{what} of {series_of(row)}"
    text += f" at {nfe} NFE" if nfe is not None else ""
    return text + (f", train seed {seed}" if seed is not None else "")


def _strip(row: dict[str, Any], array: np.ndarray, what: str, detail: Detail) -> Strip:
    images = to_bytes(array)
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


def _panel(
    row: dict[str, Any],
    points: np.ndarray,
    what: str,
    limits: tuple[float, float, float, float],
    looks: dict[str, Style],
) -> Strip:
    name, seed = series_of(row), row.get("train_seed")
    colour = looks[name].colour if name in looks else TEACHER
    picture = panel(points.astype(float), limits, colour)
    dense = uri(density(points.astype(float), limits, colour))
    about = (name, str(row.get("role", "")), None if seed is None else int(seed))
    return Strip(*about, uri(picture), PANEL, PANEL, 1, alt(row, what), dense)


RULES = {
    "best": "Best",
    "worst": "Worst",
    "teacher": "Most different from the teacher",
    "training": "Nearest to a training image",
}
BESIDE = {"teacher": "teacher", "training": "training"}


@dataclass(frozen=True)
class Picked:
    """What a rule picked of one series: its samples, and what belongs beside them."""

    strip: Strip
    beside: Strip | None
    index: list[int]
    labels: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Rule:
    """A rule in words, and what it picked."""

    title: str
    text: str
    beside: str
    rows: list[Picked]


def picked(
    selections: Selections | None, nfes: list[int], order: list[str], detail: Detail = DETAILS[0]
) -> list[tuple[int, list[Rule]]]:
    """Per NFE, the rules with what each picked of every series; the converged teacher's first."""
    found = []
    place = {name: i for i, name in enumerate(order)}
    for nfe in nfes if selections else []:
        assert selections is not None
        cells = [c for c in selections.cells if c.get("nfe") == nfe or c.get("role") == "control"]
        cells = [c for c in cells if any(o.get("nfe") == nfe for o in cells)]
        cells.sort(key=lambda c: (c.get("role") != "control", place.get(series_of(c), len(place))))
        rules = []
        for rule, title in RULES.items():
            made = [
                _picked(cell, row, selections.arrays, detail)
                for cell in cells
                for row in cell.get("rows", [])
                if row["rule"] == rule
            ]
            texts = {r["text"] for c in cells for r in c.get("rows", []) if r["rule"] == rule}
            if made:
                text = "; ".join(sorted(texts))
                rules.append(Rule(title, text, BESIDE.get(rule, ""), made))
        if rules:
            found.append((nfe, rules))
    return found


def _picked(
    cell: dict[str, Any], row: dict[str, Any], arrays: dict[str, np.ndarray], detail: Detail
) -> Picked:
    name = f"{cell['key']}/{row['rule']}"
    title = RULES[row["rule"]].lower()
    own = _strip(cell, arrays[name], f"{len(arrays[name])} samples ({title})", detail)
    other = arrays.get(f"{name}-beside")
    what = "the teacher's samples beside those" if row["rule"] == "teacher" else "training images"
    beside = None if other is None else _strip(cell, other, what, detail)
    return Picked(own, beside, row["index"], row.get("label") or [], row["score"])


def memorised(selections: Selections | None, order: list[str]) -> list[dict[str, Any]]:
    """Share of each cell's samples that are nearer to a training image than held-out ones are."""
    place = {name: i for i, name in enumerate(order)}
    cells = [c for c in (selections.cells if selections else []) if "near_training" in c]
    cells.sort(key=lambda c: (place.get(series_of(c), len(place)), c.get("nfe") or 0))
    return [
        {"series": series_of(c), "nfe": c.get("nfe"), "share": f"{100 * c['near_training']:.1f} %",
         "n": c["looked_at"], "held_out": c["held_out"], "role": c.get("role", "")}
        for c in cells
    ]  # fmt: skip


def within_budget(
    grid: Grid | None,
    selections: Selections | None,
    looks: dict[str, Style],
    order: list[str],
    nfes: list[int],
    taken: int = 0,
) -> tuple[dict[str, Any] | None, list[tuple[int, list[Rule]]]]:
    """Grids and picked samples, reduced until all pictures together keep within the budget.

    ``taken``: bytes of it that other pictures have.
    """
    grids, rules = None, list[tuple[int, list[Rule]]]()
    for detail in DETAILS:
        grids = sheets(grid, looks, order, detail)
        smaller = replace(detail, largest=detail.largest * 3 // 4)
        rules = picked(selections, nfes, order, smaller)
        strips = [s for sheet in (grids or {"sheets": []})["sheets"] for s in sheet.strips]
        strips += [p.strip for _, each in rules for rule in each for p in rule.rows]
        strips += [p.beside for _, each in rules for r in each for p in r.rows if p.beside]
        if sum(len(s.uri) for s in strips) <= BUDGET - taken:
            break
    return grids, rules


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Images of values in -1..1, or of bytes, as bytes; what is no number is black."""
    if images.dtype == np.uint8:
        return images
    values = np.nan_to_num(images.astype(float), nan=-1.0)
    return ((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
