"""Scores from class logits."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities ``(n, classes)`` of logits ``(n, classes)``, float64."""
    x = np.asarray(logits, dtype=np.float64)
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def inception_score(
    logits: np.ndarray,
    splits: int = 10,
    shuffle: bool = True,
    seed: int = 2020,
    without: np.ndarray | None = None,
) -> tuple[float, float]:
    """Mean and spread (ddof 0) over splits of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016).

    ``logits`` ``(n, classes)``, n >= splits. Samples sorted by class must be shuffled: within a
    split of one class the score collapses to 1. Equal to torch-fidelity's.
    ``without`` ``(n,)`` marks samples left out after shuffling: the order of the rest stays.
    """
    order = np.arange(len(logits))
    if shuffle:
        order = np.random.RandomState(seed).permutation(len(logits))
    if without is not None:
        order = order[~without[order]]
    n = len(order)
    if not 1 <= splits <= n:
        raise ValueError(f"{splits} splits of {n} samples")
    log_p = log_softmax(logits[order])
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = np.exp(part)
        # The marginal underflows to 0 only where every p does, and 0 log 0 counts as 0.
        log_q = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (part - log_q)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def sorted_warning(logits: np.ndarray, splits: int, seed: int) -> str | None:
    """What an Inception score of samples in the order given hides; None where order hardly counts.

    Its splits are stretches of the samples. Where those come sorted by class, a split sees a few
    classes only and scores low, however varied the whole is. A tenth is beyond what splits of mixed
    samples differ by.
    """
    given, mixed = (inception_score(logits, splits, shuffle, seed)[0] for shuffle in (False, True))
    if given >= 0.9 * mixed:
        return None
    return (
        f"samples come sorted by class and the Inception score takes them in the order given: "
        f"{given:.3g}; in a mixed order it is {mixed:.3g}"
    )
