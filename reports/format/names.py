"""Names, directions and numbers as the page shows them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from os.path import commonprefix
from typing import NamedTuple

import numpy as np

from piflow_bench import tracks
from piflow_bench.evaluation.metrics.metric import all_metrics


class Metric(NamedTuple):
    """What the page says about a metric: a short label and its meaning."""

    label: str
    meaning: str


LABELS = {
    "fd": "FD",
    "fd_infinity": "FD∞",
    "sfd": "sFD",
    "kid": "KID",
    "kid_exact": "KID, all pairs",
    "cmmd": "CMMD",
    "mmd_rbf_unit": "MMD, unit rows",
    "mind": "MIND",
    "is": "IS",
    "precision": "Precision",
    "recall": "Recall",
    "matched_recall": "Recall at precision 1",
    "density": "Density",
    "coverage": "Coverage",
    "authpct": "AuthPct",
    "vendi": "Vendi",
    "pairwise_distance": "Pairwise dist.",
    "pairwise_within": "Pairwise dist. within",
    "vendi_within": "Vendi within",
    "lpips_within": "LPIPS within",
    "teacher_psnr": "PSNR to teacher",
    "teacher_lpips": "LPIPS to teacher",
    "teacher_cosine": "Cosine to teacher",
    "clip_score": "CLIP score",
    "vqascore": "VQAScore",
    "teacher_mse": "MSE to teacher",
    "class_accuracy": "Class acc.",
    "sliced_wasserstein": "Sliced W",
    "energy_distance": "Energy dist.",
    "flow_map_error": "Flow map error",
    "modes_covered": "Modes covered",
    "mode_mass": "Mode mass",
    "mode_share": "Mode share",
    "mode_tv": "Mode TV",
    "rare_mode_share": "Rare modes",
}
"""Metrics by name, in the page's order, with labels short enough for a table's head."""
QUESTIONS = {
    "imitation": "Imitation",
    "data": "Data",
    "truth": "Truth",
    "first_half": "Data, the half that chooses",
    "second_half": "Data, the other half",
}
QUESTION_NOTES = {
    "imitation": "distance to samples of the converged teacher: the guided ODE's distribution, "
    "which distribution matching (DMD2) and a GAN on data do not target where guidance is on",
    "data": "distance to held-out data",
    "first_half": "distance of half of the samples to half of the held-out data, by which ways of "
    "sampling are chosen",
    "second_half": "the same of the other halves",
    "truth": "distance to the exact distribution",
}
TRACKS = {
    tracks.DISTILLED: "Distilled",
    tracks.FROM_SCRATCH: "From scratch",
    tracks.ONE_BUDGET: "One budget for all NFEs",
}
TONES = {
    "clear": "clear lead",
    "partly": "shared lead",
    "open": "no lead",
    "behind": "behind",
    "described": "described",
}
"""What a verdict's tone is called."""
MISSING = "—"
PLACES = 6
"""Most places after the point that a reader counts."""


def track_order(track: str) -> tuple[int, str]:
    """The place of a track on the page; those that are not known come last."""
    known = list(TRACKS)
    return (known.index(track) if track in known else len(known), track)


def trained_for(serves: str, shares: float) -> str:
    """What a training is for: the NFEs it ``serves`` ("1,4"), and the budget it has of ``shares``.

    Empty where nothing is trained, or nothing is known.
    """
    if not serves:
        return ""
    share = f", 1/{shares:.0f} budget" if shares > 1 else ""
    return f"{joined(serves.split(','))} NFE{share}"


def metric(name: str) -> Metric:
    """What the page calls a metric, and what the metric says of itself."""
    facts = all_metrics().get(name)
    label = LABELS.get(name) or (facts.label if facts else name.replace("_", " ").capitalize())
    return Metric(label or "value", facts.summary if facts else "")


def arrow(higher: bool | None) -> str:
    """An arrow in the better direction; nothing where there is none."""
    return "" if higher is None else ("↑" if higher else "↓")


def minute(time: str) -> str:
    """An ISO 8601 time in UTC for readers: 2026-01-31 09:30 UTC."""
    return f"{time[:10]} {time[11:16]} UTC"


def finite(value: object) -> bool:
    """Whether a value is a number that can be shown."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(float(value))


def decimals(values: Iterable[float], widths: Iterable[float]) -> int:
    """Places after the point for a column: four figures, or what its typical interval supports.

    That is one digit of the half width, two where it starts with 1 or 2.
    """
    spread = [w for w in widths if finite(w) and w > 0]
    sizes = [abs(v) for v in values if finite(v) and v != 0]
    if spread:
        width = math.log10(float(np.median(spread)))
        places = -math.floor(width) + (width % 1 < math.log10(2.95))
    elif sizes:
        places = 3 - math.floor(math.log10(float(np.median(sizes))))
    else:
        return 3
    return int(min(max(places, 0), 15))


def fixed(value: float | None, places: int) -> str:
    """A number with fixed places and a true minus sign; of many places as a power of ten."""
    if value is None or not finite(value):
        return MISSING
    if places > PLACES and round(value, places):
        digits = max(places + math.floor(math.log10(abs(value))), 0)
        mantissa, power = f"{value:.{digits}e}".split("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    places = 0 if places > PLACES else places
    text = f"{value:,.{places}f}" if abs(value) >= 10_000 else f"{value:.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def figures(value: float | None, count: int = 3) -> str:
    """A number with some significant figures, never in exponent form when it is short."""
    if value is None or not finite(value):
        return MISSING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -5 or size > 9:
        return f"{value:.{count - 1}e}".replace("-", "−")
    return fixed(value, max(count - 1 - size, 0))


def span(low: float, high: float, places: int) -> str:
    """An interval in brackets; nothing where it is unknown."""
    if not (finite(low) and finite(high)):
        return ""
    return f"[{fixed(low, places)}, {fixed(high, places)}]"


def trimmed(value: float) -> str:
    """Three figures at most, without trailing zeros."""
    text = figures(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def compact(value: float | None) -> str:
    """A large number with a suffix: 1.2k, 3.4M, 5.6G, 7.8T."""
    if value is None or not finite(value):
        return MISSING
    for size, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{trimmed(value / size)}{suffix}"
    return trimmed(value)


def size(count: float | None) -> str:
    """Bytes in the unit a person would use, binary."""
    if count is None or not finite(count):
        return MISSING
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{trimmed(count / unit)} {name}"
    return f"{count:.0f} B"


def isolated(name: str) -> str:
    """A name inside a sentence: its direction of writing does not turn the words around it."""
    plain = name.isascii() or not any(unicodedata.bidirectional(c) in _TURNING for c in name)
    return name if plain else f"\u2068{name}\u2069"


_TURNING = {"R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None or not finite(seconds):
        return MISSING
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{trimmed(seconds / size)} {unit}"
    if seconds >= 1 or seconds == 0:
        return f"{trimmed(seconds)} s"
    return f"{trimmed(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{trimmed(seconds * 1e6)} µs"


def joined(names: list[str]) -> str:
    """A list in words: 'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def shortened(names: list[str], limit: int = 24) -> list[str]:
    """``short`` for names that stand side by side: what they differ in stays."""
    found = {name: short(name, limit) for name in names}
    taken = list(found.values())
    for text in dict.fromkeys(taken):
        alike = [name for name in found if found[name] == text]
        if len(alike) < 2:
            continue
        start = len(commonprefix(alike))
        # One character of what they share, so that a number is not torn from its name.
        for number, name in enumerate(alike, 1):
            own = "…" + short(name[max(start - 1, 0) :], limit - 1)
            found[name] = own if own not in taken else f"{short(name, limit - 4)} ({number})"
            taken.append(found[name])
    return [found[name] for name in names]


def count(number: int, noun: str) -> str:
    """A count in words: '1 seed', '3 seeds'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(name: str, limit: int = 24) -> str:
    """A name that fits an axis: its beginning and its end, which tells settings apart."""
    tail = limit // 2
    return name if len(name) <= limit else f"{name[: limit - 1 - tail]}…{name[-tail:]}"
