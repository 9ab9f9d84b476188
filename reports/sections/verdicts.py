"""Who wins, in words that say no more than the declared comparisons allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from piflow_reports.data.series import (
    Primary,
    floor,
    measured,
    select,
)
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Marks

from piflow_bench.evaluation.inference.ratios import FRECHET, NEAR
from piflow_bench.tracks import ONE_BUDGET

LISTED = 8
"""Most variants that a sentence names."""


@dataclass
class Verdict:
    """What is said of a primary metric at one NFE: of the declared leader, or of the best."""

    nfe: int
    track: str
    name: str
    metric: str
    """The metric's label."""
    role: str
    leader: str
    value: str
    span: str
    tied: list[str]
    sentences: list[str]
    tone: str
    """clear | partly | open | behind: the declared leader's; described where none was declared."""
    better: list[str] = field(default_factory=list)
    """Told apart from the leader, and better."""
    worse: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    """Declared, but without common intervals."""
    best: str = ""
    """Whose value is the best, whatever chance made of it."""
    higher: bool = False
    weak: bool = False
    """Near the value of two equal distributions, where the test sees little."""
    seeds: int = 0
    """The fewest train seeds behind a comparison; 0 where nothing is trained."""
    of_methods: bool = False
    """Whether the sentences speak of methods rather than of the checkpoints at hand."""

    @property
    def short(self) -> str:
        """The sentences in a few words: who is told apart from whom, without the differences."""
        end = "highest" if self.higher else "lowest"
        if self.tone == "described":
            return f"The {end} value. Described, not tested."
        said = []
        if self.better:
            said.append(f"Behind {_few(self.better)}.")
        if self.worse:
            said.append(f"Better than {_few(self.worse)}.")
        if self.tied:
            said.append(f"Not told apart from {_few(self.tied)}.")
        if self.untested:
            said.append(f"Not tested against {_few(self.untested)}.")
        if self.best in self.tied and len(self.tied) > 1:
            said.append(f"The {end} value is that of {words.isolated(self.best)}.")
        if self.weak:
            said.append("Near the ceiling, where tests see little.")
        return " ".join(said)


def _few(names: list[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    shown = [words.isolated(name) for name in names[: most if len(names) <= most else most - 1]]
    rest = len(names) - len(shown)
    return words.joined([*shown, f"{rest} others"] if rest else shown)


def verdicts(summary: pd.DataFrame, table: pd.DataFrame, primary: Primary) -> list[Verdict]:
    """One verdict per NFE, track and primary metric."""
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
                said = _verdict(here, pairs, primary, name, bool(higher))
                without_power = _no_power(summary, here, primary, name)
                said.sentences += without_power
                said.weak = bool(without_power)
                found.append(said)
    found.sort(key=lambda v: (words.track_order(v.track), v.nfe, v.role == "Diversity"))
    return found


def marks(said: list[Verdict], primary: Primary) -> Marks:
    """What tables mark: who is told apart from the declared leader."""
    return {
        (v.track, v.nfe, primary.question, v.name, series): word
        for v in said
        for word, names in (("better", v.better), ("worse", v.worse))
        for series in names
    }


def _verdict(
    here: pd.DataFrame, pairs: pd.DataFrame, primary: Primary, name: str, higher: bool
) -> Verdict:
    ordered = here.sort_values(["value", "series"], ascending=[not higher, True])
    # Where nothing was declared, as among those of one budget, the best is spoken of.
    declared = pairs[pairs["family"]]
    entered = set(declared["a"]) | set(declared["b"]) if primary.entries else set()
    led = ordered["series"].isin(entered) | (ordered["variant"] == primary.leader)
    leading = ordered[led & bool(len(declared))]
    best = ordered.iloc[0]
    # The best of the entries; or of several ways to sample the leader: all have their comparisons.
    head = leading.iloc[0] if len(leading) else best
    series = str(head["series"])
    against = {_other(row, series): row for row in pairs.to_dict("records")
               if series in (row["a"], row["b"])}  # fmt: skip
    names = [str(s) for s in ordered["series"] if s in against]
    label, nfe = words.metric(name).label, int(head["nfe"])
    gap_places = words.decimals(
        [against[o]["difference"] for o in names],
        [(against[o]["high"] - against[o]["low"]) / 2 for o in names],
    )
    gaps = {o: _gap(against[o], series, higher, gap_places) for o in names}
    at = f"At {nfe} NFE"
    if head["track"] == ONE_BUDGET:
        at += ", with one budget for all NFEs,"
    if not all(row["level"] == "method" for row in against.values()):
        at = f"{at.removesuffix(',')}, among these checkpoints,"
    better, end = ("higher", "highest") if higher else ("lower", "lowest")
    sentences = []
    ahead, beaten, level, untested = [], [], [], []
    opponents = [o for o in names if against[o]["family"]]
    if opponents:
        tested = [o for o in opponents if words.finite(against[o]["p"])]
        told = [o for o in tested if against[o]["significant"]]
        ahead = [o for o in told if _signed(against[o], series, higher) < 0]
        beaten = [o for o in told if o not in ahead]
        level = [o for o in tested if o not in told]
        if beaten:
            than = _listed([f"{words.isolated(o)} by {gaps[o]}" for o in beaten])
            sentences.append(f"{at} {words.isolated(series)} has {better} {label} than {than}.")
        if ahead:
            by = [
                f"{words.isolated(o)} by {_gap(against[o], o, higher, gap_places)}" for o in ahead
            ]
            who = "it" if beaten else words.isolated(series)
            start = "And" if beaten else at
            sentences.append(f"{start} {who} is behind {_listed(by)} in {label}.")
        if level:
            listed = _listed([f"{words.isolated(o)} ({gaps[o]})" for o in level])
            who = "It" if beaten and not ahead else words.isolated(series)
            start = f"{who} is" if sentences else f"{at} the {label} of {who} is"
            sentences.append(f"{start} not told apart from {listed}.")
        if entered:
            sentences.insert(0, _by_family(ordered[ordered["series"].isin(entered)], at, label))
        if str(best["series"]) in level:
            sentences.append(f"The {end} value is that of {words.isolated(best['series'])}.")
        elif entered and str(best["series"]) not in entered:
            sentences.append(
                f"The {end} value of all is that of {words.isolated(best['series'])}, which is no "
                "entry: described, not tested."
            )
        untested = [o for o in opponents if o not in tested]
        if untested:
            listed = _listed([f"{words.isolated(o)} ({gaps[o]})" for o in untested])
            start = words.isolated(series) if sentences else f"{at} {words.isolated(series)}"
            sentences.append(f"{start} cannot be tested against {listed}: no common intervals.")
        tone = "behind" if ahead else "open" if not beaten else "partly" if level else "clear"
    else:
        listed = _listed([f"{words.isolated(o)} ({gaps[o]})" for o in names])
        sentences.append(
            f"{at} the {end} {label} is that of {words.isolated(series)}; ahead of {listed}. "
            "Described, not tested."
        )
        tone = "described"
    places = words.decimals(here["value"], (here["high"] - here["low"]) / 2)
    return Verdict(
        nfe,
        str(head["track"]),
        name,
        label,
        "Quality" if name == primary.quality else "Diversity",
        series,
        words.fixed(head["value"], places),
        words.span(head["low"], head["high"], places),
        level,
        sentences,
        tone,
        ahead,
        beaten,
        untested,
        str(best["series"]),
        higher,
        seeds=min((int(row["seeds"]) for row in against.values()), default=0),
        of_methods=all(row["level"] == "method" for row in against.values()),
    )


def _by_family(entries: pd.DataFrame, at: str, label: str) -> str:
    """Which family has the best entry, and the order of the others; ``entries``: best first."""
    places = words.decimals(entries["value"], (entries["high"] - entries["low"]) / 2)
    shown = [
        f"{str(row['family']).split(',')[0]} ({words.isolated(row['series'])}) "
        f"{words.fixed(row['value'], places)} {words.span(row['low'], row['high'], places)}".strip()
        for row in entries.to_dict("records")
    ]
    return f"{at} the families in the order of their entries' {label}: {words.joined(shown)}."


def _no_power(summary: pd.DataFrame, here: pd.DataFrame, primary: Primary, name: str) -> list[str]:
    """A warning where values are so small that their test can see little."""
    least = floor(summary, primary.question, name, primary.extractor)
    near = here[here["value"] < NEAR * least]
    if name not in FRECHET or len(near) < 2:
        return []
    listed = "All" if len(near) == len(here) else words.count(len(near), "value")
    return [
        f"{listed} below {NEAR:g} times that of two equal distributions "
        f"({words.figures(least, 3)}): there intervals are about 1.5 times too wide and the test "
        "is nearly powerless, so that not told apart does not mean equal."
    ]


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
