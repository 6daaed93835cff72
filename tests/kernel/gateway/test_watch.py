"""The watch over answers: events that the OpenAPI document does not describe are found, and those that it does pass."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest
from fastapi import APIRouter, FastAPI
from openai.types.responses import ResponseStreamEvent
from starlette.responses import Response
from starlette.testclient import TestClient
from tests.kernel.gateway.watch import Watched

from modelworks.kernel.gateway import document
from modelworks.kernel.gateway.answers.form import gives_events
from modelworks.kernel.gateway.answers.messages import Message, MessageEvent
from modelworks.kernel.gateway.answers.response_events import ResponseEvent
from modelworks.kernel.gateway.answers.responses import ResponseObject

STOP = {"type": "content_block_stop", "index": 0}
DELTA = {
    "type": "response.output_text.delta",
    "sequence_number": 3,
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "a",
    "logprobs": [],
}


def block(event: dict[str, Any], name: str | None = None) -> bytes:
    return b"event: " + (name or event["type"]).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def streaming(data: bytes) -> tuple[Watched, TestClient]:
    """A server whose two streams say `data`."""
    app, routes = FastAPI(), APIRouter()
    for path, forms in (("/responses", (ResponseObject, ResponseEvent)), ("/messages", (Message, MessageEvent))):

        @routes.get(path, responses=gives_events(*forms))
        async def tell() -> Response:
            return Response(data, media_type="text/event-stream")

    document.install(app)
    app.include_router(routes)
    watched = Watched(app, lambda: False)
    return watched, TestClient(watched)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/responses", block(DELTA) + b": keep-alive\n\n" + block(DELTA) + b"data: [DONE]\n\n"),
        ("/messages", block(STOP) + block({"type": "ping"})),
    ],
)
def test_events_in_form_pass(path: str, data: bytes) -> None:
    watched, client = streaming(data)
    assert client.get(path).content == data
    assert watched.misfits == []


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/responses", block({**DELTA, "more": 1})),
        ("/responses", block({**DELTA, "delta": 1})),
        ("/responses", block(DELTA) + block({name: value for name, value in DELTA.items() if name != "item_id"})),
        ("/responses", block(DELTA, "response.output_text.done")),
        ("/responses", block(STOP)),
        ("/messages", block({"type": "content_block_stop"})),
        ("/messages", block(DELTA)),
    ],
)
def test_others_are_found(path: str, data: bytes) -> None:
    watched, client = streaming(data)
    with pytest.raises(AssertionError):
        client.get(path)
    assert len(watched.misfits) == 1


def test_the_document_has_their_schemas() -> None:
    _, client = streaming(b"")
    found = client.get("/openapi.json").json()
    for path, name in (("/responses", "ResponseEvent"), ("/messages", "MessageEvent")):
        responses = found["paths"][path]["get"]["responses"]
        assert responses["200"]["content"]["text/event-stream"]["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert "2XX" not in responses
        kinds = found["components"]["schemas"][name]["discriminator"]["mapping"]
        assert {each.rpartition("/")[2] for each in kinds.values()} <= set(found["components"]["schemas"])


def test_the_official_client_knows_every_event_of_a_response() -> None:
    known = {get_args(each.model_fields["type"].annotation)[0] for each in get_args(get_args(ResponseStreamEvent)[0])}
    mapping = ResponseEvent.model_json_schema()["discriminator"]["mapping"]
    assert set(mapping) <= known
