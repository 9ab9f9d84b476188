"""The numbers beside the page: CSV, Markdown and LaTeX; every file is written all or nothing."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from piflow_reports.export.bibtex import bibtex
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Cell, Ranking

from piflow_bench.files.atomic import write_parquet, write_text

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "−": r"$-$", "∞": r"$\infty$", "—": "---",
    "·": r"\textperiodcentered{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "▲": r"$^{\triangle}$", "▼": r"$^{\nabla}$", "×": r"$\times$",
}  # fmt: skip

MARKS = {"": "", "better": "▲", "worse": "▼"}


def marked(rankings: Sequence[Ranking]) -> str:
    """What the arrows in these tables mean."""
    told_from = " or ".join(dict.fromkeys(r.told_from for r in rankings if r.told_from))
    if not told_from:
        return "Nothing is tested."
    return f"▲ better, ▼ worse: told apart from {told_from}; nothing else is tested."


def export(
    folder: Path,
    results: pd.DataFrame,
    rankings: list[tuple[str, Ranking]],
    variants: list[dict[str, Any]],
) -> None:
    """Write all rows as CSV and parquet, the rankings as CSV, Markdown and LaTeX, and BibTeX."""
    write_parquet(folder / "results.parquet", results)
    write_text(folder / "citations.bib", bibtex(variants))
    flat = results.copy()
    flat["replicates"] = [json.dumps(r) if len(r) else "" for r in flat["replicates"]]
    write_text(folder / "results.csv", flat.to_csv(index=False, lineterminator="\n"))
    long = ranking_rows(rankings)
    write_text(folder / "ranking.csv", long.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "ranking.md", markdown(rankings))
    write_text(folder / "ranking.tex", latex(rankings))


def ranking_rows(rankings: list[tuple[str, Ranking]]) -> pd.DataFrame:
    """Every cell of every ranking, one row each; ``run`` is empty where all are of one section."""
    names = [
        "run",
        "nfe",
        "group",
        "role",
        "variant",
        "method",
        "trained_for",
        "train_seeds",
        "question",
        "extractor",
        "metric",
        "protocol",
        "value",
        "low",
        "high",
        "best",
        "than_leader",
        "reason",
    ]
    rows = [
        [
            section, ranking.nfe, group.title, row.role, row.series, row.method, row.trained,
            row.seeds,
            *column.measure, cell.value, cell.low, cell.high, cell.bold, cell.mark,
            cell.hole or cell.note,
        ]
        for section, ranking in rankings
        for group in ranking.groups
        for row in group.rows
        for column, cell in zip(ranking.columns, row.cells, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def heading(section: str, ranking: Ranking) -> str:
    """A table's heading."""
    return " · ".join(part for part in (section, f"{ranking.nfe} NFE", ranking.title) if part)


def markdown(rankings: list[tuple[str, Ranking]]) -> str:
    """GitHub tables; bold is the best value, arrows are what is told apart from the leader."""
    parts = []
    for section, ranking in rankings:
        heads = [f"{md(c.label)} {words.arrow(c.higher)}".strip() for c in ranking.columns]
        first = ["Variant", *(["Trained for"] if ranking.told_trained else []), "Train seeds"]
        table = [[*first, *heads], [*["---"] * (len(first) - 1), *["---:"] * (len(heads) + 1)]]
        for group in ranking.groups:
            table.append([f"*{md(group.title)}*", *[""] * (len(first) - 1 + len(heads))])
            for row in group.rows:
                trained = [row.trained or words.MISSING] if ranking.told_trained else []
                seeds = str(row.seeds or words.MISSING)
                table.append([md(row.series), *trained, seeds, *map(md_cell, row.cells)])
        lines = ["| " + " | ".join(line) + " |" for line in table]
        parts.append(f"## {md(heading(section, ranking))}\n\n" + "\n".join(lines))
    meant = marked([ranking for _, ranking in rankings])
    note = f"Bold: the best value of its group. {meant} Brackets: 95 %."
    return "\n\n".join([*parts, note]) + "\n"


def md(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    for mark in "\\`*_{}[]<>|#&$~":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def md_cell(cell: Cell) -> str:
    """A value with its interval, bold where the cell is."""
    if cell.hole:
        return f"failed: {md(cell.hole)}"
    text = f"**{cell.text}**" if cell.bold else cell.text
    return " ".join(part for part in (text + MARKS[cell.mark], cell.span) if part)


def latex(rankings: list[tuple[str, Ranking]]) -> str:
    """booktabs tables; only the main table of each NFE, for the others rarely fit a page."""
    parts = ["% \\usepackage{booktabs}; names beyond Latin letters need XeLaTeX or LuaLaTeX"]
    for section, ranking in rankings:
        if ranking.title:
            continue
        width = len(ranking.columns) + 1
        heads = [f"{c.label} {words.arrow(c.higher)}".strip() for c in ranking.columns]
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{tex(heading(section, ranking))}. {tex(caption_note(ranking))}}}",
            f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            "\\toprule",
            " & ".join(["Variant", *map(tex, heads)]) + r" \\",
        ]
        for group in ranking.groups:
            lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{tex(group.title)}}}}}"
                      + r" \\"]  # fmt: skip
            for row in group.rows:
                cells = [tex_cell(cell) for cell in row.cells]
                lines.append(tex_row([tex(row.series), *cells]))
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def caption_note(ranking: Ranking) -> str:
    """What a table's reader must know: samples, protocol, what bold and brackets mean."""
    counts = ranking.n
    hashes = sorted({column.measure[3][:12] for column in ranking.columns} - {""})
    return (
        f"n = {', '.join(map(str, counts)) or '?'} samples, protocol {', '.join(hashes) or '?'}. "
        f"Bold: best value of its group; brackets: 95 % intervals. {marked([ranking])}"
    )


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped; what only controls writing is dropped."""
    plain = (c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cf"))
    return "".join(LATEX.get(mark, mark) for mark in plain)


def tex_row(cells: list[str]) -> str:
    """A table's row; nothing in it is taken for an argument of the row before."""
    line = " & ".join(cells) + r" \\"
    return "{}" + line if line.startswith(("[", "*")) else line


def tex_cell(cell: Cell) -> str:
    """A value with its interval, bold where the cell is."""
    if cell.hole:
        return "failed"
    text = f"\\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text)
    text += tex(MARKS[cell.mark])
    return text + (f" {{\\scriptsize {tex(cell.span)}}}" if cell.span else "")
