"""Precomputed statistics of a reference set: means and covariances without the images.

Files of the field hold one of: ``mu, sigma`` (clean-fid, EDM, pytorch-fid), the same with ``mu_s,
sigma_s`` for the spatial features of sFID (ADM's ``VIRTUAL_*.npz``), or ``ref_mu, ref_sigma``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pictures.npz import DAMAGED, npz_members, reason
from piflow_bench.files.atomic import write_arrays

POOLED = (("mu", "sigma"), ("ref_mu", "ref_sigma"))
SPATIAL = (("mu_s", "sigma_s"),)
UNKNOWN_COUNT = 50_000
"""Stands in for the number of images where a file does not state it; no metric depends on it."""


@dataclass(frozen=True)
class Statistics:
    """Moments of a reference set's pooled and, where known, spatial features."""

    path: str
    pooled: Moments
    spatial: Moments | None = None
    extractor: str | None = None
    """The extractor's identity, where the file states it."""
    count: int | None = None
    """Number of images, where the file states it."""
    taken: str = ""
    """Which of the given images these are, in words, where they are not all."""
    size: tuple[int, int] | None = None
    """Width and height of the images in pixels, where the file states them."""
    precision: str | None = None
    """Of the network, where the file states it: float32, tf32 or bfloat16."""
    warnings: tuple[str, ...] = ()
    """What weakens them, found when they were made."""

    def digest(self) -> str:
        """sha256 of the means and covariances."""
        whole = hashlib.sha256()
        for moments in (self.pooled, self.spatial):
            if moments is not None:
                whole.update(moments.mean.tobytes() + moments.covariance.tobytes())
        return whole.hexdigest()


def is_statistics(path: Path, what: str = "reference") -> bool:
    """Whether a path is an npz file that holds means and covariances."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    keys = npz_members(path, f"{what}={path}")
    return any(mean in keys and covariance in keys for mean, covariance in POOLED)


def load_statistics(path: Path, what: str = "reference") -> Statistics:
    """Statistics of an npz file.

    Raises:
        UserError: for pickles, missing keys, wrong shapes and values that are not finite.
    """
    named = f"{what}={path}"
    if not path.exists():
        raise UserError(f"{named}: no such file or folder")
    if path.suffix.lower() != ".npz":
        raise UserError(
            f"{named}: statistics are read from npz files alone, since the others are pickles; "
            "convert it where you trust it: d = pickle.load(open(FILE, 'rb')); "
            "numpy.savez('stats.npz', mu=d['mean'], sigma=d['cov'])"
        )
    keys = npz_members(path, named)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pooled = _moments(arrays, keys, POOLED, named)
            spatial = _moments(arrays, keys, SPATIAL, named)
            stated = int(arrays["n"].item()) if "n" in keys else None
            extractor, precision = (
                str(arrays[key]) if key in keys else None for key in ("extractor", "precision")
            )
            sides = arrays["image_size"].ravel().tolist() if "image_size" in keys else []
            warnings = arrays["warnings"].astype(str).ravel() if "warnings" in keys else ()
    except DAMAGED as error:
        raise UserError(f"{named}: {reason(error)}") from error
    if pooled is None:
        raise UserError(
            f"{named}: no means and covariances in it (mu, sigma), only "
            f"{', '.join(sorted(keys)) or 'nothing'}"
        )
    if stated is not None and stated < 2:
        raise UserError(f"{named}: n={stated}, but a covariance is of 2 images at least")
    count = stated or UNKNOWN_COUNT
    as_moments = [
        None if p is None else Moments(count, p[0], p[1] * (count - 1)) for p in (pooled, spatial)
    ]
    assert as_moments[0] is not None
    return Statistics(
        str(path),
        as_moments[0],
        as_moments[1],
        extractor,
        stated,
        size=(sides[0], sides[1]) if len(sides) == 2 else None,
        precision=precision,
        warnings=tuple(map(str, warnings)),
    )


def _moments(
    arrays: np.lib.npyio.NpzFile,
    keys: dict,
    names: tuple[tuple[str, str], ...],
    what: str,
) -> tuple[np.ndarray, np.ndarray] | None:
    found = next(((m, c) for m, c in names if m in keys and c in keys), None)
    if found is None:
        return None
    mean, covariance = (np.asarray(arrays[name], np.float64) for name in found)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"{what}: {found[0]} of shape {mean.shape} and {found[1]} of {covariance.shape} are no "
            "mean (d,) and covariance (d, d)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{what}: {found[0]} or {found[1]} has values that are not finite")
    if (np.diagonal(covariance) < 0).any():
        raise UserError(f"{what}: {found[1]} has negative variances, so it is no covariance")
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > 1e-6 * max(np.abs(covariance).max(), 1e-300):
        raise UserError(f"{what}: {found[1]} is not symmetric, so it is no covariance")
    deviations = np.sqrt(np.diagonal(covariance))
    # Files in float32 round this, too.
    if (np.abs(covariance) > 1.001 * np.outer(deviations, deviations) + 1e-12).any():
        raise UserError(
            f"{what}: {found[1]} has covariances beyond what its variances allow, so it is no "
            "covariance"
        )
    return mean, (covariance + covariance.T) / 2


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Write an npz that this module, clean-fid style readers and ADM's evaluator read."""
    arrays: dict[str, np.ndarray] = {
        "mu": statistics.pooled.mean,
        "sigma": statistics.pooled.covariance,
        "n": np.asarray(statistics.pooled.n),
    }
    if statistics.spatial is not None:
        arrays |= {"mu_s": statistics.spatial.mean, "sigma_s": statistics.spatial.covariance}
    if statistics.extractor is not None:
        arrays["extractor"] = np.asarray(statistics.extractor)
    if statistics.precision is not None:
        arrays["precision"] = np.asarray(statistics.precision)
    if statistics.size is not None:
        arrays["image_size"] = np.asarray(statistics.size)
    if statistics.warnings:
        arrays["warnings"] = np.asarray(statistics.warnings)
    write_arrays(path, arrays)
