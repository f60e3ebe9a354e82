"""What was measured, for people: the same tables on the terminal and as Markdown; and as JSON for programs."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.status import Status
from rich.table import Table as RichTable

from growth import Curve
from in_process import Cost
from latency import SHOWN, Latency
from machine import Machine
from rows import DURABLE_FSYNC_LIMIT_MS, Row, figure

console = Console(width=118, highlight=False)
LIMITED, BUSY, OTHERS = 0.95, 0.9, 0.15  # shares of a core
RATIOS = (
    "Ratios are to the yardstick: medians of the ratios of each round. A * marks what the load generator limits: its "
    "core was busy, the server's was not."
)
NOTES = (
    f"{RATIOS} Draws of many experiments or arms are compared with `draw`. Latency counts from when a request was due, "
    "answered or not; its figures are medians over the runs."
)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `make bench`."""

    machine: Machine
    runs: int
    seconds: int
    table: list[Row]
    yardsticks: list[Row]
    latencies: list[Latency]
    curves: list[Curve]
    costs: list[Cost]


class Table(NamedTuple):
    """Cells as text; columns from `left` on are figures, and go to the right."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    @classmethod
    def without_empty(cls, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> "Table":
        """Without the columns in which no row has anything to say."""
        kept = [index for index in range(len(heads)) if index < left or any(row[index] for row in rows)]
        return cls(title, [heads[i] for i in kept], [[row[i] for i in kept] for row in rows], left)

    def rich(self) -> RichTable:
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for index, head in enumerate(self.heads):
            table.add_column(head, justify="left" if index < self.left else "right")
        for row in self.rows:
            table.add_row(*(STYLED.get(cell, cell) for cell in row))
        return table

    def markdown(self) -> str:
        widths = [max(len(row[index]) for row in [self.heads, *self.rows]) for index in range(len(self.heads))]
        rules = ["-" * width if index < self.left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
        lines = [self._aligned(row, widths) for row in [self.heads, rules, *self.rows]]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = [
            cell.ljust(width) if index < self.left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"


HOLDS, MISSED = "holds", "missed"
STYLED = {HOLDS: f"[green]{HOLDS}[/]", MISSED: f"[bold red]{MISSED}[/]"}


def rows_table(title: str, rows: Sequence[Row], machine: Machine) -> Table:
    heads = ("work", "unit", "median", "lowest to highest", "ratio", "asked for", "verdict")
    verdicts = {True: HOLDS, False: MISSED, None: ""}
    return Table.without_empty(
        title,
        heads,
        [
            (
                row.work,
                row.unit,
                figure(row.median) + ("*" if is_limited(row) else ""),
                f"{figure(min(row.values))} to {figure(max(row.values))}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                "" if row.bound is None else str(row.bound),
                verdicts[row.holds(machine.fsync_ms[0])],
            )
            for row in rows
        ],
        left=2,
    )


def latency_table(latencies: Sequence[Latency]) -> Table:
    percentiles = ["max" if percentile == "100" else f"p{percentile}" for percentile in SHOWN]
    heads = ("work", "load", "requests/s", *(f"{name}, ms" for name in percentiles), "notes")
    return Table.without_empty(
        "Latency, open loop",
        heads,
        [
            (
                latency.work,
                latency.load,
                figure(latency.rate),
                *(figure(latency.median(percentile)) for percentile in SHOWN),
                latency.notes,
            )
            for latency in latencies
        ],
        left=2,
    )


def growth_tables(curves: Sequence[Curve]) -> list[Table]:
    tables = []
    for size in dict.fromkeys(curve.size for curve in curves):
        alike = [curve for curve in curves if curve.size == size]
        heads = ("work", "unit", *(f"{count:,}" for count in alike[0].sizes))
        rows = [(curve.work, curve.unit, *(figure(statistics.median(at)) for at in curve.values)) for curve in alike]
        tables.append(Table(f"Growth with {size}", heads, rows, left=2))
    return tables


def cost_table(costs: Sequence[Cost]) -> Table:
    heads = ("library", "policy", "call", "median, µs", "lowest to highest")
    rows = [
        (cost.library, cost.policy, cost.call, figure(cost.median), f"{figure(min(cost.us))} to {figure(max(cost.us))}")
        for cost in costs
    ]
    return Table("In process, five arms", heads, rows, left=3)


def tables(results: Results) -> list[Table]:
    return [
        rows_table("Work", results.table, results.machine),
        rows_table("Yardsticks: a draw from memory, unsigned and unlogged", results.yardsticks, results.machine),
        latency_table(results.latencies),
        *growth_tables(results.curves),
        cost_table(results.costs),
    ]


def status() -> Status:
    """What is going on; its spinner turns slowly, for it takes time from what is measured."""
    return console.status("starting", refresh_per_second=1)


def show(*shown: Table) -> None:
    for table in shown:
        console.print(table.rich())


def write(results: Results, folder: Path) -> None:
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    notes = (
        f"Medians of {results.runs} runs of {results.seconds} s, server on core 0, load on core 1. "
        f"{results.machine}.\n\n"
        f"{NOTES}\n"
    )
    parts = [notes, *(table.markdown() for table in tables(results))]
    (folder / "results.md").write_text("# Benchmark results\n\n" + "\n".join(parts))


def print_notes(machine: Machine, notes: str = "", rows: Sequence[Row] = ()) -> None:
    console.print(f"{notes} {machine}.".lstrip())
    others = max((row.other_use for row in rows), default=0.0)
    if others > OTHERS:
        console.print(f"Others took up to {others:.2f} of the two cores: repeat it in a quieter hour.", style="yellow")
    if machine.fsync_ms[0] > DURABLE_FSYNC_LIMIT_MS:
        console.print(
            f"The disk syncs slower than {DURABLE_FSYNC_LIMIT_MS} ms, so the floors of durable work do not apply.",
            style="yellow",
        )


def verdict(rows: Sequence[Row], machine: Machine) -> int:
    """The exit status: 1 where a row misses its floor."""
    missed = [row.work for row in rows if row.holds(machine.fsync_ms[0]) is False]
    if missed:
        console.print(f"Missed: {'; '.join(missed)}.", style="bold red")
    return 1 if missed else 0


def is_limited(row: Row) -> bool:
    return row.load_core_use > LIMITED and row.server_core_use < BUSY
