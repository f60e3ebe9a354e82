"""The hot operations, as both doors answer them: the routes of the application, and the express lane."""

import msgspec

from multiarm.auth.bearer import Bearer
from multiarm.domain.allocation import Share
from multiarm.domain.errors import DecisionOfAnother, InvalidField
from multiarm.domain.spec import Update
from multiarm.http import views
from multiarm.http.answers import NO_STORE, Answer, json_answer
from multiarm.http.bodies import decode, decode_batch
from multiarm.service.batch import BatchFaults
from multiarm.service.supervisor import Supervisor

COUNTED = {True: json_answer(views.Counted(1, 0)), False: json_answer(views.Counted(0, 1))}  # by whether it was new

_update_decoder = msgspec.json.Decoder(Update)


def drawn(share: Share, token: bytes) -> Answer:
    arm = share.arm
    return json_answer(views.Draw(arm.arm_id, share.propensity, token.decode(), arm.payload), 200, NO_STORE)


def decode_update(body: bytes) -> Update:
    try:
        return _update_decoder.decode(body)
    except (ValueError, RecursionError):
        return decode(body, _update_decoder)  # which says what is wrong with it


async def update(supervisor: Supervisor, experiment_id: str, body: bytes, bearer: Bearer) -> Answer:
    supervisor.experiment(experiment_id)
    try:
        return COUNTED[await supervisor.update(experiment_id, decode_update(body))]
    except DecisionOfAnother as error:
        raise bearer.told(error) from None


async def update_batch(
    supervisor: Supervisor, experiment_id: str, body: bytes, limit_updates: int, bearer: Bearer
) -> Answer:
    supervisor.experiment(experiment_id)
    faults = BatchFaults(bearer.told)
    async with supervisor.reading(update_count=body.count(b'"reward"')):
        updates = await decode_batch(body, faults)
        if len(updates) > limit_updates:
            raise InvalidField(
                "updates", f"A batch may have {limit_updates:,} updates (batch_limit_updates); split it."
            )
        counting = await supervisor.submit_batch(experiment_id, updates, faults)
    accepted = sum(await counting)
    return json_answer(views.Counted(accepted, len(updates) - accepted))
