"""The commands of `multiarm token`: parse, call, print."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from multiarm.configuration import load_settings
from multiarm.domain.errors import StartError

app = typer.Typer(help="Mint and revoke the tokens that let requests in.", invoke_without_command=True)
console = Console()
aside = Console(stderr=True)

Config = Annotated[Path | None, typer.Option(help="TOML file with the server's settings.")]
DataDir = Annotated[str | None, typer.Option(help="The server's folder.")]


@app.callback()
def token(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Option(help="Whose it is: a service, a person.")] = "",
    scope: Annotated[str, typer.Option(help="What it allows: 'draw update', 'draw:checkout-* read', 'admin'.")] = "",
    lifetime: Annotated[str, typer.Option(help="15m, 12h, 30d.")] = "30d",
    key_file: Annotated[
        Path | None, typer.Option(help="Private key in PEM, where the server has the public one.")
    ] = None,
    key_id: Annotated[str | None, typer.Option(help="Its `kid`, where the server reads a JWK set.")] = None,
    config: Config = None,
) -> None:
    """Print a new token, signed with jwt_secret, jwt_secret_file or the private key of --key-file."""
    if context.invoked_subcommand is not None:
        return
    if not subject or not scope:
        raise StartError("A token needs --subject and --scope; `multiarm token --help` has examples.")
    from multiarm.tokens import new_token

    made = new_token(
        load_settings(config), subject=subject, scope=scope, lifetime=lifetime, key_file=key_file, key_id=key_id
    )
    print_line(made.token)
    table = Table(*whole("subject", "scope", "token id", "expires"), box=None, padding=(0, 2, 0, 0))
    table.add_row(Text(made.subject), Text(made.scope), made.token_id, moment(made.expires_at))
    aside.print(table)


@app.command()
def revoke(
    *,
    token_id: Annotated[str | None, typer.Option(help="The `jti` of one token.")] = None,
    subject: Annotated[str | None, typer.Option(help="All tokens of this `sub` that were issued till now.")] = None,
    issued_before: Annotated[datetime | None, typer.Option(help="Those issued till then instead (UTC).")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Refuse a token, or a subject's: in force within a second on a running server."""
    if bool(token_id) == bool(subject):
        raise StartError("Name one, and not an empty one: --token-id or --subject.")
    if issued_before is not None and subject is None:
        raise StartError("--issued-before goes with --subject.")
    from multiarm.storage.revocations import Revocation
    from multiarm.tokens import revoke as write

    now = time.time()
    before = now if issued_before is None else issued_before.replace(tzinfo=UTC).timestamp()
    settings = load_settings(config, flags={"data_dir": data_dir})
    write(settings, Revocation(token_id, subject, None if subject is None else before, now))
    what = f"token {token_id}" if subject is None else f"tokens of {subject}"
    console.print(f"Revoked: {what}. A running server knows within a second.", highlight=False, markup=False)


@app.command("list")
def list_revocations(*, data_dir: DataDir = None, config: Config = None) -> None:
    """What is revoked."""
    from multiarm.tokens import revoked

    settings = load_settings(config, flags={"data_dir": data_dir})
    table = Table(*whole("token id", "subject", "issued before", "revoked"), title="Revoked tokens")
    for found in revoked(settings):
        before = "" if found.not_before is None else moment(found.not_before)
        table.add_row(Text(found.token_id or ""), Text(found.subject or ""), before, moment(found.revoked_at))
    console.print(table)


def whole(*headers: str) -> list[Column]:
    """Columns that break what is too long for them, and cut nothing off."""
    return [Column(header, overflow="fold") for header in headers]


def print_line(text: str) -> None:
    """As it is, however long, so that a shell can take it."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
