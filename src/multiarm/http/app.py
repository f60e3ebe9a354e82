"""The application: which routes there are, what answers their errors, and the gate in front of it all.

GET     /v1/ping                                     is it there?
GET     /v1/list                                     ids of all experiments
DELETE  /v1/clear                                    delete them all
POST    /v1/create                                   a new experiment
GET     /v1/{experiment_id}                          what it is and how it stands
DELETE  /v1/{experiment_id}/delete
PUT     /v1/{experiment_id}/reset                    forget the evidence
PUT     /v1/{experiment_id}/enable | disable
PUT     /v1/{experiment_id}/policy                   another policy, the evidence goes along
POST    /v1/{experiment_id}/add_arm
DELETE  /v1/{experiment_id}/delete_arm/{arm_id}
PUT     /v1/{experiment_id}/enable_arm/{arm_id} | disable_arm/{arm_id}
GET     /v1/{experiment_id}/draw                     choose an arm
POST    /v1/{experiment_id}/update | update_batch    report rewards
PUT     /v1/{experiment_id}/reward/decision/{decision_id} | reward/key/{key}    put one right
GET     /v1/{experiment_id}/stats                    what is known of each arm
GET     /v1/{experiment_id}/audit                    who changed what
GET     /v1/{experiment_id}/history                  what was known of it, over time
PUT     /v1/{experiment_id}/restore                  start again from a snapshot
GET     /health/live | /health/ready
GET     /metrics                                     for Prometheus
GET     /docs | /docs/openapi.json                   a page to try it, and the document behind it
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.exceptions import HTTPException

from multiarm.domain.errors import MultiarmError
from multiarm.http import problems
from multiarm.http.endpoints import Services
from multiarm.http.gate import Gate
from multiarm.http.limits import Amount
from multiarm.http.metrics import Metrics
from multiarm.http.openapi import asset, openapi_config
from multiarm.http.request_meter import RequestMeter
from multiarm.http.routes import HANDLERS
from multiarm.service.accountant import Accountant
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings

if TYPE_CHECKING:
    from multiarm.auth.verifier import Verifier


def build_app(
    supervisor: Supervisor,
    accountant: Accountant,
    settings: Settings,
    not_ready: Callable[[], str | None] = lambda: None,
    verifier: "Verifier | None" = None,
) -> Gate:
    """The ASGI application, its gate in front.

    not_ready: why it should get no traffic just now, or None. verifier: of tokens; None: no authentication.
    """
    exception_handlers: dict[Any, Any] = {
        MultiarmError: problems.on_multiarm_error,
        HTTPException: problems.on_http_exception,
        Exception: problems.on_unexpected,
    }
    app = Litestar(
        [*HANDLERS, asset],
        openapi_config=openapi_config(),
        exception_handlers=exception_handlers,
        request_max_body_size=settings.body_limit_bytes,
        logging_config=None,
    )
    bodies = Amount(settings.bodies_limit_bytes, "bodies_limit_bytes", settings.subject_share)
    meter = RequestMeter()
    metrics = Metrics(supervisor, accountant, meter, settings)
    return Gate(app, Services(supervisor, settings, not_ready, bodies, meter, metrics), accountant, verifier)
