"""Thompson sampling for rates: events counted over an exposure, and waiting times until an event."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import BASE_COLUMNS, F64, Evidence
from multiarm.domain.policies.base import Observation, Observations, Situation, Traits, with_columns
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.thompson import PosteriorPolicy
from multiarm.domain.posteriors import GammaPosterior, Posterior

EVENTS, EXPOSURE = 3, 4
NO_EXPOSURE = 1e-280  # as good as none: events over it would be more than a float can tell
COLUMNS = (*BASE_COLUMNS, "events", "exposure")


class RatePrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Gamma distribution of the rate that every arm starts from. Without exposure no unit of time is assumed."""

    events: Annotated[float, Meta(ge=1e-3, le=1e9, description="Imagined events, 0.001 to 1e9.")] = 0.5
    exposure: Annotated[float, Meta(ge=0, le=1e12, description="Over an imagined exposure, 0 to 1e12.")] = 0.0


class RatePolicy(PosteriorPolicy, frozen=True):
    """Base of both: the posterior of the rate is Gamma(events, exposure), the prior's included."""

    prior: Annotated[RatePrior, Meta(description="Where every arm starts.")] = RatePrior()

    def unready(self, evidence: Evidence, situation: Situation) -> Booleans:
        return np.asarray(self._counts(evidence, situation)[1] <= NO_EXPOSURE)

    def rate(self, evidence: Evidence, situation: Situation) -> GammaPosterior:
        events, exposure = self._counts(evidence, situation)
        return GammaPosterior(events, np.where(exposure > NO_EXPOSURE, exposure, 1.0))

    def _counts(self, evidence: Evidence, situation: Situation) -> tuple[F64, F64]:
        """(events, exposure), float64[..., K] each, with all priors."""
        events, exposure = self.imagined(situation)
        return (
            self.prior.events + events + np.maximum(evidence.sums[..., EVENTS], 0.0),
            self.prior.exposure + exposure + np.maximum(evidence.sums[..., EXPOSURE], 0.0),
        )

    def imagined(self, situation: Situation) -> tuple[float | F64, float | F64]:
        """(events, exposure) of the arms' own priors."""
        raise NotImplementedError


class ThompsonPoisson(RatePolicy, frozen=True, tag="thompson_poisson"):
    """Show each arm with the probability that its rate of events is the largest, events Poisson.

    A reward counts events (0, 1, 2 …; fractions are taken too) over the `exposure` that the update states, default 1.
    Parameters: `prior` = {events in [0.001, 1e9], default 0.5; exposure in [0, 1e12], default 0}, a Gamma distribution;
    the default is Jeffreys' and assumes no unit.
    Evidence: effective pulls, reward, reward², events, exposure.
    Cost: one quadrature a recompute, one bisection a draw, five additions an update.
    Assumes that events come independently, at a steady rate; counts that vary more than that make it too sure. Until
    its first reward an arm gets an equal share, unless the prior has exposure.
    Source: Korda, Kaufmann and Munos (2013), Thompson sampling for one-dimensional exponential family bandits, table 1.
    """

    own_traits = Traits(columns=COLUMNS, reward_min=0.0, takes_exposure=True)

    def increment(self, observation: Observation) -> tuple[float, ...]:
        return (*super().increment(observation), observation.reward, observation.exposure)

    def increments(self, observations: Observations) -> F64:
        return with_columns(super().increments(observations), observations.reward, observations.exposure)

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        return self.rate(evidence, situation)

    def imagined(self, situation: Situation) -> tuple[float | F64, float | F64]:
        prior = situation.prior
        return (0.0, 0.0) if prior is None else (prior.pulls * prior.mean_reward, prior.pulls)


class ThompsonExponential(RatePolicy, frozen=True, tag="thompson_exponential"):
    """Show each arm with the probability that its mean waiting time is the longest (or, to minimize, the shortest).

    A reward is a time that was waited; `events`, default 1, says how many events ended it: 0 where the event has not
    come yet (censored), more where several waits are reported as one. An arm's value is exposure / events.
    Parameters: `prior` = {events in [0.001, 1e9], default 0.5; exposure in [0, 1e12], default 0}: the rate's Gamma
    distribution; the default assumes no unit.
    Evidence: effective pulls, reward, reward², events, exposure.
    Cost: one quadrature a recompute, one bisection a draw, five additions an update.
    Assumes waiting times without memory: an hour more is as likely after ten as after none. `mean_reward` in the
    statistics is over the times as reported, censored ones too; the interval is of the mean waiting time.
    Source: Korda, Kaufmann and Munos (2013), table 1; Cox and Oakes (1984), §3.2, for censoring.
    """

    own_traits = Traits(columns=COLUMNS, reward_min=0.0, takes_events=True)

    def increment(self, observation: Observation) -> tuple[float, ...]:
        return (*super().increment(observation), observation.events, observation.reward)

    def increments(self, observations: Observations) -> F64:
        return with_columns(super().increments(observations), observations.events, observations.reward)

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        return self.rate(evidence, situation).mirrored()

    def imagined(self, situation: Situation) -> tuple[float | F64, float | F64]:
        prior = situation.prior
        return (0.0, 0.0) if prior is None else (prior.pulls, prior.pulls * prior.mean_reward)

    def credible(self, evidence: Evidence, situation: Situation) -> F64:
        return np.asarray(1 / self.rate(evidence, situation).interval()[..., ::-1])
