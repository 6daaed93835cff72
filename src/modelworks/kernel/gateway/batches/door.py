"""The routes that batches ask, in the same process: every check, limit and record of a request from outside holds here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway import errors, routes
from modelworks.kernel.gateway.inside import ask, scope_of
from modelworks.kernel.gateway.metering import BACKGROUND
from modelworks.kernel.gateway.middleware import Edge
from modelworks.kernel.gateway.moderation import routes as moderation_routes
from modelworks.kernel.gateway.responses import routes as response_routes
from modelworks.kernel.gateway.responses.service import ResponseService
from modelworks.kernel.gateway.responses.steps import ResponseSteps
from modelworks.kernel.gateway.retrieval import routes as retrieval_routes
from modelworks.kernel.gateway.service import PRINCIPAL, GatewayService


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answered: its status, the id of the request, the body, and whether asking again may help."""

    status: int
    request_id: str
    body: Any
    may_be_repeated: bool
    retry_after_s: float


class Door:
    """Asks the routes without a connection, for a caller whose rights are known.

    Args:
        gateway: as of the routes that clients ask.
        max_body_bytes: of one request.
    """

    def __init__(
        self, gateway: GatewayService, responses: ResponseService, response_steps: ResponseSteps, *, max_body_bytes: int
    ) -> None:
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        errors.install(app)
        app.include_router(routes.router(gateway))
        app.include_router(retrieval_routes.router(gateway))
        app.include_router(moderation_routes.router(gateway))
        app.include_router(response_routes.router(gateway, responses, response_steps))
        app.add_middleware(Edge, max_body_bytes=max_body_bytes)
        self._app = app

    async def post(self, principal: Principal, path: str, body: bytes) -> Answer:
        """The answer to one request, whole."""
        scope = scope_of("POST", path, num_bytes=len(body))
        reply = await ask(self._app, {**scope, PRINCIPAL: principal, BACKGROUND: True}, body)
        return Answer(
            status=reply.status,
            request_id=reply.headers.get(b"x-request-id", b"").decode(),
            body=reply.body,
            may_be_repeated=reply.status >= 429 and reply.headers.get(b"x-should-retry") == b"true",
            retry_after_s=float(reply.headers.get(b"retry-after", b"0")),
        )
