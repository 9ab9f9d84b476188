"""Who wins, in words that say no more than the paired intervals allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from piflow_reports import words
from piflow_reports.frames import Primary, final, measured, select, with_series
from piflow_reports.tables import Ties

from piflow_bench.errors import UserError
from piflow_bench.evaluation import student_t
from piflow_bench.evaluation.comparisons import METHOD_SEEDS, compare

LEVEL = 0.05
"""Share of null reports with a false "better" anywhere."""

LISTED = 8
"""Most variants that a sentence names."""


@dataclass
class Verdict:
    """One sentence: the leader in a primary metric at one NFE, and what it is told apart from."""

    nfe: int
    track: str
    metric: str
    role: str
    leader: str
    value: str
    span: str
    tied: list[str]
    sentences: list[str]
    tone: str


def comparisons(
    results: pd.DataFrame, primary: Primary, families: int = 1
) -> tuple[pd.DataFrame, str]:
    """Paired comparisons of the students in the primary metrics, and a note where there are none.

    A page of several ``families`` of comparisons divides its 5 % of false reports among them.
    Teachers and controls stay out: pairs nobody asks about would only weaken Holm's correction.
    """
    # A variant sampled in several ways is several competitors.
    rows = with_series(final(results))
    rows = rows.assign(variant=rows["series"])
    rows = rows[
        (rows["role"] == "student")
        & (rows["status"] == "ok")
        & rows["metric"].isin([primary.quality, primary.diversity])
        & (rows["question"] == primary.question)
    ]
    if rows.groupby(["track", "nfe"])["variant"].nunique().max() in (0, 1) or not len(rows):
        return pd.DataFrame(), "There are no two students to compare at the same NFE."
    present = [m for m in (primary.quality, primary.diversity) if m in set(rows["metric"])]
    quality, diversity = present[0], present[-1]
    try:
        table = compare(
            rows, quality, diversity, question=primary.question, extractor=primary.extractor
        )
    except UserError as error:
        return pd.DataFrame(), f"No comparison: {error}."
    table["p_holm"] = (families * table["p_holm"]).clip(upper=1.0)
    table["significant"] = table["p_holm"] < LEVEL
    return table, "" if len(table) else "No two students share a train seed."


def ties(table: pd.DataFrame) -> Ties:
    """How far pairs that are told apart differ, in both orders."""
    found: Ties = {}
    for row in table.to_dict("records"):
        key = (int(row["nfe"]), row["question"], row["metric"])
        gap = float(row["difference"]) if row["significant"] else 0.0
        found[(*key, row["a"], row["b"])] = gap
        found[(*key, row["b"], row["a"])] = -gap
    return found


def verdicts(summary: pd.DataFrame, table: pd.DataFrame, primary: Primary) -> list[Verdict]:
    """One verdict per NFE, track and primary metric, best method first."""
    found: list[Verdict] = []
    if not len(table):
        return found
    for name in dict.fromkeys((primary.quality, primary.diversity)):
        rows = measured(select(summary, primary.question, name, primary.extractor))
        rows = rows[rows["role"] == "student"]
        for (track, nfe), pairs in table[table["metric"] == name].groupby(["track", "nfe"]):
            here = rows[(rows["track"] == track) & (rows["nfe"] == nfe)]
            higher = here["higher"].iloc[0] if len(here) else None
            if higher is not None and len(here) >= 2:
                role = "Quality" if name == primary.quality else "Diversity"
                found.append(_verdict(here, pairs, name, role, bool(higher)))
    found.sort(key=lambda v: (v.track != "distilled", v.track, v.nfe, v.role == "Diversity"))
    return found


def _verdict(
    here: pd.DataFrame, pairs: pd.DataFrame, name: str, role: str, higher: bool
) -> Verdict:
    ordered = here.sort_values(["value", "series"], ascending=[not higher, True])
    best = ordered.iloc[0]
    others = [str(series) for series in ordered["series"].iloc[1:]]
    against = {_other(row, best["series"]): row for row in pairs.to_dict("records")
               if best["series"] in (row["a"], row["b"])}  # fmt: skip
    told = {o: row for o, row in against.items() if row["significant"]}
    # A pair is compared on its common seeds, which may order it otherwise than all seeds do.
    ahead = [o for o, row in told.items()
             if (_signed(row, str(best["series"]), higher) < 0) and o in others]  # fmt: skip
    beaten = [o for o in others if o in told and o not in ahead]
    level = [o for o in others if o in against and o not in told]
    apart = [o for o in others if o not in against]
    label = words.metric(name).label
    width = (here["high"] - here["low"]) / 2
    places = words.decimals(here["value"], width)
    nfe = int(best["nfe"])
    found = [against[o] for o in beaten + level]
    gap_places = words.decimals(
        [row["difference"] for row in found], [(row["high"] - row["low"]) / 2 for row in found]
    )
    gaps = {o: _gap(row, str(best["series"]), higher, gap_places) for o, row in against.items()}
    methods = against and all(row["level"] == "method" for row in against.values())
    own = dict(zip(here["series"].map(str), here["seeds"], strict=True))
    for o, row in against.items():
        # The values shown are means over all of a variant's seeds, the difference is not.
        if row["seeds"] < max(own[o], own[str(best["series"])]):
            some = words.count(row["seeds"], "common train seed")
            gaps[o] += "" if o in ahead else f" on {some}"
    better = "higher" if higher else "lower"
    subject = f"At {nfe} NFE {words.isolated(best['series'])}"
    if not methods:
        subject = f"At {nfe} NFE, among these checkpoints, {words.isolated(best['series'])}"
    sentences = []
    if beaten:
        than = _listed([f"{words.isolated(o)} by {gaps[o]}" for o in beaten])
        sentences.append(f"{subject} has {better} {label} than {than}.")
    if level:
        listed = _listed([f"{words.isolated(o)} ({gaps[o]})" for o in level])
        if ahead and not beaten:
            end = "highest" if higher else "lowest"
            sentences.append(
                f"{subject} has the {end} mean {label} over its own train seeds, but is not told "
                f"apart from {listed}."
            )
        elif beaten:
            sentences.append(f"It is not told apart from {listed}.")
        else:
            sentences.append(
                f"{subject} has the best {label}, but is not told apart from {listed}."
            )
    if ahead:
        listed = _listed([f"{words.isolated(o)} ({gaps[o]})" for o in ahead])
        sentences.append(
            f"On their common train seeds {words.isolated(best['series'])} is worse than {listed}: "
            "the values are means over other seeds."
        )
    if apart:
        listed = words.joined([words.isolated(o) for o in apart])
        sentences.append(f"No paired comparison with {listed}: no common train seed.")
    tone = "clear" if beaten and not level and not apart else "partly" if beaten else "open"
    tone = "open" if ahead else tone
    return Verdict(
        nfe,
        str(best["track"]),
        label,
        role,
        str(best["series"]),
        words.fixed(best["value"], places),
        words.span(best["low"], best["high"], places),
        level + ahead,
        sentences,
        tone,
    )


def _listed(items: list[str]) -> str:
    """A list in words; of a long one the first, which are nearest to the leader."""
    if len(items) <= LISTED:
        return words.joined(items)
    return words.joined([*items[: LISTED - 1], f"{len(items) - LISTED + 1} others (table below)"])


def _other(row: dict[Any, Any], name: str) -> str:
    return str(row["b"] if row["a"] == name else row["a"])


def _signed(row: dict[Any, Any], leader: str, higher: bool) -> float:
    """How far the leader is ahead; positive is in its favour."""
    return (1 if row["a"] == leader else -1) * (1 if higher else -1) * float(row["difference"])


def _gap(row: dict[Any, Any], leader: str, higher: bool, places: int) -> str:
    """How far the leader is ahead, with its interval."""
    value = _signed(row, leader, higher)
    ends = (row["low"], row["high"])
    low, high = ends if (value < 0) == (row["difference"] < 0) else (-ends[1], -ends[0])
    bracket = words.span(low, high, places)
    return f"{words.fixed(value, places)} {bracket}".strip()


def alone(summary: pd.DataFrame) -> list[str]:
    """Tracks that hold a single student, in words."""
    rows = measured(summary)
    students = rows[rows["role"] == "student"]
    names = {str(t): sorted(set(g["series"])) for t, g in students.groupby("track", sort=True)}
    return [
        f"The track “{words.TRACKS.get(track, track)}” holds only {words.isolated(found[0])}: "
        "nothing in it is "
        "compared."
        for track, found in names.items()
        if len(found) == 1 and len(names) > 1
    ]


def pair_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Every comparison, for the table below the sentences."""
    rows = []
    for row in table.to_dict("records"):
        half = (row["high"] - row["low"]) / 2
        places = words.decimals([row["difference"]], [half])
        rows.append(
            {
                "track": words.TRACKS.get(row["track"], row["track"]),
                "nfe": int(row["nfe"]),
                "metric": words.metric(row["metric"]).label,
                "a": row["a"],
                "b": row["b"],
                "difference": words.fixed(row["difference"], places),
                "span": words.span(row["low"], row["high"], places),
                "p": _p(row["p"]),
                "p_holm": _p(row["p_holm"]),
                "seeds": int(row["seeds"]),
                "level": row["level"],
                "significant": bool(row["significant"]),
            }
        )
    return rows


def _p(value: float) -> str:
    if not words.finite(value):
        return words.MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def level_note(table: pd.DataFrame, families: int = 1) -> str:
    """What the sentences are about: methods, or only the checkpoints at hand."""
    if not len(table):
        return ""
    methods = (table["level"] == "method").mean()
    if methods == 1:
        seeds, pairs = int(table["seeds"].min()), families * len(table)
        errors = student_t.quantile(1 - LEVEL / pairs, seeds - 1)
        return (
            f"Each pair shares at least {METHOD_SEEDS} train seeds: the sentences speak of methods "
            "as trained here, with a paired t interval over seeds to which the sampling noise is "
            "added that all seeds share. It presumes that no method fails rarely and badly: look "
            f"at the single seeds. With {seeds} seeds and {pairs:,} comparisons the first to be "
            f"told apart needs a difference of {errors:.1f} standard errors, so that what is not "
            "told apart need not be equal."
        )
    text = (
        f"Below {METHOD_SEEDS} common train seeds the sentences speak of these checkpoints only: "
        "their intervals hold the noise of sampling, not that of training again, which is often "
        "larger."
    )
    return text if methods == 0 else text + " The column “level” says which pair is which."
