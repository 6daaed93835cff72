"""Every failure leaves the server in OpenAI's error envelope, whichever layer found it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelworks.contract.errors import (
    AuthenticationFailed,
    Conflict,
    ContextLengthExceeded,
    InvalidRequest,
    MethodNotAllowed,
    ModelworksError,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    TimedOut,
    Unavailable,
    UnprocessableContent,
    UpstreamFailed,
)

#: Where the request's id lies in the ASGI scope.
REQUEST_ID: Final = "modelworks.request_id"

#: Codes that the gateway gives beside the class's own: the error reference page lists them.
CODES: Mapping[str, str] = {
    "missing_required_parameter": "A field that the request needs is absent; `param` names it.",
    "invalid_type": "A field has the wrong JSON type; `param` names it.",
    "invalid_value": "A field has a value outside what it may hold; `param` names it.",
    "invalid_json": "The request body is not JSON; the message gives the place.",
    "unknown_route": "No route of this server has that path.",
    "model_not_supported": "The model answers another task than the one that the route is for.",
    "replica_lost": "What was answering stopped in the middle; the answer is incomplete.",
    "replica_unreachable": "No connection to what should answer; it may be restarting.",
    "idempotency_mismatch": "The Idempotency-Key was used for another request of the project in the last day.",
    "idempotency_in_progress": "The request with the same Idempotency-Key is still under way.",
    "idempotency_secret": "The answer to the first request with this Idempotency-Key held a secret and was not kept.",
    "origin_not_allowed": "A web page of that origin may not do this: use the tools at /mcp, or ask a published space.",
    "model_not_allowed": "The API key's list of models does not contain this one.",
}

_BY_STATUS: Mapping[int, type[ModelworksError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    413: PayloadTooLarge,
    422: UnprocessableContent,
    429: RateLimited,
    502: UpstreamFailed,
    503: Unavailable,
    504: TimedOut,
}

_TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,40}length|too many tokens", re.IGNORECASE)


#: Below this path errors have Anthropic's form.
MESSAGES: Final = "/v1/messages"
_MESSAGE_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


#: Where a server of theirs is too busy: 503 in OpenAI's form.
_OVERLOADED: Final = 529
_BUSY: Final = frozenset({"model_overloaded", "model_loading"})


def message_envelope(error: ModelworksError, request_id: str | None) -> dict[str, Any]:
    """Anthropic's error object; `param` and `code` are our additions, which its clients ignore."""
    fallback = "api_error" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    kind = _MESSAGE_TYPES.get(error.status, fallback)
    found = {"type": kind, "message": message, "param": error.param, "code": error.error_code}
    return {"type": "error", "error": found, "request_id": request_id}


class _Envelope(Response):
    """An error in the form that belongs to the path: whichever layer found it, this is sent last."""

    def __init__(self, error: ModelworksError, headers: Mapping[str, str] | None) -> None:
        super().__init__(
            orjson.dumps(error.envelope()), status_code=error.status, media_type="application/json", headers=headers
        )
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == MESSAGES or path.startswith(MESSAGES + "/"):
            self.body = orjson.dumps(message_envelope(self._error, scope.get(REQUEST_ID)))
            self.headers["content-length"] = str(len(self.body))
            if self._error.error_code in _BUSY:
                self.status_code = _OVERLOADED
        await super().__call__(scope, receive, send)


def error_response(error: ModelworksError, *, headers: Mapping[str, str] | None = None) -> Response:
    """The envelope with the headers that steer clients' retries (`x-should-retry`, `Retry-After`)."""
    response = _Envelope(error, headers)
    response.headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.retry_after_s is not None:
        # Whole seconds for everyone, milliseconds for clients that read them.
        response.headers["retry-after"] = str(max(1, round(error.retry_after_s)))
        response.headers["retry-after-ms"] = str(max(1, round(error.retry_after_s * 1000)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["www-authenticate"] = "Bearer"
    return response


def bug(request_id: str) -> ModelworksError:
    """What a caller sees of a defect: where to look it up, nothing of its text."""
    return ModelworksError(
        "The server met an error of its own while answering this request.",
        hint=f"Give the request id {request_id} to the operator: the server's log holds the details.",
    )


def invalid_field(problems: Sequence[Any], *, prefix: str = "") -> InvalidRequest:
    """The first of pydantic's findings, with `param` in the dotted form OpenAI uses (`messages.0.role`)."""
    problem = problems[0]
    param = prefix + ".".join(str(part) for part in problem["loc"])
    kind = str(problem["type"])
    shown = param or "The request body"
    if kind == "missing":
        return InvalidRequest(
            f"The parameter {param!r} is missing.", hint="Add it.", param=param, code="missing_required_parameter"
        )
    message = str(problem["msg"]).removeprefix("Value error, ")
    code = "invalid_type" if kind.endswith("_type") or kind.endswith("_parsing") else "invalid_value"
    return InvalidRequest(f"{shown}: {_sentence(message)}", param=param or None, code=code)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def from_validation(error: ValidationError, *, prefix: str = "") -> InvalidRequest:
    """`invalid_field` of a pydantic error."""
    return invalid_field(error.errors(include_url=False, include_context=False, include_input=False), prefix=prefix)


def malformed_json(error: orjson.JSONDecodeError) -> InvalidRequest:
    """A body that is not JSON: says at which line and column."""
    return InvalidRequest(
        f"The request body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
        hint="Send a JSON object.",
        code="invalid_json",
    )


def from_upstream(status: int, body: bytes, *, retry_after: str | None = None) -> ModelworksError:
    """The failure of a server behind a deployment, as ours.

    The upstream's refusal of a request (400, 422) is the caller's to mend and keeps its words; its refusal of *us*
    (401, 403, 404) and its own faults are a bad gateway: the caller's key and model name are right.
    """
    message, param, code = _upstream_words(body)
    if status in (400, 413, 422):
        if code == "context_length_exceeded" or _TOO_LONG.search(message):
            return ContextLengthExceeded(message, param=param)
        return InvalidRequest(message, param=param, code=code)
    wait = _seconds(retry_after)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(f"The server behind this model is at its limit: {message}", retry_after_s=wait)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(f"The server behind this model is not available: {message}", retry_after_s=wait)
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return TimedOut(f"The server behind this model took too long: {message}")
    return UpstreamFailed(f"The server behind this model answered with status {status}: {message}")


def _upstream_words(body: bytes) -> tuple[str, str | None, str | None]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        inner = found.get("error", found)
        if isinstance(inner, str):
            return _sentence(inner), None, None
        if isinstance(inner, dict):
            message = inner.get("message") or inner.get("detail")
            param, code = inner.get("param"), inner.get("code")
            if message:
                return (
                    _sentence(str(message)),
                    param if isinstance(param, str) else None,
                    code if isinstance(code, str) else None,
                )
    text = body[:300].decode("utf-8", "replace").strip()
    return _sentence(text or "it gave no reason"), None, None


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


async def _on_known(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelworksError)  # noqa: S101 - Starlette hands each handler its own class
    return error_response(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    path = request.scope["path"]
    headers = dict(error.headers or {})
    known: ModelworksError
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        known = NotFound(
            f"There is no route {request.method} {path}.",
            hint="OpenAI's routes are under /v1, the platform's own under /api; /openapi.json lists all.",
            code="unknown_route",
        )
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("Allow") or headers.get("allow") or ""
        known = MethodNotAllowed(f"{path} does not take {request.method}.", hint=f"It takes: {allowed}." if allowed else None)
    else:
        kind = _BY_STATUS.get(error.status_code)
        if kind is None:
            kind = InvalidRequest if error.status_code < 500 else ModelworksError
        known = kind(_sentence(str(error.detail)))
        if known.status != error.status_code:
            response = error_response(known, headers=headers)
            response.status_code = error.status_code
            return response
    return error_response(known, headers=headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = [dict(problem) for problem in error.errors()]
    for problem in problems:
        # FastAPI puts the place (body, query, path, header) before the field's name.
        problem["loc"] = tuple(problem["loc"])[1:]
    if problems[0]["type"] == "json_invalid":
        return error_response(
            InvalidRequest(
                f"The request body is not valid JSON: {problems[0].get('ctx', {}).get('error', 'it cannot be parsed')}.",
                hint="Send a JSON object.",
                code="invalid_json",
            )
        )
    found = invalid_field(problems)
    return error_response(UnprocessableContent(found.message, hint=found.hint, param=found.param, code=found.error_code))


async def _on_gone(request: Request, error: Exception) -> Response:
    # Nobody reads this: the client went away while its body was being read.
    return Response(status_code=499)


def install(app: FastAPI) -> None:
    """Give `app` handlers for every error; a bug (anything else) is rendered by `middleware.Edge`, outside of them."""
    app.add_exception_handler(ModelworksError, _on_known)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_gone)
