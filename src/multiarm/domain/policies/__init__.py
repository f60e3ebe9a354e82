"""All policies. To add one: a file here, and a name in the union."""

from multiarm.domain.policies.base import (
    NOTHING_ELSE,
    Observation,
    Observations,
    Policy,
    PseudoCounts,
    Situation,
    Traits,
)
from multiarm.domain.policies.bayes_ucb import BayesUCB
from multiarm.domain.policies.epsilon_greedy import EpsilonGreedy
from multiarm.domain.policies.exp3 import EXP3, EXP3IX
from multiarm.domain.policies.fixed_split import FixedSplit
from multiarm.domain.policies.gaussian import GaussianPrior, MeanPrior, ThompsonGaussian, ThompsonGaussianKnownSd
from multiarm.domain.policies.kl_ucb import IMED, KLUCB, KLUCBPlus
from multiarm.domain.policies.rates import RatePrior, ThompsonExponential, ThompsonPoisson
from multiarm.domain.policies.revenue import ThompsonRevenue
from multiarm.domain.policies.schedule import ExponentialDecay, InverseDecay, LinearDecay
from multiarm.domain.policies.softmax import Softmax
from multiarm.domain.policies.thompson import BetaPrior, Thompson
from multiarm.domain.policies.top_two import TopTwo
from multiarm.domain.policies.ucb import MOSS, UCB1, UCBV, UCB1Tuned
from multiarm.domain.policies.vdbe import VDBE

AnyPolicy = (
    EpsilonGreedy
    | VDBE
    | UCB1
    | UCB1Tuned
    | UCBV
    | MOSS
    | KLUCB
    | KLUCBPlus
    | BayesUCB
    | IMED
    | Thompson
    | ThompsonGaussian
    | ThompsonGaussianKnownSd
    | ThompsonPoisson
    | ThompsonExponential
    | ThompsonRevenue
    | TopTwo
    | Softmax
    | EXP3
    | EXP3IX
    | FixedSplit
)

__all__ = [
    "EXP3",
    "EXP3IX",
    "IMED",
    "KLUCB",
    "MOSS",
    "NOTHING_ELSE",
    "UCB1",
    "UCBV",
    "VDBE",
    "AnyPolicy",
    "BayesUCB",
    "BetaPrior",
    "EpsilonGreedy",
    "ExponentialDecay",
    "FixedSplit",
    "GaussianPrior",
    "InverseDecay",
    "KLUCBPlus",
    "LinearDecay",
    "MeanPrior",
    "Observation",
    "Observations",
    "Policy",
    "PseudoCounts",
    "RatePrior",
    "Situation",
    "Softmax",
    "Thompson",
    "ThompsonExponential",
    "ThompsonGaussian",
    "ThompsonGaussianKnownSd",
    "ThompsonPoisson",
    "ThompsonRevenue",
    "TopTwo",
    "Traits",
    "UCB1Tuned",
]
