"""Decisions made by hand, of a time, an epoch or an arm that no draw would give."""

import sqlite3
import time
from contextlib import closing

from multiarm.domain.allocation import Share
from multiarm.domain.arm import Arm
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.records import Decisions
from support import RunningServer


def decided(
    signer: DecisionSigner, share: Share, *, uid: int = 1, epoch: int = 0, at: float, u: float = 1.0
) -> Decisions:
    """One draw. at: its time; u: its random number."""
    return Decisions([share], [u], *signer.sign(uid, epoch, at, [share]), at)


def decision_id(signer: DecisionSigner, uid: int, arm_number: int, epoch: int, at: float) -> str:
    share = Share(Arm(arm_number, "made-by-hand"), 0.5, 0.0)
    return decided(signer, share, uid=uid, epoch=epoch, at=at)[0].decision_id


def forged(server: RunningServer, experiment_id: str, *, age_s: float, arm_number: int = 1, epoch: int = 0) -> str:
    """One that is signed with the server's own key, which lies in its database."""
    with closing(sqlite3.connect(f"file:{server.data_dir / 'multiarm.db'}?mode=ro", uri=True)) as database:
        (key,) = database.execute("SELECT key FROM signing_key WHERE number = 1").fetchone()
        (uid,) = database.execute("SELECT uid FROM experiment WHERE id = ?", (experiment_id,)).fetchone()
    return decision_id(DecisionSigner({1: key}, 1), uid, arm_number, epoch, time.time() - age_s)
