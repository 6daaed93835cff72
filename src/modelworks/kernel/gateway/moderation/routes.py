"""/v1/moderations: a deployed chat model says which of OpenAI's categories a text falls into."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from modelworks.contract.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.answers.form import gives
from modelworks.kernel.gateway.answers.language import ModerationAnswer
from modelworks.kernel.gateway.files.routes import parse
from modelworks.kernel.gateway.generation.asking import complete
from modelworks.kernel.gateway.generation.chat_reading import renamed
from modelworks.kernel.gateway.generation.language import most_telling
from modelworks.kernel.gateway.moderation import judging
from modelworks.kernel.gateway.routes import PlainRoute, described
from modelworks.kernel.gateway.schemas import Wire, inline_schema
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import whole_answer

PATH: Final = "/v1/moderations"
#: What OpenAI's clients ask where their caller names no model: deploying a model under it makes that model the moderator.
DEFAULT_MODEL: Final = "omni-moderation-latest"
_OPENAI_NAMES: Final = (DEFAULT_MODEL, "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable")
MAX_TEXTS: Final = 64
#: Texts of one request that are judged at the same time.
_PARALLEL: Final = 8


class ModerationCreate(Wire):
    """POST /v1/moderations."""

    input: Any = Field(description="A text, a list of texts, or one input as a list of parts of the type text.")
    model: str = Field(default=DEFAULT_MODEL, min_length=1, description="A deployed chat model.")


def router(gateway: GatewayService) -> APIRouter:
    """The route of moderations."""
    found = APIRouter(route_class=PlainRoute)

    @found.post(
        PATH,
        summary="Which categories of harm a text falls into",
        tags=["OpenAI"],
        responses=gives(ModerationAnswer),
        openapi_extra=described(inline_schema(ModerationCreate)),
    )
    async def create_moderation(request: Request) -> Response:
        async with gateway.question(request, PATH, default_model=DEFAULT_MODEL) as (principal, meter, body):
            texts, places = _texts(parse(ModerationCreate, body).input)
            _require_moderator(gateway, principal, meter.model)
        # Each text is a question of its own, with a record of its own.
        meter.leave()

        async def judged() -> bytes:
            return await _judged(gateway, principal, request.scope, meter.model, texts, places)

        return await whole_answer(judged, meter, request.receive)

    return found


def _require_moderator(gateway: GatewayService, principal: Principal, model: str) -> None:
    """Say what to do where a client asks OpenAI's own model, and nothing answers for it here."""
    if model in _OPENAI_NAMES and gateway.pool.peek(principal.project_id, model) is None:
        raise ModelNotFound(
            f"No model of this project moderates texts: nothing is deployed as {model!r}.",
            hint=f"Deploy a chat model under that name (modelworks deploy MODEL --name {model}), or name one in model.",
            param="model",
        )


def _texts(given: Any) -> tuple[list[str], list[str]]:
    """The texts of the field `input`, and where each stands; raises InvalidRequest."""
    if isinstance(given, str):
        given, places = [given], ["input"]
    elif isinstance(given, list) and given and all(isinstance(part, dict) for part in given):
        given, places = ["\n".join(_text_of(part, f"input.{number}") for number, part in enumerate(given))], ["input"]
    elif isinstance(given, list):
        places = [f"input.{number}" for number in range(len(given))]
    else:
        raise _wrong("input", "must be a text, a list of texts, or a list of parts", "invalid_type")
    if not 0 < len(given) <= MAX_TEXTS:
        raise _wrong("input", f"must hold 1 to {MAX_TEXTS} texts", "invalid_value")
    for text, place in zip(given, places, strict=True):
        if not isinstance(text, str):
            raise _wrong(place, "must be a text, as the others are", "invalid_type")
        if not text:
            raise _wrong(place, "must not be an empty text", "invalid_value")
    return given, places


def _text_of(part: dict[str, Any], place: str) -> str:
    if part.get("type") == "image_url":
        raise UnsupportedParameter(f"{place}: pictures are not judged here.", hint="Send the text alone.", param=place)
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise _wrong(place, "must be of the type text, with a text", "invalid_type")
    return str(part["text"])


def _wrong(param: str, what: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}.", param=param, code=code)


async def _judged(
    gateway: GatewayService, principal: Principal, scope: Scope, model: str, texts: list[str], places: list[str]
) -> bytes:
    gate = asyncio.Semaphore(_PARALLEL)

    async def ask(text: str, place: str) -> dict[str, Any]:
        async with gate:
            with renamed([place, place], {"messages": place}):
                return await complete(gateway, principal, scope, judging.question(model, text), endpoint=PATH)

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(text, place)) for text, place in zip(texts, places, strict=True)]
    except BaseExceptionGroup as failures:
        raise most_telling(failures) from failures
    answers = [task.result() for task in asked]
    used = [answer.get("usage") or {} for answer in answers]
    return orjson.dumps(
        {
            "id": new_id("modr"),
            "model": model,
            "results": [judging.result(answer) for answer in answers],
            "usage": {
                name: sum(each.get(name) or 0 for each in used)
                for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            },
        }
    )
