"""Claims of papers and what was seen of them, as Markdown, from kept results.

``claims.yaml`` of a folder of kept results says which run, variants and metric put each claim to
the test; every run lies there in a folder of its name, with all its checkpoints. ``results_page``
writes the page beside the folder. A claim has held where the interval
lies on its side, has not held where it lies on the other, and is open else; every sentence carries
its numbers of trainings and samples, and an interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import final
from piflow_reports.format import names as words

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.seeds import (
    paired_seed_difference,
    seed_difference,
    seed_interval,
)
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.uncertainty import Difference, Interval

CLAIMS = "claims.yaml"
HELD, NOT, OPEN = "held", "did not hold", "open"
LEVEL = 0.95
MODES = "modes_covered"
BEGINNING = """# Claims of papers, put to the test

<!-- Written by python -m piflow_reports.results_page docs/results -->

On tasks in the plane whose truth is known, with exact teachers: nothing here is of images, and
whether a claim holds there is not said. A claim *held* where the 95 % interval of what was measured
lies on its side, it *did not hold* where it lies on the other, and is *open* else. What is claimed
of several numbers of evaluations held where it did for each; one is enough against it, by
Bonferroni's correction over them. The two arms of a comparison differ in one setting.
`python -m piflow_bench run experiment=claims` makes all of it again."""


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is put to the test."""

    claim: str
    source: str
    settings: str
    """Whether they are the paper's, or "our version"."""
    run: str
    kind: str
    """difference | collapse | decay | monotony | lost."""
    a: str
    """The variant that it speaks of."""
    b: str = ""
    """What it is compared with."""
    metric: str = ""
    nfe: int = 1
    expected: bool = True
    """Of a decay: whether it is claimed, or that there is none. Of monotony the same."""
    bar: float = 0.0
    """Of what is lost: below it the metric lies at every number of evaluations."""
    why: str = ""
    """What closed forms or further trainings say of what was seen."""


@dataclass(frozen=True)
class Seen:
    """What became of a claim."""

    verdict: str
    words: str


def read_claims(folder: Path) -> list[Claim]:
    """The claims of a folder."""
    import yaml

    return [Claim(**entry) for entry in yaml.safe_load((folder / CLAIMS).read_text("utf-8"))]


def seen(claim: Claim, results: pd.DataFrame) -> Seen:
    """What a run's results say of a claim."""
    kinds = {
        "difference": _difference, "collapse": _collapse, "decay": _decay, "monotony": _monotony,
        "lost": _lost,
    }  # fmt: skip
    return kinds[claim.kind](claim, results)


def _difference(claim: Claim, results: pd.DataFrame) -> Seen:
    a, b = (_cells(final(results), v, claim.metric, claim.nfe) for v in (claim.a, claim.b))
    found = seed_difference(a.values, b.values, replicates=(a.replicates, b.replicates))
    sign = 1 if _higher(claim.metric) else -1
    label = words.metric(claim.metric).label
    text = (
        f"{claim.a} {_number(a.values.mean())}, {claim.b} {_number(b.values.mean())}; difference "
        f"{_interval(found)} ({label}, {_counts(a)}, {claim.nfe} NFE)."
    )
    return Seen(_side(found, sign), text)


def _collapse(claim: Claim, results: pd.DataFrame) -> Seen:
    """Trainings in which a mode was lost, of each, with exact intervals and Fisher's test."""
    from scipy.stats import binomtest, fisher_exact

    counts, parts, n = [], [], 0
    for variant in (claim.a, claim.b):
        cells = _cells(final(results), variant, MODES, claim.nfe)
        whole = int(_modes(results))
        lost, of = int((cells.values < whole).sum()), len(cells.values)
        span = binomtest(lost, of).proportion_ci(0.95, "exact")
        counts.append((lost, of - lost))
        parts.append(f"{variant} {lost} of {of} trainings [{span.low:.2f}, {span.high:.2f}]")
        n = cells.n
    p = float(fisher_exact(counts).pvalue)
    verdict = OPEN
    if p < 0.05:
        verdict = HELD if counts[0][0] < counts[1][0] else NOT
    text = (
        f"A mode lost (below a quarter of its share): {', '.join(parts)}; p = {p:.2g} by Fisher's "
        f"exact test (n = {n:,} samples each, {claim.nfe} NFE)."
    )
    return Seen(verdict, text)


def _decay(claim: Claim, results: pd.DataFrame) -> Seen:
    """The end against the best checkpoint, chosen by half of the seeds, seen on the others."""
    shares = sorted(results.loc[results["variant"] == claim.a, "budget_fraction"].dropna().unique())
    cells = [
        _cells(results[np.isclose(results["budget_fraction"], s)], claim.a, claim.metric, claim.nfe)
        for s in shares
    ]
    half = len(cells[0].values) // 2
    sign = 1 if _higher(claim.metric) else -1
    means = [sign * float(c.values[:half].mean()) for c in cells[:-1]]
    best, end = int(np.argmax(means)), len(cells) - 1
    found = _apart(cells[end], cells[best], half)
    side = _side(found, -sign)  # Towards worse.
    text = (
        f"At the end less at {shares[best]:.0%} of the budget, the best before the end by half of "
        f"the trainings: {_interval(found)} ({words.metric(claim.metric).label}, the other "
        f"{len(cells[end].values) - half} trainings, n = {cells[end].n:,} samples each, "
        f"{claim.nfe} NFE)."
    )
    return Seen(_claimed(side, claim), text)


def _monotony(claim: Claim, results: pd.DataFrame) -> Seen:
    """Every number of evaluations less the one before it."""
    nfes, cells = _by_nfe(claim, results)
    sign = 1 if _higher(claim.metric) else -1
    level = 1 - (1 - LEVEL) / (len(nfes) - 1)
    pairs = list(zip(cells[:-1], cells[1:], strict=True))
    found = [_apart(after, before) for before, after in pairs]
    strict = [_apart(after, before, confidence=level) for before, after in pairs]
    steps = "; ".join(
        f"{a} to {b} NFE {_interval(each)}"
        for a, b, each in zip(nfes[:-1], nfes[1:], found, strict=True)
    )
    label = words.metric(claim.metric).label
    values = ", ".join(
        f"{_number(c.values.mean())} at {n}" for c, n in zip(cells, nfes, strict=True)
    )
    text = f"{label} {values} NFE. {steps} ({_counts(cells[0])})."
    verdict = _together([_side(f, sign) for f in found], [_side(f, sign) for f in strict])
    return Seen(_claimed(verdict, claim), text)


def _lost(claim: Claim, results: pd.DataFrame) -> Seen:
    """The metric at every number of evaluations, against a bar below which it is claimed to lie."""
    nfes, cells = _by_nfe(claim, results)
    level = 1 - (1 - LEVEL) / len(nfes)
    found, strict = (
        [seed_interval(c.values, each, c.replicates) for c in cells] for each in (LEVEL, level)
    )
    sides, against = ([_below(f, claim.bar) for f in each] for each in (found, strict))
    parts = "; ".join(
        f"{_told(f.value, f.low, f.high)} at {n}" for n, f in zip(nfes, found, strict=True)
    )
    text = (
        f"{words.metric(claim.metric).label} {parts} NFE, against {claim.bar:g} "
        f"({_counts(cells[0])})."
    )
    return Seen(_together(sides, against), text)


def _together(sides: Sequence[str], against: Sequence[str]) -> str:
    """Of several: held where all do; ``against``: the same by intervals that hold together."""
    return NOT if NOT in against else HELD if all(s == HELD for s in sides) else OPEN


def _claimed(verdict: str, claim: Claim) -> str:
    """Turned where the opposite is claimed."""
    if verdict == OPEN or claim.expected:
        return verdict
    return NOT if verdict == HELD else HELD


# ------------------------------------------------------------------ values of a variant


@dataclass(frozen=True)
class Cells:
    """A metric of a variant at one NFE, by train seed."""

    values: np.ndarray
    replicates: np.ndarray | None
    n: int


def _cells(results: pd.DataFrame, variant: str, metric: str, nfe: int) -> Cells:
    own = results[
        (results["variant"] == variant)
        & (results["metric"] == metric)
        & (results["nfe"] == nfe)
        & results["value"].notna()
    ].sort_values("train_seed")
    if not len(own):
        raise UserError(f"{variant} at {nfe} NFE: no {metric} among the results")
    rows = [np.asarray(r, dtype=np.float64) for r in own["replicates"]]
    even = len({len(r) for r in rows}) == 1 and len(rows[0]) > 1
    return Cells(
        own["value"].to_numpy(float), np.stack(rows) if even else None, int(own["n"].max())
    )


def _by_nfe(claim: Claim, results: pd.DataFrame) -> tuple[list[int], list[Cells]]:
    """The variant's numbers of evaluations, and its cells at each."""
    rows = final(results)
    nfes = sorted(int(n) for n in rows.loc[rows["variant"] == claim.a, "nfe"].dropna().unique())
    return nfes, [_cells(rows, claim.a, claim.metric, nfe) for nfe in nfes]


def _apart(a: Cells, b: Cells, first: int = 0, confidence: float = LEVEL) -> Difference:
    """a - b of the same seeds, from the seed at place ``first`` on."""
    both = None
    if a.replicates is not None and b.replicates is not None:
        both = (
            (a.replicates - b.replicates)[first:]
            if a.replicates.shape == b.replicates.shape
            else None
        )
    return paired_seed_difference(a.values[first:], b.values[first:], confidence, both)


def _modes(results: pd.DataFrame) -> float:
    """How many modes there are: as many as exact samples have."""
    exact = results[(results["metric"] == MODES) & (results["role"] == "control")]
    return float(exact["value"].max())


def _higher(metric: str) -> bool:
    return bool(all_metrics()[metric].higher_is_better)


def _side(found: Difference, sign: int) -> str:
    """On which side of zero an interval lies; ``sign``: that of what is claimed."""
    low, high = sorted((sign * found.low, sign * found.high))
    return HELD if low > 0 else NOT if high < 0 else OPEN


def _below(found: Interval, bar: float) -> str:
    return HELD if found.high < bar else NOT if found.low > bar else OPEN


def _interval(found: Difference) -> str:
    return _told(found.difference, found.low, found.high)


def _told(value: float, low: float, high: float) -> str:
    """A value with its interval, whose ends are told apart from 0 where they are."""
    places = words.decimals([value], [(high - low) / 2])
    finer = (p for p in range(places, places + 3) if all(round(e, p) or not e for e in (low, high)))
    places = next(finer, places)
    return f"{words.fixed(value, places)} {words.span(low, high, places)}"


def _number(value: float) -> str:
    return words.figures(float(value), 3)


def _counts(cells: Cells) -> str:
    return f"{len(cells.values)} trainings, n = {cells.n:,} samples each"


# ------------------------------------------------------------------ the page


def page(folder: Path) -> str:
    """The page of a folder of claims."""
    claims = read_claims(folder)
    runs: dict[str, pd.DataFrame] = {}
    for name in dict.fromkeys(claim.run for claim in claims):
        path = folder / name / "results.parquet"
        if path.is_file():
            runs[name] = pd.read_parquet(path)
    found = [seen(c, runs[c.run]) if c.run in runs else None for c in claims]
    parts = [BEGINNING, _table(claims, found)]
    for number, (claim, each) in enumerate(zip(claims, found, strict=True), start=1):
        parts.append(f"## {number}. {each.verdict if each else 'not run'}")
        parts.append(f"> {claim.claim}\n>\n> {claim.source}")
        parts.append(f"{claim.settings[0].upper()}{claim.settings[1:]}; `experiment={claim.run}`.")
        if each:
            parts += [each.words, claim.why] if claim.why else [each.words]
    parts += [_made(folder, name) for name in runs]
    return "\n\n".join(parts) + "\n"


def _table(claims: Sequence[Claim], found: Sequence[Seen | None]) -> str:
    lines = ["| | claim | source | seen |", "|---:|---|---|---|"]
    for number, (claim, each) in enumerate(zip(claims, found, strict=True), start=1):
        what = each.verdict if each else "not run"
        lines.append(f"| {number} | {claim.claim} | {claim.source} | {what} |")
    return "\n".join(lines)


def _made(folder: Path, name: str) -> str:
    info: dict[str, Any] = json.loads((folder / name / "run.json").read_text("utf-8"))
    about = info.get("provenance") or {}
    versions = (about.get("collected") or {}).get("versions") or {}
    listed = ", ".join(f"{key} {versions[key]}" for key in ("torch", "numpy") if key in versions)
    return f"`{name}`: `{info.get('command', '')}`, {listed}."
