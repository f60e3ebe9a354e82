"""multiarm: online experiments run by multi-armed bandits.

The domain can be used alone, without a server::

    from multiarm import Experiment, Thompson
"""

from multiarm._version import __version__
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import (
    EXP3,
    EXP3IX,
    IMED,
    KLUCB,
    MOSS,
    UCB1,
    UCBV,
    VDBE,
    BayesUCB,
    BetaPrior,
    EpsilonGreedy,
    FixedSplit,
    KLUCBPlus,
    Softmax,
    Thompson,
    ThompsonExponential,
    ThompsonGaussian,
    ThompsonGaussianKnownSd,
    ThompsonPoisson,
    ThompsonRevenue,
    TopTwo,
    UCB1Tuned,
)
from multiarm.domain.records import Decision, Increment
from multiarm.domain.spec import ExperimentSpec, Update

__all__ = [
    "EXP3",
    "EXP3IX",
    "IMED",
    "KLUCB",
    "MOSS",
    "UCB1",
    "UCBV",
    "VDBE",
    "BayesUCB",
    "BetaPrior",
    "Decision",
    "DecisionSigner",
    "EpsilonGreedy",
    "Experiment",
    "ExperimentSpec",
    "FixedSplit",
    "Increment",
    "KLUCBPlus",
    "MultiarmError",
    "Softmax",
    "Thompson",
    "ThompsonExponential",
    "ThompsonGaussian",
    "ThompsonGaussianKnownSd",
    "ThompsonPoisson",
    "ThompsonRevenue",
    "TopTwo",
    "UCB1Tuned",
    "Update",
    "__version__",
]
