"""Experiments and their arms in the database. Each function is one transaction's work; the caller holds it."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from multiarm.domain import evidence as domain
from multiarm.domain.allocation import require_room
from multiarm.domain.arm import Arm, Prior
from multiarm.domain.decision import KEY_BYTES
from multiarm.domain.errors import (
    ArmExists,
    ArmNotFound,
    ExperimentExists,
    ExperimentNotFound,
    LimitReached,
    Unavailable,
)
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec, CreateExperiment, ExperimentSpec, check_arm
from multiarm.storage.schema import arm, evidence, experiment, heartbeat, signing_key

T = TypeVar("T")

_spec_decoder = msgspec.json.Decoder(ExperimentSpec)
_sums_decoder = msgspec.json.Decoder(tuple[float, ...])
_prior_decoder = msgspec.json.Decoder(Prior)
_payload_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Limits:
    """Experiments, arms of one experiment, arms ever added to it (deleted ones too), bytes of a payload, snapshots of
    an experiment that administrative actions took, and rewards of an arm that a correction adds up again.
    """

    experiments: int = 10_000
    arms: int = 1_000
    arms_ever: int = 10_000
    payload_bytes: int = 8_192
    action_snapshots: int = 1_000
    corrected_rewards: int = 300_000


# --- reading -----------------------------------------------------------------------------------------------


def load_experiments(connection: Connection, node: int, uid: int | None = None) -> list[ExperimentState]:
    """All experiments that are not deleted, or the one of that uid, in order of creation, as `node` sees them."""
    live = experiment.c.deleted_at.is_(None) if uid is None else experiment.c.uid == uid
    states = {
        row.uid: ExperimentState(
            row.uid,
            row.id,
            spec_from(row),
            row.enabled,
            row.epoch,
            row.created_at,
        )
        for row in connection.execute(sa.select(experiment).where(live).order_by(experiment.c.number))
        if row.deleted_at is None
    }
    chosen = sa.select(experiment.c.uid).where(live)
    for row in connection.execute(
        sa.select(arm).where(arm.c.experiment.in_(chosen)).order_by(arm.c.experiment, arm.c.number)
    ):
        if row.experiment in states:
            states[row.experiment].arms[row.number] = arm_from(row)
    for row in connection.execute(sa.select(evidence).where(evidence.c.experiment.in_(chosen))):
        state = states.get(row.experiment)
        if state is None or row.epoch != state.epoch:
            continue
        if row.node == node:
            state.rows[row.arm] = evidence_from(row)
        else:
            state.other_rows.append((row.arm, evidence_from(row)))
    return list(states.values())


def load_experiment(connection: Connection, node: int, uid: int) -> ExperimentState | None:
    """One experiment, or None where it is deleted."""
    states = load_experiments(connection, node, uid)
    return states[0] if states else None


def own_rows(connection: Connection, node: int, uids: Sequence[int]) -> dict[int, tuple[int, dict[int, domain.Row]]]:
    """This node's evidence of those experiments that are live: uid → (epoch, rows by arm number)."""
    query = sa.select(experiment.c.uid, experiment.c.epoch).where(
        experiment.c.uid.in_(uids), experiment.c.deleted_at.is_(None)
    )
    found: dict[int, tuple[int, dict[int, domain.Row]]] = {
        row.uid: (row.epoch, {}) for row in connection.execute(query)
    }
    for row in connection.execute(sa.select(evidence).where(evidence.c.experiment.in_(uids), evidence.c.node == node)):
        epoch, rows = found.get(row.experiment, (None, {}))
        if row.epoch == epoch:
            with contextlib.suppress(Unreadable):  # then it is missing here, and so differs from memory
                rows[row.arm] = evidence_from(row)
    return found


class Unreadable(Unavailable):
    """Something stored is not what this version writes: damaged, or of a later version. The store itself is well."""


def stored(text: str, decoder: msgspec.json.Decoder[T], what: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        raise Unreadable(
            f"In the database, {what} cannot be read ({error}). "
            "Start the version of multiarm that wrote it, or restore a backup."
        ) from error


def spec_from(row: Row[tuple[object, ...]]) -> ExperimentSpec:
    return stored(row.spec, _spec_decoder, f"experiment {row.id!r}")


def sums_from(text: str, arm_number: int) -> tuple[float, ...]:
    return stored(text, _sums_decoder, f"the evidence of arm number {arm_number}")


def arm_from(row: Row[tuple[object, ...]]) -> Arm:
    return Arm(
        row.number,
        row.id,
        None if row.payload is None else stored(row.payload, _payload_decoder, f"the payload of arm {row.id!r}"),
        None if row.prior is None else stored(row.prior, _prior_decoder, f"the prior of arm {row.id!r}"),
        row.enabled,
        row.deleted_at is not None,
        row.head_start,
    )


def evidence_from(row: Row[tuple[object, ...]]) -> domain.Row:
    return domain.Row(sums_from(row.sums, row.arm), row.as_of, row.pull_count, row.draw_count)


# --- writing -------------------------------------------------------------------------------------------------


def create_experiment(
    connection: Connection, request: CreateExperiment, experiment_id: str, now: float, limits: Limits
) -> ExperimentState:
    """ExperimentExists where the id is taken, LimitReached where there are too many."""
    live = experiment.c.deleted_at.is_(None)
    if connection.scalar(sa.select(experiment.c.uid).where(live, experiment.c.id == experiment_id)) is not None:
        raise ExperimentExists(experiment_id)
    count = connection.scalar(sa.select(sa.func.count()).select_from(experiment).where(live)) or 0
    if count >= limits.experiments:
        raise LimitReached(
            f"There are {count} experiments, as many as experiment_limit allows; delete one or raise the setting."
        )
    arms = numbered(request.arm_specs)
    if len(arms) > min(limits.arms, limits.arms_ever):
        raise LimitReached(
            f"An experiment may begin with {min(limits.arms, limits.arms_ever)} arms (arm_limit, arms_ever_limit); "
            f"this one asks for {len(arms)}."
        )
    state = ExperimentState(
        int.from_bytes(os.urandom(8), signed=True),
        experiment_id,
        request.spec,
        created_at=now,
        arms={a.number: a for a in arms},
    )
    connection.execute(
        sa.insert(experiment).values(
            uid=state.uid,
            id=experiment_id,
            spec=msgspec.json.encode(state.spec).decode(),
            enabled=True,
            epoch=0,
            next_arm_number=len(arms) + 1,
            created_at=now,
            updated_at=now,
        )
    )
    if arms:
        connection.execute(sa.insert(arm), [arm_values(state.uid, a) for a in arms])
    return state


def add_arm(
    connection: Connection, uid: int, spec: ArmSpec, now: float, limits: Limits, *, head_start: float = 0.0
) -> Arm:
    """ArmExists, LimitReached, or FloorTooHigh where the floor leaves no room for one more."""
    parent = locked(connection, uid)
    experiment_spec = spec_from(parent)
    check_arm(spec, experiment_spec.policy, limits.payload_bytes)
    live = list(
        connection.execute(
            sa.select(arm.c.id, arm.c.enabled).where(arm.c.experiment == uid, arm.c.deleted_at.is_(None))
        )
    )
    number = parent.next_arm_number
    if len(live) >= limits.arms or number > limits.arms_ever:
        raise LimitReached(
            f"The experiment has {len(live)} arms and has had {number - 1}; arm_limit ({limits.arms}) and "
            f"arms_ever_limit ({limits.arms_ever}) allow no more."
        )
    require_room(experiment_spec.floor, sum(row.enabled for row in live) + 1)
    taken = {row.id for row in live}
    if spec.arm_id in taken:
        raise ArmExists(spec.arm_id or "")
    added = Arm(number, spec.arm_id or made_up(number, taken), spec.payload, spec.prior, head_start=head_start)
    connection.execute(sa.insert(arm).values(arm_values(uid, added)))
    touch(connection, uid, now, next_arm_number=number + 1)
    return added


def change_arm(
    connection: Connection, uid: int, arm_id: str, now: float, *, enabled: bool | None = None, deleted: bool = False
) -> Arm:
    """Enable, disable or delete an arm; ArmNotFound, or FloorTooHigh where the floor leaves no room."""
    parent = locked(connection, uid)
    live = sa.and_(arm.c.experiment == uid, arm.c.deleted_at.is_(None))
    row = connection.execute(sa.select(arm).where(live, arm.c.id == arm_id)).first()
    if row is None:
        raise ArmNotFound(arm_id)
    before = arm_from(row)
    if enabled and not before.enabled:
        count = connection.scalar(sa.select(sa.func.count()).select_from(arm).where(live, arm.c.enabled)) or 0
        require_room(spec_from(parent).floor, count + 1)
    after = msgspec.structs.replace(before, enabled=before.enabled if enabled is None else enabled, deleted=deleted)
    connection.execute(
        sa.update(arm)
        .where(arm.c.experiment == uid, arm.c.number == after.number)
        .values(enabled=after.enabled, deleted_at=now if deleted else None)
    )
    touch(connection, uid, now)
    return after


def set_enabled(connection: Connection, uid: int, enabled: bool, now: float) -> None:
    locked(connection, uid)
    touch(connection, uid, now, enabled=enabled)


def reset(connection: Connection, uid: int, now: float) -> int:
    """Start a new epoch and return it; rows of earlier ones count as zero from here on."""
    epoch: int = locked(connection, uid).epoch + 1
    forget_head_starts(connection, uid)
    touch(connection, uid, now, epoch=epoch)
    return epoch


def mark_deleted(connection: Connection, uid: int | None, now: float) -> list[int]:
    """Free the id of one experiment, or of all; returns their uids. What they hold is purged later, bit by bit."""
    chosen = sa.and_(experiment.c.deleted_at.is_(None), sa.true() if uid is None else experiment.c.uid == uid)
    uids = list(connection.scalars(sa.select(experiment.c.uid).where(chosen)))
    connection.execute(sa.update(experiment).where(chosen).values(deleted_at=now, updated_at=now))
    return uids


def beat(connection: Connection, node: int, now: float) -> None:
    """Write something small."""
    if not connection.execute(sa.update(heartbeat).where(heartbeat.c.node == node).values(beat_at=now)).rowcount:
        connection.execute(sa.insert(heartbeat).values(node=node, beat_at=now))


def load_keys(connection: Connection, now: float) -> tuple[dict[int, bytes], int]:
    """(signing keys by number, the current one); makes the first at the first start."""
    rows = list(connection.execute(sa.select(signing_key).order_by(signing_key.c.number)))
    if not rows:
        key = os.urandom(KEY_BYTES)
        connection.execute(sa.insert(signing_key).values(number=1, key=key, created_at=now))
        return {1: key}, 1
    keys = {row.number: bytes(row.key) for row in rows}
    current = [row.number for row in rows if row.retired_at is None] or list(keys)
    return keys, max(current)


# --- inside ----------------------------------------------------------------------------------------------------


def locked(connection: Connection, uid: int) -> Row[tuple[object, ...]]:
    """The experiment's row, held until the transaction ends; ExperimentNotFound where it is deleted."""
    row = connection.execute(sa.select(experiment).where(experiment.c.uid == uid).with_for_update()).first()
    if row is None or row.deleted_at is not None:
        raise ExperimentNotFound(None if row is None else row.id)
    return row


def touch(connection: Connection, uid: int, now: float, **values: object) -> None:
    connection.execute(sa.update(experiment).where(experiment.c.uid == uid).values(updated_at=now, **values))


def forget_head_starts(connection: Connection, uid: int) -> None:
    connection.execute(sa.update(arm).where(arm.c.experiment == uid, arm.c.head_start != 0).values(head_start=0.0))


def numbered(specs: Sequence[ArmSpec]) -> list[Arm]:
    """The first arms of an experiment, numbered from 1; those without an id get one that no other asked for."""
    taken = {spec.arm_id for spec in specs if spec.arm_id is not None}
    arms = []
    for number, spec in enumerate(specs, start=1):
        arm_id = spec.arm_id or made_up(number, taken)
        taken.add(arm_id)
        arms.append(Arm(number, arm_id, spec.payload, spec.prior))
    return arms


def made_up(number: int, taken: set[str]) -> str:
    while (arm_id := f"arm-{number}") in taken:
        number += 1
    return arm_id


def arm_values(uid: int, added: Arm) -> dict[str, object]:
    return {
        "experiment": uid,
        "number": added.number,
        "id": added.arm_id,
        "payload": None if added.payload is None else msgspec.json.encode(added.payload).decode(),
        "prior": None if added.prior is None else msgspec.json.encode(added.prior).decode(),
        "enabled": added.enabled,
        "head_start": added.head_start,
    }
