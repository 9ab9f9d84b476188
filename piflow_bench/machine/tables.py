"""What `doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence

from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.machine.estimates import (
    PEAK,
    UTILISATION,
    chosen_variants,
    hours,
    measured_rate,
    memory,
    network_of,
)
from piflow_bench.machine.findings import GAP, NOTE, OK, Finding, findings


def print_table(name: str, rows: Sequence[Finding]) -> None:
    """The findings, each gap with what mends it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {OK: "green", GAP: "bold red", NOTE: "yellow"}
    table = Table(title=f"doctor: {name}", title_justify="left")
    table.add_column("needed", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("to mend it", overflow="fold")
    for f in rows:
        table.add_row(Text(f.what), Text(f.state, colours[f.state]), Text(f.detail), Text(f.mend))
    Console().print(table)


def print_findings(config: ExperimentConfig, price: float | None = None) -> bool:
    """The whole report of the verb; True if nothing is missing."""
    from rich.console import Console
    from rich.table import Table

    rows = findings(config)
    print_table(config.name, rows)
    network = network_of(config)
    if network is not None:
        console = Console()
        rate = measured_rate(network)
        how = "measured here" if rate else f"{UTILISATION:.0%} of an H100's peak, assumed"
        rate = rate or UTILISATION * PEAK
        table = Table(title=f"estimate at {rate / 1e12:.0f} TFLOP/s a GPU ({how})")
        for column in ("stage", "GPU-hours", "cost", "memory a GPU, GiB"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        sizes = {
            f"training {n}": memory(config, network, e, f) / 2**30
            for n, e, f in chosen_variants(config)
            if f.trains and not (config.student.checkpoint or e.checkpoint)
        }
        total = 0.0
        for stage, value in hours(config, network, rate).items():
            total += value
            cost = f"{value * price:,.0f}" if price else ""
            size = f"{sizes[stage]:.0f}" if stage in sizes else ""
            table.add_row(stage, f"{value:,.1f}", cost, size)
        table.add_row("all", f"{total:,.1f}", f"{total * price:,.0f}" if price else "", "")
        console.print(table)
        if not price:
            console.print("price=X gives the cost at X per GPU-hour", highlight=False)
    return all(f.state != GAP for f in rows)
