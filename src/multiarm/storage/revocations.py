"""Revoked tokens in the database: written by `multiarm token revoke`, read by every server on it."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import LimitReached
from multiarm.storage.schema import revocation


class Revocation(NamedTuple):
    """Of one token, by its id (`jti`), or of all tokens of a subject (`sub`) that were issued before `not_before`.

    number: rises from one to the next; 0: not stored yet.
    """

    token_id: str | None
    subject: str | None
    not_before: float | None
    revoked_at: float
    number: int = 0


def add(connection: Connection, said: Revocation, limit: int, keep_s: float) -> None:
    """LimitReached where there are too many.

    Those go that no token can be refused by any more: `keep_s` is how long the longest of tokens lives.
    """
    expired_before = said.revoked_at - keep_s
    values = said._asdict()
    del values["number"]
    connection.execute(sa.insert(revocation).values(values))
    last = sa.func.coalesce(revocation.c.not_before, 0)
    connection.execute(
        sa.delete(revocation).where(revocation.c.revoked_at < expired_before, last < expired_before)
    )  # after the insert, so that the next number is never one that was used before
    if connection.execute(sa.select(sa.func.count()).select_from(revocation)).scalar_one() > limit:
        raise LimitReached(f"There are {limit:,} revocations already (revocation_limit); revoke by subject instead.")


def newer_than(connection: Connection, number: int) -> list[Revocation]:
    """In the order in which they were said."""
    table = revocation.c
    columns = (table.token_id, table.subject, table.not_before, table.revoked_at, table.number)
    rows = connection.execute(sa.select(*columns).where(table.number > number).order_by(table.number))
    return [Revocation(*row) for row in rows]
