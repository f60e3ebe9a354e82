"""The audit trail: who changed what, from what to what. Written in the transaction of the change itself."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.records import Actor, AuditEntry
from multiarm.storage.corrections import Corrected
from multiarm.storage.schema import arm, audit, experiment

T = TypeVar("T")
Description = dict[str, Any]  # of an experiment: its state, spec and arms, as JSON has them

FORGOTTEN_PER_STEP = 5_000
NO_EXPERIMENT = 0  # for a uid


class Act(NamedTuple):
    """What is done, by whom, when (seconds since the epoch), to which experiment; None: to all, or to a new one."""

    action: str
    actor: Actor
    at: float
    uid: int | None = None


# --- writing -----------------------------------------------------------------------------------------------------


def recorded(
    work: Callable[[Connection], T], act: Act, more: Callable[[T], Description] = lambda _: {}
) -> Callable[[Connection], T]:
    """`work`, and in the same transaction an entry of what it did to each experiment; none where it fails.

    more: what `after` says besides, by the result.
    """

    def both(connection: Connection) -> T:
        before = {} if act.action == "create" else described(connection, act.uid)
        result = work(connection)
        uid = getattr(result, "uid", None) if act.action == "create" else act.uid
        after = {uid: found | more(result) for uid, found in described(connection, uid).items()}
        entries = [entry(act, uid, before.get(uid), after.get(uid)) for uid in before.keys() | after.keys()]
        if entries:
            connection.execute(sa.insert(audit), entries)
        return result

    return both


def recorded_correction(
    work: Callable[[Connection], Corrected | None], act: Act, experiment_id: str
) -> Callable[[Connection], Corrected | None]:
    """The same of a reward; no entry where it stood like that already."""

    def both(connection: Connection) -> Corrected | None:
        done = work(connection)
        if done is not None:
            before, after = (rewarded(done.increment.key, reward) for reward in (done.before, done.after))
            write(connection, act, experiment_id, before, after)
        return done

    return both


def described(connection: Connection, uid: int | None) -> dict[int, Description]:
    """The live experiment of that uid; or all of them by uid, without their arms, for `clear` must be short."""
    live = sa.select(experiment).where(experiment.c.deleted_at.is_(None))
    chosen = live if uid is None else live.where(experiment.c.uid == uid)
    found: dict[int, Description] = {
        row.uid: {"id": row.id, "enabled": row.enabled, "epoch": row.epoch, **document(row.spec)}
        for row in connection.execute(chosen)
    }
    if uid in found:
        there = sa.select(arm).where(arm.c.experiment == uid, arm.c.deleted_at.is_(None)).order_by(arm.c.number)
        found[uid]["arms"] = {row.id: arm_described(row) for row in connection.execute(there)}
    return found


def arm_described(row: sa.Row[tuple[object, ...]]) -> Description:
    said = {"payload": row.payload, "prior": row.prior}
    return {"enabled": row.enabled, **{name: msgspec.json.decode(text) for name, text in said.items() if text}}


def document(text: str) -> dict[str, Any]:
    """A stored spec; what is damaged must not keep anyone from deleting it."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"spec": "unreadable"}


def write(
    connection: Connection, act: Act, experiment_id: str, before: Description | None, after: Description | None
) -> None:
    """One entry. experiment_id: empty for what concerns none, or all."""
    uid = NO_EXPERIMENT if act.uid is None else act.uid
    connection.execute(sa.insert(audit), values(act, uid, experiment_id, before, after))


def rewarded(key: str | None, reward: float | None) -> Description:
    """A reward by its decision or key, under the names that the ledger has for them; None: withdrawn."""
    kind, _, name = (key or "").partition(":")
    return {"decision" if kind == "d" else "key": name, "reward": reward}


def entry(act: Act, uid: int, before: Description | None, after: Description | None) -> dict[str, object]:
    experiment_id = (before or after or {})["id"]
    old, new = different(before, after)
    return values(act, uid, experiment_id, None if before is None else old, None if after is None else new)


def values(
    act: Act, uid: int, experiment_id: str, before: Description | None, after: Description | None
) -> dict[str, object]:
    return {
        "at": act.at,
        "subject": act.actor.subject,
        "token_id": act.actor.token_id,
        "address": act.actor.address,
        "request_id": act.actor.request_id,
        "action": act.action,
        "experiment": uid,
        "experiment_id": experiment_id,
        "before": None if before is None else msgspec.json.encode(before).decode(),
        "after": None if after is None else msgspec.json.encode(after).decode(),
    }


def different(before: Description | None, after: Description | None) -> tuple[Description, Description]:
    """What stands in the one and not like that in the other; arms are compared one by one."""
    old, new = before or {}, after or {}
    arms, new_arms = old.get("arms", {}), new.get("arms", {})
    old_part = {name: value for name, value in old.items() if name != "arms" and new.get(name) != value}
    new_part = {name: value for name, value in new.items() if name != "arms" and old.get(name) != value}
    old_arms = {name: value for name, value in arms.items() if new_arms.get(name) != value}
    new_arms = {name: value for name, value in new_arms.items() if arms.get(name) != value}
    return old_part | ({"arms": old_arms} if old_arms else {}), new_part | ({"arms": new_arms} if new_arms else {})


# --- reading and forgetting ----------------------------------------------------------------------------------------


def newest(
    connection: Connection,
    limit: int,
    *,
    before: int | None = None,
    uid: int | None = None,
    experiment_id: str | None = None,
) -> list[AuditEntry]:
    """Entries from the newest on; `before`: those of lower numbers; of one experiment, or of all that had that id."""
    query = sa.select(audit).order_by(audit.c.number.desc()).limit(limit)
    for column, value in ((audit.c.experiment, uid), (audit.c.experiment_id, experiment_id)):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(audit.c.number < before)
    return [entry_from(row) for row in connection.execute(query)]


def is_known(connection: Connection, experiment_id: str) -> bool:
    """Whether an experiment has this id, or there is an entry of one that had it."""
    live = sa.select(experiment.c.uid).where(experiment.c.id == experiment_id, experiment.c.deleted_at.is_(None))
    entries = sa.select(audit.c.number).where(audit.c.experiment_id == experiment_id)
    return bool(connection.scalar(sa.select(sa.or_(live.exists(), entries.exists()))))


def entry_from(row: sa.Row[tuple[object, ...]]) -> AuditEntry:
    before, after = (None if text is None else msgspec.json.decode(text) for text in (row.before, row.after))
    who = row.subject, row.token_id, row.address, row.request_id
    return AuditEntry(row.number, row.at, *who, row.action, row.experiment_id, before, after)


def forget(connection: Connection, before: float) -> int:
    """Delete up to 5,000 entries of acts before that time; returns how many."""
    old = sa.select(audit.c.number).where(audit.c.at < before).limit(FORGOTTEN_PER_STEP)
    return connection.execute(sa.delete(audit).where(audit.c.number.in_(old))).rowcount
