"""Puts the tables of the last `make bench` into docs/performance.md."""

import sys
from pathlib import Path

import msgspec

from processes import HERE, RESULTS
from report import Results, tables

PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- make bench-docs: begin -->\n", "<!-- make bench-docs: end -->\n"
SHOWN = 3  # of the tables: work, yardsticks, latency


def document(results: Results, page: Path) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    notes = f"Medians of {results.runs} runs of {results.seconds} s. {results.machine}.\n"
    parts = [notes, *(f"#{table.markdown()}" for table in tables(results)[:SHOWN])]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(parts) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    stored = RESULTS / "results.json"
    if not stored.exists():
        sys.exit("Nothing was measured yet: make bench")
    document(msgspec.json.decode(stored.read_bytes(), type=Results), PAGE)
