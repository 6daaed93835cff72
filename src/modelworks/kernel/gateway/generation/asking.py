"""A deployed model, asked by the gateway itself for a caller: the same checks, replicas and records as a request of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.types import Scope

from modelworks.contract.errors import ModelworksError
from modelworks.contract.generation import Message, Sampling
from modelworks.contract.grading import ModelAnswer
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.errors import bug
from modelworks.kernel.gateway.generation.language import chat_call
from modelworks.kernel.gateway.middleware import BODY_BYTES, HEADERS
from modelworks.kernel.gateway.service import GatewayService, model_name

_ENDPOINT = "/v1/chat/completions"


async def complete(
    gateway: GatewayService, principal: Principal, scope: Scope, body: dict[str, Any], *, endpoint: str = _ENDPOINT
) -> dict[str, Any]:
    """The answer to a chat request in OpenAI's form, recorded as usage of the caller.

    Args:
        scope: of the request on whose behalf this one is made.
        body: as of POST /v1/chat/completions; never streamed.
        endpoint: under whose name it is recorded.

    Raises:
        PermissionDenied: the key may not ask models, or not this one.
        ModelworksError: as the route.
    """
    # A request of its own within another's: its length and what its answer says of limits are not the other's.
    scope = {**scope, BODY_BYTES: len(orjson.dumps(body)), HEADERS: []}
    meter = gateway.meter(principal, scope, endpoint)
    try:
        principal.require("inference")
        meter.model = model_name(body)
        principal.require_model(meter.model)
        answer = await chat_call(gateway, principal, meter, body).whole()
    except ModelworksError as error:
        await meter.record(error.status, error)
        raise
    except asyncio.CancelledError:
        await meter.record(499, aborted=True)
        raise
    except Exception:
        known = bug(meter.request_id)
        await meter.record(known.status, known)
        raise
    await meter.record(200)
    found: dict[str, Any] = orjson.loads(answer)
    return found


def check(gateway: GatewayService, principal: Principal, body: dict[str, Any]) -> None:
    """Whether this could be asked now: the model is there, the key may ask it, every parameter is right.

    Raises:
        PermissionDenied, ModelNotFound, InvalidRequest: as `complete` would; nothing is asked and nothing recorded.
    """
    principal.require("inference")
    name = model_name(body)
    if gateway.spaces is None or not gateway.spaces.is_space(name):
        gateway.model(principal, name)
    meter = gateway.meter(principal, {"type": "internal"}, _ENDPOINT)
    meter.model = name
    chat_call(gateway, principal, meter, body)


class Asking:
    """The door of `contract.grading.Ask` for threads beside the server's event loop; make it inside the loop."""

    def __init__(self, gateway: GatewayService, principal: Principal, scope: Scope) -> None:
        self._gateway = gateway
        self._principal = principal
        self._scope = scope
        self._loop = asyncio.get_running_loop()

    def __call__(self, model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer:
        """Ask, and wait; raises as `complete`."""
        body = {"model": model, "messages": [message.model_dump(exclude_none=True) for message in messages]}
        body |= sampling.model_dump(exclude_none=True, include={"max_tokens", "temperature", "top_p", "seed"})
        asked = complete(self._gateway, self._principal, self._scope, body)
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        text = answer["choices"][0]["message"].get("content")
        return ModelAnswer(text=text or "", num_tokens=(answer.get("usage") or {}).get("total_tokens") or 0)
