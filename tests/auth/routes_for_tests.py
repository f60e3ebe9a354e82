"""All routes of one experiment, with the verb that each needs. Import it as `from auth.routes_for_tests import …`."""

from typing import NamedTuple

from auth.tokens_for_tests import bearing, token
from multiarm.auth.scopes import Verb
from support import RunningServer
from wire import Wire, post, request

SIGHTS = 3  # a head is remembered at its second
ADMIN = bearing(token())


class Route(NamedTuple):
    """`rest`: of the path, behind the experiment's id. `statuses`: of its answers where it is allowed."""

    verb: Verb
    method: str
    rest: str
    body: object = None
    statuses: tuple[int, ...] = (200, 201, 204)

    def on(self, name: str, scope: str) -> bytes:
        line = bearing(token(scope))
        if self.body is not None:
            return post(f"/v1/{name}{self.rest}", self.body, line).replace(b"POST", self.method.encode(), 1)
        return request(f"{self.method} /v1/{name}{self.rest} HTTP/1.1", "Host: 127.0.0.1", line)


REWARD = {"arm_id": "a", "reward": 1}
ROUTES = [
    Route("draw", "GET", "/draw"),
    Route("update", "POST", "/update", REWARD),
    Route("update", "POST", "/update_batch", {"updates": [REWARD]}),
    Route("update", "PUT", "/reward/key/k", {"reward": 0}, (404,)),
    Route("update", "PUT", "/reward/decision/d", {"reward": 0}, (422,)),
    Route("read", "GET", ""),
    Route("read", "GET", "/stats"),
    Route("read", "GET", "/history"),
    Route("admin", "PUT", "/restore", {"at": 1}, (404,)),
    Route("admin", "GET", "/audit"),
    Route("admin", "PUT", "/reset"),
    Route("admin", "PUT", "/enable"),
    Route("admin", "PUT", "/disable"),
    Route("admin", "PUT", "/policy", {"policy": {"type": "top_two"}}),
    Route("admin", "POST", "/add_arm", {"arm_id": "c"}),
    Route("admin", "PUT", "/enable_arm/a"),
    Route("admin", "PUT", "/disable_arm/a"),
    Route("admin", "DELETE", "/delete_arm/a"),
    Route("admin", "DELETE", "/delete"),
]


def clear(server: RunningServer) -> None:
    with Wire(server) as wire:
        answer = wire.answer_after(request("DELETE /v1/clear HTTP/1.1", "Host: 127.0.0.1", ADMIN))
    assert answer.status == 204
