"""Who wins, in words that say no more than the declared comparisons allow."""

from __future__ import annotations

from collections.abc import Mapping
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

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.compare import LEVEL, METHOD_SEEDS, compare
from piflow_bench.evaluation.inference.ratios import FRECHET, NEAR
from piflow_bench.evaluation.uncertainty import t_quantile
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


def comparisons(
    summary: pd.DataFrame,
    primary: Primary,
    families: int = 1,
    rules: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, str]:
    """Comparisons of the students in the primary metrics, and a note where there are none.

    Every pair with its interval; those of the declared family are tested. A page of several
    ``families`` divides its 5 % of false reports among them. Teachers and controls stay out.
    ``rules``: those behind each protocol's hash, for what is said where protocols meet.
    """
    cells = summary[summary["role"] == "student"]
    parts = [
        select(cells, primary.question, name, primary.extractor)
        for name in dict.fromkeys((primary.quality, primary.diversity))
    ]
    chosen = pd.concat(parts)
    known = measured(chosen)
    if not len(known) or known.groupby(["track", "nfe"])["series"].nunique().max() < 2:
        return pd.DataFrame(), "There are no two students to compare at the same NFE."
    try:
        table = compare(
            chosen,
            [primary.quality, primary.diversity],
            leader=primary.leader,
            families=families,
            rules=rules,
        )
    except UserError as error:
        return pd.DataFrame(), f"No comparison: {error}."
    return table, ""


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
    leading = ordered[(ordered["variant"] == primary.leader) & pairs["family"].any()]
    best = ordered.iloc[0]
    # Of several ways to sample the leader, the best: each way's comparisons are in the family.
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
    declared = [o for o in names if against[o]["family"]]
    if declared:
        tested = [o for o in declared if words.finite(against[o]["p"])]
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
        if str(best["series"]) in level:
            sentences.append(f"The {end} value is that of {words.isolated(best['series'])}.")
        untested = [o for o in declared if o not in tested]
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
                "family": bool(row["family"]),
                "significant": bool(row["significant"]),
            }
        )
    return rows


def _p(value: float) -> str:
    if not words.finite(value):
        return words.MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def level_note(table: pd.DataFrame, primary: Primary, families: int = 1) -> str:
    """What was tested, and what the sentences are about: methods, or the checkpoints at hand."""
    if not len(table):
        return ""
    family = table[table["family"]]
    if not primary.leader:
        return (
            "The experiment declares no family of comparisons (family.leader): differences are "
            "described with their intervals, and nobody is told apart."
        )
    if not len(family):
        return (
            f"The declared leader, {words.isolated(primary.leader)}, is not among the students "
            "compared: differences are described with their intervals, and nobody is told apart."
        )
    pairs = families * int(table["declared"].max() if "declared" in table else len(family))
    text = (
        f"Declared before the run: every variant against {words.isolated(primary.leader)} in the "
        f"primary metrics, {words.count(pairs, 'comparison')}, Holm-corrected together. All "
        "other differences are described, not tested. "
    )
    methods = (family["level"] == "method").mean()
    if methods == 1:
        seeds = int(family["seeds"].min())
        errors = t_quantile(1 - LEVEL / pairs, 2 * seeds - 3)
        return text + (
            f"Each variant has at least {METHOD_SEEDS} train seeds: the sentences speak of methods "
            "as trained here, by Welch's t over seeds to which the sampling noise is added that "
            "all share. It presumes that no method fails rarely and badly: look at the single "
            f"seeds. With {seeds} seeds and as many comparisons the first to be told apart needs a "
            f"difference of {errors:.1f} standard errors or more, so that what is not told apart "
            "need not be equal."
        )
    text += (
        f"Below {METHOD_SEEDS} train seeds the sentences speak of these checkpoints only: their "
        "intervals hold the noise of sampling, not that of training again, which is often larger."
    )
    return text if methods == 0 else text + " The column “level” says which pair is which."
