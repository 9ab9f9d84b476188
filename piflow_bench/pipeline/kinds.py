"""Facts of every kind of stage. A kind's ``version`` is in the keys of its artifacts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What holds for all stages of a kind."""

    version: int = 1
    """Raise it when the same inputs give another output: older artifacts are made anew."""
    resumable: bool = False
    """Whether it goes on from what its work folder holds; others start afresh."""
    networks: bool = False
    """Whether it runs networks, on one GPU where Slurm's jobs have any; a training has its own."""
    training: bool = False
    """Whether it trains, in all processes that a training has."""


KINDS = {
    "teacher": Kind(),
    "converged": Kind(version=2, resumable=True, networks=True),
    "draw": Kind(networks=True),
    "teacher_check": Kind(networks=True),
    "train_teacher": Kind(resumable=True, training=True),
    "distill": Kind(resumable=True, training=True),
    "published": Kind(),
    "sample": Kind(resumable=True, networks=True),
    "features": Kind(resumable=True, networks=True),
    "real_reference": Kind(networks=True),
    "metrics": Kind(),
    "partition": Kind(),
    "agreement": Kind(),
    "breakdown": Kind(),
    "selection": Kind(networks=True),
}
