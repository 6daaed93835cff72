"""The gateway: OpenAI's routes and tasks by name, over whatever is deployed: checks, routes, meters and streams."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from modelworks.kernel.gateway import document, errors
from modelworks.kernel.gateway.batches import routes as batch_routes
from modelworks.kernel.gateway.batches.door import Door
from modelworks.kernel.gateway.batches.service import BatchService
from modelworks.kernel.gateway.batches.steps import BatchSteps
from modelworks.kernel.gateway.evals import grader_routes
from modelworks.kernel.gateway.evals import routes as eval_routes
from modelworks.kernel.gateway.evals.measuring import Measuring
from modelworks.kernel.gateway.evals.service import EvalService
from modelworks.kernel.gateway.evals.steps import EvalSteps
from modelworks.kernel.gateway.files import routes as file_routes
from modelworks.kernel.gateway.files.service import FileService
from modelworks.kernel.gateway.idempotency import Idempotency
from modelworks.kernel.gateway.mcp import routes as mcp_routes
from modelworks.kernel.gateway.mcp.register import ToolRegister
from modelworks.kernel.gateway.mcp.servers import ToolServers
from modelworks.kernel.gateway.messages import routes as message_routes
from modelworks.kernel.gateway.middleware import Edge, Observer
from modelworks.kernel.gateway.moderation import routes as moderation_routes
from modelworks.kernel.gateway.publishing import routes as publishing_routes
from modelworks.kernel.gateway.publishing.routes import Publishing
from modelworks.kernel.gateway.responses import conversation_routes
from modelworks.kernel.gateway.responses import routes as response_routes
from modelworks.kernel.gateway.responses.conversations import ConversationService
from modelworks.kernel.gateway.responses.service import ResponseService
from modelworks.kernel.gateway.responses.steps import ResponseSteps
from modelworks.kernel.gateway.retrieval import routes as retrieval_routes
from modelworks.kernel.gateway.routes import router
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.shutdown import Drain, DrainingServer
from modelworks.kernel.gateway.spaces import cleaning_routes, learning_routes, page, store_routes, table_routes, upload_routes
from modelworks.kernel.gateway.spaces.calls import SpaceDoor
from modelworks.kernel.gateway.spaces.forgetting import SpaceForgetting
from modelworks.kernel.gateway.spaces.steps import SpaceSteps
from modelworks.kernel.gateway.spaces.stores import VectorStores
from modelworks.kernel.gateway.tuning import routes as tuning_routes
from modelworks.kernel.gateway.tuning.service import FineTuningService
from modelworks.kernel.gateway.tuning.steps import TuningSteps

__all__ = [
    "BatchService",
    "BatchSteps",
    "ConversationService",
    "Door",
    "Drain",
    "DrainingServer",
    "EvalService",
    "EvalSteps",
    "FileService",
    "FineTuningService",
    "GatewayService",
    "Measuring",
    "Observer",
    "Publishing",
    "ResponseService",
    "ResponseSteps",
    "SpaceDoor",
    "SpaceForgetting",
    "SpaceSteps",
    "ToolRegister",
    "ToolServers",
    "TuningSteps",
    "install",
    "router",
]

#: Uploads have a limit of their own.
UNLIMITED = ("/api/blobs", *file_routes.FORM_PATHS)
#: So have forms with a document.
UNLIMITED_FORMS = re.compile(r"/api/spaces/[^/]+/documents")


def install(
    app: FastAPI,
    gateway: GatewayService,
    *,
    max_body_bytes: int,
    files: FileService | None = None,
    tuning: FineTuningService | None = None,
    evals: EvalService | None = None,
    batches: BatchService | None = None,
    responses: ResponseService | None = None,
    response_steps: ResponseSteps | None = None,
    publishing: Publishing | None = None,
    cors_origins: Sequence[str] = (),
    observe: Observer | None = None,
    drain: Drain | None = None,
) -> None:
    """Add the routes, the error handlers and the outer layer to `app`; call it before other routers that match widely.

    Args:
        app: the application.
        gateway: the rooms.
        max_body_bytes: see `Edge`.
        files: for `/v1/files` and `/v1/uploads`; without it there are none.
        tuning: for `/v1/fine_tuning`; without it there is none.
        evals: for `/v1/evals`; without it there is none.
        batches: for `/v1/batches`; without it there are none.
        responses: for `/v1/responses` and `/v1/conversations`; without it there are none.
        response_steps: what answers them in the background; goes with `responses`.
        publishing: for `/embed` and `/share`; without it no space is asked from elsewhere.
        cors_origins: origins of web pages that may call the API from a browser; `*` for all, none by default.
        observe: see `Observer`.
        drain: see `Edge`.
    """
    errors.install(app)
    document.install(app)
    app.include_router(router(gateway))
    app.include_router(retrieval_routes.router(gateway))
    app.include_router(grader_routes.router(gateway))
    app.include_router(message_routes.router(gateway))
    app.include_router(moderation_routes.router(gateway))
    app.include_router(mcp_routes.router(gateway, origins=cors_origins))
    if files is not None:
        app.include_router(file_routes.router(gateway, files))
        if isinstance(gateway.spaces, SpaceDoor):
            stores = VectorStores(gateway.spaces.spaces, files, gateway.catalog, gateway.clock)
            app.include_router(upload_routes.router(gateway, gateway.spaces.spaces, files))
            app.include_router(page.router())
            app.include_router(store_routes.router(gateway, stores, gateway.spaces.search(gateway)))
            if gateway.spaces.learning is not None:
                app.include_router(learning_routes.router(gateway.access, gateway.spaces.spaces, gateway.spaces.learning))
            if gateway.spaces.cleaning is not None:
                app.include_router(cleaning_routes.router(gateway.access, gateway.spaces.spaces, gateway.spaces.cleaning))
            if gateway.spaces.tables is not None:
                app.include_router(table_routes.router(gateway.access, gateway.spaces.spaces, gateway.spaces.tables))
    if tuning is not None:
        app.include_router(tuning_routes.router(gateway, tuning))
    if evals is not None:
        app.include_router(eval_routes.router(gateway, evals))
    if batches is not None:
        app.include_router(batch_routes.router(gateway, batches))
    if responses is not None and response_steps is not None:
        app.include_router(response_routes.router(gateway, responses, response_steps))
        app.include_router(conversation_routes.router(gateway, responses.conversations))
    if publishing is not None and isinstance(gateway.spaces, SpaceDoor):
        app.include_router(publishing_routes.router(gateway, publishing, gateway.spaces.search(gateway)))
    app.add_middleware(Idempotency, gateway=gateway)
    app.add_middleware(
        Edge, max_body_bytes=max_body_bytes, unlimited=UNLIMITED, forms=UNLIMITED_FORMS, observe=observe, drain=drain
    )
    if cors_origins:
        # Outside of `Edge`, so that the answer to a bug carries the headers without which a browser hides it.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "openai-processing-ms", "retry-after"],
            max_age=600,
        )
