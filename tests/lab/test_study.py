"""Studies: what a file says, and every fault of one that does not fit."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from multiarm.domain.errors import Invalid, InvalidField, StartError
from multiarm.domain.policies import KLUCB, UCB1, FixedSplit, Thompson, ThompsonGaussian
from multiarm.lab import Bernoulli, Entry, Gaussian, Study, at_delays, decode_study, read_study, simulate

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))
ENVIRONMENT = {"type": "bernoulli", "means": [0.5, 0.4]}
GOOD: dict[str, Any] = {"environment": ENVIRONMENT, "policies": [{"type": "thompson"}]}


def faults(**changed: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as refused:
        decode_study(GOOD | changed)
    return [(fault.path, fault.detail) for fault in refused.value.as_faults()]


def test_policies_are_as_the_api_takes_them_with_a_label_and_guardrails() -> None:
    study = decode_study(
        GOOD
        | {
            "horizon": 100,
            "policies": [
                {"type": "ucb1", "alpha": 0.5},
                {"type": "thompson", "prior": {"alpha": 2}, "label": "mine", "random_share": 0.1, "floor": 0.05},
                {"type": "thompson", "half_life_draws": 50},
            ],
        }
    )
    assert study.horizon == 100
    assert study.policies[0] == Entry(policy=UCB1(alpha=0.5))
    assert [entry.name for entry in study.policies] == ["ucb1 alpha=0.5", "mine", "thompson half_life_draws=50"]
    assert (study.policies[1].random_share, study.policies[1].floor) == (0.1, 0.05)


@pytest.mark.parametrize(
    ("changed", "path", "words"),
    [
        ({"horizon": 0}, "horizon", ">= 1"),
        ({"runs": 1.5}, "runs", "Expected int"),
        ({"colour": "red"}, "colour", "no such field"),
        ({"environment": 3}, "environment", "needs a table"),
        ({"environment": {"means": [0.5]}}, "environment.type", "bernoulli, gaussian, poisson, revenue"),
        ({"environment": {"type": "weibull"}}, "environment.type", "no type 'weibull'"),
        ({"environment": {"type": "bernoulli"}}, "environment.means", "required"),
        ({"environment": ENVIRONMENT | {"means": [0.5, "x"]}}, "environment.means[1]", "Expected float"),
        ({"environment": ENVIRONMENT | {"means": [0.5, 1.5]}}, "environment.means", "between 0 and 1"),
        ({"environment": ENVIRONMENT | {"delay": -1}}, "environment.delay", ">= 0"),
        ({"environment": ENVIRONMENT | {"delay": 0.5}}, "environment.delay", "whole number of draws"),
        ({"environment": ENVIRONMENT | {"delay_kind": "weekly"}}, "environment.delay_kind", "'weekly'"),
        ({"environment": ENVIRONMENT | {"missing": 1}}, "environment.missing", "< 1"),
        ({"environment": ENVIRONMENT | {"sds": [1, 1]}}, "environment.sds", "the fields are"),
        ({"environment": ENVIRONMENT | {"drift": {"type": "wave"}}}, "environment.drift", "missing required field"),
        ({"policies": []}, "policies", "one or more tables"),
        ({"policies": [{"alpha": 2}]}, "policies[0].type", "Has no type"),
        ({"policies": [{"type": "ucb2"}]}, "policies[0].type", "ucb1_tuned"),
        ({"policies": [{"type": "ucb1", "alpha": -1}]}, "policies[0].alpha", ">= 0"),
        ({"policies": [{"type": "ucb1", "beta": 1}]}, "policies[0].beta", "the fields are batch_draws, alpha, label"),
        ({"policies": [{"type": "ucb1", "label": 3}]}, "policies[0].label", "Expected str"),
        ({"policies": [{"type": "thompson", "prior": {"a": 1}}]}, "policies[0].prior.a", "the fields are alpha, beta"),
        ({"policies": [{"type": "ucb1", "floor": 0.6}]}, "policies[0].floor", "more than the whole traffic"),
        ({"policies": [{"type": "exp3", "half_life_draws": 9}]}, "policies[0].half_life_draws", "cannot forget"),
        ({"policies": [{"type": "ucb1"}] * 2}, "policies[1].label", "'ucb1' is there already"),
        ({"runs": 1_000_000, "horizon": 1000}, "runs", "too much"),
    ],
)
def test_a_fault_names_its_field_and_what_is_allowed(changed: dict[str, Any], path: str, words: str) -> None:
    [(found, detail)] = faults(**changed)
    assert found == path
    assert words in detail


def test_all_faults_are_listed() -> None:
    found = faults(
        horizon=-1, colour="red", environment={"type": "bernoulli"}, policies=[{"type": "x"}, {"type": "ucb1", "a": 1}]
    )
    assert {path for path, _ in found} == {
        "horizon",
        "colour",
        "environment.means",
        "policies[0].type",
        "policies[1].a",
    }


class TestPoliciesThatCannotPlayThere:
    def test_rewards_out_of_their_range_are_refused_before_anything_runs(self) -> None:
        environment = Gaussian(means=(0.5, 0.4), sds=(1, 1))
        policies = (Entry(policy=ThompsonGaussian()), Entry(policy=KLUCB(), label="mine"))
        with pytest.raises(InvalidField, match=r"mine: takes rewards from 0 to 1; .* -inf to inf") as refused:
            simulate(Study(environment=environment, policies=policies))
        assert refused.value.path == "policies[1]"

    def test_a_policy_that_cannot_minimize(self) -> None:
        [(path, detail)] = faults(environment=ENVIRONMENT | {"goal": "minimize"}, policies=[{"type": "exp3_ix"}])
        assert (path, "exp3_ix: cannot minimize" in detail) == ("policies[0]", True)

    def test_studies_made_in_python_are_checked_as_well(self) -> None:
        environment = Bernoulli(means=(0.5, 0.4), missing=2.0)
        with pytest.raises(InvalidField) as refused:
            simulate(Study(environment=environment, policies=(Entry(policy=FixedSplit()),)))
        assert refused.value.path == "environment.missing"


class TestFiles:
    @pytest.mark.parametrize("content", [b"horizon = ", b"\xff\xfe"])
    def test_what_is_not_toml(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "study.toml"
        file.write_bytes(content)
        with pytest.raises(StartError, match="is not TOML"):
            read_study(file)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StartError, match="cannot be read"):
            read_study(tmp_path / "nothing.toml")


def test_several_delays() -> None:
    study = Study(environment=Bernoulli(means=(0.5, 0.4)), policies=(Entry(policy=Thompson()),))
    assert [each.environment.delay for each in at_delays(study, [0, 100])] == [0, 100]


def test_there_are_examples() -> None:
    assert {"two_arms", "five_arms", "delay", "drift", "revenue"} <= {file.stem for file in EXAMPLES}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_runs_and_says_what_it_shows(file: Path) -> None:
    assert file.read_text().startswith("# ")
    study = msgspec.structs.replace(read_study(file), horizon=150, runs=4)
    rows = simulate(study).rows
    assert len(rows) == len(study.policies)
    assert all(row.regret_mean >= 0 for row in rows)
