"""multiarm: online experiments run by multi-armed bandits.

The domain can be used alone, without a server::

    from multiarm import Experiment, Thompson
"""

from multiarm._version import __version__
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import BetaPrior, EpsilonGreedy, Thompson
from multiarm.domain.records import Decision, Increment
from multiarm.domain.spec import ExperimentSpec, Update

__all__ = [
    "BetaPrior",
    "Decision",
    "DecisionSigner",
    "EpsilonGreedy",
    "Experiment",
    "ExperimentSpec",
    "Increment",
    "MultiarmError",
    "Thompson",
    "Update",
    "__version__",
]
