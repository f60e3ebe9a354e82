"""A yardstick: the same draw as a FastAPI route, as its tutorial writes one."""

import importlib

from bare_draw import decide


async def draw() -> dict[str, object]:
    return decide()


app = importlib.import_module("fastapi").FastAPI()
app.add_api_route("/", draw)
