"""The handler of the audit trail."""

from typing import Annotated

import msgspec
from msgspec import Meta

from multiarm.http import views
from multiarm.http.answers import Answer, json_answer
from multiarm.http.endpoints import Call, endpoint
from multiarm.http.openapi import Documentation
from multiarm.http.query import decode_query

LARGEST_NUMBER = 2**63 - 1  # of an entry, in any database


class AuditQuery(msgspec.Struct, frozen=True):
    """Which entries."""

    limit: Annotated[int, Meta(ge=1, le=1_000, description="At most so many, the newest first.")] = 100
    before: Annotated[
        Annotated[int, Meta(ge=1, le=LARGEST_NUMBER)] | None,
        Meta(description="Those before this number: `next` of the page before."),
    ] = None


@endpoint(
    "GET",
    "/v1/{experiment_id:str}/audit",
    Documentation("audit", "Experiments", verb="admin", query=AuditQuery, answer=views.Audit, errors=(404, 422, 503)),
)
async def audit(call: Call) -> Answer:
    """Who changed what, from what to what; of this experiment, and of none that had its id before."""
    call.supervisor.experiment(call.experiment_id)
    query = decode_query(call.query, AuditQuery)
    entries = await call.supervisor.audit(call.experiment_id, query.limit, query.before)
    following = entries[-1].number if len(entries) == query.limit else None
    return json_answer(views.Audit(entries, following))


HANDLERS = [audit]
