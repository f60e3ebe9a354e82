"""Softmax (Boltzmann) exploration: traffic in proportion to e^(mean / temperature)."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Policy, Situation, lifetime, pooled_mean
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.schedule import AnyDecay, scheduled

COLDEST = 1e-12


class Softmax(Policy, frozen=True, tag="softmax"):
    """Each arm in proportion to e^(mean reward / temperature).

    Parameters: `temperature` > 0, in units of reward, default 0.1; `decay`: how it falls with the rewards counted.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    An arm without evidence or prior gets an equal share, 1/K, of the traffic until its first reward.
    Assumes that the temperature fits the unit of the rewards. Fails where it does not: too warm it never settles, too
    cold it stays with the first arm that did well, however little it was tried.
    Source: Sutton and Barto (2018), §2.8 and equation 2.11; Cesa-Bianchi et al. (2017) for why no schedule suits all.
    """

    temperature: Annotated[
        float, Meta(ge=1e-9, le=1e12, description="In units of reward: the warmer, the more even.")
    ] = 0.1
    decay: Annotated[AnyDecay | None, Meta(description="How the temperature falls; null: it stays.")] = None

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        _, mean = pooled_mean(evidence, situation)
        unknown = np.isnan(mean)
        value = np.where(unknown, -np.inf, -mean if situation.minimize else mean)
        temperature = np.maximum(scheduled(self.temperature, self.decay, lifetime(evidence, situation)), COLDEST)
        return beside_unknown(softmax(value, temperature), unknown)


def softmax(value: F64, temperature: F64) -> F64:
    """e^(value / temperature), float64[..., K], in proportion; all −inf: an even split."""
    top = value.max(axis=-1, keepdims=True)
    fall = (value - np.where(np.isfinite(top), top, 0.0)) / temperature
    weight = np.exp(np.where(np.isfinite(top), fall, 0.0))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def beside_unknown(probabilities: F64, unknown: Booleans) -> F64:
    """1/K to each unknown arm, float64[..., K]; the rest to the others, in proportion to their probabilities.

    What an arm costs until something is known of it is thereby bounded, however long its rewards take.
    """
    if not unknown.any():
        return probabilities
    share = np.where(unknown, 0.0, probabilities)
    total = share.sum(axis=-1, keepdims=True)
    left = 1 - unknown.mean(axis=-1, keepdims=True)
    # where the others have no mass at all they share what is left
    even = ~unknown / np.maximum((~unknown).sum(axis=-1, keepdims=True), 1)
    known = np.where(total > 0, share / np.where(total > 0, total, 1.0), even)
    return np.asarray(np.where(unknown, 1.0 / unknown.shape[-1], left * known))
