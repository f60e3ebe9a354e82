"""The handlers: read, call, answer. What an operation means is decided in the service and the domain."""

from typing import Any

import msgspec
from litestar import Request, delete, get, post, put, route

from multiarm._version import __version__
from multiarm.domain.errors import InvalidField, Unavailable
from multiarm.domain.spec import ArmSpec, CreateExperiment, Update, UpdateBatch
from multiarm.http import views
from multiarm.http.answers import NO_CONTENT, NO_STORE, Answer, json_answer
from multiarm.http.bodies import decode, decode_batch, read_body
from multiarm.http.openapi import documented
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings

HttpRequest = Request[Any, Any, Any]

_create_decoder = msgspec.json.Decoder(CreateExperiment)
_arm_decoder = msgspec.json.Decoder(ArmSpec)
_update_decoder = msgspec.json.Decoder(Update)


def supervisor(request: HttpRequest) -> Supervisor:
    found: Supervisor = request.app.state["supervisor"]
    return found


def settings(request: HttpRequest) -> Settings:
    found: Settings = request.app.state["settings"]
    return found


async def body_of(request: HttpRequest) -> bytes:
    return await read_body(request, settings(request).body_limit_bytes)


# --- the server --------------------------------------------------------------------------------------------


@route("/v1/ping", http_method=["GET", "HEAD"], **documented("ping", "Server", answer=views.Pong))
async def ping() -> Answer:
    """Is it there, and which version?"""
    return json_answer(views.Pong(version=__version__))


@route("/health/live", http_method=["GET", "HEAD"], **documented("live", "Server", answer=views.Status))
async def live() -> Answer:
    """The process answers."""
    return json_answer(views.Status("ok"))


@route(
    "/health/ready", http_method=["GET", "HEAD"], **documented("ready", "Server", answer=views.Status, errors=(503,))
)
async def ready(request: HttpRequest) -> Answer:
    """Experiments are loaded, and the database answers."""
    reason = request.app.state["not_ready"]()
    if reason is not None:
        raise Unavailable(reason)
    return json_answer(views.Status("ok"))


@route("/v1/list", http_method=["GET", "HEAD"], **documented("list", "Experiments", answer=views.ExperimentIds))
async def list_experiments(request: HttpRequest) -> Answer:
    """The ids of all experiments, in order of creation."""
    return json_answer(views.ExperimentIds(list(supervisor(request).experiments)))


@delete("/v1/clear", **documented("clear", "Experiments", status=204, errors=(503,)))
async def clear(request: HttpRequest) -> Answer:
    """Delete every experiment, with its arms, evidence and rewards."""
    await supervisor(request).clear()
    return NO_CONTENT


# --- one experiment ----------------------------------------------------------------------------------------


@post(
    "/v1/create",
    **documented(
        "create",
        "Experiments",
        body=CreateExperiment,
        body_required=False,
        answer=views.ExperimentId,
        status=201,
        errors=(400, 409, 413, 415, 422, 503),
    ),
)
async def create(request: HttpRequest) -> Answer:
    """Create an experiment; without a body: Thompson sampling, no arms, a made-up id."""
    body = await body_of(request)
    asked = decode(body, _create_decoder) if body else CreateExperiment()
    experiment_id = await supervisor(request).create(asked)
    return json_answer(views.ExperimentId(experiment_id), 201)


@route(
    "/v1/{experiment_id:str}",
    http_method=["GET", "HEAD"],
    **documented("describe", "Experiments", answer=views.ExperimentView, errors=(404,)),
)
async def describe(request: HttpRequest, experiment_id: str) -> Answer:
    """What the experiment is, how it stands, and how it does."""
    return json_answer(views.describe(supervisor(request), experiment_id))


@delete("/v1/{experiment_id:str}/delete", **documented("delete", "Experiments", status=204, errors=(404, 503)))
async def delete_experiment(request: HttpRequest, experiment_id: str) -> Answer:
    """Delete the experiment; its id is free at once, late rewards for it are refused."""
    await supervisor(request).delete(experiment_id)
    return NO_CONTENT


@put("/v1/{experiment_id:str}/reset", **documented("reset", "Experiments", status=204, errors=(404, 503)))
async def reset(request: HttpRequest, experiment_id: str) -> Answer:
    """Forget the evidence, keep arms and settings; rewards for earlier decisions are refused from now on."""
    await supervisor(request).reset(experiment_id)
    return NO_CONTENT


@put("/v1/{experiment_id:str}/enable", **documented("enable", "Experiments", status=204, errors=(404, 503)))
async def enable(request: HttpRequest, experiment_id: str) -> Answer:
    """Let draws through again; lifts a quarantine too."""
    await supervisor(request).set_enabled(experiment_id, True)
    return NO_CONTENT


@put("/v1/{experiment_id:str}/disable", **documented("disable", "Experiments", status=204, errors=(404, 503)))
async def disable(request: HttpRequest, experiment_id: str) -> Answer:
    """Refuse draws; rewards are still taken."""
    await supervisor(request).set_enabled(experiment_id, False)
    return NO_CONTENT


# --- its arms --------------------------------------------------------------------------------------------------


@post(
    "/v1/{experiment_id:str}/add_arm",
    **documented(
        "add_arm",
        "Arms",
        body=ArmSpec,
        body_required=False,
        answer=views.ArmId,
        status=201,
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
)
async def add_arm(request: HttpRequest, experiment_id: str) -> Answer:
    """Add an arm; without a body it gets a made-up id. A deleted id can be used again, for a new arm."""
    body = await body_of(request)
    spec = decode(body, _arm_decoder) if body else ArmSpec()
    return json_answer(views.ArmId(await supervisor(request).add_arm(experiment_id, spec)), 201)


@delete(
    "/v1/{experiment_id:str}/delete_arm/{arm_id:str}",
    **documented("delete_arm", "Arms", status=204, errors=(404, 503)),
)
async def delete_arm(request: HttpRequest, experiment_id: str, arm_id: str) -> Answer:
    """Delete an arm for good; rewards for decisions already drawn are still recorded."""
    await supervisor(request).delete_arm(experiment_id, arm_id)
    return NO_CONTENT


@put(
    "/v1/{experiment_id:str}/enable_arm/{arm_id:str}",
    **documented("enable_arm", "Arms", status=204, errors=(404, 409, 503)),
)
async def enable_arm(request: HttpRequest, experiment_id: str, arm_id: str) -> Answer:
    """Draw the arm again."""
    await supervisor(request).set_arm_enabled(experiment_id, arm_id, True)
    return NO_CONTENT


@put(
    "/v1/{experiment_id:str}/disable_arm/{arm_id:str}",
    **documented("disable_arm", "Arms", status=204, errors=(404, 503)),
)
async def disable_arm(request: HttpRequest, experiment_id: str, arm_id: str) -> Answer:
    """Draw the arm no more; it keeps its evidence and still takes rewards."""
    await supervisor(request).set_arm_enabled(experiment_id, arm_id, False)
    return NO_CONTENT


# --- draws and rewards ---------------------------------------------------------------------------------------


@get(
    "/v1/{experiment_id:str}/draw",
    **documented("draw", "Draws and rewards", answer=views.Draw, errors=(404, 409, 503)),
)
async def draw(request: HttpRequest, experiment_id: str) -> Answer:
    """Choose an arm. Send the decision_id back with the reward; the propensity is exact."""
    decision = supervisor(request).draw(experiment_id)
    arm = decision.arm
    return json_answer(views.Draw(arm.arm_id, decision.propensity, decision.decision_id, arm.payload), 200, NO_STORE)


@post(
    "/v1/{experiment_id:str}/update",
    **documented(
        "update", "Draws and rewards", body=Update, answer=views.Counted, errors=(400, 404, 410, 413, 415, 422, 503)
    ),
)
async def update(request: HttpRequest, experiment_id: str) -> Answer:
    """Report one reward; it is on disk when the answer comes."""
    asked = decode(await body_of(request), _update_decoder)
    return ACCEPTED if await supervisor(request).update(experiment_id, asked) else DUPLICATE


@post(
    "/v1/{experiment_id:str}/update_batch",
    **documented(
        "update_batch",
        "Draws and rewards",
        body=UpdateBatch,
        answer=views.Counted,
        errors=(400, 404, 410, 413, 415, 422, 503),
    ),
)
async def update_batch(request: HttpRequest, experiment_id: str) -> Answer:
    """Report up to 10,000 rewards, all or nothing; duplicates are counted, not refused."""
    updates, faults = decode_batch(await body_of(request))
    limit = settings(request).batch_limit_updates
    if len(updates) > limit:
        raise InvalidField("updates", f"A batch may have {limit:,} updates (batch_limit_updates); split it.")
    accepted = await supervisor(request).update_batch(experiment_id, updates, faults)
    return json_answer(views.Counted(accepted, len(updates) - accepted))


@route(
    "/v1/{experiment_id:str}/stats",
    http_method=["GET", "HEAD"],
    **documented("stats", "Draws and rewards", answer=views.Stats, errors=(404, 503)),
)
async def stats(request: HttpRequest, experiment_id: str) -> Answer:
    """Counts, means, shares, probabilities of being best and intervals, from the evidence as it stands."""
    return json_answer(views.Stats(await supervisor(request).stats(experiment_id)))


ACCEPTED = json_answer(views.Counted(1, 0))
DUPLICATE = json_answer(views.Counted(0, 1))


HANDLERS = [
    ping,
    live,
    ready,
    list_experiments,
    clear,
    create,
    describe,
    delete_experiment,
    reset,
    enable,
    disable,
    add_arm,
    delete_arm,
    enable_arm,
    disable_arm,
    draw,
    update,
    update_batch,
    stats,
]
