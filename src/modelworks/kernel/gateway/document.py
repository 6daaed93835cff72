"""The OpenAPI document says what the routes do: the errors that every route answers, and how callers prove who they are."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from modelworks.kernel.gateway.answers.form import EVENTS
from modelworks.kernel.gateway.errors import MESSAGES

#: Asked without a key.
_OPEN: Final = ("/healthz", "/readyz", "/metrics")
#: Asked by readers of other people's pages, who have none.
_PUBLISHED: Final = ("/embed/", "/share/")
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_MAYBE: Final[dict[str, Any]] = {"type": ["string", "null"]}
_ERROR: Final[dict[str, Any]] = {
    "title": "Error",
    "description": "OpenAI's envelope; `hint` says what to do about it.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _TEXT, "hint": _TEXT},
        }
    },
}
_MESSAGE_ERROR: Final[dict[str, Any]] = {
    "title": "MessageError",
    "description": "Anthropic's envelope, below /v1/messages; `param` and `code` are additions.",
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "param", "code"],
            "properties": {"type": _TEXT, "message": _TEXT, "param": _MAYBE, "code": _TEXT},
        },
        "request_id": _MAYBE,
    },
}
_KEYS: Final[dict[str, Any]] = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "A key of a project, or the token of a session."},
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
}


def install(app: FastAPI) -> None:
    """Have `/openapi.json` describe errors as they are sent, instead of the framework's own form, which no route answers."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        found = plain()
        # It is kept, and made anew after a change of routes.
        if "securitySchemes" not in found.get("components", {}):
            complete(found)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> None:
    """Add refusals, failures and keys to every operation of a document, in place."""
    components: dict[str, Any] = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Error": _ERROR, "MessageError": _MESSAGE_ERROR}
    components["responses"] = {
        f"{prefix}{name}": {
            "description": said,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{prefix}Error"}}},
        }
        for prefix in ("", "Message")
        for name, said in (("Refused", "The request is refused."), ("Failed", "The server, or what stands behind it, failed."))
    }
    components["securitySchemes"] = _KEYS
    document["security"] = [{name: []} for name in _KEYS]
    for path, methods in document["paths"].items():
        prefix = "Message" if path.startswith(MESSAGES) else ""
        for operation in methods.values():
            responses: dict[str, Any] = operation["responses"]
            responses.pop("422", None)
            if (event := responses.pop(EVENTS, None)) is not None:
                # As OpenAI's document has it: the schema is that of the data of one event.
                responses["200"]["content"]["text/event-stream"] = event["content"]["application/json"]
            responses["4XX"] = {"$ref": f"#/components/responses/{prefix}Refused"}
            responses["5XX"] = {"$ref": f"#/components/responses/{prefix}Failed"}
            if path in _OPEN or path.startswith(_PUBLISHED):
                operation["security"] = []
