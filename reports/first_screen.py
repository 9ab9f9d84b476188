"""The first screen, one for each NFE: the verdict in short, the trade-off, samples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from piflow_reports.data.run import Grid
from piflow_reports.data.series import CEILING
from piflow_reports.figures import base as plots
from piflow_reports.format import names as words
from piflow_reports.format.styles import TEACHER, Style
from piflow_reports.pictures import strips
from piflow_reports.pictures.images import uri
from piflow_reports.pictures.points import common_limits, panel
from piflow_reports.pictures.rows import alt, series_of
from piflow_reports.sections.rankings import Ranking
from piflow_reports.sections.verdicts import Verdict
from piflow_reports.summary import Summary

from piflow_bench.evaluation.pictures.uint8 import for_the_eye
from piflow_bench.tracks import ONE_BUDGET

TILE = 40  # Pixels on the page that a tile should about fill.
LARGEST = 48  # Pixels from which on an image is reduced.
SAMPLES = 24  # Most samples of a strip.
POINTS = 160  # Pixels of a panel of points.
STUDENTS = 6  # Most students in the strip: the best by the primary quality.


@dataclass(frozen=True)
class Claim:
    """What is said of one primary metric."""

    role: str
    metric: str
    meaning: str
    higher: bool | None
    series: str
    value: str
    span: str
    text: str
    tone: str = "described"
    ceiling: str = ""
    """The converged teacher's value, redrawn."""


@dataclass(frozen=True)
class Row:
    """The samples of one series."""

    series: str
    role: str
    seed: int | None
    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Samples:
    """Samples from common noise, the teacher's first."""

    kind: str
    """images | points."""
    rows: list[Row]
    step: int = 0
    """Pixels on the page from one sample to the next."""
    count: int = 0
    left_out: int = 0
    """Students that have samples but no row here."""


@dataclass(frozen=True)
class Glance:
    """The first screen at one NFE."""

    nfe: int
    tracks: list[tuple[str, list[Claim]]]
    """Claims by track; the name is empty where there is one."""
    basis: str
    """What the claims rest on."""
    figure: plots.Figure | None
    legend: list[str] = field(default_factory=list)
    samples: Samples | None = None


def glances(
    found: Summary, figures: Sequence[plots.Figure], looks: dict[str, Style], prefix: str
) -> list[Glance]:
    """One for every NFE; ``figures``: the trade-offs, ``found.run`` with series on its pictures."""
    drawn = {figure.id: figure for figure in figures}
    result = []
    for nfe in found.nfes:
        ranking = found.rankings.get(nfe)
        here = [v for v in found.verdicts if v.nfe == nfe]
        figure = drawn.get(f"{prefix}trade-{nfe}")
        shown = {row[0] for row in figure.rows} if figure else set()
        result.append(
            Glance(
                nfe,
                _with_ceiling(_claims(here, ranking, found.pair_note), ranking),
                _basis(here),
                figure,
                [name for name in found.order if name in shown & set(looks)],
                samples(found.run.grid, nfe, _best_first(ranking), looks),
            )
        )
    return result


def size(several: Sequence[Glance]) -> int:
    """Bytes that their pictures take as text."""
    return sum(len(row.uri) for each in several if each.samples for row in each.samples.rows)


def _claims(
    said: list[Verdict], ranking: Ranking | None, note: str
) -> list[tuple[str, list[Claim]]]:
    # Those of one budget are told in full below; alone they are the verdict.
    main = [v for v in said if v.track != ONE_BUDGET] or said
    if not main:
        return _values(ranking, note)
    tracks = list(dict.fromkeys(v.track for v in main))
    return [
        (
            words.TRACKS.get(track, track) if len(tracks) > 1 else "",
            [
                Claim(v.role, v.metric, words.metric(v.name).meaning, v.higher, v.leader, v.value,
                      v.span, v.short, v.tone)
                for v in main
                if v.track == track
            ],
        )
        for track in tracks
    ]  # fmt: skip


def _with_ceiling(
    tracks: list[tuple[str, list[Claim]]], ranking: Ranking | None
) -> list[tuple[str, list[Claim]]]:
    """The claims with what the converged teacher has in the same metric."""
    rows = [row for group in (ranking.groups if ranking else []) for row in group.rows]
    cells = next((row.cells for row in rows if row.series == CEILING), [])
    values = {
        column.label: cell.text
        for column, cell in zip(ranking.columns if ranking else [], cells, strict=False)
        if column.primary and words.finite(cell.value)
    }
    return [
        (track, [replace(claim, ceiling=values.get(claim.metric, "")) for claim in claims])
        for track, claims in tracks
    ]


def _values(ranking: Ranking | None, note: str) -> list[tuple[str, list[Claim]]]:
    """Where nothing is compared, the best value of the first group that has any."""
    if ranking is None:
        return []
    shown = [i for i, column in enumerate(ranking.columns) if column.primary]
    group = next(
        (
            g
            for g in ranking.groups
            if g.kind != "control"
            and any(words.finite(row.cells[i].value) for row in g.rows for i in shown)
        ),
        None,
    )
    if group is None:
        return []
    found = []
    for place, i in enumerate(shown):
        column = ranking.columns[i]
        rows = [row for row in group.rows if words.finite(row.cells[i].value)]
        if not rows or column.higher is None:
            continue
        best = (max if column.higher else min)(rows, key=lambda row: row.cells[i].value)
        text = note if place == 0 else ""
        if group.kind == "teacher":
            text = "The best of the teacher with few steps; no student has a value." * (place == 0)
        found.append(
            Claim("Diversity" if place else "Quality", column.label,
                  words.metric(column.measure[2]).meaning, column.higher, best.series,
                  best.cells[i].text, best.cells[i].span, text)
        )  # fmt: skip
    return [("", found)] if found else []


def _basis(said: list[Verdict]) -> str:
    tested = [v for v in said if v.tone != "described"]
    if not tested:
        return ""
    seeds = min(v.seeds for v in tested)
    if all(v.of_methods for v in tested):
        return f"Of methods as trained here: {words.count(seeds, 'train seed')} each."
    behind = f" ({words.count(seeds, 'train seed')})" if seeds else ""
    return f"Of checkpoints{behind}, not of methods."


def _best_first(ranking: Ranking | None) -> list[str]:
    groups = ranking.groups if ranking else []
    return [row.series for group in groups if group.kind == "student" for row in group.rows]


def samples(
    grid: Grid | None, nfe: int, students: Sequence[str], looks: dict[str, Style]
) -> Samples | None:
    """The teacher's samples, and those of the first ``students`` at one NFE; one row a series."""
    if grid is None:
        return None
    known = [row for row in grid.rows if len(grid.arrays[row["key"]])]
    own = {}
    for row in sorted(known, key=lambda r: r.get("train_seed") or 0):
        if row.get("role") == "student" and row.get("nfe") == nfe:
            own.setdefault(series_of(row), row)
    named = [name for name in dict.fromkeys(students) if name in own]
    converged = [row for row in known if row.get("variant") == CEILING]
    few_steps = [r for r in known if r.get("role") == "teacher" and r.get("nfe") == nfe]
    rows = [*(converged or few_steps)[:1], *(own[name] for name in named[:STUDENTS])]
    arrays = [np.asarray(grid.arrays[row["key"]]) for row in rows]
    left_out = max(len(named) - STUDENTS, 0)
    if arrays and all(array.ndim == 2 for array in arrays):
        limits = common_limits([grid.arrays[row["key"]] for row in known])
        panels = [
            _panel(row, array, limits, looks) for row, array in zip(rows, arrays, strict=True)
        ]
        return Samples("points", panels, left_out=left_out)
    both = [(r, a[:SAMPLES]) for r, a in zip(rows, arrays, strict=True) if a.ndim in (3, 4)]
    if not both:
        return None
    count = min(len(images) for _, images in both)
    made, steps = zip(*(_strip(row, images[:count]) for row, images in both), strict=True)
    return Samples("images", list(made), steps[0], count, left_out)


def _strip(row: dict[str, object], images: np.ndarray) -> tuple[Row, int]:
    """A row, and the pixels on the page from one of its tiles to the next."""
    made = strips.side_by_side(for_the_eye(images), TILE, LARGEST)
    about = _about(row, f"{len(images)} samples")
    return Row(*about[:3], made.uri, made.width, made.height, about[3]), made.step


def _panel(
    row: dict[str, object],
    points: np.ndarray,
    limits: tuple[float, float, float, float],
    looks: dict[str, Style],
) -> Row:
    name = series_of(row)
    colour = looks[name].colour if name in looks else TEACHER
    picture = panel(points.astype(float), limits, colour, POINTS)
    about = _about(row, f"{len(points)} points")
    return Row(*about[:3], uri(picture), POINTS, POINTS, about[3])


def _about(row: dict[str, object], what: str) -> tuple[str, str, int | None, str]:
    seed = row.get("train_seed")
    return (
        series_of(row),
        str(row.get("role", "")),
        None if seed is None else int(seed),  # type: ignore[call-overload]
        alt(row, what),
    )
