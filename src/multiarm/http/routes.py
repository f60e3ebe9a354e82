"""The handlers: read, call, answer. What an operation means is decided in the service and the domain."""

import msgspec

from multiarm._version import __version__
from multiarm.auth.bearer import ANYONE
from multiarm.domain.errors import Unavailable
from multiarm.domain.spec import ArmSpec, CreateExperiment, PolicyChange, Update, UpdateBatch
from multiarm.http import audit, corrections, history, operations, views
from multiarm.http.answers import NO_CONTENT, Answer, json_answer
from multiarm.http.bodies import decode
from multiarm.http.endpoints import Call, endpoint
from multiarm.http.openapi import Documentation

_create_decoder = msgspec.json.Decoder(CreateExperiment)
_arm_decoder = msgspec.json.Decoder(ArmSpec)
_policy_decoder = msgspec.json.Decoder(PolicyChange)


# --- the server --------------------------------------------------------------------------------------------


@endpoint("GET", "/v1/ping", Documentation("ping", "Server", answer=views.Pong))
async def ping(_call: Call) -> Answer:
    """Is it there, and which version?"""
    return json_answer(views.Pong(version=__version__))


@endpoint("GET", "/health/live", Documentation("live", "Server", answer=views.Status))
async def live(_call: Call) -> Answer:
    """The process answers."""
    return json_answer(views.Status("ok"))


@endpoint("GET", "/health/ready", Documentation("ready", "Server", answer=views.Status, errors=(503,)))
async def ready(call: Call) -> Answer:
    """Experiments are loaded, and the database answers."""
    reason = call.services.not_ready()
    if reason is not None:
        raise Unavailable(reason)
    return json_answer(views.Status("ok"))


@endpoint("GET", "/metrics", Documentation("metrics", "Server", verb="read", at_gate=True, answer=str))
async def metrics(call: Call) -> Answer:
    """How the server does, in Prometheus' format; of experiments that the token may read."""
    is_open = call.services.settings.open_metrics
    return await call.services.metrics.page(call.header(b"accept"), (ANYONE if is_open else call.bearer).scopes)


@endpoint("GET", "/v1/list", Documentation("list", "Experiments", verb="read", answer=views.ExperimentIds))
async def list_experiments(call: Call) -> Answer:
    """The ids of all experiments, in order of creation: of those that the token may read."""
    shown = call.bearer.scopes.allow
    return json_answer(views.ExperimentIds([name for name in call.supervisor.experiments if shown("read", name)]))


@endpoint("DELETE", "/v1/clear", Documentation("clear", "Experiments", verb="admin", status=204, errors=(503,)))
async def clear(call: Call) -> Answer:
    """Delete every experiment, with its arms, evidence and rewards."""
    call.bearer.require("admin", None)
    await call.supervisor.clear(call.actor)
    return NO_CONTENT


# --- one experiment ----------------------------------------------------------------------------------------


@endpoint(
    "POST",
    "/v1/create",
    Documentation(
        "create",
        "Experiments",
        verb="admin",
        body=CreateExperiment,
        body_required=False,
        answer=views.ExperimentId,
        status=201,
        errors=(400, 409, 413, 415, 422, 503),
    ),
)
async def create(call: Call) -> Answer:
    """Create an experiment; without a body: Thompson sampling, no arms, a made-up id."""
    body = await call.body()
    asked = decode(body, _create_decoder) if body else CreateExperiment()
    call.bearer.require("admin", asked.experiment_id)
    experiment_id = await call.supervisor.create(asked, call.actor)
    return json_answer(views.ExperimentId(experiment_id), 201)


@endpoint(
    "GET",
    "/v1/{experiment_id:str}",
    Documentation("describe", "Experiments", verb="read", answer=views.ExperimentView, errors=(404,)),
)
async def describe(call: Call) -> Answer:
    """What the experiment is, how it stands, and how it does."""
    return json_answer(views.describe(call.supervisor, call.experiment_id))


@endpoint(
    "DELETE",
    "/v1/{experiment_id:str}/delete",
    Documentation("delete", "Experiments", verb="admin", status=204, errors=(404, 503)),
)
async def delete_experiment(call: Call) -> Answer:
    """Delete the experiment; its id is free at once, late rewards for it are refused."""
    await call.supervisor.delete(call.experiment_id, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/reset",
    Documentation("reset", "Experiments", verb="admin", status=204, errors=(404, 503)),
)
async def reset(call: Call) -> Answer:
    """Forget the evidence, keep arms and settings; rewards for earlier decisions are refused from now on."""
    await call.supervisor.reset(call.experiment_id, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/enable",
    Documentation("enable", "Experiments", verb="admin", status=204, errors=(404, 503)),
)
async def enable(call: Call) -> Answer:
    """Let draws through again; lifts a quarantine too."""
    await call.supervisor.set_enabled(call.experiment_id, True, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/disable",
    Documentation("disable", "Experiments", verb="admin", status=204, errors=(404, 503)),
)
async def disable(call: Call) -> Answer:
    """Refuse draws; rewards are still taken."""
    await call.supervisor.set_enabled(call.experiment_id, False, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/policy",
    Documentation(
        "change_policy",
        "Experiments",
        verb="admin",
        body=PolicyChange,
        status=204,
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
)
async def change_policy(call: Call) -> Answer:
    """Change the policy while the experiment runs; its evidence goes along, or it starts again where asked to."""
    call.supervisor.experiment(call.experiment_id)
    await call.supervisor.change_policy(call.experiment_id, decode(await call.body(), _policy_decoder), call.actor)
    return NO_CONTENT


# --- its arms --------------------------------------------------------------------------------------------------


@endpoint(
    "POST",
    "/v1/{experiment_id:str}/add_arm",
    Documentation(
        "add_arm",
        "Arms",
        verb="admin",
        body=ArmSpec,
        body_required=False,
        answer=views.ArmId,
        status=201,
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
)
async def add_arm(call: Call) -> Answer:
    """Add an arm; without a body it gets a made-up id. A deleted id can be used again, for a new arm."""
    call.supervisor.experiment(call.experiment_id)
    body = await call.body()
    spec = decode(body, _arm_decoder) if body else ArmSpec()
    return json_answer(views.ArmId(await call.supervisor.add_arm(call.experiment_id, spec, call.actor)), 201)


@endpoint(
    "DELETE",
    "/v1/{experiment_id:str}/delete_arm/{arm_id:str}",
    Documentation("delete_arm", "Arms", verb="admin", status=204, errors=(404, 503)),
)
async def delete_arm(call: Call) -> Answer:
    """Delete an arm for good; rewards for decisions already drawn are still recorded."""
    await call.supervisor.delete_arm(call.experiment_id, call.arm_id, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/enable_arm/{arm_id:str}",
    Documentation("enable_arm", "Arms", verb="admin", status=204, errors=(404, 409, 503)),
)
async def enable_arm(call: Call) -> Answer:
    """Draw the arm again."""
    await call.supervisor.set_arm_enabled(call.experiment_id, call.arm_id, True, call.actor)
    return NO_CONTENT


@endpoint(
    "PUT",
    "/v1/{experiment_id:str}/disable_arm/{arm_id:str}",
    Documentation("disable_arm", "Arms", verb="admin", status=204, errors=(404, 503)),
)
async def disable_arm(call: Call) -> Answer:
    """Draw the arm no more; it keeps its evidence and still takes rewards."""
    await call.supervisor.set_arm_enabled(call.experiment_id, call.arm_id, False, call.actor)
    return NO_CONTENT


# --- draws and rewards ---------------------------------------------------------------------------------------


@endpoint(
    "GET",
    "/v1/{experiment_id:str}/draw",
    Documentation("draw", "Draws and rewards", verb="draw", answer=views.Draw, errors=(404, 409, 503)),
    head=False,
)
async def draw(call: Call) -> Answer:
    """Choose an arm. Send the decision_id back with the reward; the propensity is exact."""
    decision = call.supervisor.draw(call.experiment_id)
    return operations.drawn(decision.share, decision.token)


@endpoint(
    "POST",
    "/v1/{experiment_id:str}/update",
    Documentation(
        "update",
        "Draws and rewards",
        verb="update",
        body=Update,
        answer=views.Counted,
        errors=(400, 404, 410, 413, 415, 422, 503),
    ),
)
async def update(call: Call) -> Answer:
    """Report one reward; it is on disk when the answer comes."""
    call.supervisor.experiment(call.experiment_id)
    return await operations.update(call.supervisor, call.experiment_id, await call.body(), call.bearer)


@endpoint(
    "POST",
    "/v1/{experiment_id:str}/update_batch",
    Documentation(
        "update_batch",
        "Draws and rewards",
        verb="update",
        body=UpdateBatch,
        answer=views.Counted,
        errors=(400, 404, 410, 413, 415, 422, 503),
    ),
)
async def update_batch(call: Call) -> Answer:
    """Report up to 10,000 rewards, all or nothing; duplicates are counted, not refused."""
    call.supervisor.experiment(call.experiment_id)
    limit_updates = call.services.settings.batch_limit_updates
    body = await call.body()
    return await operations.update_batch(call.supervisor, call.experiment_id, body, limit_updates, call.bearer)


@endpoint(
    "GET",
    "/v1/{experiment_id:str}/stats",
    Documentation("stats", "Draws and rewards", verb="read", answer=views.Stats, errors=(404, 503)),
)
async def stats(call: Call) -> Answer:
    """Counts, means, shares, probabilities of being best and intervals, from the evidence as it stands."""
    return json_answer(views.Stats(await call.supervisor.stats(call.experiment_id)))


HANDLERS = [
    ping,
    live,
    ready,
    metrics,
    list_experiments,
    clear,
    create,
    describe,
    delete_experiment,
    reset,
    enable,
    disable,
    change_policy,
    add_arm,
    delete_arm,
    enable_arm,
    disable_arm,
    draw,
    update,
    update_batch,
    stats,
    *corrections.HANDLERS,
    *history.HANDLERS,
    *audit.HANDLERS,
]
