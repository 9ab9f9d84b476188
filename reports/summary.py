"""A run at its full budget as all forms of it have it: page, terminal, Markdown, Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.format import names as words
from piflow_reports.sections import comparisons, trials, verdicts
from piflow_reports.sections import rankings as tables

from piflow_bench.tuning.choice import Trials


@dataclass(frozen=True)
class Summary:
    """What was measured and who is told apart, as the page has it."""

    run: Run
    primary: frames.Primary
    cells: pd.DataFrame
    """One row per cell and measure, elastic students beside those of one budget too."""
    pairs: pd.DataFrame
    pair_note: str
    """Why there are no pairs; empty where there are."""
    verdicts: list[verdicts.Verdict]
    nfes: list[int]
    order: list[str]
    """Every series once, as the experiment lists them."""
    tables: dict[int, list[tables.Ranking]]
    """The rankings of each NFE, the main one first."""
    level_note: str
    """What was tested, and what the sentences are about."""
    trials: Trials | None = None
    """Of a run that chooses settings."""

    @property
    def rankings(self) -> dict[int, tables.Ranking]:
        """The main table of each NFE."""
        return {nfe: r for nfe, several in self.tables.items() for r in several if not r.title}

    @property
    def note(self) -> str:
        """What was tested, or why nothing was."""
        return self.level_note or self.pair_note

    @property
    def title(self) -> str:
        """Whose numbers these are, of which question and features."""
        question = words.QUESTIONS.get(self.primary.question, self.primary.question)
        return f"{self.run.name}: {question}, {self.primary.extractor} features"

    def sentences(self, nfe: int) -> list[str]:
        """What is said at one NFE, a paragraph for each track and metric."""
        return [" ".join(v.sentences) for v in self.verdicts if v.nfe == nfe]


def read(folder: Path) -> Summary:
    """Read a run's folder.

    Raises:
        UserError: if there is no results table, or it cannot be read.
    """
    return of(inputs.read(folder))


def of(run: Run, families: int = 1) -> Summary:
    """The summary of a run; ``families`` runs share a page's share of false reports."""
    results = frames.with_series(run.results)
    primary = frames.primary(run.info, results)
    cells = frames.with_one_budget(frames.summarise(frames.final(results)))
    order, nfes = frames.series_order(results, run.info), frames.nfes(cells)
    tried = trials.trials_of(run)
    if tried is None:
        pairs, pair_note = comparisons.comparisons(cells, primary, families, frames.rules(results))
    else:
        pairs, pair_note = pd.DataFrame(), trials.NOTE
    said = [] if tried else verdicts.verdicts(cells, pairs, primary)
    ranked = tables.rankings(cells, nfes, order, primary, verdicts.marks(said, primary))
    tables.mark_trained_on(ranked, _features(run, cells))
    level_note = "" if tried else comparisons.level_note(pairs, primary, families)
    return Summary(
        run, primary, cells, pairs, pair_note, said, nfes, order, ranked, level_note, tried
    )


def _features(run: Run, cells: pd.DataFrame) -> dict[str, list[str]]:
    """Extractors on whose features each series' method is trained."""
    entries = run.info.get("variants") or []
    by_variant = {str(entry.get("name")): entry.get("trained_on") or [] for entry in entries}
    series = cells.drop_duplicates("series")
    return {
        str(name): by_variant.get(str(variant), [])
        for name, variant in zip(series["series"], series["variant"], strict=True)
    }


def primary_table(found: Summary) -> pd.DataFrame:
    """The primary metrics of every variant at every NFE, best first in its group."""
    rows = []
    for nfe, ranking in found.rankings.items():
        shown = [i for i, column in enumerate(ranking.columns) if column.primary]
        for group in ranking.groups:
            for row in group.rows:
                values = {}
                for i in shown:
                    cell, label = row.cells[i], ranking.columns[i].label
                    values |= {label: cell.value, f"{label} low": cell.low}
                    values |= {f"{label} high": cell.high}
                about = {"NFE": nfe, "group": group.title, "variant": row.series}
                rows.append({**about, "trained for": row.trained, "seeds": row.seeds, **values})
    return pd.DataFrame(rows)
