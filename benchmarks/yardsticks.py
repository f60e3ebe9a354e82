"""What other servers do for a draw from memory, undurable and unsigned, beside the bare protocol."""

from contextlib import ExitStack
from pathlib import Path

from processes import Server, python
from rows import Row
from works import Say, Work, measure

UVICORN = (
    *("-m", "uvicorn", "--port", "PORT", "--loop", "uvloop", "--http", "httptools", "--lifespan", "off"),
    *("--no-access-log", "--log-level", "error", "--no-proxy-headers", "--no-server-header"),
)
GRANIAN = ("-m", "granian", "--port", "PORT", "--interface", "rsgi", "--workers", "1", "--no-ws", "--no-access-log")
SERVERS = {
    "bare protocol, drawing": ("bare_protocol.py", "PORT", "draw"),
    "raw ASGI on uvicorn": (*UVICORN, "bare_asgi:app"),
    "RSGI on Granian": (*GRANIAN, "--log-level", "error", "--loop", "uvloop", "bare_rsgi:app"),
    "FastAPI on uvicorn": (*UVICORN, "bare_fastapi:app"),
}


def measure_yardsticks(directory: Path, bare: Server, *, runs: int, seconds: int, say: Say) -> list[Row]:
    with ExitStack() as stack:
        works = [Work("bare protocol, constant answer", bare, "/")]
        works += [
            Work(name, stack.enter_context(python(directory, *arguments)), "/") for name, arguments in SERVERS.items()
        ]
        return measure(works, runs=runs, seconds=seconds, say=say)
