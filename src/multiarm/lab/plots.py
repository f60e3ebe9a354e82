"""Plots for a talk: cumulative regret, where the traffic went, and how regret varies from run to run.

Legible in black and white: lines differ in their dashes, arms in their brightness, and all are named where they are.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from multiarm.domain.evidence import F64, I64
from multiarm.lab.results import Outcome, Result
from multiarm.lab.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d9730d", "#2e7d4f", "#8a3ffc", "#c0392b", "#555555", "#b8860b", "#c2185b")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)))
SHADES = (0.0, 0.92)  # of the colour map, from the best arm to the worst
SHOWN_ARMS = 8
SHOWN_DECADES = 3  # of the curves of regret: before, there is nothing to see
POINTS_TOGETHER = 5
TITLE_WIDTH = 30  # characters of a panel's title before it wraps
GREY = "#6b6b6b"
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "multiarm",
}


def plot(results: Sequence[Result], directory: Path) -> list[Path]:
    """regret, shares and distribution, each as PNG and as SVG; the files written."""
    from matplotlib import rc_context  # here: it takes long to load, and only plots need it

    written = []
    with rc_context(STYLE):
        for name, figure in (
            ("regret", regret_figure(results)),
            ("shares", shares_figure(results)),
            ("distribution", distribution_figure(results)),
        ):
            for form, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
                path = directory / f"{name}.{form}"
                figure.savefig(path, format=form, **options)
                figure.set_layout_engine("none")  # what was laid out once need not be again
                written.append(path)
    return written


def new_figure(width: float, height: float, title: str, subtitle: str) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    head = 0.62 + 0.18 * subtitle.count("\n")
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - head / height)))
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.1 / width, 1 - 0.37 / height, subtitle, fontsize=9.5, color=GREY, va="top")
    return figure


def subtitle(results: Sequence[Result]) -> str:
    study = results[0].study
    environment = study.environment
    kind = str(environment.__struct_config__.tag)
    level = ", ".join(f"{value:g}" for value in environment.start[:10]) + (" …" if len(environment.start) > 10 else "")
    first = " at first" if environment.drift is not None or environment.turns else ""
    if environment.goal == "minimize":
        first += ", the smallest is the best"
    parts = [f"{kind[0].upper()}{kind[1:]} arms, {environment.level_name} {level}{first}", f"{study.runs:,} runs"]
    if len(results) == 1 and environment.delay:
        parts.append(delay_words(results[0]))
    return "; ".join(parts)


def delay_words(result: Result) -> str:
    environment = result.study.environment
    mean = "on average " if environment.delay_kind == "geometric" and environment.delay else ""
    return f"rewards known {mean}{environment.delay:,g} draws later" if environment.delay else "rewards known at once"


def regret_figure(results: Sequence[Result]) -> "Figure":
    """Cumulative regret over time, a panel for each delay."""
    width, height = (8.6, 5.2) if len(results) == 1 else (0.6 + 5.0 * len(results), 5.2)
    figure = new_figure(width, height, "Regret: what was lost by not always drawing the best arm", subtitle(results))
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    top = 1.08 * max(float(np.quantile(each.regret, 0.75)) for result in results for each in result.outcomes)
    top = max(top, 1.05 * max(each.regret_mean for result in results for each in result.outcomes), 1e-9)
    for axes, result in zip(panels, results, strict=True):
        draw_regret(axes, result, top)
        if len(results) > 1:
            axes.set_title(delay_words(result))
    panels[0].set_ylabel("cumulative regret (in units of reward)")
    return figure


def draw_regret(axes: "Axes", result: Result, top: float) -> None:
    steps, slope = result.study.steps, result.lai_robbins
    for number, outcome in enumerate(result.outcomes):
        look = line_style(number)
        low, high = np.quantile(outcome.curves.regret, (0.25, 0.75), axis=0)
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.13, linewidth=0)
        axes.plot(steps, outcome.curves.regret.mean(axis=0), linewidth=2, **look)
    axes.plot([], [], color=GREY, linewidth=2, label="mean of all runs")
    axes.fill_between([], [], [], color=GREY, alpha=0.25, linewidth=0, label="the middle half of the runs")
    if slope:
        draw_slope(axes, result, slope)
    axes.legend(loc="upper left", fontsize=8.5, handlelength=2.6)
    time_axis(axes, result.study, SHOWN_DECADES)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter("{x:,g}")
    ends = [outcome.regret_mean for outcome in result.outcomes]
    for number, (outcome, end, at) in enumerate(zip(result.outcomes, ends, apart(ends, 0.052 * top), strict=True)):
        colour = line_style(number)["color"]
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0}
        axes.annotate(
            f"{outcome.entry.name}  {end:,.0f}" if end >= 99.5 else f"{outcome.entry.name}  {end:.3g}",
            (1, end),
            xytext=(1.035, at),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops=arrow,
        )


def draw_slope(axes: "Axes", result: Result, slope: float) -> None:
    """Below the curves, for it is their slope that is to be compared with it: where it begins means nothing."""
    steps = result.study.steps
    end = 0.7 * min(outcome.regret_mean for outcome in result.outcomes)
    line = end - slope * np.log(steps[-1] / steps)
    axes.plot(
        steps[line >= 0],
        line[line >= 0],
        color="black",
        linewidth=1.2,
        linestyle=(0, (1, 1.6)),
        label=f"slope of Lai and Robbins: {slope:.3g} · ln t\n(asymptotic, not a bound at finite times)",
    )


def shares_figure(results: Sequence[Result]) -> "Figure":
    """Where the traffic went, a panel for each policy and delay."""
    outcomes = [(result, outcome) for result in results for outcome in result.outcomes]
    columns = min(len(results[0].outcomes), 4 if len(results[0].outcomes) != 5 else 3)
    rows = -(-len(results[0].outcomes) // columns) * len(results)
    figure = new_figure(
        max(2.9 * columns + 1.6, 7.0), 2.3 * rows + 1.2, "Share of the traffic that each arm got", subtitle(results)
    )
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    per_delay = rows // len(results) * columns
    for axes in grid.flat:
        axes.set_visible(False)
    for index, (result, outcome) in enumerate(outcomes):
        place = index // len(result.outcomes) * per_delay + index % len(result.outcomes)
        axes = grid.flat[place]
        axes.set_visible(True)
        draw_shares(axes, outcome)
        name = outcome.entry.name + (f", delay {result.study.environment.delay:,g}" if len(results) > 1 else "")
        axes.set_title("\n".join(wrap(name, TITLE_WIDTH)), fontsize=10)
        axes.tick_params(labelbottom=True)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=9, title="arm")
    return figure


def draw_shares(axes: "Axes", outcome: Outcome) -> None:
    from matplotlib import colormaps

    environment = outcome.study.environment
    mean = environment.means_of(environment.start)
    ranking = np.argsort(mean if environment.goal == "minimize" else -mean, kind="stable")
    steps, shares = smoothed(outcome)
    shares = shares[ranking]
    labels = [arm_label(int(arm), float(mean[arm]), outcome) for arm in ranking]
    if len(ranking) > SHOWN_ARMS:
        shares = np.vstack([shares[: SHOWN_ARMS - 1], shares[SHOWN_ARMS - 1 :].sum(axis=0)])
        labels = [*labels[: SHOWN_ARMS - 1], f"{len(ranking) - SHOWN_ARMS + 1} others"]
    shades = colormaps["cividis"](np.linspace(*SHADES, len(shares)))
    axes.stackplot(steps, 100 * shares, labels=labels, colors=list(shades), edgecolor="white", linewidth=0.4)
    time_axis(axes, outcome.study)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter("{x:g} %")


def smoothed(outcome: Outcome) -> tuple[I64, F64]:
    """Shares float64[K, P] over several points of the curve together, and the draws at their ends."""
    starts = np.arange(0, len(outcome.study.steps), POINTS_TOGETHER)
    shown = np.add.reduceat(outcome.curves.shown, starts, axis=0)
    ends = outcome.study.steps[np.minimum(starts + POINTS_TOGETHER, len(outcome.study.steps)) - 1]
    return np.append(1, ends), np.vstack([shown[:1], shown]).T / np.append(shown[0].sum(), shown.sum(axis=1))


def arm_label(arm: int, mean: float, outcome: Outcome) -> str:
    environment = outcome.study.environment
    steady = environment.drift is None and not environment.turns
    words = [f"mean {mean:.3g}"] if steady else []
    if any(environment.arrivals) and environment.arrivals[arm]:
        words.append(f"from {environment.arrivals[arm]:,}")
    return f"{arm + 1} ({', '.join(words)})" if words else f"{arm + 1}"


def distribution_figure(results: Sequence[Result]) -> "Figure":
    """How regret at the end varies from run to run."""
    count = len(results[0].outcomes)
    figure = new_figure(
        8.6 if len(results) == 1 else 1.6 + 4.4 * len(results),
        0.52 * count + 1.9,
        "Regret at the end, from run to run",
        f"{subtitle(results)}\nLine: 5 to 95 % of the runs; box: 25 to 75 %; bar: median; diamond: mean",
    )
    panels = figure.subplots(1, len(results), sharey=True, sharex=True, squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        for number, outcome in enumerate(result.outcomes):
            draw_box(axes, count - 1 - number, outcome, line_style(number)["color"])
        axes.set_yticks(range(count), [outcome.entry.name for outcome in result.outcomes][::-1])
        axes.set_xlabel("regret at the end (in units of reward)")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if len(results) > 1:
            axes.set_title(delay_words(result))
    panels[0].set_xlim(left=0)
    return figure


def draw_box(axes: "Axes", place: int, outcome: Outcome, colour: str) -> None:
    low, left, median, right, high = np.quantile(outcome.regret, (0.05, 0.25, 0.5, 0.75, 0.95))
    axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.barh(place, right - left, left=left, height=0.5, color="white", edgecolor=colour, linewidth=1.6, zorder=3)
    axes.plot([median, median], [place - 0.25, place + 0.25], color=colour, linewidth=2.6, zorder=4)
    axes.plot(outcome.regret_mean, place, marker="D", color="black", markersize=5, zorder=5)


def time_axis(axes: "Axes", study: Study, decades: float = 9) -> None:
    """The last `decades` decades on a logarithmic axis; all of a linear one, where the environment moves."""
    end = max(study.horizon, 2)
    if study.environment.moves:
        axes.set_xlim(0, end)
    else:
        axes.set_xscale("log")
        axes.set_xlim(max(end / 10**decades, 1), end)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("draws" if study.environment.moves else "draws (logarithmic)")
    axes.grid(axis="y", alpha=0.3)


def line_style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def apart(values: Sequence[float], least: float) -> list[float]:
    """Heights for labels, at least `least` apart, as near to `values` as can be: crowds spread about their centre."""
    order = np.argsort(values, kind="stable")
    crowds: list[tuple[float, int]] = []  # (centre, how many)
    for value in np.asarray(values, dtype=np.float64)[order].tolist():
        centre, count = value, 1
        while crowds and centre - crowds[-1][0] < least * (count + crowds[-1][1]) / 2:
            other, others = crowds.pop()
            centre, count = (centre * count + other * others) / (count + others), count + others
        crowds.append((centre, count))
    places = [centre + least * (rank - (count - 1) / 2) for centre, count in crowds for rank in range(count)]
    heights = np.empty(len(values))
    heights[order] = places
    return heights.tolist()
