"""How much there may be at a time: the counting, and connections in all and from each address."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from multiarm.http.limits import Amount, Connections, Overloaded, network_of
from support import RunningServer
from wire import Wire, assert_refused, get, many, post
from wire_servers import both_servers, wait_until

CONNECTION_LIMIT = 12


class TestConnections:
    def test_so_many_in_all_and_no_more(self) -> None:
        connections = Connections(3, 3)
        for address in ("a", "b", "c"):
            connections.arrive(address)
        with pytest.raises(Overloaded, match=r"3 connections already \(connection_limit\)"):
            connections.arrive("d")
        connections.leave("b")
        connections.arrive("d")
        with pytest.raises(Overloaded):
            connections.arrive("b")

    def test_so_many_from_each_address(self) -> None:
        connections = Connections(100, 2)
        for _ in range(2):
            connections.arrive("a")
        with pytest.raises(Overloaded, match="address_connection_limit"):
            connections.arrive("a")
        connections.arrive("b")
        connections.leave("a")
        connections.arrive("a")

    def test_who_was_refused_is_not_counted(self) -> None:
        connections = Connections(2, 1)
        connections.arrive("a")
        for _ in range(5):
            with pytest.raises(Overloaded):
                connections.arrive("a")
        connections.arrive("b")
        for address in ("a", "b"):
            connections.leave(address)
        for address in ("c", "d"):
            connections.arrive(address)


class TestAmount:
    def test_takes_come_to_the_limit_at_most(self) -> None:
        amount = Amount(10, "bodies_limit_bytes")
        amount.take(6)
        amount.take(4)
        with pytest.raises(Overloaded, match=r"All of the 10 .*\(bodies_limit_bytes\)"):
            amount.take(1)
        amount.give_back(6)
        amount.take(6)

    def test_a_lone_taker_gets_what_it_asks_for(self) -> None:
        amount = Amount(10, "x")
        amount.take(50)
        with pytest.raises(Overloaded):
            amount.take(1)
        amount.give_back(50)
        amount.take(1)

    def test_what_was_taken_is_given_back_whatever_happens(self) -> None:
        amount = Amount(1, "x")
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), amount.taken(1):
                raise ZeroDivisionError
        with amount.taken(1):
            with pytest.raises(Overloaded), amount.taken(1):
                pass
            with pytest.raises(Overloaded):
                amount.take(1)
        amount.take(1)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:DB8:1:2:0:0:0:1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::1", "127.0.0.1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_a_network_is_an_address_or_the_half_of_one_that_a_machine_may_choose(
    one: str, other: str, alike: bool
) -> None:
    assert (network_of(one) == network_of(other)) is alike


# --- over the wire ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["connection_limit", "address_connection_limit"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    with both_servers(tmp_path_factory.mktemp("crowded"), {request.param: CONNECTION_LIMIT}) as both:
        yield both
        for server in both:
            with entered(server):
                assert "Traceback" not in server.log
            assert server.terminate() == 0


@contextmanager
def entered(server: RunningServer) -> Iterator[Wire]:
    """A connection that is let in, once those that have left are seen to be gone."""
    with ExitStack() as stack:
        inside: list[Wire] = []

        def enter() -> bool:
            wire = Wire(server)
            if wire.answer_after(get("/v1/ping")).status == 200:
                inside.append(stack.enter_context(wire))
            else:
                wire.socket.close()
            return bool(inside)

        wait_until(enter, "nobody is let in")
        yield inside[0]


@contextmanager
def full(server: RunningServer) -> Iterator[list[Wire]]:
    """As many connections as it may have."""
    with ExitStack() as stack:
        yield [stack.enter_context(entered(server)) for _ in range(CONNECTION_LIMIT)]


def assert_one_too_many(server: RunningServer, sent: bytes = b"") -> None:
    """Refused before it has said a word, whatever it says then."""
    with Wire(server) as wire:
        if sent:
            with suppress(BrokenPipeError, ConnectionResetError):
                wire.socket.sendall(sent)
        answer = wire.answer()
        assert_refused(answer, 503, "overloaded")
        assert next(name for name in server.settings if name.endswith("connection_limit")) in answer.json["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        wire.assert_closed()


class TestConnectionsOverTheWire:
    def test_the_one_too_many_is_told_so_and_closed(self, crowded: list[RunningServer]) -> None:
        for server in crowded:
            with full(server) as wires:
                for sent in (b"", get("/v1/ping"), b"\x16\x03\x01", b"x" * 100_000):
                    assert_one_too_many(server, sent)
                for wire in wires:
                    wire.assert_open()

    def test_when_one_leaves_the_next_comes_in(self, crowded: list[RunningServer]) -> None:
        for server in crowded:
            with full(server) as wires, ExitStack() as stack:
                for wire in wires[:3]:
                    wire.socket.close()
                    stack.enter_context(entered(server))
                    assert_one_too_many(server)
                for wire in wires[3:6]:
                    wire.reset()
                    stack.enter_context(entered(server))
                    assert_one_too_many(server)
                for wire in wires[6:]:
                    wire.assert_open()

    def test_those_inside_are_not_disturbed(self, crowded: list[RunningServer]) -> None:
        for server in crowded:
            with full(server) as wires:
                experiment_id = created(wires[0])
                for number, wire in enumerate(wires):
                    wire.send(get(f"/v1/{experiment_id}/draw"))
                    assert_one_too_many(server)
                    assert wire.answer().status == 200
                    update = {"arm_id": "a", "reward": 1, "key": f"k{number}"}
                    answer = wire.answer_after(post(f"/v1/{experiment_id}/update", update))
                    assert answer.json == {"accepted": 1, "duplicates": 0}
                answer = wires[0].answer_after(get(f"/v1/{experiment_id}/stats"))
                assert answer.json["arms"]["a"]["pulls"] == CONNECTION_LIMIT

    def test_those_refused_take_no_place_however_they_leave(self, crowded: list[RunningServer]) -> None:
        for server in crowded:
            with full(server) as wires:
                with many(server, 30) as refused:
                    for wire in refused[::3]:
                        wire.reset()
                    for wire in refused[1::3]:
                        assert_refused(wire.answer(), 503, "overloaded")
                wires[0].socket.close()
                with entered(server):
                    assert_one_too_many(server)
                for wire in wires[1:]:
                    wire.assert_open()


def created(wire: Wire) -> str:
    answer = wire.answer_after(post("/v1/create", {"arms": ["a", "b"]}))
    assert answer.status == 201
    experiment_id: str = answer.json["experiment_id"]
    return experiment_id
