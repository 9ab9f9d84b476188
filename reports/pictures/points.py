"""Points of the plane as panels of dots and as densities."""

from __future__ import annotations

import numpy as np
from PIL import Image

PANEL = 320
CELLS = 80  # Cells of a density on each side.


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
