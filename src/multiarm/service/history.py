"""What snapshots say, for charts: at each point in time, each arm as `stats` would have shown it."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import sqlalchemy as sa

from multiarm.domain.evidence import decay_weight
from multiarm.domain.snapshot import Snapshot
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.experiments import Unreadable
from multiarm.storage.snapshots import ArmRecord, Outlook, Reason, arms_of


class ArmPoint(msgspec.Struct, frozen=True, gc=False):
    """An arm at a point of the history; the fields are those of `stats`, null where nothing could be said."""

    share: float | None
    probability_best: float | None
    mean_reward: float | None
    pulls: int
    effective_pulls: float
    draws: int
    interval: tuple[float, float] | None


class HistoryPoint(msgspec.Struct, frozen=True):
    """A snapshot. `reason`: `interval`, or the action that changed the experiment right after it.

    taken_at: seconds since the epoch; arms: those of that time, by id.
    """

    snapshot_id: int
    taken_at: float
    reason: Reason
    epoch: int
    arms: dict[str, ArmPoint]


def outlook_of(snapshot: Snapshot, epoch: int) -> Outlook:
    statistics = snapshot.statistics()
    return Outlook(epoch, {arm.number: statistics[arm.arm_id] for arm in snapshot.arms})


def points_of(rows: Sequence[sa.Row[tuple[object, ...]]], spec: ExperimentSpec) -> list[HistoryPoint]:
    """Snapshots that cannot be read are left out.

    Origin and half-life of an experiment never change, so today's `spec` serves for any of its snapshots.
    """
    points = []
    for row in rows:
        with suppress(Unreadable):
            arms = {
                record.arm_id: point_of(record, row.taken_at, spec) for record in arms_of(row) if not record.deleted
            }
            points.append(HistoryPoint(row.number, row.taken_at, row.reason, row.epoch, arms))
    return points


def point_of(record: ArmRecord, taken_at: float, spec: ExperimentSpec) -> ArmPoint:
    weight = decay_weight(taken_at - record.as_of, spec.half_life_s)
    pulls, reward = record.sums[:2] or (0.0, 0.0)
    return ArmPoint(
        record.share,
        record.probability_best,
        spec.reward_origin + reward / pulls if weight * pulls > 0 else None,
        record.pull_count,
        weight * pulls,
        record.draw_count,
        record.interval,
    )
