"""For people who study policies offline: `simulate` plays a study, `read_study` reads one from TOML."""

from multiarm.lab.environments import Bernoulli, Gaussian, Poisson, Revenue
from multiarm.lab.motion import Change, LinearDrift, RateChange, WaveDrift
from multiarm.lab.parallel import simulate
from multiarm.lab.results import Outcome, Result, Row
from multiarm.lab.study import Entry, Study, at_delays
from multiarm.lab.toml import decode_study, read_study

__all__ = [
    "Bernoulli",
    "Change",
    "Entry",
    "Gaussian",
    "LinearDrift",
    "Outcome",
    "Poisson",
    "RateChange",
    "Result",
    "Revenue",
    "Row",
    "Study",
    "WaveDrift",
    "at_delays",
    "decode_study",
    "read_study",
    "simulate",
]
