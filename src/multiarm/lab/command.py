"""`multiarm simulate`: a study from its file to its files, with a bar while it runs."""

from collections.abc import Sequence
from functools import partial
from math import isfinite
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from multiarm.domain.errors import Invalid, StartError
from multiarm.lab.output import prepare, write
from multiarm.lab.parallel import simulate
from multiarm.lab.results import Result
from multiarm.lab.study import Study, at_delays
from multiarm.lab.tables import table
from multiarm.lab.toml import read_study

DELAY_LIMIT = 10


def run(
    console: Console,
    file: Path,
    directory: Path,
    *,
    runs: int | None,
    seed: int | None,
    delays: str | None,
    processes: int,
) -> None:
    """StartError where the study, the folder or a flag does not fit."""
    try:
        study = read_study(file)
    except Invalid as error:
        raise StartError(in_words(error, f"{file}: ")) from None
    studies = changed(study, runs, seed, delays)
    prepare(directory)
    results = play(console, studies, processes)
    console.print(table(results))
    files = write(results, directory)
    console.print(f"Written to {directory}: {', '.join(path.name for path in files)}", highlight=False, markup=False)


def changed(study: Study, runs: int | None, seed: int | None, delays: str | None) -> list[Study]:
    """The study as the flags want it, once for each delay."""
    given = {name: value for name, value in (("runs", runs), ("seed", seed)) if value is not None}
    study = msgspec.structs.replace(study, **given)
    studies = [study] if delays is None else at_delays(study, numbers(delays))
    try:
        for each in studies:
            each.check()
    except Invalid as error:
        raise StartError(in_words(error, "flag --").replace("--environment.", "--")) from None
    return studies


def numbers(text: str) -> list[float]:
    """`0,100,1000`, in order and each once."""
    try:
        values = list(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        values = [float("nan")]
    if not all(map(isfinite, values)) or len(values) > DELAY_LIMIT:
        raise StartError(
            f"flag --delay {text!r}: expected up to {DELAY_LIMIT} numbers of draws with commas, as in 0,100,1000."
        )
    return values


def play(console: Console, studies: Sequence[Study], processes: int) -> list[Result]:
    results = []
    with progress_bar(console) as progress:
        for study in studies:
            name = "experiments" if len(studies) == 1 else f"delay {study.environment.delay:,g}"
            shown = partial(show, progress, progress.add_task(name))
            results.append(simulate(study, processes=processes, on_progress=shown))
    return results


def show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(46),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def in_words(error: Invalid, before: str, joint: str = "_") -> str:
    """A line for each fault. joint: what stands between the words of a field's name."""
    return "\n".join(f"{before}{fault.path.replace('_', joint)}: {fault.detail}" for fault in error.as_faults())
