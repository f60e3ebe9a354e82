"""The command line: parses, calls, prints."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from multiarm import audit_command, backup_commands, token_commands
from multiarm._version import __version__
from multiarm.configuration import PREFIX, load_settings
from multiarm.domain.errors import StartError
from multiarm.settings import Settings

if TYPE_CHECKING:
    from multiarm.server import Running

app = typer.Typer(
    help="Online experiments run by multi-armed bandits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(token_commands.app, name="token")
app.command()(audit_command.audit)
app.command()(backup_commands.backup)
app.command()(backup_commands.restore)
console = Console()
errors = Console(stderr=True)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the database and the ledger.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings; docs/settings.md lists them.")] = None,
) -> None:
    """Start the server."""
    from multiarm import server
    from multiarm.logs import configure_logs

    if os.environ.get(f"{PREFIX}LOG_FORMAT") == "json":
        configure_logs("json", "info")  # for what is wrong with the settings themselves
    settings = load_settings(config, flags={"host": host, "port": port, "data_dir": data_dir})
    configure_logs(settings.log_format, settings.log_level)
    server.serve(settings, partial(greet, settings))


def greet(settings: Settings, running: "Running") -> None:
    """Say where it answers: to people on stdout, to programs as an event of the log."""
    directory = settings.data_path.resolve()
    if settings.log_format == "json":
        from multiarm.logs import log

        found = {"experiment_count": running.experiment_count, "data_dir": str(directory)}
        log.info("started", url=running.url, version=__version__, **found)
        return
    count = f"{running.experiment_count:,} experiment{'' if running.experiment_count == 1 else 's'}"
    console.print(
        f"multiarm {__version__} answers at {running.url}, with {count}\n"
        f"Data lies in {directory}\n"
        f"{hint(settings, running.url)}; Ctrl-C stops it.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def hint(settings: Settings, url: str) -> str:
    """What to try first."""
    if settings.key_sources:
        return f"Try  curl -H 'Authorization: Bearer …' {url}/v1/list\nwith a token: `multiarm token --help`"
    return f"Try  curl -X POST {url}/v1/create\n     curl {url}/v1/list\nor open {url}/docs in a browser"


@app.command()
def demo(
    visitors: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many simulated visitors come.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the visitors' clicks.")] = 1,
) -> None:
    """Watch an experiment: its own server, real HTTP, simulated visitors."""
    from multiarm.demo import run

    run(console, visitors, seed)


@app.command()
def simulate(
    study: Annotated[Path, typer.Argument(help="A study as TOML; see docs/lab.md and examples/.")],
    *,
    output: Annotated[Path, typer.Option(help="Folder for the table, the curves and the plots.")],
    runs: Annotated[int | None, typer.Option(help="Experiments of each policy, instead of the study's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the study's: another one, other chance.")] = None,
    delay: Annotated[str | None, typer.Option(help="Draws until a reward is known; several: 0,100,1000.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Default: one for each core.")] = os.cpu_count() or 1,
) -> None:
    """Compare policies where the truth is known: a table, curves, and plots to show."""
    from multiarm.lab.command import run

    run(console, study, output, runs=runs, seed=seed, delays=delay, processes=processes)


@app.command()
def plan(
    *,
    base_rate: Annotated[float | None, typer.Option(help="Conversion rate of all arms but one. [0.02]")] = None,
    lift: Annotated[float | None, typer.Option(help="How much better that one is: 0.1 is +10 %. [0.1]")] = None,
    arms: Annotated[int | None, typer.Option(help="How many arms. [2]")] = None,
    visitors_per_day: Annotated[float | None, typer.Option(help="In all arms together. [20000]")] = None,
    delay_hours: Annotated[float | None, typer.Option(help="Until a visitor's reward is known. [6]")] = None,
    horizon_days: Annotated[float | None, typer.Option(help="How long visitors are counted. [60]")] = None,
    alpha: Annotated[float | None, typer.Option(help="The error allowed. [0.05]")] = None,
    power: Annotated[float | None, typer.Option(help="Of the tests planned beforehand. [0.8]")] = None,
    looks: Annotated[int | None, typer.Option(help="Of the test with planned looks. [5]")] = None,
    random_share: Annotated[float | None, typer.Option(help="Of the bandits' traffic, split evenly. [0]")] = None,
    runs: Annotated[int | None, typer.Option(help="Experiments simulated for each way. [2000]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the simulation. [1]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for plan.json and the picture.")] = None,
) -> None:
    """Before an experiment: what each way to run it costs, when it ends, and what it guarantees."""
    given = {name: value for name, value in locals().items() if name != "output" and value is not None}
    from multiarm.lab.planning import run

    run(console, given, output)


@app.command()
def check(directory: Annotated[Path, typer.Argument(help="A data directory that no server uses.")]) -> None:
    """Check a data directory: is the database whole, and do the books balance?"""
    from multiarm.storage.check import check_directory

    report = check_directory(directory)
    table = Table("experiment", "arm", "pulls", "pulls by rewards", "sums", "balanced", title="Books")
    for entry in report.entries:
        if entry.balanced and len(report.entries) > 50:
            continue
        table.add_row(
            entry.experiment_id,
            entry.arm_id,
            str(entry.pull_count),
            str(entry.expected_pull_count),
            ", ".join(f"{value:g}" for value in entry.sums),
            "yes" if entry.balanced else "[red]NO[/red]",
        )
    console.print(table)
    console.print(report.summary)
    if not report.good or report.unreadable:
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__, highlight=False)


def main() -> None:
    try:
        app()
    except StartError as error:
        tell(error)
        raise SystemExit(2) from None


def tell(error: StartError) -> None:
    """What keeps it from starting: to whoever reads its log."""
    from multiarm.logs import is_json, log

    if is_json():
        log.critical("start_failed", reason=str(error))
    else:
        errors.print(f"multiarm: {error}", style="red", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
