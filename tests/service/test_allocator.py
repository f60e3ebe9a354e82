import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from multiarm.domain.arm import Arm
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import EpsilonGreedy
from multiarm.domain.spec import ExperimentSpec
from multiarm.service import allocator as module
from multiarm.service.allocator import Allocator, Budget
from postgres import NOON, Clock

RED, GREEN, BLUE = Arm(1, "red"), Arm(2, "green"), Arm(3, "blue")


class TestBudget:
    def test_what_was_spent_is_earned_back_at_its_share(self) -> None:
        clock = Clock(0.0)
        budget = Budget(0.05, burst_s=0.005, clock=clock)
        assert budget.allows()
        budget.spend(0.105)
        clock.now = 1.99
        assert not budget.allows()
        clock.now = 2.01
        assert budget.allows()

    def test_nothing_is_saved_up_beyond_the_burst(self) -> None:
        clock = Clock(0.0)
        budget = Budget(0.05, burst_s=0.005, clock=clock)
        clock.now = 1e6
        assert budget.allows()
        budget.spend(0.006)
        assert not budget.allows()

    def test_in_the_long_run_its_share_is_what_is_used(self) -> None:
        clock = Clock(0.0)
        budget = Budget(0.05, burst_s=0.005, clock=clock)
        used = 0.0
        rng = random.Random(1)
        for _ in range(100_000):
            clock.now += 0.001
            if budget.allows():
                cost_s = rng.uniform(0.0001, 0.003)
                budget.spend(cost_s)
                used += cost_s
        assert used == pytest.approx(0.05 * clock.now, rel=0.01)


class LateExecutor(Executor):
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, partial(fn, *args, **kwargs)))
        return future

    async def finish(self) -> None:
        """The oldest, with all that follows from it."""
        future, work = self.waiting.pop(0)
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        for _ in range(5):
            await asyncio.sleep(0)


@dataclass
class Bench:
    """An ε-greedy experiment of the arms red and green, with an Allocator at hand; green is better."""

    inline_limit_s: float = 60.0
    spec: ExperimentSpec = field(default_factory=lambda: ExperimentSpec(policy=EpsilonGreedy(epsilon=0.2)))

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.budget = Budget(0.05, clock=self.clock)
        self.executor = LateExecutor()
        self.failures: list[Exception] = []
        self.allocator = Allocator(
            self.budget,
            self.executor,
            inline_limit_s=self.inline_limit_s,
            on_failure=lambda _, error: self.failures.append(error),
        )
        self.experiment = Experiment(spec=self.spec, refresh=self.allocator.refresh)
        self.experiment.put_arm(RED)
        self.experiment.put_arm(GREEN)
        self.count(1, 2)

    def count(self, red: float, green: float) -> None:
        """Evidence of mean rewards red and green."""
        self.experiment.show({1: Row((1.0, red, red * red), NOON, 1), 2: Row((1.0, green, green * green), NOON, 1)})

    def probabilities(self) -> dict[str, float]:
        """Of many draws: each arm's propensity, which must be the same whenever it is drawn."""
        rng = random.Random(1)
        decisions = [self.experiment.draw(NOON, rng) for _ in range(400)]
        drawn = {(decision.arm.arm_id, decision.propensity) for decision in decisions}
        assert len(dict(drawn)) == len(drawn)
        for arm_id, propensity in drawn:
            share = sum(decision.arm.arm_id == arm_id for decision in decisions) / 400
            assert abs(share - propensity) < 0.1
        return dict(drawn)

    def version(self) -> int | None:
        """That of the allocation that was adopted."""
        allocation = self.experiment.allocation
        return None if allocation is None else allocation.version

    def spend_all(self) -> None:
        self.budget.spend(1.0)


class TestInline:
    def test_new_evidence_waits_for_the_budget(self) -> None:
        bench = Bench()
        assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
        bench.spend_all()
        bench.count(2, 1)
        assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
        bench.clock.now += 100
        assert bench.probabilities() == pytest.approx({"red": 0.9, "green": 0.1})

    def test_the_passing_of_time_waits_for_it_too(self) -> None:
        bench = Bench(spec=ExperimentSpec(policy=EpsilonGreedy(), half_life_s=100))
        first = bench.experiment.draw(NOON, random.Random(1)) and bench.experiment.allocation
        bench.spend_all()
        bench.experiment.draw(NOON + 50, random.Random(1))
        assert bench.experiment.allocation is first
        bench.clock.now += 100
        bench.experiment.draw(NOON + 50, random.Random(1))
        assert bench.experiment.allocation is not first

    def test_changes_of_arms_and_epoch_do_not_wait(self) -> None:
        bench = Bench()
        bench.probabilities()
        bench.spend_all()
        bench.experiment.put_arm(replace_arm(GREEN, enabled=False))
        assert bench.probabilities() == {"red": 1.0}
        bench.experiment.put_arm(GREEN)
        assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
        bench.experiment.put_arm(BLUE)  # without evidence, so it is tried first
        assert bench.probabilities()["blue"] == pytest.approx(0.8 + 0.2 / 3)
        bench.experiment.reset(1)
        assert bench.probabilities() == pytest.approx({"red": 1 / 3, "green": 1 / 3, "blue": 1 / 3})

    def test_the_budget_is_one_for_all_experiments(self) -> None:
        bench = Bench()
        other = Experiment(EpsilonGreedy(), ["red", "green"], refresh=bench.allocator.refresh)
        other.draw(NOON, random.Random(1))
        before = other.allocation
        bench.probabilities()
        bench.spend_all()
        other.show({1: Row((1.0, 1.0, 1.0), NOON, 1)})
        other.draw(NOON, random.Random(1))
        assert other.allocation is before

    def test_what_proved_costly_is_computed_elsewhere_from_then_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story() -> None:
            bench = Bench(inline_limit_s=0.5)
            monkeypatch.setattr(module, "timed", lambda snapshot: (snapshot.allocate(), 1.0))
            bench.probabilities()
            assert not bench.executor.waiting
            bench.clock.now += 1_000
            bench.count(2, 1)
            assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
            await bench.executor.finish()
            assert bench.probabilities() == pytest.approx({"red": 0.9, "green": 0.1})
            bench.allocator.forget(0)
            assert bench.allocator.expected_cost_s(bench.experiment) < 0.5

        asyncio.run(story())


class TestOffTheLoop:
    def play(self, story: Callable[[Bench], Any], **spec: Any) -> None:
        async def main() -> None:
            bench = Bench(0.0, ExperimentSpec(policy=EpsilonGreedy(epsilon=0.2), **spec))
            await story(bench)

        asyncio.run(main())

    def test_draws_are_even_until_the_first_one_is_there(self) -> None:
        async def story(bench: Bench) -> None:
            assert bench.probabilities() == {"red": 0.5, "green": 0.5}
            assert len(bench.executor.waiting) == 1  # asked for once
            await bench.executor.finish()
            assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
            assert not bench.executor.waiting

        self.play(story)

    def test_new_evidence_leaves_the_old_vector_until_it_is_there(self) -> None:
        async def story(bench: Bench) -> None:
            bench.probabilities()
            await bench.executor.finish()
            bench.clock.now += 1_000
            bench.count(2, 1)
            assert bench.probabilities() == pytest.approx({"red": 0.1, "green": 0.9})
            await bench.executor.finish()
            assert bench.probabilities() == pytest.approx({"red": 0.9, "green": 0.1})

        self.play(story)

    def test_the_result_of_an_older_version_is_thrown_away(self) -> None:
        async def story(bench: Bench) -> None:
            bench.probabilities()
            bench.experiment.put_arm(BLUE)
            bench.probabilities()
            assert len(bench.executor.waiting) == 2
            await bench.executor.finish()
            assert bench.version() is None
            assert bench.probabilities() == pytest.approx({"red": 1 / 3, "green": 1 / 3, "blue": 1 / 3})
            await bench.executor.finish()
            assert bench.version() == bench.experiment.version
            assert not bench.executor.waiting

        self.play(story)

    def test_missing_arms_are_masked_and_the_rest_renormalised(self) -> None:
        async def story(bench: Bench) -> None:
            bench.experiment.put_arm(BLUE)
            bench.experiment.show({3: Row((1.0, 1.5, 2.25), NOON, 1)})
            bench.probabilities()
            await bench.executor.finish()
            each = 0.2 / 3
            assert bench.probabilities() == pytest.approx({"red": each, "green": 0.8 + each, "blue": each})
            bench.experiment.put_arm(replace_arm(RED, deleted=True))
            rest = 0.8 + 2 * each
            masked = {"green": (0.8 + each) / rest, "blue": each / rest}
            assert bench.probabilities() == pytest.approx(masked)
            bench.experiment.put_arm(Arm(4, "black"))  # has no share before its first allocation
            assert bench.probabilities() == pytest.approx(masked)
            bench.experiment.put_arm(replace_arm(GREEN, enabled=False))
            assert bench.probabilities() == {"blue": 1.0}

        self.play(story)

    def test_draws_are_even_where_no_mass_is_left(self) -> None:
        async def story(bench: Bench) -> None:
            bench.probabilities()
            await bench.executor.finish()
            for arm in (replace_arm(RED, enabled=False), replace_arm(GREEN, deleted=True), BLUE, Arm(4, "black")):
                bench.experiment.put_arm(arm)
            assert bench.probabilities() == {"blue": 0.5, "black": 0.5}

        self.play(story)

    @pytest.mark.parametrize("way", ["reset", "load"])
    def test_the_vector_of_an_earlier_epoch_is_not_used(self, way: str) -> None:
        async def story(bench: Bench) -> None:
            bench.probabilities()
            await bench.executor.finish()
            if way == "reset":
                bench.experiment.reset(1)
            else:
                bench.experiment.load(replace(bench.experiment.state, epoch=1, rows={}))
            assert bench.probabilities() == {"red": 0.5, "green": 0.5}

        self.play(story)

    def test_the_random_part_is_scaled_with_the_rest(self) -> None:
        async def story(bench: Bench) -> None:
            bench.probabilities()
            await bench.executor.finish()
            full = bench.experiment.allocation
            bench.experiment.put_arm(replace_arm(RED, enabled=False))
            stopgap = bench.allocator.refresh(bench.experiment, NOON)
            assert full is not None
            assert stopgap.probabilities == (1.0,)
            assert stopgap.random_mass == pytest.approx(full.random_mass / full.probabilities[1])

        self.play(story, random_share=0.5)

    def test_a_failure_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(bench: Bench) -> None:
            monkeypatch.setattr(EpsilonGreedy, "allocate", lambda *_: 1 / 0)
            bench.probabilities()
            await bench.executor.finish()
            assert [type(error) for error in bench.failures] == [ZeroDivisionError]
            bench.probabilities()
            assert len(bench.executor.waiting) == 1  # it is tried again

        self.play(story)


def replace_arm(arm: Arm, *, enabled: bool = True, deleted: bool = False) -> Arm:
    return Arm(arm.number, arm.arm_id, enabled=enabled, deleted=deleted)
