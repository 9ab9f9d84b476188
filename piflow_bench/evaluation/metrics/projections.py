"""Distances that sort one-dimensional projections: sliced Wasserstein and MIND."""

from __future__ import annotations

import numpy as np

_DIRECTIONS = 64


def unit_directions(directions: int, d: int, seed: int) -> np.ndarray:
    """Random unit vectors ``(directions, d)`` from NumPy's default generator."""
    drawn = np.random.default_rng(seed).standard_normal((directions, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def sliced_squares(
    x: np.ndarray, y: np.ndarray, directions: np.ndarray, blocks: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Mean over directions of the squared 1-D W2, and the same with each block of x left out.

    ``x`` ``(n, d)``, ``y`` ``(m, d)``, ``directions`` ``(M, d)``, ``blocks`` ``(n,)`` ids 0..g-1.
    Where sizes differ the two quantile functions (step functions) are integrated exactly.
    Projections are sorted once: a sorted list stays sorted when a block leaves it.
    """
    count = 0 if blocks is None else int(np.max(blocks)) + 1
    kept = [len(x)] + [int(np.sum(blocks != b)) for b in range(count)]
    totals = np.zeros(1 + count)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    # The square is taken apart below where sizes differ: near 0 fewer digits cancel.
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    for start in range(0, len(directions), _DIRECTIONS):
        part = directions[start : start + _DIRECTIONS]
        px, py = part @ x.T, np.sort(part @ y.T, axis=1)
        order = np.argsort(px, axis=1)
        px = np.take_along_axis(px, order, axis=1)
        theirs = {n: _mean_quantiles(py, n) for n in set(kept)}
        square = float(np.mean(py * py, axis=1).sum())
        totals[0] += _squares(px, py, theirs[len(x)], square)
        if blocks is None:
            continue
        sorted_blocks = blocks[order]
        for b in range(count):
            n = kept[1 + b]
            left = px[sorted_blocks != b].reshape(len(part), n)
            totals[1 + b] += _squares(left, py, theirs[n], square)
    totals /= len(directions)
    return float(totals[0]), totals[1:]


def _mean_quantiles(py: np.ndarray, n: int) -> np.ndarray | None:
    """Means ``(M, n)`` of the quantile functions of sorted ``(M, m)`` over n equal pieces."""
    m = py.shape[1]
    if n == m:
        return None
    padded = np.concatenate([py, np.zeros((len(py), 1))], axis=1)
    below = np.concatenate([np.zeros((len(py), 1)), np.cumsum(py, axis=1)], axis=1)
    # Integer edges in units of 1 / (n m): no rounding decides which step a piece belongs to.
    whole, rest = np.divmod(np.arange(n + 1) * m, n)
    integral = below[:, whole] + (rest / n) * padded[:, whole]
    return np.diff(integral, axis=1) * (n / m)


def _squares(px: np.ndarray, py: np.ndarray, theirs: np.ndarray | None, square: float) -> float:
    """Sum over rows of the squared W2 between sorted ``(M, n)`` and sorted ``(M, m)``.

    ``theirs`` as by ``_mean_quantiles``, ``square`` the sum of the rows' mean squares of ``py``.
    """
    if theirs is None:
        return float(np.mean((px - py) ** 2, axis=1).sum())
    own = float(np.mean(px * (px - 2.0 * theirs), axis=1).sum())
    return max(own + square, 0.0)


def sliced_wasserstein(
    x: np.ndarray, y: np.ndarray, directions: int = 128, seed: int = 2020
) -> float:
    """Sliced 2-Wasserstein distance: the *square root* of the mean squared W2 over directions.

    Bonneel et al. 2015. Sets ``(n, d)`` and ``(m, d)``; sizes may differ.
    """
    chosen = unit_directions(directions, x.shape[1], seed)
    return float(np.sqrt(sliced_squares(x, y, chosen)[0]))


def mind_draw(n: int, m: int, d: int, directions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows kept of the larger set and unit directions, as torch-fidelity draws them.

    Its CPU generator first permutes the larger set (only where sizes differ), then draws the
    directions in float32; PyTorch's generator is the only one that gives the same numbers.
    """
    import torch

    generator = torch.Generator(device="cpu").manual_seed(seed)
    larger, smaller = max(n, m), min(n, m)
    rows = np.arange(larger)
    if n != m:
        rows = torch.randperm(larger, generator=generator).numpy()[:smaller]
    drawn = torch.randn(directions, d, generator=generator).numpy().astype(np.float64)
    return rows, drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def mind_replicates(
    generated: np.ndarray,
    reference: np.ndarray,
    directions: int,
    seed: int,
    blocks: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """MIND, and the same recomputed with each block ``(n,)`` of the generated set left out."""
    n, m, d = len(generated), len(reference), generated.shape[1]
    rows, chosen = mind_draw(n, m, d, directions, seed)
    x, y = (generated, reference[rows]) if n <= m else (generated[rows], reference)
    value = 3.0 * d * sliced_squares(x, y, chosen)[0]
    if blocks is None:
        return value, np.zeros(0)
    count = int(np.max(blocks)) + 1
    sizes = [int(np.sum(blocks != b)) for b in range(count)]
    if n > m:
        left = [
            mind_replicates(generated[blocks != b], reference, directions, seed)[0]
            for b in range(count)
        ]
        return value, np.array(left)
    # The permutation of the larger set does not depend on how many rows are kept, so blocks of one
    # size share their reference rows, and the generated projections need sorting only once.
    replicates = np.zeros(count)
    for size in set(sizes):
        rows, chosen = mind_draw(size, m, d, directions, seed)
        squares = sliced_squares(generated, reference[rows], chosen, blocks)[1]
        for b in range(count):
            if sizes[b] == size:
                replicates[b] = 3.0 * d * squares[b]
    return value, replicates


def mind(
    generated: np.ndarray, reference: np.ndarray, directions: int = 1000, seed: int = 2020
) -> float:
    """Monge-Inception distance: 3 d times the mean squared W2 over random unit directions.

    Definition and draw of torch-fidelity's master; symmetric up to the draw; the larger set is
    subsampled to the smaller one's size.
    """
    return mind_replicates(generated, reference, directions, seed)[0]
