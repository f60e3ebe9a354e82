"""The command `multiarm audit`: parse, read, print."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer import Exit, Option

from multiarm.configuration import load_settings
from multiarm.domain.errors import StartError
from multiarm.domain.records import AuditEntry

CHANGE_WIDTH = 60

console = Console()
errors = Console(stderr=True)


def audit(
    *,
    experiment: Annotated[str | None, Option(help="Of experiments with this id only, deleted ones too.")] = None,
    limit: Annotated[int, Option(min=1, max=100_000, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, Option("--json", help="One entry a line, as JSON.")] = False,
    data_dir: Annotated[str | None, Option(help="The server's folder.")] = None,
    config: Annotated[Path | None, Option(help="TOML file with the server's settings.")] = None,
) -> None:
    """Who changed what, the newest last; also while a server runs, and of deleted experiments."""
    directory = load_settings(config, flags={"data_dir": data_dir}).data_path
    entries = read(directory, limit, experiment)
    if entries is None:
        say(f"There is no experiment {experiment!r} in {directory}, and no entry of one that had this id.")
        raise Exit(1)
    if as_json:
        for entry in reversed(entries):
            console.out(json.dumps(msgspec.to_builtins(entry)), highlight=False)
        return
    table = Table(*(Column(name, overflow="fold") for name in ("when (UTC)", "who", "action", "experiment", "change")))
    for entry in reversed(entries):
        when = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        who = entry.subject or f"anonymous{'' if entry.address is None else f', {entry.address}'}"
        table.add_row(when, text(who), entry.action, text(entry.experiment_id), text(change(entry)))
    console.print(table)


def say(problem: str) -> None:
    errors.print(f"multiarm: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)


def text(value: str) -> Text:
    """Whoever wrote it must not drive the terminal of whoever reads it."""
    from multiarm.logs import printable

    return Text(str(printable(value)))


def read(directory: Path, limit: int, experiment: str | None) -> list[AuditEntry] | None:
    """The newest entries; None where no experiment has this id, and none that had it is known."""
    from multiarm.storage.audit import is_known, newest
    from multiarm.storage.data_directory import DATABASE_FILE
    from multiarm.storage.engine import HEAD_REVISION, create_engine, current_revision, sqlite_url, transact

    path = directory / DATABASE_FILE
    if not path.is_file():
        raise StartError(f"There is no database in {directory}.")
    engine = create_engine(sqlite_url(path), reads_only=True)
    try:
        with engine.connect() as connection:
            if current_revision(connection) != HEAD_REVISION:
                raise StartError("The database is of another version; start this one's server on it first.")
            if experiment is not None and not transact(connection, lambda c: is_known(c, experiment)):
                return None
            return transact(connection, lambda c: newest(c, limit, experiment_id=experiment))
    finally:
        engine.dispose()


def change(entry: AuditEntry) -> str:
    """What the act made different, in a few words."""
    if entry.after is None:
        return "gone"
    if entry.before is None:
        return f"{entry.after['policy']['type']}, {len(entry.after.get('arms', {}))} arms"
    return shortened(", ".join(differences("", entry.before, entry.after)) or "nothing")


def differences(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`epoch 0 → 1`, `green added`: by name, arms by their ids."""
    found: list[str] = []
    for name in [*before, *(name for name in after if name not in before)]:
        if name == "arms":
            found += differences("arm ", before.get(name, {}), after.get(name, {}))
        elif name not in before:
            found.append(f"{prefix}{name} added" if prefix else f"{name} {worded(after[name])}")
        elif name in after and before[name] == after[name]:
            found.append(f"{prefix}{name} {worded(after[name])}")
        elif name not in after:
            found.append(f"{prefix}{name} deleted")
        elif isinstance(before[name], dict) and isinstance(after[name], dict):
            found.append(f"{prefix}{name}: {inner(before[name], after[name])}")
        else:
            found.append(f"{prefix}{name} {worded(before[name])} → {worded(after[name])}")
    return found


def inner(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if before.get("type") != after.get("type"):
        return f"{before.get('type')} → {after.get('type')}"
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name} {worded(before.get(name))} → {worded(after.get(name))}" for name in names)


def worded(value: Any) -> str:
    return shortened(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def shortened(text: str) -> str:
    return text if len(text) <= CHANGE_WIDTH else f"{text[: CHANGE_WIDTH - 1]}…"
