"""What a user may ask for: ids, keys, limits, and what the types alone cannot say."""

import math
from typing import Any

import msgspec
import pytest

from multiarm.domain.arm import ID_PATTERN
from multiarm.domain.errors import InvalidField
from multiarm.domain.policies import BetaPrior, EpsilonGreedy, Thompson
from multiarm.domain.spec import (
    ARM_LIMIT,
    BATCH_LIMIT,
    RESERVED_IDS,
    ArmSpec,
    CreateExperiment,
    ExperimentSpec,
    Update,
    UpdateBatch,
    check_arm,
    check_creation,
)

GOOD_IDS = ["a", "Z", "0", "9-._", "a" * 64, "arm-1", "A.b_c-d", "0.."]
BAD_IDS = ["", "a" * 65, "-a", ".a", "_a", "..", "a b", "a/b", "a\n", "\na", "a\r", "é", "aé", "a%20", "a:b", "١", " a"]
KEY_LETTERS = "~:@!$&'()*+,;=._-"
GOOD_KEYS = ["k", "-", "...", "..a", ".a", "_", "K" * 128, "order:17@shop", *KEY_LETTERS.replace(".", ""), KEY_LETTERS]
BAD_KEYS = [
    "",
    ".",
    "..",
    "k" * 129,
    "k\n",
    ".\n",
    "..\n",
    "a b",
    "a/b",
    "a%b",
    "é",
    'a"b',
    "a?b",
    "a#b",
    "a\\b",
    "a\0",
]


def decodes(type_: Any, **fields: Any) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode(fields), type=type_)
    except msgspec.ValidationError:
        return False
    return True


def fault_of(request: CreateExperiment) -> str:
    """The path of the field at fault."""
    with pytest.raises(InvalidField) as caught:
        check_creation(request)
    return caught.value.path


class TestIds:
    @pytest.mark.parametrize("text", GOOD_IDS)
    def test_accepted_for_experiments_and_arms(self, text: str) -> None:
        assert decodes(CreateExperiment, experiment_id=text)
        assert decodes(CreateExperiment, arms=[text])
        assert decodes(CreateExperiment, arms=[{"arm_id": text}])
        assert decodes(ArmSpec, arm_id=text)

    @pytest.mark.parametrize("text", BAD_IDS)
    def test_refused_for_experiments_and_arms(self, text: str) -> None:
        assert not decodes(CreateExperiment, experiment_id=text)
        assert not decodes(CreateExperiment, arms=[text])
        assert not decodes(CreateExperiment, arms=[{"arm_id": text}])
        assert not decodes(ArmSpec, arm_id=text)

    @pytest.mark.parametrize("reserved", ["ping", "list", "clear", "create"])
    def test_words_of_the_api_are_no_experiment_ids_but_may_name_arms(self, reserved: str) -> None:
        assert fault_of(CreateExperiment(experiment_id=reserved)) == "experiment_id"
        check_creation(CreateExperiment(experiment_id=reserved.upper(), arms=[reserved]))

    def test_no_more_words_are_reserved_than_documented(self) -> None:
        assert {"ping", "list", "clear", "create"} == RESERVED_IDS

    def test_the_pattern_is_the_documented_one_but_for_a_trailing_newline(self) -> None:
        assert ID_PATTERN.replace(r"(?!\n)", "") == "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class TestKeys:
    @pytest.mark.parametrize("key", GOOD_KEYS)
    def test_accepted(self, key: str) -> None:
        assert decodes(Update, reward=1, arm_id="a", key=key)

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refused(self, key: str) -> None:
        assert not decodes(Update, reward=1, arm_id="a", key=key)


class TestUpdates:
    @pytest.mark.parametrize("ts", [0, 1.7e9, -1.0, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+02:00"])
    def test_ts_is_seconds_or_rfc_3339(self, ts: Any) -> None:
        assert decodes(Update, reward=1, arm_id="a", ts=ts)

    @pytest.mark.parametrize("ts", ["2026-01-02T03:04:05", "yesterday", "1700000000", True, [1.0]])
    def test_a_ts_without_a_zone_or_meaning_is_refused(self, ts: Any) -> None:
        assert not decodes(Update, reward=1, arm_id="a", ts=ts)

    @pytest.mark.parametrize("reward", [None, True, "1", [1], {}])
    def test_a_reward_is_a_number(self, reward: Any) -> None:
        assert not decodes(Update, reward=reward, arm_id="a")
        assert not decodes(Update, arm_id="a")

    def test_unknown_fields_are_refused(self) -> None:
        assert not decodes(Update, reward=1, arm_id="a", value=2)

    def test_a_batch_holds_1_to_10000(self) -> None:
        update = {"reward": 1, "arm_id": "a"}
        assert BATCH_LIMIT == 10_000
        assert not decodes(UpdateBatch, updates=[])
        assert decodes(UpdateBatch, updates=[update])
        assert decodes(UpdateBatch, updates=[update] * BATCH_LIMIT)
        assert not decodes(UpdateBatch, updates=[update] * (BATCH_LIMIT + 1))


LIMITS: list[tuple[dict[str, Any], bool]] = [
    ({"random_share": 0}, True),
    ({"random_share": 1}, True),
    ({"random_share": -1e-9}, False),
    ({"random_share": 1.000001}, False),
    ({"random_share": True}, False),
    ({"random_share": "0.5"}, False),
    ({"floor": 1}, True),
    ({"floor": -0.1}, False),
    ({"floor": 1.1}, False),
    ({"half_life_s": None}, True),
    ({"half_life_s": 60}, True),
    ({"half_life_s": 59.999}, False),
    ({"half_life_s": 1e12}, True),
    ({"half_life_s": 0}, False),
    ({"reward_origin": 1e12}, True),
    ({"reward_origin": -1.1e12}, False),
    ({"description": "x" * 1000}, True),
    ({"description": "x" * 1001}, False),
    ({"policy": {"type": "epsilon_greedy", "epsilon": 0}}, True),
    ({"policy": {"type": "epsilon_greedy", "epsilon": 1.01}}, False),
    ({"policy": {"type": "epsilon_greedy", "epsilon": -0.01}}, False),
    ({"policy": {"type": "thompson", "prior": {"alpha": 0.001, "beta": 1e9}}}, True),
    ({"policy": {"type": "thompson", "prior": {"alpha": 0.0009}}}, False),
    ({"policy": {"type": "thompson", "epsilon": 0.1}}, False),
    ({"policy": {"type": "unknown"}}, False),
    ({"policy": {}}, False),
    ({"halflife": 60}, False),
]


@pytest.mark.parametrize(("fields", "allowed"), LIMITS)
def test_limits_of_the_settings_of_an_experiment(fields: dict[str, Any], allowed: bool) -> None:
    assert decodes(CreateExperiment, **fields) is allowed
    assert decodes(ExperimentSpec, **fields) is allowed


@pytest.mark.parametrize(
    ("pulls", "allowed"), [(1, True), (0.5, True), (1e9, True), (0, False), (-1, False), (1.1e9, False)]
)
def test_a_prior_has_more_than_no_pulls_and_at_most_1e9(pulls: float, allowed: bool) -> None:
    assert decodes(ArmSpec, prior={"pulls": pulls, "mean_reward": 0.5}) is allowed


class TestDefaults:
    def test_everything_is_optional(self) -> None:
        request = msgspec.json.decode(b"{}", type=CreateExperiment)
        check_creation(request)
        assert request.spec == ExperimentSpec(policy=Thompson(prior=BetaPrior(alpha=1.0, beta=1.0)), random_share=0.0)
        assert request.arm_specs == []

    def test_the_spec_is_the_request_without_its_id_and_arms(self) -> None:
        request = CreateExperiment(
            experiment_id="x",
            arms=["a", ArmSpec(payload=[1])],
            description="why",
            policy=EpsilonGreedy(epsilon=0.2),
            random_share=0.1,
            floor=0.05,
            half_life_s=3600.0,
            reward_origin=7.0,
        )
        assert request.spec == ExperimentSpec(
            description="why",
            policy=EpsilonGreedy(epsilon=0.2),
            random_share=0.1,
            floor=0.05,
            half_life_s=3600.0,
            reward_origin=7.0,
        )
        assert request.arm_specs == [ArmSpec(arm_id="a"), ArmSpec(payload=[1])]


class TestCreation:
    def test_an_arm_id_given_twice_is_named_by_its_place(self) -> None:
        assert fault_of(CreateExperiment(arms=["a", "b", ArmSpec(arm_id="a")])) == "arms[2]"

    def test_arms_without_ids_are_no_duplicates(self) -> None:
        check_creation(CreateExperiment(arms=[ArmSpec(), ArmSpec(), "a", "A"]))

    @pytest.mark.parametrize(
        ("count", "floor"), [(2, 0.5), (3, 1 / 3), (10, 0.1), (5, math.nextafter(1 / 5, 1)), (0, 1.0), (1, 1.0)]
    )
    def test_floors_may_fill_the_whole_traffic(self, count: int, floor: float) -> None:
        check_creation(CreateExperiment(floor=floor, arms=[f"a{n}" for n in range(count)]))

    @pytest.mark.parametrize(("count", "floor"), [(2, 0.51), (3, 0.334), (11, 0.1), (2, 1.0)])
    def test_floors_above_the_whole_traffic_are_refused(self, count: int, floor: float) -> None:
        assert fault_of(CreateExperiment(floor=floor, arms=[f"a{n}" for n in range(count)])) == "floor"

    def test_arms_are_limited(self) -> None:
        arms = [f"a{n}" for n in range(ARM_LIMIT + 1)]
        assert decodes(CreateExperiment, arms=arms[:-1])
        assert not decodes(CreateExperiment, arms=arms)

    @pytest.mark.parametrize("origin", [-0.1, 1.1])
    def test_an_origin_lies_among_the_policys_rewards(self, origin: float) -> None:
        assert fault_of(CreateExperiment(policy=Thompson(), reward_origin=origin)) == "reward_origin"
        check_creation(CreateExperiment(policy=EpsilonGreedy(), reward_origin=origin))

    @pytest.mark.parametrize("mean", [-0.01, 1.01, float("nan"), float("inf")])
    def test_a_prior_mean_outside_the_policys_rewards_is_refused(self, mean: float) -> None:
        arm = msgspec.convert({"arm_id": "b", "prior": {"pulls": 1.0, "mean_reward": mean}}, ArmSpec)
        assert fault_of(CreateExperiment(arms=["a", arm])) == "arms[1].prior.mean_reward"
        with pytest.raises(InvalidField):
            check_arm(arm, Thompson())

    @pytest.mark.parametrize("mean", [0.0, 0.5, 1.0])
    def test_a_prior_mean_in_range_is_accepted(self, mean: float) -> None:
        check_arm(msgspec.convert({"prior": {"pulls": 1.0, "mean_reward": mean}}, ArmSpec), Thompson())

    def test_an_unbounded_policy_takes_prior_means_up_to_1e12(self) -> None:
        for mean, allowed in ((1e12, True), (-1e12, True), (1.01e12, False), (float("nan"), False)):
            arm = msgspec.convert({"prior": {"pulls": 1.0, "mean_reward": mean}}, ArmSpec)
            if allowed:
                check_arm(arm, EpsilonGreedy())
            else:
                with pytest.raises(InvalidField):
                    check_arm(arm, EpsilonGreedy())


class TestPayloads:
    @pytest.mark.parametrize(("depth", "allowed"), [(0, True), (1, True), (64, True), (65, False), (900, False)])
    def test_are_nested_64_levels_at_most(self, depth: int, allowed: bool) -> None:
        payload: object = 1
        for level in range(depth):
            payload = [payload] if level % 2 else {"a": payload}
        request = CreateExperiment(arms=[ArmSpec(payload=payload)])
        if allowed:
            check_creation(request)
        else:
            with pytest.raises(InvalidField, match="64 levels") as caught:
                check_creation(request)
            assert caught.value.path == "arms[0].payload"
