"""What a policy is: which statistics to add up, and how to turn the sums into probabilities."""

from typing import ClassVar, NamedTuple

import msgspec
import numpy as np

from multiarm.domain.errors import InvalidReward
from multiarm.domain.evidence import BASE_COLUMNS, F64, I64, Evidence
from multiarm.domain.inference import normal_probability_best, student_t_interval

REWARD_LIMIT = 1e12


class Observation(msgspec.Struct, frozen=True, gc=False):
    """A reward as a policy sees it; `origin` is the experiment's `reward_origin`, `propensity` that of the draw."""

    reward: float
    origin: float
    time: float
    propensity: float | None = None


class PseudoCounts(NamedTuple):
    """The arms' own priors: `pulls` float64[K] imagined rewards of mean `mean_reward` float64[K]."""

    pulls: F64
    mean_reward: F64


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all policies. Its parameters are its fields, its JSON is its struct; it holds no state."""

    columns: ClassVar[tuple[str, ...]] = BASE_COLUMNS
    reward_min: ClassVar[float] = -REWARD_LIMIT
    reward_max: ClassVar[float] = REWARD_LIMIT

    def check_reward(self, reward: float) -> None:
        """Raise InvalidReward unless `reward` lies in the policy's range (nan never does)."""
        if not self.reward_min <= reward <= self.reward_max:
            raise InvalidReward(
                f"A reward lies between {self.reward_min:g} and {self.reward_max:g} here; got {reward!s:.40}."
            )

    def increment(self, observation: Observation) -> tuple[float, ...]:
        """What one reward adds to its arm's row: C numbers, in the order of `columns`."""
        deviation = observation.reward - observation.origin
        return (1.0, deviation, deviation * deviation)

    def allocate(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        """Probabilities float64[..., K] over the K arms of `evidence`, exact. Pure."""
        raise NotImplementedError

    def sample(self, evidence: Evidence, rng: np.random.Generator, prior: PseudoCounts | None = None) -> I64:
        """Arms int64[...] drawn from the same distribution as `allocate`, by chance: one for each leading index."""
        probabilities = self.allocate(evidence, prior)
        cumulative = np.cumsum(probabilities, axis=-1)
        u = rng.random(probabilities.shape[:-1])[..., None] * cumulative[..., -1:]
        return np.asarray((u >= cumulative).sum(axis=-1), dtype=np.int64)

    def probability_best(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64 | None:
        """P(arm is best) float64[K]; None while some arm has fewer than two pulls. Here: the Normal analogue."""
        del prior
        return normal_probability_best(evidence)

    def interval(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        """95 % interval of each arm's mean, float64[K, 2], nan where there is none. Here: Student-t."""
        del prior
        return student_t_interval(evidence)

    def expected_cost_s(self, arm_count: int) -> float:
        """A guess at what `allocate` costs, in seconds, until it has been measured."""
        return 2e-5 + 1e-7 * arm_count


def pooled(evidence: Evidence, prior: PseudoCounts | None) -> tuple[F64, F64]:
    """(pulls, Σr), float64[..., K] each, with the arms' pseudo-counts added."""
    if prior is None:
        return evidence.pulls, evidence.reward
    return evidence.pulls + prior.pulls, evidence.reward + prior.pulls * prior.mean_reward
