"""Results that are kept with the documentation, as Markdown.

``python -m piflow_reports.results_page docs/results`` writes ``NAME.md`` for each folder ``NAME``
there; with ``--keep RUN`` it first takes what these pages need from a finished run's folder. The
parts of a long experiment are kept together, ``--keep RUN --under NAME``, and share a page.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from piflow_reports import claims_page, summary
from piflow_reports.data import merge, read
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.export import tables as export
from piflow_reports.format import names
from piflow_reports.sections import agreement, ways
from piflow_reports.sections import trials as chosen

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_parquet, write_text
from piflow_bench.tracks import ONE_BUDGET
from piflow_bench.tuning.choice import Trials

LONG = ("artifact", "rules", "versions", "train_rows", "git_commit", "start", "node", "sampler")
"""Columns of long texts: those that no page here shows are left empty."""
SHOWN = ("rules", "sampler")
SEEN = "seen.md"
"""Beside trials that are kept: what was learnt from them, in words."""


def keep(run: Path, folder: Path, under: str = "") -> Path:
    """Take a run's rows and its facts into ``folder/NAME``, a part's into ``folder/under/NAME``.

    Of checkpoints before the full budget it takes what tells how the order of the students changes
    with the budget: the primary measures. Of a run for claims it takes all.
    """
    info = json.loads((run / "run.json").read_text())
    table = pd.read_parquet(run / "results.parquet")
    if not (folder / under / claims_page.CLAIMS).is_file():
        table = _kept(table, frames.primary(info, table))
    target = folder / under / str(info["name"])
    target.mkdir(parents=True, exist_ok=True)
    emptied = {name: "" for name in LONG if name in table and name not in SHOWN}
    table = table.assign(**emptied)
    write_parquet(target / "results.parquet", table)
    shutil.copyfile(run / "run.json", target / "run.json")
    return target


def _kept(table: pd.DataFrame, primary: frames.Primary) -> pd.DataFrame:
    decides = (
        (table["question"] == primary.question)
        & table["metric"].isin([primary.quality, primary.diversity])
        & (table["extractor"] == primary.extractor)
    )
    return table[table.index.isin(frames.final(table).index) | decides]


def page(folder: Path) -> str:
    """What a kept run says: its question, rankings and verdicts, and what made it.

    Of trials, what they chose, and the words kept beside them.

    Raises:
        UserError: if parts in one folder were evaluated by different rules.
    """
    runs = _runs(folder)
    tried = [found for run in runs if (found := chosen.trials_of(run))]
    if tried:
        alike = all(run.info["primary"] == runs[0].info["primary"] for run in runs)
        if len(tried) < len(runs) or not alike:
            raise UserError(f"{folder}: trials beside results, or decided by other measures")
        return _trials_page(folder, runs, tried)
    found = _whole(folder, runs)
    run = found.run
    parts = [
        *_head(run),
        f"{found.title}. {_counts(found.cells, found.primary)} Made by",
        *_origin(run.merged or (run,), run.results),
        found.note,
        *(run.info.get("notes") or []),
    ]
    for nfe, ranking in found.rankings.items():
        parts += [export.markdown([("", ranking)]).strip(), *found.sentences(nfe)]
    parts += [*_chosen(found), *_orders(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _chosen(found: summary.Summary) -> list[str]:
    """What each variant has in the way that is best for it, where there were several."""
    alone = found.cells[found.cells["track"] != ONE_BUDGET]
    rows = ways.chosen(alone, found.primary, ways.bases(found.run))
    if not len(rows):
        return []
    labels = [names.metric(m).label for m in (found.primary.quality, found.primary.diversity)]
    lines = [["Variant", "NFE", "Chosen", *labels], ["---", "---:", "---", "---:", "---:"]]
    for row in rows.sort_values(["nfe", "value_q"]).to_dict("records"):
        shown = []
        for side in ("q", "d"):
            value, low, high = (row[f"{key}_{side}"] for key in ("value", "low", "high"))
            places = names.decimals([value], [(high - low) / 2])
            shown.append(f"{names.fixed(value, places)} {names.span(low, high, places)}".strip())
        lines.append([row["base"], str(int(row["nfe"])), f"{row['way']}, of {row['ways']}", *shown])
    return [
        "## Each in its best way",
        "Of several ways of sampling, or scales that students were trained for, each variant has "
        "the one nearest to the first half of the data, by the first half of the samples; the "
        "numbers are of the other halves. Described, not tested.",
        "\n".join("| " + " | ".join(map(export.md, line)) + " |" for line in lines),
    ]


def _orders(found: summary.Summary) -> list[str]:
    """Whether the order of the students holds, where there are enough of them to say."""
    alone = found.cells[found.cells["track"] != ONE_BUDGET]
    way = frames.by_budget(found.run.results, found.primary)
    rows = agreement.agreement(alone, way[way["track"] != ONE_BUDGET], found.nfes, found.primary)
    if not rows:
        return []
    heads = ["Between", "Order by", *(f"{n} NFE" for n in found.nfes)]
    lines = [heads, ["---"] * 2 + ["---:"] * len(found.nfes)]
    for row in rows:
        taus = [row["taus"].get(nfe) for nfe in found.nfes]
        shown = [f"{tau.text} {tau.span}".strip() if tau else names.MISSING for tau in taus]
        lines.append([row["between"], row["of"], *shown])
    return [
        "## Does the order hold?",
        "Kendall's tau between two orders of the same students: 1 the same, 0 none, −1 the "
        "reverse. Brackets: 95 %, over train seeds, or over redrawn trainings and samples.",
        "\n".join("| " + " | ".join(map(export.md, line)) + " |" for line in lines),
    ]


def _head(run: Run) -> list[str]:
    return [
        f"# {run.info.get('title') or run.name}",
        "<!-- Written by python -m piflow_reports.results_page docs/results -->",
        str(run.info.get("question_text") or ""),
    ]


def _origin(runs: Sequence[Run], results: pd.DataFrame) -> list[str]:
    """The commands that make it again, and on what it was made."""
    commands = [str(run.info.get("command", "")) for run in runs]
    about = runs[0].info.get("provenance") or {}
    return ["\n".join(["```bash", *commands, "```"]), _made(results, about)]


def _runs(folder: Path) -> list[Run]:
    """A kept run, or all its parts."""
    whole = (folder / "results.parquet").is_file()
    return read.read_all(
        [folder] if whole else [path.parent for path in sorted(folder.glob("*/results.parquet"))]
    )


def _trials_page(folder: Path, runs: Sequence[Run], tried: Sequence[Trials]) -> str:
    primary = runs[0].info["primary"]
    metric = (
        f"{names.metric(tried[0].metric).label} {names.arrow(tried[0].higher)}, "
        f"{primary['question']}, by features of {primary['extractor']}"
    )
    lines = [
        ["variant", "NFE", "trials", "published recipe", "best", "farthest from it", "settings"],
        ["---", "---:", "---:", "---:", "---:", "---:", "---"],
        *(
            [row.variant, row.at, row.count, row.published, row.best, row.worst, row.settings]
            for found in tried
            for row in chosen.rows(found)
        ),
    ]
    parts = [
        *_head(runs[0]),
        f"{chosen.NOTE} What decides is {metric}. Made by",
        *_origin(runs, pd.concat([run.results for run in runs])),
        "\n".join("| " + " | ".join(map(export.md, line)) + " |" for line in lines),
        (folder / SEEN).read_text("utf-8").strip() if (folder / SEEN).is_file() else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _whole(folder: Path, runs: list[Run]) -> summary.Summary:
    """The summary of a kept run, or of all its parts."""
    if len(runs) == 1:
        return summary.of(runs[0])
    whole = merge.sections(runs)
    if len(whole) > 1:
        raise UserError(f"{folder}: parts of other rules: {'; '.join(merge.rules_apart(whole))}")
    return summary.of(whole[0])


def _counts(cells: pd.DataFrame, primary: frames.Primary) -> str:
    rows = frames.select(cells, primary.question, primary.quality, primary.extractor)
    students = rows[rows["role"] == "student"]
    counts = sorted({int(n) for n in students["n"].dropna() if n > 0})
    seeds = sorted({int(n) for n in students["seeds"] if n > 0})
    listed = ", ".join(f"{n:,}" for n in counts)
    if not len(students):
        return "No students yet."
    return f"n = {listed} samples; train seeds of each variant: {', '.join(map(str, seeds))}."


def _made(results: pd.DataFrame, about: dict[str, object]) -> str:
    """Hardware and versions of what the rows come from."""
    hardware = sorted({h for text in results["hardware"] for h in text.split(", ") if h})
    collected = about.get("collected") or {}
    versions = collected.get("versions") or {} if isinstance(collected, dict) else {}
    listed = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "numpy") if name in versions
    )
    return f"on {', '.join(hardware)}, with {listed}."


def trials(folder: Path) -> str:
    """The trials that chose settings, best to worst, between the words kept beside them."""
    table = pd.read_csv(folder / "trials.csv")
    kept = [(str(name), sorted(own["fd"])) for name, own in table.groupby("variant", sort=False)]
    most = max(len(values) for _, values in kept)
    lines = [["variant", "best", *[""] * (most - 2), "worst"], ["---", *["---:"] * most]]
    for name, values in kept:
        empty = [""] * (most - len(values))  # the worst is in the last column, whatever the number
        lines.append([name, *(f"{v:.1f}" for v in values[:-1]), *empty, f"{values[-1]:.1f}"])
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    words_before, words_after = ((folder / f"{n}.md").read_text() for n in ("about", "seen"))
    return f"{words_before}\n{rows}\n\n{words_after}"


def main() -> None:
    """Write the pages of all kept runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path, action="append", default=[], metavar="RUN")
    parser.add_argument("--under", default="", metavar="NAME", help="of parts: the whole's name")
    arguments = parser.parse_args()
    for run in arguments.keep:
        keep(run, arguments.folder, arguments.under)
    if not pages(arguments.folder):
        parser.error(f"{arguments.folder}: no kept results there; --keep RUN takes some")
    for target, text in pages(arguments.folder).items():
        write_text(target, text)
        print(target)


def pages(folder: Path) -> dict[Path, str]:
    """Every page of a folder of kept results, with its text."""
    claims = {p.parent for p in folder.glob(f"*/{claims_page.CLAIMS}")}
    kept = sorted(
        {p.parent for p in folder.glob("*/results.parquet")}
        | {p.parents[1] for p in folder.glob("*/*/results.parquet")} - claims
    )
    found = {path: page(path) for path in kept}
    found |= {path: claims_page.page(path) for path in sorted(claims)}
    found |= {p.parent: trials(p.parent) for p in sorted(folder.glob("*/trials.csv"))}
    return {folder / f"{kept.name}.md": text for kept, text in found.items()}


if __name__ == "__main__":
    main()
