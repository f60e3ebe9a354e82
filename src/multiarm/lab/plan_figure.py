"""The answer to a plan as a picture. matplotlib is imported when it is asked for, without pyplot or a display."""

from typing import TYPE_CHECKING

import numpy as np

from multiarm.lab.plan import Answer, Way
from multiarm.lab.plan_numbers import percent
from multiarm.lab.plan_report import if_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By the kind of allocation (Okabe and Ito's colours, told apart by the colour-blind too), and by the rule.
COLOURS = {"fixed": "#000000", "sequential": "#0072B2", "equal": "#009E73", "thompson": "#E69F00", "top": "#CC79A7"}
PEEK_COLOUR = "#D55E00"
STYLES = {"always": (0, (1, 1.2)), "tuned": "solid", "glr": (0, (6, 2)), "peek": "solid"}


def figure(answer: Answer) -> "Figure":
    """16 : 9, for a slide: who knows when, what it costs, and how often a winner is declared when there is none."""
    from matplotlib.figure import Figure

    plan = answer.plan
    picture = Figure(figsize=(16, 9), dpi=120, layout="constrained")
    grid = picture.add_gridspec(2, 2, width_ratios=[1.25, 1], height_ratios=[1, 1])
    found, lost, false = (picture.add_subplot(spot) for spot in (grid[:, 0], grid[0, 1], grid[1, 1]))
    even = f", {percent(plan.random_share)} random" if plan.random_share else ""
    picture.suptitle(
        f"{percent(plan.base_rate)} base rate, +{percent(plan.lift)} hoped for, {plan.arms} arms, "
        f"{plan.visitors_per_day:,.0f} visitors a day, rewards after {plan.delay_hours:g} h{even}",
        fontsize=18,
        fontweight="bold",
    )
    draw_found(found, answer)
    draw_lost(lost, answer)
    draw_false(false, answer)
    handles, labels = found.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=12, frameon=False)
    return picture


def draw_found(axes: "Axes", answer: Answer) -> None:
    """The distribution function of the time to the right winner."""
    plan = answer.plan
    for way in answer.ways:
        right = np.where(way.better.declared == 0, way.better.ended, np.inf)
        draw_share_by_day(axes, answer, way, right)
    axes.axhline(100 * plan.power, color="#999999", linewidth=1, zorder=0)
    axes.text(plan.horizon_days, 100 * plan.power + 1, f"{percent(plan.power)} power", ha="right", color="#666666")
    axes.set_title("If one arm is better: who has found it, and when", fontsize=15)
    axes.set_ylabel("experiments that have declared the better arm (%)", fontsize=13)
    axes.set_xlabel("days since the start", fontsize=13)
    axes.set_ylim(0, 102)
    tidy(axes, plan.horizon_days)


def draw_false(axes: "Axes", answer: Answer) -> None:
    """The same where every winner is a false one."""
    plan = answer.plan
    highest = 100 * plan.alpha
    for way in answer.ways:
        wrong = np.where(way.equal.declared >= 0, way.equal.ended, np.inf)
        highest = max(highest, draw_share_by_day(axes, answer, way, wrong))
    axes.axhline(100 * plan.alpha, color="#666666", linewidth=1.5, linestyle=(0, (4, 3)), zorder=0)
    axes.text(
        plan.horizon_days,
        100 * plan.alpha + highest / 50,
        f"{percent(plan.alpha)} allowed",
        ha="right",
        color="#444444",
    )
    axes.set_title("If all arms are equal: false winners", fontsize=15)
    axes.set_ylabel("experiments that have\ndeclared a winner (%)", fontsize=13)
    axes.set_xlabel("days since the start", fontsize=13)
    axes.set_ylim(0, highest * 1.15)
    tidy(axes, plan.horizon_days)


def draw_share_by_day(
    axes: "Axes", answer: Answer, way: Way, visitors: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> float:
    """A step for every experiment of `visitors` that is over within the horizon; the share reached, in percent."""
    plan = answer.plan
    days = np.sort(visitors[np.isfinite(visitors)]) / plan.visitors_per_day
    shares = 100 * np.arange(1, len(days) + 1) / len(visitors)
    reached = float(shares[-1]) if len(shares) else 0.0
    axes.step(
        [0.0, *days, plan.horizon_days],
        [0.0, *shares, reached],
        where="post",
        color=colour(way),
        linestyle=STYLES.get(way.key.rsplit("_", 1)[-1], "solid"),
        linewidth=3 if way.guaranteed else 2,
        label=way.name if way.guaranteed else f"{way.name}: no guarantee",
        clip_on=False,
    )
    return reached


def draw_lost(axes: "Axes", answer: Answer) -> None:
    """Conversions lost over the horizon, those until the verdict in full colour; ways that share them share a bar."""
    plan = answer.plan
    bars = [(way, if_better(answer, way)) for way in reversed(answer.ways)]
    for place, (way, numbers) in enumerate(bars):
        whole, until = numbers.lost_until_horizon, numbers.lost_until_end
        axes.barh(place, until, color=colour(way), height=0.7)
        axes.barh(place, whole - until, left=until, color=colour(way), alpha=0.35, height=0.7, hatch="//")
        axes.text(whole, place, f"  {whole:,.0f}", va="center", fontsize=12)
    axes.set_yticks(range(len(bars)), [way.name for way, _ in bars], fontsize=11)
    axes.set_xlim(0, 1.12 * max(numbers.lost_until_horizon for _, numbers in bars))
    axes.set_title(f"Conversions lost in {plan.horizon_days:g} days (hatched: after the verdict)", fontsize=15)
    axes.set_xlabel("conversions, mean, against always showing the better arm", fontsize=13, loc="right")
    axes.tick_params(labelsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def colour(way: Way) -> str:
    return COLOURS[way.key.split("_", 1)[0]] if way.guaranteed else PEEK_COLOUR


def tidy(axes: "Axes", horizon_days: float) -> None:
    axes.set_xlim(0, horizon_days)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
