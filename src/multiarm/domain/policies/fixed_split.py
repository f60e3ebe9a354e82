"""A fixed split: an honest A/B/n test."""

import numpy as np

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Policy, Situation


class FixedSplit(Policy, frozen=True, tag="fixed_split"):
    """Every enabled arm gets the same share for as long as the experiment runs.

    Parameters: none. For uneven shares disable arms, or take a policy that learns.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Assumes nothing. Its regret grows linearly; what it buys is estimates that need no correction, of every arm with
    the same error, and a test whose error rates are those of the book: `multiarm plan` says how long it takes.
    """

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        del situation
        count = evidence.pulls.shape[-1]
        return np.full(evidence.pulls.shape, 1.0 / count)
