"""The handlers of corrections: what became known of a reward after it was counted."""

import re
from functools import partial

import msgspec

from multiarm.domain.errors import DecisionOfAnother, InvalidField
from multiarm.domain.spec import KEY_PATTERN, Correction
from multiarm.http import views
from multiarm.http.answers import Answer, json_answer
from multiarm.http.bodies import IN_WORDS, decode
from multiarm.http.endpoints import Call, endpoint
from multiarm.http.openapi import Documentation

ERRORS = (400, 404, 410, 413, 415, 422, 503)
documented = partial(
    Documentation, tag="Draws and rewards", verb="update", body=Correction, answer=views.Corrected, errors=ERRORS
)

_correction_decoder = msgspec.json.Decoder(Correction)
_is_key = re.compile(KEY_PATTERN).match


@endpoint("PUT", "/v1/{experiment_id:str}/reward/decision/{decision_id:str}", documented("correct_decision"))
async def correct_decision(call: Call) -> Answer:
    """Put the reward of a decision right, or withdraw it with null; it counts as if it had come like that."""
    call.supervisor.experiment(call.experiment_id)
    asked = decode(await call.body(), _correction_decoder)
    try:
        corrected = await call.supervisor.correct_decision(
            call.experiment_id, call.decision_id, asked.reward, call.actor
        )
    except DecisionOfAnother as error:
        raise call.bearer.told(error) from None
    return json_answer(views.Corrected(corrected))


@endpoint("PUT", "/v1/{experiment_id:str}/reward/key/{key:str}", documented("correct_key"))
async def correct_key(call: Call) -> Answer:
    """The same of a reward that came with a key."""
    call.supervisor.experiment(call.experiment_id)
    asked = decode(await call.body(), _correction_decoder)
    if not _is_key(call.key):
        raise InvalidField("key", f"{IN_WORDS[KEY_PATTERN]}.")
    corrected = await call.supervisor.correct_key(call.experiment_id, call.key, asked.reward, call.actor)
    return json_answer(views.Corrected(corrected))


HANDLERS = [correct_decision, correct_key]
