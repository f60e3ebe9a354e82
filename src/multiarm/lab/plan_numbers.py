"""Outcomes in numbers, and numbers in words."""

from dataclasses import dataclass
from math import isinf

import numpy as np

from multiarm.domain.stopping import NO_WINNER
from multiarm.lab.plan_simulation import Outcome


@dataclass(frozen=True, slots=True)
class Summary:
    """An Outcome in numbers. Visitors and conversions are means over the runs; a conversion lost is one that the best
    arm would have brought. Quantiles are of the end of the test; inf: beyond the horizon."""

    median_visitors: float
    late_visitors: float
    wrong: float
    no_winner: float
    worse_until_end: float
    worse_until_horizon: float
    lost_until_end: float
    lost_until_horizon: float

    @property
    def any_winner(self) -> float:
        return 1 - self.no_winner


def summarised(outcome: Outcome, gap: float, best: int) -> Summary:
    """gap: by how much the best arm's rate is above the others'; best: that arm, or NO_WINNER where all are equal, and
    every winner is wrong."""
    median, late = np.quantile(outcome.ended, [0.5, 0.9], method="inverted_cdf")
    none = outcome.declared == NO_WINNER
    worse, worse_all = outcome.worse_until_end.mean(), outcome.worse_until_horizon.mean()
    return Summary(
        median_visitors=float(median),
        late_visitors=float(late),
        wrong=float((~none & (outcome.declared != best)).mean()),
        no_winner=float(none.mean()),
        worse_until_end=float(worse),
        worse_until_horizon=float(worse_all),
        lost_until_end=float(worse * gap),
        lost_until_horizon=float(worse_all * gap),
    )


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def share(probability: float) -> str:
    """With one decimal, for columns."""
    return f"{100 * probability:.1f} %"


def days_or_more(visitors: float, visitors_per_day: float, horizon_days: float) -> str:
    """Days, one decimal; "> 60" where the horizon of 60 days came first."""
    return f"> {horizon_days:g}" if isinf(visitors) else f"{visitors / visitors_per_day:.1f}"
