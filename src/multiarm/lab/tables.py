"""A table for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from multiarm.lab.results import FOUND, Result, Row


def table(results: Sequence[Result]) -> Table:
    """One line for each policy and delay; docs/lab.md says how to read it."""
    study = results[0].study
    several = len(results) > 1
    answer = Table(
        title=f"{study.runs:,} runs of {study.horizon:,} draws, {len(study.environment.start)} arms",
        caption=f"Gain: expected reward above that of an equal split. Found: from that draw on, {FOUND:.0%} of runs "
        "have the best arm ahead.",
    )
    answer.add_column("policy", overflow="fold")
    if several:
        answer.add_column("delay", justify="right")
    for heading in ("regret ± s.e.", "best arm", "gain", "", "found"):
        answer.add_column(heading, justify="right")
    for result in results:
        least = min(row.regret_mean for row in result.rows)
        for row in result.rows:
            delay = [f"{row.delay:,g}"] if several else []
            style = "bold" if row.regret_mean == least else ""
            answer.add_row(row.label, *delay, *figures(row), style=style)
        answer.add_section()
    return answer


def figures(row: Row) -> list[str]:
    relative = row.reward_gain_relative
    error = "" if row.regret_se is None else f" ± {decimal(row.regret_se, row.regret_mean)}"
    return [
        f"{decimal(row.regret_mean)}{error}",
        f"{row.best_arm_share:.1%}",
        decimal(row.reward_gain, sign=True),
        "–" if relative is None else f"{relative:+.1%}",
        "not found" if row.found_at is None else f"{row.found_at:,}",
    ]


def decimal(value: float, like: float | None = None, *, sign: bool = False) -> str:
    """With as many digits as make sense for a number of the size of `like`, by default its own."""
    size = abs(value if like is None else like)
    places = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 4
    return f"{value:{'+' if sign else ''},.{places}f}"
