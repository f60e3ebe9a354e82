"""The very bytes that real clients send, and in the packets in which they send them; test_real_clients.py runs them.

Recorded on loopback: curl 7.88, JDK 17, Go 1.26, Node 20, httpx 0.28, requests 2.34, aiohttp 3.14, ApacheBench 2.3.
"""

import json
from pathlib import Path

import pytest

from support import RunningServer
from wire import Answer, Wire
from wire_servers import lane_server, new_experiment, pulls

CAPTURED = Path(__file__).parent.parent / "clients" / "captured.json"
CLIENTS: dict[str, dict[str, list[str]]] = json.loads(CAPTURED.read_text())

server = lane_server()


class Client:
    """One of them, on one connection."""

    def __init__(self, name: str, wire: Wire, port: int, experiment_id: str) -> None:
        self._requests = CLIENTS[name]
        self._wire = wire
        self._names = {"{port}": f"{port}", "{experiment_id}": experiment_id}

    def packets(self, operation: str, decision_id: str = "") -> list[bytes]:
        return [self._filled(packet, decision_id).encode("latin-1") for packet in self._requests[operation]]

    def ask(self, operation: str, decision_id: str = "") -> Answer:
        self._wire.send(*self.packets(operation, decision_id))
        return self._wire.answer()

    def _filled(self, packet: str, decision_id: str) -> str:
        for name, value in {**self._names, "{decision_id}": decision_id}.items():
            packet = packet.replace(name, value)
        return packet


@pytest.mark.parametrize("name", CLIENTS)
def test_draws_updates_and_batches(server: RunningServer, name: str) -> None:
    experiment_id = new_experiment(server)
    with Wire(server) as wire:
        client = Client(name, wire, wire.socket.getpeername()[1], experiment_id)
        for _ in range(4):
            drawn = client.ask("draw")
            assert drawn.status == 200
            kept = drawn.headers.get("connection")
            assert kept == ("keep-alive" if name == "ab" else None)
            decision_id = drawn.json["decision_id"]
            assert client.ask("update", decision_id).json == {"accepted": 1, "duplicates": 0}
            assert client.ask("update", decision_id).json == {"accepted": 0, "duplicates": 1}
            assert client.ask("update_batch").json == {"accepted": 2, "duplicates": 0}
        wire.assert_open()
    assert pulls(server, experiment_id) == 4 * 3


@pytest.mark.parametrize("name", CLIENTS)
def test_the_same_without_waiting_and_in_other_packets(server: RunningServer, name: str) -> None:
    experiment_id = new_experiment(server)
    with Wire(server) as wire:
        client = Client(name, wire, wire.socket.getpeername()[1], experiment_id)
        decisions = [client.ask("draw").json["decision_id"] for _ in range(4)]
        stream = b"".join(
            b"".join(client.packets(operation, decision_id))
            for decision_id in decisions
            for operation in ("draw", "update", "update_batch", "update")
        )
        wire.send(stream)
        answers = [wire.answer().json for _ in range(16)]
        assert [len(answer) for answer in answers] == [4, 2, 2, 2] * 4
        assert [answer["accepted"] for answer in answers[1::4]] == [1] * 4
        assert [answer["accepted"] for answer in answers[3::4]] == [0] * 4
        wire.send(*(stream[at : at + 37] for at in range(0, len(stream), 37)))
        assert [wire.answer().status for _ in range(16)] == [200] * 16
        wire.assert_open()
    assert pulls(server, experiment_id) == 4 + 8 * 2
