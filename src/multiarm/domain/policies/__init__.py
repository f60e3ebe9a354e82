"""All policies. To add one: a file here, and a name in the union."""

from multiarm.domain.policies.base import Observation, Policy, PseudoCounts
from multiarm.domain.policies.epsilon_greedy import EpsilonGreedy
from multiarm.domain.policies.thompson import BetaPrior, Thompson

AnyPolicy = EpsilonGreedy | Thompson

__all__ = ["AnyPolicy", "BetaPrior", "EpsilonGreedy", "Observation", "Policy", "PseudoCounts", "Thompson"]
