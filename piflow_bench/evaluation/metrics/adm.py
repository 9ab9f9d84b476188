"""Precision and recall with ADM's distances, which are computed in half precision.

guided-diffusion's evaluator casts features to float16 before |u|^2 - 2 u.v + |v|^2, and takes
float32 for a tile of distances where a value is not finite. Its k-th neighbour is counted from the
point itself, whose distance to itself need not come out as 0. Published numbers contain this
rounding, which moves recall by up to 0.003. Sums are accumulated in float32 here, as a GPU's
products of halves are; a tile is a strip of rows, where ADM's are of 10,000 rows and columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.tiles import compares
from piflow_bench.evaluation.uncertainty import Replicated, mean_with_replicates

_STRIP = 16_000_000
_EXTRA_NEIGHBOURS = 8


def half_squared(u: Tensor, v: Tensor) -> Tensor:
    """Squared distances ``(r, c)`` float32 of float32 rows, every operation rounded to float16."""
    found = _squared(u.half(), v.half())
    return found.float() if bool(found.isfinite().all()) else _squared(u, v)


def _squared(u: Tensor, v: Tensor) -> Tensor:
    dtype = u.dtype
    # A product of halves is summed in float32 and rounded once.
    inner = (u.float() @ v.float().T).to(dtype)
    left, right = (x.square().float().sum(1).to(dtype) for x in (u, v))
    return (left[:, None] - 2 * inner + right[None, :]).clamp_min_(0.0)


def precision_recall(
    x: Tensor,
    y: Tensor,
    blocks: np.ndarray,
    k: int = 3,
    comparator: str = "le",
    height: int | None = None,
) -> dict[str, Replicated]:
    """Precision and recall of generated ``(n, d)`` against reference points ``(m, d)``.

    Args:
        x: generated features.
        y: reference features that have balls.
        blocks: block ids ``(n,)`` of the generated points, 0..g-1.
        k: neighbours.
        comparator: "le" (ADM's) or "lt".
        height: rows of a strip.
    """
    x, y = x.float(), y.float()
    ids = torch.from_numpy(blocks).to(x.device)
    ref_radii = _radii(y, torch.zeros(len(y), dtype=ids.dtype, device=y.device), k, height)[:, 0]
    radii = _radii(x, ids, k, height)
    count = radii.shape[1] - 1
    inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    recalled = torch.zeros(len(y), count + 1, dtype=torch.bool, device=x.device)
    for rows in _strips(len(y), len(x), height):
        squared = half_squared(y[rows], x)
        inside |= compares(squared, ref_radii[rows, None], comparator).any(0)
        recalled[rows, 0] = compares(squared, radii[:, 0], comparator).any(1)
        for b in range(count):
            kept = compares(squared, radii[:, b + 1], comparator) & (ids != b)
            recalled[rows, b + 1] = kept.any(1)
    shares = recalled.double().mean(0).cpu().numpy()
    return {
        "precision": mean_with_replicates(inside.cpu().numpy(), blocks),
        "recall": Replicated(float(shares[0]), shares[1:]),
    }


def _strips(rows: int, columns: int, height: int | None) -> list[slice]:
    step = height or max(1, _STRIP // columns)
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def _radii(points: Tensor, ids: Tensor, k: int, height: int | None) -> Tensor:
    """Squared radii ``(n, 1 + g)``: of all points, then without each block (``g`` = 0 for one)."""
    n, count = len(points), int(ids.max()) + 1
    wanted = min(n, k + 1 + (_EXTRA_NEIGHBOURS + k if count > 1 else 0))
    radii = torch.empty(n, 1 + count if count > 1 else 1, device=points.device)
    for rows in _strips(n, n, height):
        squared = half_squared(points[rows], points)
        near = squared.topk(wanted, largest=False)
        radii[rows, 0] = near.values[:, k]
        for b in range(radii.shape[1] - 1):
            left = (ids[near.indices] != b).cumsum(1)
            position = (left == k + 1).int().argmax(1, keepdim=True)
            radii[rows, b + 1] = near.values.gather(1, position)[:, 0]
            few = (left[:, -1] <= k).nonzero()[:, 0]
            if len(few):
                others = squared[few][:, ids != b]
                radii[few + rows.start, b + 1] = others.kthvalue(k + 1, dim=1).values
    return radii
