"""Bodies: JSON or 400, application/json or 415, within the limit or 413."""

from collections.abc import Iterator

import httpx
import pytest

from support import RunningServer, assert_faults, assert_problem, create, stats

JSON = {"content-type": "application/json"}
BODY_LIMIT = 2048  # of `small_server`


@pytest.fixture(scope="module")
def experiment_id(client: httpx.Client) -> str:
    return create(client, "a")


def routes_with_bodies(experiment_id: str) -> list[str]:
    inside = [f"/v1/{experiment_id}/{operation}" for operation in ("add_arm", "update", "update_batch")]
    return ["/v1/create", *inside]


def chunked(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks


class TestNotJson:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"}",
            b"nonsense",
            b"{'arm_id': 'a'}",
            b'{"reward": NaN}',
            b'{"reward": Infinity}',
            b'{"reward": -Infinity}',
            b'{"reward": nan}',
            b'{"reward": 01}',
            b'{"reward": 1.}',
            b'{"reward": .5}',
            b'{"reward": +1}',
            b'{"reward": 0x1}',
            b'{"reward": 1,}',
            b'{"reward": 1} {}',
            b'{"reward": 1}x',
            b'{"arm_id": "\xff"}',
            b'{"arm_id": "\xc3"}',
            b'{"arm_id": "\xed\xa0\x80"}',
            b"\xff\xfe{\x00}\x00",
            b'{"arm_id": "a\nb"}',
            b'{"arm_id": "\\x"}',
            b'{"arm_id": "\\ud800"}',
            b" ",
            b"\x00",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"[" * 100_000 + b"]" * 100_000,
            b'{"payload":' * 50_000 + b"1" + b"}" * 50_000,
        ],
        ids=lambda body: repr(body[:24]),
    )
    def test_is_400_on_every_route(self, client: httpx.Client, experiment_id: str, body: bytes) -> None:
        for path in routes_with_bodies(experiment_id):
            assert_problem(client.post(path, content=body, headers=JSON), 400, "malformed-body")

    @pytest.mark.parametrize("operation", ["update", "update_batch"])
    @pytest.mark.parametrize("headers", [{}, JSON])
    def test_an_empty_body_where_one_is_needed_is_400(
        self, client: httpx.Client, experiment_id: str, operation: str, headers: dict[str, str]
    ) -> None:
        answer = client.post(f"/v1/{experiment_id}/{operation}", headers=headers)
        assert_problem(answer, 400, "malformed-body")

    @pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"a"', b"true"])
    def test_json_that_is_no_object_is_422(self, client: httpx.Client, experiment_id: str, body: bytes) -> None:
        for path in routes_with_bodies(experiment_id):
            assert_faults(client.post(path, content=body, headers=JSON), "")


class TestJson:
    def test_of_repeated_keys_the_last_wins(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        body = b'{"reward": 0, "arm_id": "a", "reward": 1, "arm_id": "b"}'
        assert client.post(f"/v1/{experiment_id}/update", content=body, headers=JSON).status_code == 200
        first = b'[{"arm_id": "b", "reward": 0}]'
        second = b'[{"arm_id": "a", "reward": 1}, {"arm_id": "b", "reward": 0, "reward": 1}]'
        batch = b'{"updates": %b, "updates": %b}' % (first, second)
        assert client.post(f"/v1/{experiment_id}/update_batch", content=batch, headers=JSON).json()["accepted"] == 2
        found = {arm_id: (arm["pulls"], arm["mean_reward"]) for arm_id, arm in stats(client, experiment_id).items()}
        assert found == {"a": (1, 1.0), "b": (2, 1.0)}

    def test_of_repeated_keys_only_the_last_must_fit(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        update = b'{"arm_id": "a", "reward": "x", "reward": 1}'
        for operation, body in (("update", update), ("update_batch", b'{"updates": [], "updates": [%b]}' % update)):
            answer = client.post(f"/v1/{experiment_id}/{operation}", content=body, headers=JSON)
            assert (operation, answer.status_code) == (operation, 200)

    def test_of_repeated_keys_a_bad_last_one_is_refused(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        body = b'{"arm_id": "a", "reward": 1, "reward": "x"}'
        assert_faults(client.post(f"/v1/{experiment_id}/update", content=body, headers=JSON), "reward")

    def test_white_space_and_escapes_are_read(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        body = b' \r\n\t{ "\\u0061rm_id" : "\\u0061" , "reward" : 1E0 }\n'
        assert client.post(f"/v1/{experiment_id}/update", content=body, headers=JSON).status_code == 200


class TestMediaType:
    @pytest.mark.parametrize(
        "media_type",
        [
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "application/json-seq",
            "application/problem+json",
            "multipart/form-data; boundary=x",
            "",
        ],
    )
    def test_other_than_json_is_415(self, client: httpx.Client, experiment_id: str, media_type: str) -> None:
        for path in routes_with_bodies(experiment_id):
            answer = client.post(path, content=b"{}", headers={"content-type": media_type})
            assert_problem(answer, 415, "unsupported-media-type")

    def test_none_is_415(self, client: httpx.Client, experiment_id: str) -> None:
        for path in routes_with_bodies(experiment_id):
            assert_problem(client.post(path, content=b"{}"), 415, "unsupported-media-type")

    @pytest.mark.parametrize(
        "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;"]
    )
    def test_json_is_known_in_every_spelling(self, client: httpx.Client, media_type: str) -> None:
        answer = client.post("/v1/create", content=b"{}", headers={"content-type": media_type})
        assert answer.status_code == 201

    def test_without_a_body_it_does_not_matter(self, client: httpx.Client) -> None:
        assert client.post("/v1/create", headers={"content-type": "text/plain"}).status_code == 201


class TestLimit:
    """Of 2,048 bytes on `small_server`."""

    @pytest.fixture
    def paths(self, small_client: httpx.Client) -> list[str]:
        return routes_with_bodies(create(small_client, "a"))

    def test_the_limit_itself_is_allowed(self, small_client: httpx.Client) -> None:
        body = b"{}".ljust(BODY_LIMIT)
        assert small_client.post("/v1/create", content=body, headers=JSON).status_code == 201
        assert small_client.post("/v1/create", content=chunked(body), headers=JSON).status_code == 201

    def test_a_byte_more_is_413_where_the_length_is_declared(
        self, small_client: httpx.Client, paths: list[str]
    ) -> None:
        for path in paths:
            answer = small_client.post(path, content=b"{}".ljust(BODY_LIMIT + 1), headers=JSON)
            assert_problem(answer, 413, "body-too-large")

    def test_a_byte_more_is_413_where_it_comes_in_one_chunk(self, small_client: httpx.Client, paths: list[str]) -> None:
        for path in paths:
            answer = small_client.post(path, content=chunked(b"{}".ljust(BODY_LIMIT + 1)), headers=JSON)
            assert_problem(answer, 413, "body-too-large")

    def test_a_byte_more_is_413_where_it_comes_in_many_chunks(
        self, small_client: httpx.Client, paths: list[str]
    ) -> None:
        for path in paths:
            answer = small_client.post(path, content=chunked(b"{}", *[b" "] * (BODY_LIMIT - 1)), headers=JSON)
            assert_problem(answer, 413, "body-too-large")

    def test_a_small_chunked_body_in_one_packet_with_its_head_is_limited_too(self, small_server: RunningServer) -> None:
        body = b"{}".ljust(BODY_LIMIT + 1)
        head = b"POST /v1/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        assert small_server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).status == 413

    def test_the_answer_comes_before_the_body(self, small_server: RunningServer) -> None:
        head = b"POST /v1/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        assert small_server.raw(head + b"Content-Length: 1000000000\r\n\r\n").status == 413

    def test_a_full_batch_of_decisions_fits_the_default(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        update = (
            f'{{"decision_id": "{"A" * 92}", "reward": 0.12345678901234567, "ts": "2024-01-01T00:00:00.000000+00:00"}}'
        )
        body = f'{{"updates": [{", ".join([update] * 10_000)}]}}'.encode()
        answer = client.post(f"/v1/{experiment_id}/update_batch", content=body, headers=JSON)
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == 100
