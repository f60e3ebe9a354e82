"""What the evidence says about each arm: intervals of the mean, and the Normal analogue of P(best)."""

import numpy as np

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.posteriors import NormalPosterior
from multiarm.domain.probability import probability_best

CONFIDENCE = 0.95


def student_t_interval(evidence: Evidence) -> F64:
    """Student-t interval of each mean, float64[..., K, 2], with n − 1 degrees of freedom; nan below two pulls."""
    from scipy.special import stdtrit  # here: only `stats` needs it, and it takes 20 MB

    pulls = np.where(evidence.pulls >= 2, evidence.pulls, np.nan)
    half_width = stdtrit(pulls - 1, (1 + CONFIDENCE) / 2) * np.sqrt(evidence.variance / pulls)
    return np.stack([evidence.mean - half_width, evidence.mean + half_width], axis=-1)


def normal_probability_best(evidence: Evidence, *, minimize: bool = False) -> F64 | None:
    """P(mean is best), float64[K], each mean Normal(m, s²/n); None while an arm has fewer than two pulls.

    All about the origin, for the digits' sake. An arm whose rewards never varied counts as known to one part in 10⁹ of
    the largest deviation about.
    """
    if evidence.pulls.size == 0 or evidence.pulls.min() < 2:
        return None
    deviation = -evidence.mean_deviation if minimize else evidence.mean_deviation
    scale = np.sqrt(evidence.variance / evidence.pulls)
    finest = 1e-9 * float(np.abs(deviation).max()) or 1.0
    return probability_best(NormalPosterior(deviation, np.where(scale > 0, scale, finest)))
