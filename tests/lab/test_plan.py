"""`multiarm plan`: designs against published numbers, simulated experiments against their promises."""

import json
import subprocess
import sys
from collections import deque
from functools import partial
from io import StringIO
from math import ceil, inf, sqrt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from multiarm.domain.errors import InvalidField, InvalidRequest
from multiarm.domain.evidence import Evidence
from multiarm.domain.policies import Thompson, TopTwo
from multiarm.domain.stopping import NO_WINNER, fixed_winner, mixture_winner
from multiarm.lab.designs import (
    crossing_probabilities,
    fixed_size,
    group_sequential,
    needed_drift,
    normal_power,
    spending_boundaries,
)
from multiarm.lab.plan import Answer, Plan, Way, answer
from multiarm.lab.plan_allocation import equal_split, thompson, top_two
from multiarm.lab.plan_figure import figure
from multiarm.lab.plan_report import as_json, guarantee, if_better, if_equal, sentences, tables
from multiarm.lab.plan_simulation import Outcome, World, block_edges, simulate, simulate_fixed, simulate_looks

F64 = NDArray[np.float64]
generator = np.random.default_rng

QUICK = Plan(
    base_rate=0.2, lift=0.25, visitors_per_day=1000, delay_hours=6, horizon_days=20, runs=1500, seed=3, resolution=40
)


@pytest.fixture(scope="module")
def quick() -> Answer:
    return answer(QUICK)


@pytest.fixture(scope="module")
def three_arms() -> Answer:
    return answer(msgspec.structs.replace(QUICK, arms=3, runs=150, random_share=0.3))


def way_of(result: Answer, key: str) -> Way:
    return next(way for way in result.ways if way.key == key)


class TestBoundaries:
    def test_lan_demets_of_five_looks(self) -> None:
        """As in gsDesign (sfLDOF) and in Jennison and Turnbull (2000), for one-sided .025."""
        expected = [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]
        assert spending_boundaries(5, 0.025) == pytest.approx(np.array(expected), abs=6e-5)

    def test_lan_demets_of_two_and_three_looks(self) -> None:
        assert spending_boundaries(2, 0.025) == pytest.approx(np.array([2.9626, 1.9686]), abs=6e-5)
        assert spending_boundaries(3, 0.025) == pytest.approx(np.array([3.7103, 2.5114, 1.9930]), abs=6e-5)

    def test_one_look_is_the_fixed_test(self) -> None:
        assert spending_boundaries(1, 0.025) == pytest.approx(np.array([1.959964]), abs=1e-6)

    @pytest.mark.parametrize(("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)])
    def test_recursion_against_the_constants_of_obrien_and_fleming(self, looks: int, constant: float) -> None:
        """C_B(K, .05) of Jennison and Turnbull (2000), table 2.3: z_k = C √(K/k) spends .05 on two sides."""
        boundaries = constant * np.sqrt(looks / np.arange(1, looks + 1))
        assert 2 * crossing_probabilities(boundaries).sum() == pytest.approx(0.05, abs=2e-4)

    @pytest.mark.parametrize("looks", [1, 7, 50])
    def test_all_of_the_level_is_spent(self, looks: int) -> None:
        assert crossing_probabilities(spending_boundaries(looks, 0.01)).sum() == pytest.approx(0.01, rel=1e-6)

    def test_crossing_under_drift_against_simulated_walks(self) -> None:
        rng = generator(1)
        boundaries = spending_boundaries(5, 0.025)
        z = np.cumsum(rng.normal(1.2, 1, (100_000, 5)), axis=1) / np.sqrt(np.arange(1, 6))
        first = np.where((z >= boundaries).any(axis=1), np.argmax(z >= boundaries, axis=1), 5)
        found = np.bincount(first, minlength=6)[:5] / len(z)
        assert found == pytest.approx(crossing_probabilities(boundaries, 1.2), abs=0.006)


class TestSizes:
    def test_two_arms_by_hand(self) -> None:
        # (1.959964 √(2 · .021 · .979) + .841621 √(.02 · .98 + .022 · .978))² / .002² = 80,681.4
        by_hand = (1.959964 * sqrt(2 * 0.021 * 0.979) + 0.841621 * sqrt(0.02 * 0.98 + 0.022 * 0.978)) ** 2 / 0.002**2
        assert fixed_size(0.02, 0.022, 2, 0.05, 0.8) == ceil(by_hand) == 80_682

    def test_power_of_one_rival_is_that_of_one_normal(self) -> None:
        assert normal_power(2.5, 1.96, 1) == pytest.approx(stats.norm.sf(1.96 - 2.5), abs=1e-9)
        assert needed_drift(0.025, 0.8, 1) == pytest.approx(1.959964 + 0.841621, abs=1e-5)

    def test_power_of_several_rivals_against_a_multivariate_normal(self) -> None:
        cov = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
        expected = stats.multivariate_normal(mean=np.zeros(3), cov=cov).cdf(np.full(3, 0.7))
        assert normal_power(2.7, 2.0, 3) == pytest.approx(expected, abs=2e-4)

    def test_four_arms_have_their_power(self) -> None:
        size = fixed_size(0.2, 0.25, 4, 0.05, 0.8)
        successes = generator(2).binomial(size, [0.25, 0.2, 0.2, 0.2], (20_000, 4)).astype(float)
        winners = fixed_winner(np.full((20_000, 4), float(size)), successes, 0.05)
        assert (winners == 0).mean() == pytest.approx(0.8, abs=0.015)

    def test_looks_cost_a_few_percent_of_size(self) -> None:
        """O'Brien-Fleming by spending, 5 looks, power .8: 1.025 times the fixed size."""
        design = group_sequential(0.02, 0.022, arms=2, alpha=0.05, power=0.8, looks=5)
        assert design.sizes[-1] / 80_682 == pytest.approx(1.025, abs=0.002)
        assert np.diff(design.sizes).tolist() == pytest.approx([design.sizes[-1] / 5] * 4, abs=2)


def evidence_of(pulls: np.ndarray[Any, Any], successes: np.ndarray[Any, Any]) -> Evidence:
    sums = np.stack([pulls, successes, successes], axis=-1)
    return Evidence(sums, np.zeros(pulls.shape), pulls.astype(np.int64))


class TestAllocation:
    @pytest.mark.parametrize(("arms", "tolerance"), [(2, 0.006), (3, 0.015), (5, 0.02)])
    @pytest.mark.parametrize("size", [30, 3000, 300_000])
    def test_thompson_against_the_policy(self, arms: int, tolerance: float, size: int) -> None:
        rng = generator(4)
        pulls = np.floor(size * rng.uniform(0.1, 1, (60, arms)) ** 2)
        successes = rng.binomial(pulls.astype(int), 0.02 if size > 100 else 0.3).astype(float)
        exact = Thompson().allocate(evidence_of(pulls, successes))
        assert np.abs(thompson(pulls, successes) - exact).max() <= tolerance

    def test_small_probabilities_of_two_arms_are_right_to_a_percent(self) -> None:
        pulls = np.array([[5e4, 5e5], [3e3, 5e5], [100.0, 100.0]])
        successes = np.array([[900.0, 1e4], [30.0, 1e4], [10.0, 35.0]])
        exact = Thompson().allocate(evidence_of(pulls, successes))
        assert exact[:, 0].max() < 0.02
        assert thompson(pulls, successes) == pytest.approx(exact, rel=0.01)

    def test_top_two_against_the_policy(self) -> None:
        rng = generator(5)
        pulls = np.floor(3000 * rng.uniform(0.3, 1, (60, 4)))
        successes = rng.binomial(pulls.astype(int), 0.1).astype(float)
        exact = TopTwo().allocate(evidence_of(pulls, successes))
        assert np.abs(top_two(pulls, successes) - exact).max() < 0.02

    def test_top_two_of_two_arms_is_the_equal_split(self) -> None:
        pulls, successes = np.array([[100.0, 120.0]]), np.array([[10.0, 20.0]])
        assert top_two(pulls, successes) == pytest.approx(equal_split(pulls, successes))


class TestBlocks:
    def test_cover_all_and_end_where_a_rule_peeks(self) -> None:
        edges = block_edges(World(np.array([0.1, 0.1]), 30_500, 1500, peek_visitors=1000, resolution=100))
        assert (edges[0], edges[-1]) == (0, 30_500)
        assert set(range(2000, 30_001, 1000)) <= set(edges.tolist())
        late = edges[edges >= 1500]
        assert (np.diff(late) <= np.maximum(late[:-1] / 100, 1)).all()

    def test_half_the_block_gives_the_same_times(self) -> None:
        """Medians and means of the time to the verdict, and costs, change by less than 3 %."""
        rates = np.array([0.3, 0.2])
        found: list[Outcome] = []
        for resolution in (100, 200):
            world = World(rates, 20_000, 250, peek_visitors=20_000, resolution=resolution, random_share=0.4)
            rng = generator(6)
            found += simulate(world, thompson, [partial(mixture_winner, alpha=0.05)], alpha=0.05, runs=3000, rng=rng)
        coarse, fine = found
        assert np.median(coarse.ended) == pytest.approx(np.median(fine.ended), rel=0.03)
        assert coarse.worse_until_end.mean() == pytest.approx(fine.worse_until_end.mean(), rel=0.03)


def visitor_by_visitor(rates: F64, visitors: int, delay: int, runs: int, rng: np.random.Generator) -> F64:
    """Who saw arm 1, under Thompson sampling with a Beta draw an arm and a visitor, rewards `delay` visitors late."""
    rows, alpha, beta = np.arange(runs), np.ones((runs, 2)), np.ones((runs, 2))
    worse, waiting = np.zeros(runs), deque[tuple[Any, Any]]()
    for _ in range(visitors):
        arm = np.argmax(rng.beta(alpha, beta), axis=-1)
        worse += arm
        waiting.append((arm, rng.random(runs) < rates[arm]))
        if len(waiting) > delay:
            shown, rewards = waiting.popleft()
            alpha[rows, shown] += rewards
            beta[rows, shown] += ~rewards
    return worse


def test_blocks_with_formulas_lose_what_single_visitors_with_beta_draws_lose() -> None:
    rates, runs = np.array([0.3, 0.2]), 1000
    world = World(rates, 1500, 150)
    blocks = simulate(world, thompson, [partial(mixture_winner, alpha=1e-9)], alpha=1e-9, runs=runs, rng=generator(7))[
        0
    ]
    single = visitor_by_visitor(rates, 1500, 150, runs, generator(8))
    standard_error = sqrt((blocks.worse_until_horizon.var() + single.var()) / runs)
    assert blocks.worse_until_horizon.mean() == pytest.approx(single.mean(), abs=3 * standard_error)
    assert standard_error < 0.02 * single.mean() + 5
    assert np.percentile(blocks.worse_until_horizon, 90) == pytest.approx(np.percentile(single, 90), rel=0.12)


class TestOutcome:
    def test_a_wrong_verdict_costs_everybody_after_it_and_a_right_one_nobody(self) -> None:
        world = World(np.array([0.2, 0.1]), 1000, 0)
        outcome, rows = Outcome.open(3), np.array([0, 1])
        arms = np.array([0, 1])
        outcome.end(rows, 400, world, winners=arms, shown=arms, worse=np.array([150.0, 250.0]))
        outcome.close(np.array([480.0]), np.array([2]))
        assert outcome.ended.tolist() == [400, 400, inf]
        assert outcome.declared.tolist() == [0, 1, NO_WINNER]
        assert outcome.worse_until_end.tolist() == [150, 250, 480]
        assert outcome.worse_until_horizon.tolist() == [150, 250 + 600, 480]

    def test_the_fixed_test_waits_for_its_last_rewards_and_splits_until_then(self) -> None:
        world = World(np.array([0.9, 0.1]), 10_000, 300)
        outcome = simulate_fixed(world, 500, 0.05, 50, generator(1))
        assert set(outcome.ended.tolist()) == {1300.0}
        assert set(outcome.worse_until_horizon.tolist()) == {650.0}

    def test_a_test_longer_than_the_horizon_has_no_verdict(self) -> None:
        world = World(np.array([0.2, 0.1]), 1000, 1)
        outcome = simulate_fixed(world, 500, 0.05, 50, generator(1))
        assert np.isinf(outcome.ended).all()
        assert (outcome.declared == NO_WINNER).all()
        assert set(outcome.worse_until_horizon.tolist()) == {500.0}

    def test_looks_beyond_the_horizon_are_not_seen(self) -> None:
        design = group_sequential(0.2, 0.25, arms=2, alpha=0.05, power=0.8, looks=4)
        visitors = int(design.sizes[1]) * 2
        outcome = simulate_looks(World(np.array([0.25, 0.2]), visitors, 0), design, 500, generator(1))
        assert set(outcome.ended.tolist()) == {float(visitors), inf}

    def test_looks_keep_their_level_and_power(self) -> None:
        design = group_sequential(0.2, 0.25, arms=2, alpha=0.05, power=0.8, looks=5)
        rng = generator(2)
        for rates, expected in ((np.array([0.2, 0.2]), 0.05), (np.array([0.25, 0.2]), 0.8)):
            outcome = simulate_looks(World(rates, 10**6, 0), design, 20_000, rng)
            assert (outcome.declared != NO_WINNER).mean() == pytest.approx(expected, abs=0.01)


class TestAnswer:
    def test_guaranteed_ways_keep_alpha_when_all_are_equal(self, quick: Answer) -> None:
        at_most = QUICK.alpha + 3 * sqrt(QUICK.alpha * (1 - QUICK.alpha) / QUICK.runs)
        for way in quick.ways:
            if way.guaranteed:
                assert if_equal(way).any_winner <= at_most, way.key
                assert if_better(quick, way).wrong <= at_most, way.key

    def test_a_threshold_on_p_best_does_not(self, quick: Answer) -> None:
        """About half after 20 looks; the shortest experiment that makes the point."""
        way = way_of(quick, "thompson_peek")
        assert not way.guaranteed
        assert 0.3 < if_equal(way).any_winner < 0.8
        assert guarantee(way).startswith("NO GUARANTEE: ")

    def test_tests_planned_beforehand_have_their_power(self, quick: Answer) -> None:
        for key in ("fixed", "sequential"):
            assert 1 - if_better(quick, way_of(quick, key)).no_winner == pytest.approx(0.8, abs=0.035)

    def test_the_bandit_loses_least_and_tells_least(self, quick: Answer) -> None:
        bandit, split = (if_better(quick, way_of(quick, key)) for key in ("thompson_always", "equal_always"))
        assert bandit.lost_until_horizon < split.lost_until_horizon / 3
        assert bandit.no_winner > split.no_winner

    def test_what_is_lost_is_the_gap_times_who_saw_worse(self, quick: Answer) -> None:
        for way in quick.ways:
            numbers = if_better(quick, way)
            assert numbers.lost_until_end == pytest.approx(numbers.worse_until_end * 0.05)
            assert numbers.lost_until_horizon >= numbers.lost_until_end
            assert if_equal(way).worse_until_horizon == 0

    def test_the_same_plan_gives_the_same_answer_and_another_seed_another(self) -> None:
        plan = msgspec.structs.replace(QUICK, runs=100, horizon_days=5, resolution=20)
        first, again, other = (as_json(answer(msgspec.structs.replace(plan, seed=seed))) for seed in (3, 3, 4))
        assert first == again
        assert first["ways"] != other["ways"]

    def test_a_delay_shifts_every_verdict_by_at_least_itself(self) -> None:
        """Where traffic does not depend on rewards, by just itself; a bandit cannot have a verdict before it.

        (A bandit's verdict may be shifted by less: until the first rewards come it splits evenly, and learns more.)
        """
        plan = msgspec.structs.replace(QUICK, lift=0.5, runs=400, horizon_days=12)
        early, late = (answer(msgspec.structs.replace(plan, delay_hours=hours)) for hours in (0, 48))
        for way in early.ways:
            before, after = way.better.ended, way_of(late, way.key).better.ended
            assert after.min() > 2000
            if way.key in {"fixed", "sequential"}:
                assert set((after - before).tolist()) == {2000.0}
            if way.key.startswith("equal"):
                standard_error = float(np.std(before[np.isfinite(before)])) * sqrt(1.57 * 2 / 400)
                assert np.median(after) - np.median(before) == pytest.approx(2000, abs=3 * standard_error)

    def test_three_arms_have_top_two_and_two_have_not(self, quick: Answer, three_arms: Answer) -> None:
        assert "top_two_tuned" not in [way.key for way in quick.ways]
        bandit, top = (if_better(three_arms, way_of(three_arms, key)) for key in ("thompson_tuned", "top_two_tuned"))
        assert top.median_visitors < bandit.median_visitors

    def test_progress_rises_to_one(self) -> None:
        told: list[float] = []
        answer(msgspec.structs.replace(QUICK, runs=100, horizon_days=2, resolution=20), told.append)
        assert told == sorted(told)
        assert told[-1] == 1.0


class TestPlan:
    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("base_rate", 0.0, "between 0 and 1"),
            ("base_rate", float("nan"), "between 0 and 1"),
            ("lift", 0.0, "above 0"),
            ("lift", 4.0, "no rate reaches 1"),
            ("lift", 1e-7, "no traffic shows that"),
            ("arms", 1, "between 2 and 20"),
            ("arms", 21, "between 2 and 20"),
            ("visitors_per_day", 0.0, "somebody must come"),
            ("visitors_per_day", inf, "somebody must come"),
            ("delay_hours", -1.0, "0 hours or more"),
            ("horizon_days", 0.0, "lies ahead"),
            ("horizon_days", 0.01, "from 100"),
            ("alpha", 0.5, "between 0 and 0.5"),
            ("power", 0.04, "between alpha and 1"),
            ("looks", 51, "between 1 and 50"),
            ("runs", 99, "between 100"),
            ("seed", -1, "between 0"),
            ("random_share", 1.1, "0 to 1"),
        ],
    )
    def test_out_of_range_is_said_by_name(self, field: str, value: float, words: str) -> None:
        with pytest.raises(InvalidField, match=words) as caught:
            msgspec.structs.replace(QUICK, **{field: value}).check()
        assert caught.value.path == field

    def test_several_faults_at_once(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            answer(Plan(base_rate=2.0, alpha=0.9))
        assert [fault.path for fault in caught.value.faults] == ["base_rate", "alpha", "power"]

    def test_too_much_work_is_refused(self) -> None:
        with pytest.raises(InvalidField, match="take fewer runs"):
            Plan(arms=20, runs=2001).check()

    def test_looks_of_the_peeking_rule_are_bounded(self) -> None:
        assert Plan().peek_visitors == 1000
        assert Plan(visitors_per_day=1_000_000).peek_visitors == 40_000

    def test_delay_in_visitors_is_rounded_up(self) -> None:
        assert (Plan().delay_visitors, Plan(visitors_per_day=10, delay_hours=3).delay_visitors) == (5000, 2)


class TestReport:
    def test_tables_have_a_row_a_way_with_its_guarantee(self, quick: Answer) -> None:
        for table in tables(quick):
            assert table.row_count == len(quick.ways)
            console = Console(width=120, file=StringIO())
            with console.capture() as captured:
                console.print(table)
            text = captured.get()
            assert "≤ 5 %" in text
            assert "NO GUARANTEE" in text

    def test_sentences_say_the_numbers(self, quick: Answer) -> None:
        text = " ".join(sentences(quick))
        for words in (f"{quick.fixed_size:,} visitors an arm", "With 1,000 visitors a day", "Do not stop at P(best)"):
            assert words in text

    def test_sentences_say_that_a_test_is_too_long(self) -> None:
        plan = msgspec.structs.replace(QUICK, lift=0.05, runs=100, resolution=20)
        assert "longer than the horizon" in " ".join(sentences(answer(plan)))

    def test_json_is_plain(self, three_arms: Answer) -> None:
        found = json.loads(json.dumps(as_json(three_arms), allow_nan=False))
        assert msgspec.convert(found["plan"], Plan) == three_arms.plan
        assert [way["key"] for way in found["ways"]] == [way.key for way in three_arms.ways]
        assert all(way["guarantee"] for way in found["ways"])

    def test_the_figure_is_drawn(self, three_arms: Answer, tmp_path: Path) -> None:
        picture = figure(three_arms)
        picture.savefig(tmp_path / "plan.png")
        assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
        for axes in picture.axes:
            assert axes.get_title()
            assert axes.get_xlabel()

    def test_neither_pyplot_nor_matplotlib_is_imported_before_it_is_needed(self) -> None:
        code = "import sys, multiarm.lab.plan_figure; sys.exit('matplotlib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
