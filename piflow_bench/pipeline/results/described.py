"""The schema as a page: ``python -m piflow_bench.pipeline.results.described`` prints it."""

from __future__ import annotations

from collections.abc import Iterable

from piflow_bench.pipeline.results.schema import ORDER, RESULTS, TABLES, Column, Table

PAGE = "docs/results-table.md"
BEGINNING = f"""# The tables of a run

<!-- python -m piflow_bench.pipeline.results.described > {PAGE} -->

What a run's folder holds as parquet, column by column. The list is
`piflow_bench/pipeline/results/schema.py`: the writer refuses a column that is not there, or a value
of another type, and the page, the exports and the comparison of two runs read by it. `Int64` and
`boolean` may be null (pandas' nullable types); a `float64` that is unknown is NaN, a `text` empty.
"""


def page() -> str:
    """The page, in Markdown."""
    ending = f"The page and the exports sort rows of `{RESULTS.file}` by {_listed(ORDER)}."
    return "\n\n".join([BEGINNING.strip(), *map(_section, TABLES), ending]) + "\n"


def _section(table: Table) -> str:
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{c.name}` | {c.dtype} | {c.unit} | {_meaning(c)} |".replace("  ", " ")
        for c in table.columns
    ]
    parts = [f"## {table.file}", f"A row is {table.rows}.", "\n".join(lines)]
    if table.more:
        parts.append(f"Beside these: {table.more}.")
    varying = [c.name for c in table.columns if c.varies]
    if varying:
        parts.append(
            f"Two runs of one experiment may differ in {_listed(varying)}, and in no other column."
        )
    if table.required:
        parts.append(f"A file without {_listed(table.required)} is refused.")
    defaults = [f"`{c.name}` {c.default}" for c in table.columns if c.default is not None]
    if defaults:
        parts.append(
            f"What an older file lacks is read as without a value, but for {', '.join(defaults)}."
        )
    return "\n\n".join(parts)


def _meaning(column: Column) -> str:
    choices = f" ({', '.join(column.choices)})" if column.choices else ""
    return f"{column.meaning}{choices}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")
