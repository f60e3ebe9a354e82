"""The commands `multiarm backup` and `multiarm restore`: parse, call, print."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from typer import Argument, Option

from multiarm.configuration import load_settings

if TYPE_CHECKING:
    from multiarm.storage.backup import Copied

MEGABYTE = 1e6

console = Console()


def backup(
    file: Annotated[Path, Argument(help="A file that does not exist yet.")],
    *,
    data_dir: Annotated[str | None, Option(help="The server's folder.")] = None,
    config: Annotated[Path | None, Option(help="TOML file with the server's settings.")] = None,
) -> None:
    """Copy the database into one file, verified, while the server runs."""
    from multiarm.storage.backup import back_up

    began_at = time.perf_counter()
    copied = back_up(load_settings(config, flags={"data_dir": data_dir}).data_path, file)
    say(f"Backed up to {file}", copied, time.perf_counter() - began_at)


def restore(
    file: Annotated[Path, Argument(help="A backup.")],
    *,
    data_dir: Annotated[Path, Option(help="An empty directory, or a new one.")],
) -> None:
    """Make a data directory of a backup, and verify it."""
    from multiarm.storage.backup import restore as restore_into

    began_at = time.perf_counter()
    copied = restore_into(file, data_dir)
    say(f"Restored into {data_dir}", copied, time.perf_counter() - began_at)
    say_line("Tokens revoked since the backup are valid again: revoke them again before it starts.")
    say_line(f"Start it with  multiarm serve --data-dir {data_dir}")


def say(done: str, copied: "Copied", duration_s: float) -> None:
    plural = "" if copied.experiment_count == 1 else "s"
    say_line(
        f"{done}: {copied.experiment_count:,} experiment{plural}, {copied.reward_count:,} reward rows, "
        f"{copied.size_bytes / MEGABYTE:,.1f} MB, in {duration_s:.1f} s.\n{copied.books}"
    )


def say_line(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
