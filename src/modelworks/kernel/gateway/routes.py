"""The routes: OpenAI's language routes, tasks by name, health. Plain request handlers, described by hand for OpenAPI."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.catalog import discovery
from modelworks.kernel.gateway import tasks
from modelworks.kernel.gateway.answers.form import gives_events
from modelworks.kernel.gateway.answers.language import ChatCompletion, ChatCompletionChunk, Completion
from modelworks.kernel.gateway.generation.language import ChatCall, CompletionCall, chat_call
from modelworks.kernel.gateway.schemas import ChatRequest, CompletionRequest, ModelList, ModelObject, inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object
from modelworks.kernel.gateway.stream import Form, JsonBytes, StreamedAnswer, whole_answer


class PlainRoute(APIRoute):
    """A route in the OpenAPI document whose handler takes the request itself: nothing is solved or validated around it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint as it is."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON body of that schema, for OpenAPI."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def in_path(name: str) -> dict[str, Any]:
    """A text in the path, for OpenAPI."""
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]}


_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def router(gateway: GatewayService) -> APIRouter:
    """All routes of the gateway."""
    found = APIRouter(route_class=PlainRoute)
    _language(found, gateway)
    _models(found, gateway)
    _tasks(found, gateway)
    _health(found, gateway)
    return found


def _language(found: APIRouter, gateway: GatewayService) -> None:
    async def answer(request: Request, kind: type[ChatCall] | type[CompletionCall]) -> Response:
        async with gateway.question(request, "/v1" + kind.path) as (principal, meter, body):
            call = chat_call(gateway, principal, meter, body) if kind is ChatCall else kind(gateway, principal, meter, body)
        if call.stream:
            return StreamedAnswer(call.stream_to, meter, "sse", gateway.keep_alive_s)
        return await whole_answer(call.whole, meter, request.receive)

    @found.post(
        "/v1/chat/completions",
        summary="Answer a chat",
        tags=["OpenAI"],
        responses=gives_events(ChatCompletion, ChatCompletionChunk),
        openapi_extra=described(inline_schema(ChatRequest)),
    )
    async def create_chat_completion(request: Request) -> Response:
        return await answer(request, ChatCall)

    @found.post(
        "/v1/completions",
        summary="Continue a text",
        tags=["OpenAI"],
        responses=gives_events(Completion, Completion),
        openapi_extra=described(inline_schema(CompletionRequest)),
    )
    async def create_completion(request: Request) -> Response:
        return await answer(request, CompletionCall)


def _models(found: APIRouter, gateway: GatewayService) -> None:
    @found.get(
        "/v1/models", summary="List the models that can be asked", tags=["OpenAI"], responses={200: {"model": ModelList}}
    )
    async def list_models(request: Request) -> Response:
        caller = await gateway.caller(request.scope)
        models = gateway.models(caller)
        if gateway.spaces is not None:
            models = [*models, *await gateway.spaces.models(caller)]
        return _json(
            ModelList(
                data=models, first_id=models[0].id if models else None, last_id=models[-1].id if models else None
            ).model_dump()
        )

    @found.get(
        "/v1/models/{model:path}",
        summary="One model",
        tags=["OpenAI"],
        responses={200: {"model": ModelObject}},
        openapi_extra=in_path("model"),
    )
    async def retrieve_model(request: Request) -> Response:
        caller, name = await gateway.caller(request.scope), request.path_params["model"]
        if gateway.spaces is not None and gateway.spaces.is_space(name):
            return _json((await gateway.spaces.model(gateway, caller, name)).model_dump())
        return _json(gateway.model(caller, name).model_dump())


def _tasks(found: APIRouter, gateway: GatewayService) -> None:
    @found.get("/v1/tasks", summary="List the tasks and the models deployed for them", tags=["Tasks"])
    async def list_tasks(request: Request) -> Response:
        return _json(tasks.listing(gateway, await gateway.caller(request.scope)))

    @found.get("/v1/tasks/{task}/schema", summary="What a task takes and gives", tags=["Tasks"], openapi_extra=in_path("task"))
    async def task_schema(request: Request) -> Response:
        await gateway.caller(request.scope)
        return _json(tasks.schema(request.path_params["task"]))

    @found.post(
        "/v1/tasks/{task}",
        summary="Ask a task",
        tags=["Tasks"],
        description="The input lies in `input` or beside `model`. Mode sync answers with the output, stream with JSON lines "
        "(server-sent events where `Accept: text/event-stream` asks for them), job with 202 and a run, static with files. "
        "A job reads data sets that `inputs` names by role, for which the key needs the scope write, too.",
        responses={
            200: {
                "description": "The output, or its pieces.",
                "content": {
                    "application/json": {"schema": _ANY_OBJECT},
                    "application/x-ndjson": {"schema": {"type": "string"}},
                },
            },
            202: {"description": "A run was started.", "content": {"application/json": {"schema": _ANY_OBJECT}}},
        },
        openapi_extra={
            **in_path("task"),
            **described(
                {
                    "type": "object",
                    "properties": {
                        "model": {"type": "string"},
                        "input": _ANY_OBJECT,
                        "inputs": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                    "additionalProperties": True,
                }
            ),
        },
    )
    async def ask_task(request: Request) -> Response:
        principal = await gateway.caller(request.scope)
        capability, task = discovery.find_task(None, request.path_params["task"])
        meter = gateway.meter(principal, request.scope, f"/v1/tasks/{task.name}")
        try:
            body = json_object(await request.body())
            inputs: dict[str, str] = {}
            if task.mode == "job":
                body, inputs = tasks.split_inputs(body, task)
            model, payload, prefix = tasks.split_body(body, task)
            if task.mode == "job":
                meter.model = model or ""
                if model is not None:
                    principal.require_model(model)
                if inputs:
                    # What a run reads is chosen by whoever may start runs, not by whoever may ask models.
                    principal.require("write")
                await meter.admit(None)
                accepted = await tasks.submit(gateway, principal, task, capability.name, model, payload, inputs)
                await meter.record(202)
                return JsonBytes(accepted, status_code=202)
            call = tasks.TaskCall(gateway, principal, meter, task, model, payload, prefix)
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise
        if task.mode == "stream":
            form: Form = "sse" if "text/event-stream" in request.headers.get("accept", "") else "ndjson"
            return StreamedAnswer(lambda out: call.stream_to(out, form), meter, form, gateway.keep_alive_s)
        return await whole_answer(call.files if task.mode == "static" else call.whole, meter, request.receive)


def _health(found: APIRouter, gateway: GatewayService) -> None:
    @found.get("/healthz", summary="Whether the process answers", tags=["Health"])
    async def healthz(request: Request) -> Response:
        return _json({"status": "ok", "version": gateway.version})

    @found.get(
        "/readyz",
        summary="Whether the server can do its work",
        tags=["Health"],
        responses={
            503: {
                "description": "It cannot: `problems` says why, by part.",
                "content": {"application/json": {"schema": _ANY_OBJECT}},
            }
        },
    )
    async def readyz(request: Request) -> Response:
        problems = dict(await run_in_threadpool(gateway.problems))
        if problems:
            return _json({"status": "not ready", "problems": problems}, status_code=503)
        return _json({"status": "ready"})

    @found.get("/metrics", summary="Figures for Prometheus", tags=["Health"], response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        page = await run_in_threadpool(gateway.metrics)
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


def _json(body: dict[str, Any], status_code: int = 200) -> JsonBytes:
    return JsonBytes(orjson.dumps(body), status_code=status_code)
