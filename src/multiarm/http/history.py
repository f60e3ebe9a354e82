"""The handlers of the past: what an experiment was like, and how to go back to it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from multiarm.domain.crediting import checked_ts, seconds_of
from multiarm.domain.errors import InvalidField
from multiarm.domain.spec import Moment, Restore
from multiarm.http import views
from multiarm.http.answers import Answer, json_answer
from multiarm.http.bodies import decode
from multiarm.http.endpoints import Call, endpoint
from multiarm.http.openapi import Documentation
from multiarm.http.query import decode_query

DEFAULT_SPAN_S = 86_400.0

_restore_decoder = msgspec.json.Decoder(Restore)


class HistoryQuery(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Which snapshots."""

    start: Annotated[
        Moment | None, Meta(description="Seconds since the epoch, or RFC 3339. Default: a day before `to`.")
    ] = None
    end: Annotated[Moment | None, Meta(description="The same. Default: now.")] = None
    points: Annotated[int, Meta(ge=1, le=1_000, description="At most so many, spread over the time.")] = 200


@endpoint(
    "GET",
    "/v1/{experiment_id:str}/history",
    Documentation("history", "History", verb="read", query=HistoryQuery, answer=views.History, errors=(404, 422, 503)),
)
async def history(call: Call) -> Answer:
    """What each arm was like at points in time, for charts; the last snapshot in the time asked for is always there."""
    call.supervisor.experiment(call.experiment_id)
    query = decode_query(call.query, HistoryQuery)
    now = call.supervisor.clock()
    end = now if query.end is None else seconds_of(query.end)
    start = end - DEFAULT_SPAN_S if query.start is None else checked_ts(query.start, now, "from")
    if start > end:
        raise InvalidField("from", "`from` is later than `to`.")
    return json_answer(views.History(await call.supervisor.history(call.experiment_id, start, end, query.points)))


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/restore",
    Documentation(
        "restore",
        "History",
        verb="admin",
        body=Restore,
        answer=views.Restored,
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
)
async def restore(call: Call) -> Answer:
    """Start again from a snapshot's evidence, in a new epoch; arms, policy and guardrails stay as they are now."""
    call.supervisor.experiment(call.experiment_id)
    asked = decode(await call.body(), _restore_decoder)
    restored = await call.supervisor.restore(call.experiment_id, asked, call.actor)
    return json_answer(views.Restored(restored.snapshot_id, restored.taken_at, restored.state.epoch))


HANDLERS = [history, restore]
