"""Every policy over HTTP: created, drawn from, rewarded, shown, changed; and what is wrong with one said in words."""

import math
from typing import Annotated, Any, get_args, get_origin

import httpx
import msgspec
import pytest
from msgspec import Meta

from multiarm.domain.policies import AnyPolicy, Policy
from support import RunningServer, assert_faults, assert_problem, create, reward, stats

POLICIES: tuple[type[Policy], ...] = get_args(AnyPolicy)
TAGS = [str(kind.__struct_config__.tag) for kind in POLICIES]
BY_TAG = dict(zip(TAGS, POLICIES, strict=True))
LANE, APP = "", "?door=app"  # a query string is nothing for the express lane
HURDLE = {"type": "thompson_revenue", "model": "hurdle_lognormal"}

every_policy = pytest.mark.parametrize("tag", TAGS)
both_doors = pytest.mark.parametrize("door", [LANE, APP], ids=["lane", "app"])


def described(client: httpx.Client, experiment_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/{experiment_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def drawn(client: httpx.Client, experiment_id: str, door: str = LANE) -> str:
    answer = client.get(f"/v1/{experiment_id}/draw{door}")
    assert answer.status_code == 200, answer.text
    decision_id: str = answer.json()["decision_id"]
    return decision_id


def change(client: httpx.Client, experiment_id: str, policy: Any, **more: Any) -> httpx.Response:
    return client.put(f"/v1/{experiment_id}/policy", json={"policy": policy, **more})


def defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(kind())
    return shown


class TestEveryPolicy:
    @every_policy
    @both_doors
    def test_is_created_drawn_rewarded_and_shown(self, client: httpx.Client, tag: str, door: str) -> None:
        experiment_id = create(client, "a", "b", "c", policy={"type": tag})
        shown = described(client, experiment_id)
        assert shown["policy"] == defaults(BY_TAG[tag])
        assert shown["random_share"] == BY_TAG[tag].own_traits.random_share
        for value in (1, 0, 0.5, 1, 0.25, 0.75):
            update = {"decision_id": drawn(client, experiment_id, door), "reward": value}
            answer = client.post(f"/v1/{experiment_id}/update{door}", json=update)
            assert (answer.status_code, answer.json()) == (200, {"accepted": 1, "duplicates": 0}), answer.text
        batch = [{"decision_id": drawn(client, experiment_id, door), "reward": 1} for _ in range(3)]
        answer = client.post(f"/v1/{experiment_id}/update_batch{door}", json={"updates": [*batch, batch[0]]})
        assert answer.json() == {"accepted": 3, "duplicates": 1}
        arms = stats(client, experiment_id)
        assert sum(arm["pulls"] for arm in arms.values()) == sum(arm["draws"] for arm in arms.values()) == 9
        assert math.fsum(arm["share"] for arm in arms.values()) == pytest.approx(1, abs=1e-9)
        shown = described(client, experiment_id)
        assert shown["counts"]["pulls"] == 9
        assert shown["health"]["status"] == "running"

    @every_policy
    def test_takes_the_evidence_of_every_other_that_fits(self, client: httpx.Client, tag: str) -> None:
        experiment_id = create(client, "a", "b", policy={"type": tag})
        for value in (1, 0, 0.5, 1):
            reward(client, experiment_id, decision_id=drawn(client, experiment_id), reward=value)
        open_decision = drawn(client, experiment_id)
        for other in TAGS:
            assert change(client, experiment_id, {"type": other}).status_code == 204
            shown = described(client, experiment_id)
            assert shown["policy"]["type"] == other
            assert (shown["epoch"], shown["counts"]["pulls"], shown["counts"]["draws"]) == (0, 4, 5)
            assert math.fsum(a["share"] for a in stats(client, experiment_id).values()) == pytest.approx(1, abs=1e-9)
        assert change(client, experiment_id, {"type": tag}).status_code == 204
        assert reward(client, experiment_id, decision_id=open_decision, reward=1) == {"accepted": 1, "duplicates": 0}

    @every_policy
    @both_doors
    def test_refuses_a_reward_out_of_its_range(self, client: httpx.Client, tag: str, door: str) -> None:
        experiment_id = create(client, "a", policy={"type": tag})
        traits = BY_TAG[tag].own_traits
        for value in (traits.reward_min - 1e3, traits.reward_max + 1e3):
            update = {"decision_id": drawn(client, experiment_id, door), "reward": value}
            answer = client.post(f"/v1/{experiment_id}/update{door}", json=update)
            assert_problem(answer, 422, "invalid-reward")
        assert described(client, experiment_id)["counts"]["pulls"] == 0

    @every_policy
    @both_doors
    def test_takes_only_the_measures_that_it_knows(self, client: httpx.Client, tag: str, door: str) -> None:
        experiment_id = create(client, "a", policy={"type": tag})
        traits = BY_TAG[tag].own_traits
        for name, takes in (("exposure", traits.takes_exposure), ("events", traits.takes_events)):
            update = {"decision_id": drawn(client, experiment_id), "reward": 1, name: 2}
            answer = client.post(f"/v1/{experiment_id}/update{door}", json=update)
            if takes:
                assert answer.json() == {"accepted": 1, "duplicates": 0}
            else:
                assert_faults(answer, name)
                batch = client.post(f"/v1/{experiment_id}/update_batch{door}", json={"updates": [update]})
                assert_faults(batch, f"updates[0].{name}")

    @pytest.mark.parametrize("tag", [tag for tag in TAGS if BY_TAG[tag].own_traits.needs_decision])
    @both_doors
    def test_may_need_the_decision(self, client: httpx.Client, tag: str, door: str) -> None:
        experiment_id = create(client, "a", policy={"type": tag})
        answer = client.post(f"/v1/{experiment_id}/update{door}", json={"arm_id": "a", "reward": 1})
        assert assert_problem(answer, 422, "decision-required")["errors"][0]["path"] == "decision_id"
        updates = [{"arm_id": "a", "reward": 1}, {"arm_id": "a", "reward": 7}]
        answer = client.post(f"/v1/{experiment_id}/update_batch{door}", json={"updates": updates})
        document = assert_faults(answer, "updates[0].decision_id", "updates[1].reward", "updates[1].decision_id")
        assert {fault["type"] for fault in document["errors"]} == {"decision-required", "invalid-reward"}

    @pytest.mark.parametrize("policy", [HURDLE, {"type": "top_two", "model": HURDLE}])
    @both_doors
    def test_of_revenue_may_refuse_negative_ones(self, client: httpx.Client, policy: Any, door: str) -> None:
        experiment_id = create(client, "a", policy=policy)
        answer = client.post(f"/v1/{experiment_id}/update{door}", json={"arm_id": "a", "reward": -0.01})
        assert "not negative" in assert_problem(answer, 422, "invalid-reward")["errors"][0]["detail"]
        assert reward(client, experiment_id, arm_id="a", reward=0)["accepted"] == 1


class TestMeasures:
    @both_doors
    def test_a_rate_is_over_the_exposure_that_was_said(self, client: httpx.Client, door: str) -> None:
        policy = {"type": "thompson_poisson", "prior": {"events": 0.001}}
        experiment_id = create(client, "often", "seldom", policy=policy)
        for arm_id, exposure in (("often", 10), ("seldom", 1_000)):
            update = {"arm_id": arm_id, "reward": 100, "exposure": exposure}
            assert client.post(f"/v1/{experiment_id}/update{door}", json=update).status_code == 200
        arms = stats(client, experiment_id)
        assert arms["often"]["probability_best"] > 0.999
        low, high = arms["often"]["interval"]
        assert low < 10 < high
        assert arms["often"]["mean_reward"] == arms["seldom"]["mean_reward"] == 100

    @both_doors
    def test_a_wait_that_goes_on_is_no_event(self, client: httpx.Client, door: str) -> None:
        experiment_id = create(client, "ends", "lasts", policy={"type": "thompson_exponential"})
        for arm_id, events in (("ends", 1), ("lasts", 0)):
            updates = [{"arm_id": arm_id, "reward": 1, "events": events}] * 30
            answer = client.post(f"/v1/{experiment_id}/update_batch{door}", json={"updates": updates})
            assert answer.status_code == 200
        assert stats(client, experiment_id)["lasts"]["probability_best"] > 0.99

    @pytest.mark.parametrize(("name", "wrong"), [("exposure", 0), ("exposure", -1), ("events", -1), ("events", 0.5)])
    @both_doors
    def test_what_is_none_is_refused(self, client: httpx.Client, door: str, name: str, wrong: float) -> None:
        kind = "thompson_poisson" if name == "exposure" else "thompson_exponential"
        experiment_id = create(client, "a", policy={"type": kind})
        update = {"arm_id": "a", "reward": 1, name: wrong}
        assert_faults(client.post(f"/v1/{experiment_id}/update{door}", json=update), name)


class Bound:
    """A parameter of a policy, or of a struct within one, and a value beyond an end of its range."""

    def __init__(self, tag: str, path: tuple[str, ...], wrong: float, said: list[str]) -> None:
        self.tag, self.path, self.wrong, self.said = tag, path, wrong, said

    def __str__(self) -> str:
        return f"{self.tag}.{'.'.join(self.path)}={self.wrong:g}"

    def policy(self) -> dict[str, Any]:
        built: Any = self.wrong
        kind: type[msgspec.Struct] = BY_TAG[self.tag]
        kinds = [kind]
        for name in self.path[:-1]:
            kinds.append(nested(kinds[-1], name))
        for owner, name in zip(reversed(kinds), reversed(self.path), strict=True):
            built = {name: built} | tagged(owner)
        assert isinstance(built, dict)
        return built


def tagged(kind: type[msgspec.Struct]) -> dict[str, Any]:
    config = kind.__struct_config__
    return {} if config.tag_field is None else {config.tag_field: config.tag}


def structs_in(type_: Any) -> list[type[msgspec.Struct]]:
    if get_origin(type_) is Annotated:
        return structs_in(get_args(type_)[0])
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return [type_]
    return [kind for member in get_args(type_) for kind in structs_in(member)]


def nested(kind: type[msgspec.Struct], name: str) -> type[msgspec.Struct]:
    [field] = [field for field in msgspec.structs.fields(kind) if field.name == name]
    return structs_in(field.type)[0]


def metas(type_: Any) -> list[Meta]:
    own = [meta for meta in getattr(type_, "__metadata__", ()) if isinstance(meta, Meta)]
    if get_origin(type_) is Annotated:
        return own + metas(get_args(type_)[0])
    return [meta for member in get_args(type_) for meta in metas(member)]


def bounds(tag: str, kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> list[Bound]:
    """Of every number that this policy takes, a value below its range and one above."""
    found = []
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        known = metas(field.type)
        low = [float(end) for meta in known for end in (meta.ge, meta.gt) if end is not None]
        high = [float(meta.le) for meta in known if meta.le is not None]
        inner = structs_in(field.type)
        if inner:
            found += bounds(tag, inner[0], here)
        elif low or high:
            [least], [most] = low, high
            said = [f"{end:,.0f}" if end == int(end) and abs(end) < 1e9 else f"{end:g}" for end in (least, most)]
            found += [Bound(tag, here, least - 1, said), Bound(tag, here, most + 1e7, said)]
    return found


BOUNDS = [bound for tag, kind in BY_TAG.items() for bound in bounds(tag, kind)]


class TestParameters:
    def test_all_numbers_have_a_range(self) -> None:
        """And this page knows them."""
        assert {bound.tag for bound in BOUNDS} == set(TAGS) - {"fixed_split"}
        assert ("thompson_gaussian", ("prior", "sd")) in {(bound.tag, bound.path) for bound in BOUNDS}
        assert ("softmax", ("decay", "pulls")) in {(bound.tag, bound.path) for bound in BOUNDS}

    def test_out_of_range_are_named_with_their_range(self, client: httpx.Client) -> None:
        existing = create(client, "a")
        for bound in BOUNDS:
            created = client.post("/v1/create", json={"policy": bound.policy()})
            changed = change(client, existing, bound.policy())
            for answer in (created, changed):
                assert answer.status_code == 422, str(bound)
                path = ".".join(("policy", *bound.path))
                [fault] = [fault for fault in answer.json()["errors"] if fault["path"] == path]
                assert all(end in fault["detail"] for end in bound.said), fault
        assert described(client, existing)["policy"]["type"] == "thompson"

    @pytest.mark.parametrize(
        ("parameters", "path", "words"),
        [
            ({"type": "ucb1", "alpha": "2"}, "policy.alpha", "0 to 1,000,000"),
            ({"type": "ucb1", "alpha": True}, "policy.alpha", "0 to 1,000,000"),
            ({"type": "ucb1", "batch_draws": 1.5}, "policy.batch_draws", "1 to 1,000,000"),
            ({"type": "vdbe", "delta": 0}, "policy.delta", "above 0 to 1"),
            ({"type": "thompson_revenue", "model": "normal"}, "policy.model", "clt, hurdle_lognormal"),
            ({"type": "softmax", "decay": {"type": "stepwise"}}, "policy.decay.type", "exponential, inverse, linear"),
            ({"type": "top_two", "model": {"type": "exp3"}}, "policy.model.type", "thompson_gaussian"),
            ({"type": "ucb1", "gamma": 1}, "policy.gamma", "no such field"),
            ({"type": "thompson_gaussian", "prior": {"mean": 0}}, "policy.prior.sd", "required"),
        ],
    )
    def test_that_do_not_fit_are_named(
        self, client: httpx.Client, parameters: dict[str, Any], path: str, words: str
    ) -> None:
        existing = create(client, "a")
        for answer in (client.post("/v1/create", json={"policy": parameters}), change(client, existing, parameters)):
            assert words in assert_faults(answer, path)["errors"][0]["detail"]

    @pytest.mark.parametrize("policy", [{"type": "ucb2"}, {}, {"type": 7}, {"type": None, "alpha": 1}])
    def test_a_type_that_there_is_not_lists_those_that_there_are(self, client: httpx.Client, policy: Any) -> None:
        existing = create(client, "a")
        for answer in (client.post("/v1/create", json={"policy": policy}), change(client, existing, policy)):
            detail = assert_faults(answer, "policy.type" if policy else "policy")["errors"][0]["detail"]
            assert all(f" {tag}" in detail for tag in TAGS)

    def test_goal_and_half_life_are_checked_against_the_policy(self, client: httpx.Client) -> None:
        fields = {"policy": {"type": "exp3_ix"}, "goal": "minimize", "half_life_s": 3600}
        assert_faults(client.post("/v1/create", json=fields), "goal", "half_life_s")


class TestChange:
    def test_is_204_and_shown(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b", random_share=0.02)
        answer = change(client, experiment_id, {"type": "ucb1", "alpha": 0.5})
        assert (answer.status_code, answer.content) == (204, b"")
        shown = described(client, experiment_id)
        assert shown["policy"] == {"type": "ucb1", "batch_draws": 1, "alpha": 0.5}
        assert shown["random_share"] == 0.05
        assert change(client, experiment_id, {"type": "thompson"}, random_share=0).status_code == 204
        assert described(client, experiment_id)["random_share"] == 0

    def test_is_refused_where_the_evidence_cannot_be_made_and_done_where_it_may_restart(
        self, client: httpx.Client
    ) -> None:
        experiment_id = create(client, "a")
        decision_id = drawn(client, experiment_id)
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        document = assert_problem(change(client, experiment_id, {"type": "exp3"}), 409, "policy-not-changed")
        assert "1 came without a decision" in document["detail"]
        assert '"restart": true' in document["detail"]
        assert described(client, experiment_id)["policy"]["type"] == "thompson"
        assert change(client, experiment_id, {"type": "exp3"}, restart=True).status_code == 204
        shown = described(client, experiment_id)
        assert (shown["epoch"], shown["counts"]["pulls"], shown["counts"]["draws"]) == (1, 0, 0)
        answer = client.post(f"/v1/{experiment_id}/update", json={"decision_id": decision_id, "reward": 1})
        assert_problem(answer, 410, "stale-epoch")

    def test_that_the_experiment_cannot_have_is_422(self, client: httpx.Client) -> None:
        experiment_id = create(client, {"arm_id": "rich", "prior": {"pulls": 2, "mean_reward": 0.5}}, half_life_s=60)
        document = assert_faults(change(client, experiment_id, {"type": "exp3"}), "policy", "policy")
        details = " ".join(fault["detail"] for fault in document["errors"])
        assert "half_life_s" in details
        assert "Arm 'rich'" in details

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({}, "policy"),
            ({"policy": 5}, "policy"),
            ({"policy": {"type": "ucb1"}, "restart": 1}, "restart"),
            ({"policy": {"type": "ucb1"}, "restart": "yes"}, "restart"),
            ({"policy": {"type": "ucb1"}, "random_share": 1.5}, "random_share"),
            ({"policy": {"type": "ucb1"}, "goal": "minimize"}, "goal"),
            ({"policy": {"type": "ucb1"}, "half_life_s": 60}, "half_life_s"),
        ],
    )
    def test_takes_nothing_else(self, client: httpx.Client, body: dict[str, Any], path: str) -> None:
        experiment_id = create(client, "a")
        assert_faults(client.put(f"/v1/{experiment_id}/policy", json=body), path)

    def test_of_what_is_not_there_is_404(self, client: httpx.Client) -> None:
        assert_problem(change(client, "no-such", {"type": "ucb1"}), 404, "experiment-not-found")

    def test_is_put_alone(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        for method in ("GET", "POST", "DELETE"):
            answer = client.request(method, f"/v1/{experiment_id}/policy")
            assert_problem(answer, 405, "method-not-allowed")

    def test_is_there_after_a_kill(self, server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> None:
        del server
        with RunningServer(tmp_path_factory.mktemp("killed")) as running:
            client = running.client()
            experiment_id = create(client, "a", "b")
            for value in (1, 0, 1):
                reward(client, experiment_id, decision_id=drawn(client, experiment_id), reward=value)
            assert change(client, experiment_id, {"type": "exp3"}).status_code == 204
            running.kill()
            running.restart()
            client = running.client()
            shown = described(client, experiment_id)
            assert (shown["policy"]["type"], shown["counts"]["pulls"]) == ("exp3", 3)
            reward(client, experiment_id, decision_id=drawn(client, experiment_id), reward=1)


class TestDocument:
    @pytest.fixture
    def schemas(self, client: httpx.Client) -> dict[str, Any]:
        found: dict[str, Any] = client.get("/docs/openapi.json").json()["components"]["schemas"]
        return found

    def names(self) -> set[str]:
        waiting: list[type[msgspec.Struct]] = list(POLICIES)
        known: set[str] = set()
        while waiting:
            kind = waiting.pop()
            known.add(kind.__name__)
            waiting += [k for f in msgspec.structs.fields(kind) for k in structs_in(f.type) if k.__name__ not in known]
        return known

    def test_each_policy_and_what_it_consists_of_is_explained_in_a_line(self, schemas: dict[str, Any]) -> None:
        names = self.names()
        assert {"LinearDecay", "RatePrior", "BetaPrior", "GaussianPrior", "MeanPrior", "EXP3"} <= names
        for name in names:
            words = schemas[name]["description"]
            assert len(words) > 10, name
            assert "\n" not in words

    def test_so_is_each_parameter_with_its_range_and_default(self, schemas: dict[str, Any]) -> None:
        kinds = {kind.__name__: kind for kind in POLICIES}
        for name in self.names():
            for field, schema in schemas[name]["properties"].items():
                assert len(schema.get("description", "")) > 10, f"{name}.{field}"
                assert "\n" not in schema["description"]
                number = next((s for s in (schema, *schema.get("anyOf", ())) if s.get("type") in NUMBERS), None)
                if number is not None:
                    assert {"minimum", "exclusiveMinimum"} & number.keys(), f"{name}.{field}"
                    assert "maximum" in number, f"{name}.{field}"
                if name in kinds and field != "type":
                    assert schema["default"] == defaults(kinds[name])[field], f"{name}.{field}"

    def test_the_change_of_a_policy_is_explained_too(self, schemas: dict[str, Any]) -> None:
        for field in schemas["PolicyChange"]["properties"].values():
            assert field["description"]


NUMBERS = {"number", "integer"}
