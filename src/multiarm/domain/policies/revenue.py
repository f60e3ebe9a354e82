"""Thompson sampling for revenue: mostly zeros, and a few rewards of very different size."""

from math import log
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta, structs

from multiarm.domain.errors import InvalidReward
from multiarm.domain.evidence import BASE_COLUMNS, F64, Evidence
from multiarm.domain.policies.base import Observation, Observations, Situation, Traits, with_columns
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.gaussian import Deviation, GaussianPrior, student_posterior, too_few
from multiarm.domain.policies.thompson import PosteriorPolicy
from multiarm.domain.posteriors import Posterior

if TYPE_CHECKING:
    from multiarm.domain.hurdle import Logs

POSITIVES, LOGS, SQUARED_LOGS = 3, 4, 5


class ThompsonRevenue(PosteriorPolicy, frozen=True, tag="thompson_revenue"):
    """Show each arm with the probability that its mean revenue a draw is the largest.

    Parameters: `model`, "clt" (default) or "hurdle_lognormal"; `reward_cap`, null or > 0: what a reward is above it
    does not count (the metric is then the mean of min(r, cap); rows and ledger keep the reward as it came); `prior`,
    for "clt", as for thompson_gaussian; `log_variance_limit` in [0.01, 25], default 4, for "hurdle_lognormal".
    Evidence: effective pulls, reward, reward²; for the hurdle also rewards above 0, Σ ln r, Σ ln² r of those.
    Cost: "clt" one quadrature a recompute; "hurdle_lognormal" about 2 ms for each arm that changed, off the event loop.

    "clt" takes the mean of all rewards, zeros included, as Student-t: right in the limit whatever the rewards are like,
    so it finds the best mean in the end; rough while an arm has few rewards above 0. "hurdle_lognormal" takes a reward
    as 0 or log-normal, and the mean as θ·exp(μ + σ²/2); sooner sure where that is so, wrong for ever where it is not.
    σ² is truncated at `log_variance_limit`: without a limit the posterior mean of the revenue is infinite. An arm with
    fewer than 5 rewards above 0 borrows the missing ones from all arms' pooled logarithms; until there are 5 in all,
    the split is even. Negative rewards are refused, and to minimize makes no sense there.
    Source: Honda and Takemura (2014) for both priors; Deng and Shi (2016), Data-driven metric development, for caps.
    """

    model: Annotated[Literal["clt", "hurdle_lognormal"], Meta(description="What is assumed of the rewards.")] = "clt"
    reward_cap: Annotated[Deviation, Meta(description="A larger reward counts as this; null: as it is.")] | None = None
    prior: Annotated[GaussianPrior | None, Meta(description="For clt: where every arm starts; null: no unit.")] = None
    log_variance_limit: Annotated[
        float, Meta(ge=0.01, le=25, description="For hurdle_lognormal: the largest variance of ln(reward).")
    ] = 4.0

    @property
    def traits(self) -> Traits:
        return HURDLE if self.model == "hurdle_lognormal" else CLT

    @property
    def name(self) -> str:
        return f"thompson_revenue with model {self.model}"

    def check_reward(self, reward: float) -> None:
        super().check_reward(reward)
        if reward < 0 and self.model == "hurdle_lognormal":
            raise InvalidReward(f"Revenue is not negative under hurdle_lognormal; got {reward!s:.40}. Try model clt.")

    def increment(self, observation: Observation) -> tuple[float, ...]:
        reward = observation.reward
        if self.reward_cap is not None and reward > self.reward_cap:
            observation = structs.replace(observation, reward=self.reward_cap)
        base = super().increment(observation)
        if self.model == "clt":
            return base
        logarithm = log(observation.reward) if reward > 0 else 0.0
        return (*base, float(reward > 0), logarithm, logarithm * logarithm)

    def increments(self, observations: Observations) -> F64:
        reward = observations.reward if self.reward_cap is None else np.minimum(observations.reward, self.reward_cap)
        base = super().increments(observations._replace(reward=reward))
        if self.model == "clt":
            return base
        logarithm = np.log(np.where(reward > 0, reward, 1.0))
        return with_columns(base, (reward > 0).astype(np.float64), logarithm, logarithm * logarithm)

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        if self.model == "hurdle_lognormal":
            return self._hurdle(evidence)
        return student_posterior(evidence, situation, self.prior)

    def unready(self, evidence: Evidence, situation: Situation) -> Booleans:
        if self.model == "hurdle_lognormal":
            return ~np.broadcast_to(self._logs(evidence).ready[..., None], evidence.pulls.shape)
        return too_few(evidence, situation, self.prior)

    def credible(self, evidence: Evidence, situation: Situation) -> F64:
        interval = super().credible(evidence, situation)
        return interval if self.model == "hurdle_lognormal" else evidence.origin + interval

    def _hurdle(self, evidence: Evidence) -> Posterior:
        from multiarm.domain.hurdle import HurdlePosterior  # here: few experiments need it

        logs = self._logs(evidence)
        pulls, positives = evidence.pulls, evidence.sums[..., POSITIVES]
        return HurdlePosterior(pulls, positives, logs.total, logs.square_total, self.log_variance_limit, logs.number)

    def _logs(self, evidence: Evidence) -> "Logs":
        from multiarm.domain.hurdle import pooled_logs

        return pooled_logs(*(evidence.sums[..., column] for column in (POSITIVES, LOGS, SQUARED_LOGS)))

    def expected_cost_s(self, arm_count: int) -> float:
        return 3e-3 * arm_count if self.model == "hurdle_lognormal" else super().expected_cost_s(arm_count)


CLT = Traits()
HURDLE = Traits(
    columns=(*BASE_COLUMNS, "positives", "logs", "squared_logs"), reward_min=0.0, can_minimize=False, takes_prior=False
)
