"""What connections need of the settings."""

from typing import Any, Literal, TypeAlias

import uvicorn

from multiarm.http.express import ExpressLane
from multiarm.http.gate import Gate
from multiarm.http.limits import Connections
from multiarm.settings import Settings

LINGER_S = 1.0  # how long a refused client may read why, before the connection goes

WaitsFor: TypeAlias = Literal["idle", "head", "body", "owed", "unread answer", "refused"]


class Config(uvicorn.Config):
    """uvicorn's, with what each connection needs besides. `lane`: None where the application answers everything."""

    def __init__(self, gate: Gate, settings: Settings, lane: ExpressLane | None, **options: Any) -> None:
        super().__init__(gate, **options)
        self.gate = gate
        self.lane = lane
        self.bodies = gate.services.bodies
        self.connections = Connections(settings.connection_limit, settings.address_connection_limit)
        self.head_limit_bytes = settings.head_limit_bytes
        self.timeouts_s: dict[WaitsFor, float] = {
            "idle": settings.keep_alive_timeout_s,
            "head": settings.head_timeout_s,
            "body": settings.body_timeout_s,
            "owed": float("inf"),  # whoever owes the answer has limits of his own
            "unread answer": settings.answer_timeout_s,
            "refused": LINGER_S,
        }
