"""What a policy is: which statistics to add up, and how to turn the sums into probabilities."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np

from multiarm.domain.errors import DecisionRequired, InvalidField, InvalidReward
from multiarm.domain.evidence import BASE_COLUMNS, F64, I64, Evidence
from multiarm.domain.inference import normal_probability_best, student_t_interval

REWARD_LIMIT = 1e12
NOISE = 1e-14  # of Σr²: what rounding leaves of a variance that is none


class Observation(msgspec.Struct, frozen=True, gc=False):
    """A reward as a policy sees it; `origin` is the experiment's `reward_origin`, `propensity` that of the draw.

    exposure, events: what a rate is counted over, for the policies that take them.
    """

    reward: float
    origin: float = 0.0
    time: float = 0.0
    propensity: float | None = None
    exposure: float = 1.0
    events: float = 1.0


class Observations(NamedTuple):
    """Many at once, float64[...] each, about an origin of 0."""

    reward: F64
    propensity: F64
    exposure: F64
    events: F64


class PseudoCounts(NamedTuple):
    """The arms' own priors: `pulls` float64[K] imagined rewards of mean `mean_reward` float64[K]."""

    pulls: F64
    mean_reward: F64


@dataclass(frozen=True, slots=True)
class Situation:
    """What an allocation depends on beside the evidence of its K arms.

    prior: the arms' own. pending: float64[..., K], draws not rewarded yet. head_start: float64[K], see
    `Policy.head_start`. other_pulls, other_pull_count: of arms that are not among the K, disabled and deleted ones;
    effective pulls and draws pending, and rewards counted. minimize: the smallest value is the best.
    """

    prior: PseudoCounts | None = None
    pending: F64 | None = None
    head_start: F64 | None = None
    other_pulls: float | F64 = 0.0
    other_pull_count: int = 0
    minimize: bool = False


NOTHING_ELSE = Situation()


class Traits(NamedTuple):
    """What a policy declares.

    columns: the names of its C statistics; path_columns: how many of the last depend on the order of the rewards;
    reward_min, reward_max: the range of its rewards; can_minimize: whether the smallest mean can be the goal;
    can_forget: whether a half-life makes sense; takes_prior: whether an arm can have its own; takes_pending: whether
    draws that are not rewarded yet matter; needs_decision: whether each reward must be that of a decision;
    takes_exposure, takes_events: whether an update can say these; random_share: of experiments that do not say.
    """

    columns: tuple[str, ...] = BASE_COLUMNS
    path_columns: int = 0
    reward_min: float = -REWARD_LIMIT
    reward_max: float = REWARD_LIMIT
    can_minimize: bool = True
    can_forget: bool = True
    takes_prior: bool = True
    takes_pending: bool = False
    needs_decision: bool = False
    takes_exposure: bool = False
    takes_events: bool = False
    random_share: float = 0.0


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all policies. Its parameters are its fields, its JSON is its struct; it holds no state."""

    own_traits: ClassVar[Traits] = Traits()

    @property
    def traits(self) -> Traits:
        return self.own_traits

    @property
    def name(self) -> str:
        """For people."""
        return str(self.__struct_config__.tag)

    def check_reward(self, reward: float) -> None:
        """Raise InvalidReward unless `reward` lies in the policy's range (nan never does)."""
        traits = self.own_traits
        if not traits.reward_min <= reward <= traits.reward_max:
            raise InvalidReward(
                f"A reward lies between {traits.reward_min:g} and {traits.reward_max:g} here; got {reward!s:.40}."
            )

    def check_measures(self, *, decision: bool, exposure: float | None = None, events: float | None = None) -> None:
        """Raise DecisionRequired or InvalidField unless an update may come without a decision, or with these."""
        traits = self.traits
        if traits.needs_decision and not decision:
            raise DecisionRequired("This policy weighs rewards by their propensity: send the decision_id of the draw.")
        if exposure is not None and not traits.takes_exposure:
            raise InvalidField("exposure", "This experiment's policy takes no exposure; leave it out.")
        if events is not None and not traits.takes_events:
            raise InvalidField("events", "This experiment's policy takes no events; leave it out.")

    def increment(self, observation: Observation) -> tuple[float, ...]:
        """What one reward adds to its arm's row: C numbers, in the order of `columns`."""
        deviation = observation.reward - observation.origin
        return (1.0, deviation, deviation * deviation)

    def increments(self, observations: Observations) -> F64:
        """The same for many rewards at once, float64[..., C]."""
        reward = observations.reward
        return np.stack([np.ones_like(reward), reward, reward * reward], axis=-1)

    def completed(self, numbers: tuple[float, ...], sums: tuple[float, ...], arm_count: int) -> tuple[float, ...]:
        """An increment whose last `path_columns` depend on the arm's row `sums` as it stands (none: nothing yet)."""
        del sums, arm_count
        return numbers

    def completed_many(self, numbers: F64, sums: F64, arm_count: int) -> F64:
        """The same for increments float64[..., C] of as many rows."""
        del sums, arm_count
        return numbers

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        """Probabilities float64[..., K] over the K arms of `evidence`, exact. Pure."""
        raise NotImplementedError

    def sample(self, evidence: Evidence, rng: np.random.Generator, situation: Situation = NOTHING_ELSE) -> I64:
        """Arms int64[...] drawn from the same distribution as `allocate`, by chance: one for each leading index."""
        return choose(self.allocate(evidence, situation), rng)

    def head_start(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> float:
        """What an arm that joins these K begins with, beside its prior; 0 where a policy compares means, not sums."""
        del evidence, situation
        return 0.0

    def probability_best(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64 | None:
        """P(arm is best) float64[K]; None while some arm has fewer than two pulls. Here: the Normal analogue."""
        return normal_probability_best(evidence, minimize=situation.minimize)

    def interval(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        """95 % interval of each arm's mean, float64[K, 2], nan where there is none. Here: Student-t."""
        del situation
        return student_t_interval(evidence)

    def expected_cost_s(self, arm_count: int) -> float:
        """A guess at what `allocate` costs, in seconds, until it has been measured."""
        return 5e-5 + 1e-7 * arm_count


def with_columns(increments: F64, *columns: F64) -> F64:
    """Increments float64[..., C] with further columns float64[...]."""
    return np.concatenate([increments, np.stack(columns, axis=-1)], axis=-1)


def choose(probabilities: F64, rng: np.random.Generator) -> I64:
    """Arms int64[...] by chance, from probabilities float64[..., K]."""
    cumulative = np.cumsum(probabilities, axis=-1)
    u = rng.random(probabilities.shape[:-1])[..., None] * cumulative[..., -1:]
    return np.asarray((u >= cumulative).sum(axis=-1), dtype=np.int64)


def pooled(evidence: Evidence, situation: Situation) -> tuple[F64, F64]:
    """(pulls, Σr), float64[..., K] each, with the arms' pseudo-counts added."""
    prior = situation.prior
    if prior is None:
        return evidence.pulls, evidence.reward
    return evidence.pulls + prior.pulls, evidence.reward + prior.pulls * prior.mean_reward


def pooled_mean(evidence: Evidence, situation: Situation) -> tuple[F64, F64]:
    """(pulls, mean reward), float64[..., K] each, pseudo-counts included; nan where there is neither."""
    pulls, reward = pooled(evidence, situation)
    return pulls, reward / np.where(pulls > 0, pulls, np.nan)


def moments(evidence: Evidence, situation: Situation, variance: float | F64) -> tuple[F64, F64, F64]:
    """(pulls, mean, Σ(r − mean)²), float64[..., K] each, about the origin, the arms' own priors included.

    variance: of the rewards that the priors imagine.
    """
    pulls, mean, squares = own_moments(evidence)
    if situation.prior is None:
        return pulls, mean, squares
    imagined = situation.prior.pulls
    total = pulls + imagined
    share = imagined / np.where(total > 0, total, 1.0)
    gap = (situation.prior.mean_reward - evidence.origin) - mean
    return total, mean + share * gap, squares + imagined * variance + pulls * share * gap * gap


def own_moments(evidence: Evidence) -> tuple[F64, F64, F64]:
    """The same of the rewards alone; what rounding makes of a variance that is none is 0."""
    pulls, deviation, raw = evidence.sums[..., 0], evidence.sums[..., 1], evidence.sums[..., 2]
    mean = deviation / np.where(pulls > 0, pulls, 1.0)
    squares = raw - deviation * mean
    return pulls, mean, np.where(squares > NOISE * raw, squares, 0.0)


def lifetime(evidence: Evidence, situation: Situation) -> I64:
    """t, int64[...]: the rewards counted by all arms since the last reset, whatever became of them since."""
    return np.asarray(evidence.pull_count.sum(axis=-1) + situation.other_pull_count, dtype=np.int64)
