"""The answer to a plan as tables, sentences and JSON."""

from math import isinf
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD as HORIZONTALS
from rich.table import Table

from multiarm.domain.stopping import NO_WINNER
from multiarm.lab.plan import Answer, Plan, Way
from multiarm.lab.plan_numbers import Summary, days_or_more, percent, share, summarised

WARNING_STYLE = "bold red"
KEY = (
    "Days, visitors: until the test ends, in half and in 90 % of cases. Shown worse: visitors who saw a worse arm till "
    "the verdict, or the horizon. Lost: conversions, against always showing the best arm."
)


def if_better(answer: Answer, way: Way) -> Summary:
    """In the world where arm 0 is better."""
    return summarised(way.better, answer.plan.better_rate - answer.plan.base_rate, best=0)


def if_equal(way: Way) -> Summary:
    return summarised(way.equal, 0.0, best=NO_WINNER)


def tables(answer: Answer) -> list[Table]:
    """One for the world where an arm is better, one for that where all are equal; made for 100 columns or more."""
    return [table_if_better(answer), table_if_equal(answer)]


def table_if_better(answer: Answer) -> Table:
    plan = answer.plan
    title = f"If one arm is better: {percent(plan.better_rate)} instead of {percent(plan.base_rate)}"
    table = empty_table(f"{title} (+{percent(plan.lift)})", caption(plan, KEY))
    for heading in ("days,\nhalf", "days,\n90 %", "visitors,\nhalf", "wrong", "no\nwinner"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("shown\nworse", "lost by\nverdict", f"lost in\n{plan.horizon_days:g} days"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way in answer.ways:
        numbers = if_better(answer, way)
        table.add_row(
            *verdict(way, numbers, numbers.wrong, plan),
            f"{numbers.worse_until_end:,.0f}",
            f"{numbers.lost_until_end:,.0f}",
            f"{numbers.lost_until_horizon:,.0f}",
            style="" if way.guaranteed else WARNING_STYLE,
        )
    return table


def table_if_equal(answer: Answer) -> Table:
    plan = answer.plan
    table = empty_table(
        f"If all arms are equal: {percent(plan.base_rate)} each (A/A)",
        caption(plan, "Every winner is a false one. No conversions are lost: there is no worse arm."),
    )
    for heading in ("days, half", "days, 90 %", "visitors, half", "wrong: false winner", "no winner"):
        table.add_column(heading, justify="right")
    for way in answer.ways:
        numbers = if_equal(way)
        table.add_row(
            *verdict(way, numbers, numbers.any_winner, plan),
            style="" if way.guaranteed else WARNING_STYLE,
        )
    return table


def empty_table(title: str, below: str) -> Table:
    table = Table(title=title, caption=below, box=HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("way", min_width=14)
    table.add_column("error guaranteed", min_width=14)
    return table


def verdict(way: Way, numbers: Summary, wrong: float, plan: Plan) -> tuple[str, ...]:
    """What both tables say of a way: its guarantee, when it ends, and how often wrongly or not at all."""
    return (
        way.name,
        guarantee(way),
        days(numbers.median_visitors, plan),
        days(numbers.late_visitors, plan),
        count(numbers.median_visitors),
        share(wrong),
        share(numbers.no_winner),
    )


def guarantee(way: Way) -> str:
    """With what the simulation found where nothing is guaranteed."""
    if way.guaranteed:
        return way.guarantee
    return f"{way.guarantee}: {percent(round(if_equal(way).any_winner, 2))} false winners in A/A"


def caption(plan: Plan, text: str) -> str:
    error = percent(round((0.25 / plan.runs) ** 0.5 * 2, 3))
    return f"{text} {plan.runs:,} simulated experiments: percentages are right to ± {error} (2 s.e.) or better."


def days(visitors: float, plan: Plan) -> str:
    return days_or_more(visitors, plan.visitors_per_day, plan.horizon_days)


def count(visitors: float) -> str:
    return "–" if isinf(visitors) else f"{visitors:,.0f}"


def sentences(answer: Answer) -> list[str]:
    """The answer in plain language, the most important first."""
    ways = {way.key: way for way in answer.ways}
    lines = [
        the_question(answer.plan),
        of_fixed(answer, ways["fixed"]),
        of_sequential(answer, ways["sequential"]),
        of_always(answer, ways["equal_always"], ways["equal_tuned"]),
        of_thompson(answer, ways["thompson_tuned"]),
    ]
    if "top_two_tuned" in ways:
        lines.append(of_top_two(answer, ways["top_two_tuned"]))
    return [*lines, of_peeking(answer, ways["thompson_peek"]), of_choice(answer)]


def the_question(plan: Plan) -> str:
    others = "the others" if plan.arms > 2 else "the other"
    even = f", {percent(plan.random_share)} of the bandits' traffic split evenly" if plan.random_share else ""
    return (
        f"With {plan.visitors_per_day:,.0f} visitors a day on {plan.arms} arms, rewards known after "
        f"{plan.delay_hours:g} hours, one arm converting {percent(plan.better_rate)} and {others} "
        f"{percent(plan.base_rate)}{even}, over {plan.horizon_days:g} days:"
    )


def of_fixed(answer: Answer, way: Way) -> str:
    plan, size = answer.plan, answer.fixed_size
    needed = plan.days(size * plan.arms + plan.delay_visitors)
    first = f"A fixed test needs {size:,} visitors an arm, {needed:,.1f} days with its last rewards"
    if needed > plan.horizon_days:
        return f"{first}: longer than the horizon of {plan.horizon_days:g} days."
    numbers = if_better(answer, way)
    return (
        f"{first}; it then finds the better arm in {found(numbers)} of cases and has "
        f"lost {numbers.lost_until_end:,.0f} conversions."
    )


def of_sequential(answer: Answer, way: Way) -> str:
    plan, numbers = answer.plan, if_better(answer, way)
    longest = plan.days(int(answer.sequential.sizes[-1]) * plan.arms + plan.delay_visitors)
    return (
        f"With {plan.looks} planned looks it takes {longest:,.1f} days at most, "
        f"{days(numbers.median_visitors, plan)} in half of the cases, and loses {numbers.lost_until_end:,.0f} "
        "conversions until then."
    )


def of_always(answer: Answer, plain: Way, tuned: Way) -> str:
    first, second = (ends(if_better(answer, way), answer.plan) for way in (tuned, plain))
    return (
        f"An equal split that may be looked at whenever you like ends after {first} if its rule is tuned to these "
        f"rates, after {second} if it is not."
    )


def of_thompson(answer: Answer, way: Way) -> str:
    plan, numbers = answer.plan, if_better(answer, way)
    starved = ", because it starves the worse arm that a comparison needs" if numbers.no_winner > 0.5 else ""
    return (
        f"Thompson sampling loses {numbers.lost_until_horizon:,.0f} conversions in all {plan.horizon_days:g} days; it "
        f"names the better arm, with an error of at most {percent(plan.alpha)}, in {found(numbers)} of cases{starved}."
    )


def of_top_two(answer: Answer, way: Way) -> str:
    plan, numbers = answer.plan, if_better(answer, way)
    return (
        f"Top-two Thompson sampling, tuned, names it in {found(numbers)} of cases, ends after {ends(numbers, plan)}, "
        f"and loses {numbers.lost_until_horizon:,.0f} conversions."
    )


def found(numbers: Summary) -> str:
    return percent(round(1 - numbers.no_winner - numbers.wrong, 3))


def ends(numbers: Summary, plan: Plan) -> str:
    return (
        f"{days(numbers.median_visitors, plan)} days in half of the cases, {days(numbers.late_visitors, plan)} in 90 %"
    )


def of_peeking(answer: Answer, way: Way) -> str:
    plan, better, equal = answer.plan, if_better(answer, way), if_equal(way)
    return (
        f"Do not stop at P(best) > 95 %: looked at every {plan.peek_visitors:,} visitors, it declares a winner in "
        f"{percent(round(equal.any_winner, 2))} of experiments where all arms are equal, and the wrong one in "
        f"{percent(round(better.wrong, 3))} where one is better."
    )


def of_choice(answer: Answer) -> str:
    """Which of the ways with a guarantee ends first, and which costs least."""
    plan = answer.plan
    pairs = [(way, if_better(answer, way)) for way in answer.ways if way.guaranteed]
    soonest, soon = min(pairs, key=lambda pair: pair[1].median_visitors)
    cheapest, cheap = min(pairs, key=lambda pair: pair[1].lost_until_horizon)
    if isinf(soon.median_visitors):
        first = f"No way with a guarantee ends within {plan.horizon_days:g} days in half of the cases"
    else:
        first = (
            f"Soonest with a guarantee: {soonest.name}, {days(soon.median_visitors, plan)} days in half of the cases"
        )
    return (
        f"{first}. Fewest conversions lost in {plan.horizon_days:g} days: {cheapest.name}, "
        f"{cheap.lost_until_horizon:,.0f} ({percent(round(cheap.no_winner, 3))} without a winner by then)."
    )


def as_json(answer: Answer) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings; null for an end beyond the horizon."""
    plan = answer.plan
    return {
        "plan": msgspec.to_builtins(plan),
        "fixed_visitors_per_arm": answer.fixed_size,
        "sequential": {
            "boundaries_z": answer.sequential.boundaries.tolist(),
            "visitors_per_arm": answer.sequential.sizes.tolist(),
        },
        "peek_visitors": plan.peek_visitors,
        "ways": [
            {
                "key": way.key,
                "name": way.name,
                "guarantee": guarantee(way),
                "guaranteed": way.guaranteed,
                "if_better": numbers_of(if_better(answer, way), plan),
                "if_equal": numbers_of(if_equal(way), plan),
            }
            for way in answer.ways
        ],
    }


def numbers_of(numbers: Summary, plan: Plan) -> dict[str, float | None]:
    def finite(visitors: float, per: float = 1.0) -> float | None:
        return None if isinf(visitors) else visitors / per

    return {
        "median_days": finite(numbers.median_visitors, plan.visitors_per_day),
        "late_days": finite(numbers.late_visitors, plan.visitors_per_day),
        "median_visitors": finite(numbers.median_visitors),
        "late_visitors": finite(numbers.late_visitors),
        "probability_wrong": numbers.wrong,
        "probability_no_winner": numbers.no_winner,
        "probability_any_winner": numbers.any_winner,
        "visitors_on_worse_until_end": numbers.worse_until_end,
        "visitors_on_worse_until_horizon": numbers.worse_until_horizon,
        "conversions_lost_until_end": numbers.lost_until_end,
        "conversions_lost_until_horizon": numbers.lost_until_horizon,
    }
