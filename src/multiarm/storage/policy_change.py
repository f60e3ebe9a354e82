"""Another policy for a running experiment: the evidence goes along, or is made again from the stored rewards."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import FAULT_LIMIT, InvalidField, InvalidReward, PolicyNotChanged, raise_all
from multiarm.domain.evidence import Row
from multiarm.domain.policies import AnyPolicy, Observation
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec, ExperimentSpec, arm_faults, policy_faults
from multiarm.storage.engine import Driver
from multiarm.storage.evidence import ArmKey, ArmRow, write_rows
from multiarm.storage.experiments import (
    arm_from,
    evidence_from,
    forget_head_starts,
    load_experiment,
    locked,
    spec_from,
    touch,
)
from multiarm.storage.retention import REPLAYED, STEP_ROWS, Baseline, Counted, baseline_from, plus_counted, replayed
from multiarm.storage.schema import arm, baseline, evidence, reward

NodeArm = tuple[int, int]  # node, arm number
Picks = list[int | None]  # for each column of the new policy the old one's that it is; None: it begins at 0


def change_policy(
    connection: Connection,
    *,
    uid: int,
    policy: AnyPolicy,
    random_share: float | None,
    restart: bool,
    node: int,
    now: float,
) -> ExperimentState:
    """The experiment as `node` sees it then. The same policy again changes nothing but the random share.

    random_share: None for as it was, but at least what the policy asks for. Invalid where the policy does not go with
    the rest of the experiment. PolicyNotChanged where the evidence that it needs cannot be had, unless it is to start
    again.
    """
    parent = locked(connection, uid)
    before = spec_from(parent)
    raise_all(list(islice(change_faults(connection, uid, policy, before), FAULT_LIMIT)))
    if random_share is None:
        random_share = max(before.random_share or 0.0, policy.traits.random_share)
    spec = msgspec.structs.replace(before, policy=policy, random_share=random_share)
    epoch: int = parent.epoch
    if restart:
        epoch += 1
    elif policy != before.policy:
        replace_rows(connection, uid, epoch, carried_over(connection, uid, epoch, before, spec), now)
    if restart or policy != before.policy:
        forget_head_starts(connection, uid)
    touch(connection, uid, now, spec=msgspec.json.encode(spec).decode(), epoch=epoch)
    state = load_experiment(connection, node, uid)
    assert state is not None, "its row is locked"
    return state


def change_faults(connection: Connection, uid: int, policy: AnyPolicy, spec: ExperimentSpec) -> Iterator[InvalidField]:
    """What the experiment and its living arms ask for and this policy cannot do."""
    for fault in policy_faults(policy, spec):
        yield InvalidField("policy", f"The experiment's {fault.path}: {fault}")
    with_prior = sa.select(arm).where(arm.c.experiment == uid, arm.c.deleted_at.is_(None), arm.c.prior.is_not(None))
    for row in connection.execute(with_prior.order_by(arm.c.number)):
        asked = ArmSpec(arm_id=row.id, prior=arm_from(row).prior)
        for fault in arm_faults(asked, policy, 0):
            yield InvalidField("policy", f"Arm {row.id!r}, {fault.path}: {fault}")


def carried_over(
    connection: Connection, uid: int, epoch: int, before: ExperimentSpec, after: ExperimentSpec
) -> dict[NodeArm, Row]:
    """All nodes' evidence of this epoch, as the new policy would have counted it; the baseline is changed likewise."""
    of_baseline = sa.and_(baseline.c.experiment == uid, baseline.c.epoch == epoch)
    picks = kept_columns(before, after)
    check_rewards(connection, uid, epoch, before, after, rebuilt=picks is None)
    if picks is None:
        connection.execute(sa.delete(baseline).where(of_baseline))  # of no rewards, or `check_rewards` had refused
        return rebuilt_rows(connection, uid, epoch, after)
    for found in list(connection.execute(sa.select(baseline).where(of_baseline))):
        known = baseline_from(found)
        sums, magnitudes = picked(known.row.sums, picks), picked(known.magnitudes, picks)
        values = Baseline(known.row._replace(sums=sums), magnitudes).columns
        connection.execute(sa.update(baseline).where(of_baseline, baseline.c.arm == found.arm).values(**values))
    return {key: row._replace(sums=picked(row.sums, picks)) for key, row in stored_rows(connection, uid, epoch)}


def replace_rows(connection: Connection, uid: int, epoch: int, rows: Mapping[NodeArm, Row], now: float) -> None:
    by_node: dict[int, dict[ArmKey, Row]] = defaultdict(dict)
    for (node, number), row in rows.items():
        by_node[node][uid, number] = row
    with Driver(connection) as driver:
        for node, node_rows in sorted(by_node.items()):
            write_rows(driver, node, node_rows, {key: ArmRow(epoch, Row(), False) for key in node_rows}, now)


def kept_columns(before: ExperimentSpec, after: ExperimentSpec) -> Picks | None:
    """Where each column of the new policy is among the old one's; None where one is not, or means something else.

    Columns that depend on the order of the rewards begin again, at 0.
    """
    old, new = before.policy.traits, after.policy.traits
    fixed = new.columns[: len(new.columns) - new.path_columns]
    known = old.columns[: len(old.columns) - old.path_columns]
    if not set(fixed) <= set(known):
        return None
    places = [known.index(name) for name in fixed]
    for observation in probes(before, after):
        have, want = before.policy.increment(observation), after.policy.increment(observation)
        if any(have[place] != number for place, number in zip(places, want, strict=False)):
            return None
    return [*places, *[None] * new.path_columns]


def probes(before: ExperimentSpec, after: ExperimentSpec) -> list[Observation]:
    """Rewards that tell apart what only has the same name: a sum of capped rewards, or one over another exposure."""
    low = max(before.policy.traits.reward_min, after.policy.traits.reward_min)
    high = min(before.policy.traits.reward_max, after.policy.traits.reward_max)
    rewards = [low, high, *(reward for reward in (0.0, 0.25, 1.0, 7.5) if low <= reward <= high)]
    return [Observation(reward, after.reward_origin, 0.0, 0.25, exposure=2.0, events=3.0) for reward in rewards]


def picked(sums: Sequence[float], picks: Picks) -> tuple[float, ...]:
    return tuple(0.0 if place is None else sums[place] for place in picks) if sums else ()


def check_rewards(
    connection: Connection, uid: int, epoch: int, before: ExperimentSpec, after: ExperimentSpec, *, rebuilt: bool
) -> None:
    """PolicyNotChanged where the rewards of this epoch are not what the new policy takes, or are not there any more."""
    old, new, name = before.policy.traits, after.policy.traits, after.policy.__struct_config__.tag
    narrower = new.reward_min > old.reward_min or new.reward_max < old.reward_max
    of_epoch = counted_in(uid, epoch)
    pruned_count = connection.scalar(
        sa.select(sa.func.sum(baseline.c.pull_count)).where(baseline.c.experiment == uid, baseline.c.epoch == epoch)
    )
    if pruned_count and (rebuilt or narrower):
        why = "other sums of each reward" if rebuilt else "rewards in a narrower range"
        what = f"{pruned_count:,} rewards of this epoch"
        refuse(epoch, f"{name} needs {why}, and retention, or a restore, has removed {what}.")
    if narrower:
        extremes = connection.execute(
            sa.select(sa.func.min(reward.c.reward), sa.func.max(reward.c.reward)).where(of_epoch)
        ).one()
        for extreme in extremes:
            try:
                if extreme is not None:
                    after.policy.check_reward(extreme)
            except InvalidReward as error:
                refuse(epoch, f"{name} does not take a reward that was counted. {error}")
    if new.needs_decision and not old.needs_decision:
        without = sa.select(sa.func.sum(reward.c.pull_count)).where(of_epoch, reward.c.propensity.is_(None))
        count = connection.scalar(without)
        if count:
            refuse(epoch, f"{name} needs the propensity of each reward, and {count:,} came without a decision.")


def counted_in(uid: int, epoch: int) -> sa.ColumnElement[bool]:
    """The rewards that an epoch's evidence is made of."""
    return sa.and_(reward.c.experiment == uid, reward.c.epoch == epoch, reward.c.withdrawn_at.is_(None))


def refuse(epoch: int, reason: str) -> None:
    raise PolicyNotChanged(
        f'{reason} Nothing was changed. Send "restart": true to begin again with this policy in epoch {epoch + 1}, '
        "without the evidence so far."
    )


def stored_rows(connection: Connection, uid: int, epoch: int, number: int | None = None) -> list[tuple[NodeArm, Row]]:
    """All nodes' evidence of this epoch; number: of that arm only."""
    query = sa.select(evidence).where(evidence.c.experiment == uid, evidence.c.epoch == epoch)
    if number is not None:
        query = query.where(evidence.c.arm == number)
    return [((row.node, row.arm), evidence_from(row)) for row in connection.execute(query)]


def replay(
    connection: Connection, which: sa.ColumnElement[bool], rows: Mapping[NodeArm, Row], spec: ExperimentSpec
) -> dict[NodeArm, Row]:
    """`rows` with those rewards added, a bounded number at a time; OverflowError where a sum would not be finite."""
    found = dict(rows)
    columns = (reward.c[name] for name in ("node", "arm", *REPLAYED))
    query = sa.select(*columns).where(which).order_by(reward.c.number)
    for partition in connection.execute(query, execution_options={"yield_per": STEP_ROWS}).partitions():
        increments: dict[NodeArm, list[Counted]] = defaultdict(list)
        for row in partition:
            increments[row.node, row.arm].append(replayed(row, spec))
        for key, counted in increments.items():
            found[key] = plus_counted(found.get(key, Row()), counted, spec.half_life_s)
    return found


def rebuilt_rows(connection: Connection, uid: int, epoch: int, spec: ExperimentSpec) -> dict[NodeArm, Row]:
    """Each node's evidence from its own reward rows; draw counts as they are, and what depends on their order at 0."""
    rows = {key: Row(draw_count=row.draw_count) for key, row in stored_rows(connection, uid, epoch)}
    try:
        rows = replay(connection, counted_in(uid, epoch), rows, spec)
        finite = all(math.isfinite(value) for row in rows.values() for value in row.sums)
    except OverflowError:
        finite = False
    if not finite:
        refuse(epoch, f"With the rewards so far the sums of {spec.policy.__struct_config__.tag} would not be finite.")
    paths = spec.policy.traits.path_columns
    fixed = len(spec.policy.traits.columns) - paths
    return {
        key: row._replace(sums=(*row.sums[:fixed], *[0.0] * paths)) if row.sums else row for key, row in rows.items()
    }
