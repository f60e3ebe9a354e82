"""Plots of the results, with their spread: lowest to highest over the runs."""

import importlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from growth import Curve
from in_process import Cost
from latency import Latency
from report import Results
from rows import Row

COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#d44c47", "#787774")
QUANTITIES = {"requests/s": "Rate", "updates/s": "Rate of updates", "s": "Time to start", "MB": "Memory"}
AIM, FLOOR, YARDSTICK = "#448361", "#d44c47", "#b4b2ad"


def plot(results: Results, folder: Path) -> None:
    importlib.import_module("matplotlib").use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update(
        {"figure.dpi": 130, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
        | {"grid.alpha": 0.3, "axes.axisbelow": True, "legend.frameon": False}
    )
    for name, figure in (
        ("rates", plot_rates(plt, results.table, results.yardsticks[1:])),
        ("latency", plot_latencies(plt, results.latencies)),
        ("growth", plot_growth(plt, results.curves)),
        ("in_process", plot_costs(plt, results.costs)),
    ):
        figure.savefig(folder / f"{name}.png", bbox_inches="tight")
        plt.close(figure)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and how far the lowest and the highest lie from it."""
    median = statistics.median(values)
    return median, median - min(values), max(values) - median


def plot_rates(plt: Any, table: Sequence[Row], yardsticks: Sequence[Row]) -> Any:
    rows = [*(row for row in table if row.unit == "requests/s"), *yardsticks][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1.5))
    for place, row in enumerate(rows):
        median, below, above = spread(row.values)
        colour = YARDSTICK if row in yardsticks or row is table[0] else COLOURS[0]
        axes.barh(place, median, xerr=[[below], [above]], color=colour, ecolor="black", capsize=3, height=0.6)
        if row.bound is not None and row.ratio:
            for value, line, name in ((row.bound.limit, FLOOR, "floor"), (row.bound.aim, AIM, "aim")):
                if value is not None:
                    at = median / row.ratio * value
                    axes.plot([at, at], [place - 0.4, place + 0.4], color=line, linewidth=2.5, label=name)
    axes.set_yticks(range(len(rows)), [row.work for row in rows])
    axes.set_xlabel("requests a second (bars: medians; whiskers: lowest to highest run)")
    axes.set_title("Rates on one core, 64 connections unless said otherwise; yardsticks in grey", loc="left")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", visible=False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="lower right")
    return figure


def plot_latencies(plt: Any, latencies: Sequence[Latency]) -> Any:
    works = ("draw", "update")
    figure, panels = plt.subplots(1, len(works), figsize=(6 * len(works), 4.5), sharey=True, squeeze=False)
    for axes, work in zip(panels[0], works, strict=True):
        for colour, latency in zip(COLOURS, (one for one in latencies if one.work == work), strict=False):
            percentiles = [name for name in latency.runs[0].latency_ms if name != "100"]
            places = [1 / (1 - float(name) / 100) for name in percentiles]
            runs = [latency.at(name) for name in percentiles]
            label = f"{latency.load}, {latency.rate:,.0f}/s"
            axes.plot(places, [statistics.median(run) for run in runs], "o-", color=colour, markersize=3, label=label)
            axes.fill_between(places, [min(run) for run in runs], [max(run) for run in runs], color=colour, alpha=0.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([2, 10, 100, 1000, 10000], ["50", "90", "99", "99.9", "99.99"])
        axes.minorticks_off()
        axes.set_xlabel("percentile")
        axes.set_title(f"Latency of {work}s, open loop", loc="left")
        axes.legend(fontsize=8)
    panels[0][0].set_ylabel("ms from when it was due (band: all runs)")
    figure.tight_layout()
    return figure


def plot_growth(plt: Any, curves: Sequence[Curve]) -> Any:
    curves_of: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        curves_of.setdefault((curve.size, curve.unit), []).append(curve)
    panels = list(curves_of)
    height = (len(panels) + 1) // 2
    figure, grid = plt.subplots(height, 2, figsize=(11, 3.6 * height), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (size, unit) in zip(grid.flat, panels, strict=False):
        for colour, curve in zip(COLOURS, curves_of[size, unit], strict=False):
            points = [spread(values) for values in curve.values]
            medians, below, above = zip(*points, strict=True)
            axes.errorbar(
                curve.sizes, medians, yerr=[below, above], fmt="o-", color=colour, capsize=3, label=curve.work
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1.15 * max(max(at) for curve in curves_of[size, unit] for at in curve.values))
        axes.set_xlabel(size)
        axes.set_ylabel(unit)
        axes.yaxis.set_major_formatter("{x:,.0f}" if unit != "s" else "{x:g}")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{QUANTITIES.get(unit, unit)} by {size}", loc="left")
        axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def plot_costs(plt: Any, costs: Sequence[Cost]) -> Any:
    costs = costs[::-1]
    libraries = dict(zip(dict.fromkeys(cost.library for cost in reversed(costs)), COLOURS, strict=False))
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(costs) + 1.5))
    for place, cost in enumerate(costs):
        median, below, above = spread(cost.us)
        axes.errorbar(
            median,
            place,
            xerr=[[below], [above]],
            fmt="o",
            color=libraries[cost.library],
            capsize=3,
            label=cost.library,
        )
    axes.set_yticks(range(len(costs)), [f"{cost.policy}: {cost.call}" for cost in costs])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("µs a call, on a logarithmic axis (points: medians; whiskers: lowest to highest run)")
    axes.set_title("Cost in process, five arms", loc="left")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend([unique[name] for name in libraries], list(libraries), loc="lower right")
    return figure
