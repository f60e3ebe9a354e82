"""`multiarm plan`: from its flags to the answer, on the screen and in files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from multiarm.domain.errors import Invalid, StartError
from multiarm.lab.command import in_words
from multiarm.lab.output import prepare
from multiarm.lab.plan import Answer, Plan, answer
from multiarm.lab.plan_figure import figure
from multiarm.lab.plan_report import as_json, sentences, tables

LEAST_WIDTH = 100  # columns that the tables are made for


def run(console: Console, flags: Mapping[str, Any], directory: Path | None) -> None:
    """StartError where a flag or the folder does not fit."""
    plan = Plan(**flags)
    try:
        plan.check()
    except Invalid as error:
        raise StartError(in_words(error, "flag --", "-")) from None
    if directory is not None:
        prepare(directory)
    with progress_bar(console) as progress:
        task = progress.add_task("experiments", total=1.0)
        found = answer(plan, lambda part: progress.update(task, completed=part))
    width = max(console.width, LEAST_WIDTH)
    for table in tables(found):
        console.print(table, width=width, crop=False)
    for sentence in sentences(found):
        console.print(f"• {sentence}", highlight=False, markup=False)
    if directory is not None:
        names = ", ".join(path.name for path in write(found, directory))
        console.print(f"Written to {directory}: {names}", highlight=False, markup=False)


def write(found: Answer, directory: Path) -> list[Path]:
    json, png, svg = (directory / f"plan.{form}" for form in ("json", "png", "svg"))
    json.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(found)), indent=2) + b"\n")
    picture = figure(found)
    for path in (png, svg):
        picture.savefig(path)
    return [json, png, svg]


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(46), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
