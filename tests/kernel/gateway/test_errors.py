"""Every failure in OpenAI's envelope, and as the official client sees it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import openai
import pytest
from fastapi import HTTPException
from pydantic import BaseModel, Field
from structlog.testing import capture_logs
from tests.kernel.gateway.conftest import Stage

from modelworks.contract.errors import (
    AuthenticationFailed,
    Cancelled,
    Conflict,
    IntegrityFailed,
    MissingExtra,
    ModelworksError,
    QuotaExceeded,
    RateLimited,
    StorageFull,
    TimedOut,
    Unavailable,
    error_classes,
)
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.gateway.errors import from_upstream

HI: Any = [{"role": "user", "content": "Hi"}]


class Thing(BaseModel):
    size: int = Field(ge=1)


def complete(error: dict[str, Any]) -> bool:
    return bool(error["message"] and error["type"] and error["code"]) and "param" in error


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/v1/chat", "/api/nothing"])
async def test_an_unknown_route(stage: Stage, path: str) -> None:
    status, body, headers = await stage.post(path, {})
    assert status == 404
    assert complete(body["error"])
    assert body["error"]["code"] == "unknown_route"
    assert path in body["error"]["message"]
    assert headers["x-request-id"].startswith("req_")


async def test_an_unknown_route_points_to_a_list_that_exists(stage: Stage) -> None:
    _, body, _ = await stage.post("/v1/nothing", {})
    assert "/openapi.json" in body["error"]["hint"]
    async with stage.http.get(stage.url + "/openapi.json") as response:
        assert "/v1/chat/completions" in (await response.json())["paths"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/nothing"])
async def test_head_answers_as_get_does_without_a_body(stage: Stage, path: str) -> None:
    headers = {"Authorization": f"Bearer {stage.key}"}
    async with stage.http.get(stage.url + path, headers=headers) as got:
        body = await got.read()
    async with stage.http.head(stage.url + path, headers=headers) as response:
        assert response.status == got.status
        assert await response.read() == b""
        assert response.headers["content-type"] == got.headers["content-type"]
        if path == "/healthz":
            assert response.headers["content-length"] == str(len(body))
    # The connection is left in order for the next request.
    async with stage.http.get(stage.url + "/healthz") as again:
        assert again.status == 200


async def test_a_wrong_method(stage: Stage) -> None:
    async with stage.http.get(stage.url + "/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        error = (await response.json())["error"]
    assert complete(error)
    assert error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"model": }', b"\xff\xfe", b"[1]", b'"text"', b'{"a": NaN}', b'{"a": "\\ud800"}']
)
async def test_a_body_that_is_no_json_object(stage: Stage, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        status, answer, _ = await stage.post(path, body)
        assert status == 400
        assert complete(answer["error"])
        assert answer["error"]["code"] in ("invalid_json", "invalid_type")
    assert [record.status for record in stage.used()] == [400, 400]


@pytest.mark.parametrize(("levels", "status"), [(190, 404), (260, 400), (900, 400)])
async def test_json_that_is_nested_too_deeply_to_be_written_again_is_refused(stage: Stage, levels: int, status: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = '{"model": "none", "input": ' + opening * levels + "1" + closing * levels + "}"
        for path in ("/v1/tasks/text-generation", "/v1/chat/completions"):
            answered, answer, _ = await stage.post(path, body.encode())
            assert answered in (status, 400), (path, answer)
            assert complete(answer["error"])
            if status == 400:
                assert "200 levels" in answer["error"]["message"]


async def test_the_place_of_a_json_fault_is_named(stage: Stage) -> None:
    _, body, _ = await stage.post("/v1/chat/completions", b'{\n "model": oops}')
    assert "line 2, column 11" in body["error"]["message"]


@pytest.mark.parametrize(("model", "code"), [(None, "missing_required_parameter"), (5, "invalid_type"), ("", "invalid_type")])
async def test_a_missing_model(stage: Stage, model: Any, code: str) -> None:
    status, body, _ = await stage.post("/v1/chat/completions", {"messages": HI, "model": model})
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, "model", code)


async def test_an_unknown_model_names_near_ones(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await stage.client.chat.completions.create(model="tony", messages=HI)
    assert (caught.value.code, caught.value.type, caught.value.param) == ("model_not_found", "invalid_request_error", "model")
    assert "'tiny'" in caught.value.message
    [record] = stage.used()
    assert (record.status, record.error_code, record.model) == (404, "model_not_found", "tony")


async def test_a_body_over_the_limit_announced_or_not(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {stage.secret}"}
    large = b'{"model": "' + b"x" * 300_000 + b'"}'

    async def pieces() -> Any:
        for start in range(0, len(large), 50_000):
            yield large[start : start + 50_000]

    for data in (large, pieces()):
        async with stage.http.post(stage.url + "/v1/chat/completions", data=data, headers=headers) as response:
            assert response.status == 413
            error = (await response.json())["error"]
        assert complete(error)
        assert error["code"] == "payload_too_large"
        assert "200000 bytes" in error["message"]


async def test_a_bug_shows_its_request_id_and_nothing_else(stage: Stage) -> None:
    @stage.app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    with capture_logs() as logs:
        async with stage.http.get(stage.url + "/v1/broken") as response:
            assert response.status == 500
            text = await response.text()
            error = (await response.json())["error"]
    assert complete(error)
    assert error["code"] == "internal_error"
    assert response.headers["x-request-id"] in error["message"]
    assert "secret detail" not in text
    assert "Traceback" not in text
    [entry] = [each for each in logs if each["event"] == "request failed"]
    assert entry["request_id"] == response.headers["x-request-id"]
    assert entry["exc_info"]


async def test_a_bug_in_the_middle_of_a_chat_is_recorded_and_hidden(stage: Stage) -> None:
    # Not a chunk at all: what renders it stumbles.
    stage.replica.answer({"index": "one", "text": "a"})
    with capture_logs() as logs:
        for stream in (False, True):
            status, body, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "stream": stream})
            assert status == 500
            assert complete(body["error"])
    assert [entry["event"] for entry in logs] == ["request failed"] * 2
    assert [(record.status, record.error_code) for record in stage.used()] == [(500, "internal_error")] * 2


@pytest.mark.parametrize("kind", sorted(error_classes().values(), key=lambda each: each.__name__))
async def test_every_error_class_is_rendered_in_full(stage: Stage, kind: type[ModelworksError]) -> None:
    @stage.app.get("/v1/raises")
    async def raises() -> None:
        raise kind("What happened.", hint="What to do.", param="a.0.b")

    async with stage.http.get(stage.url + "/v1/raises") as response:
        assert response.status == kind.status
        assert response.headers["x-should-retry"] == ("true" if kind.retryable else "false")
        assert (await response.json())["error"] == {
            "message": "What happened. What to do.",
            "type": kind.type,
            "param": "a.0.b",
            "code": kind.code,
            "hint": "What to do.",
        }


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (Conflict("c"), openai.ConflictError),
        (RateLimited("r", retry_after_s=3), openai.RateLimitError),
        (QuotaExceeded("q"), openai.RateLimitError),
        (Cancelled("c"), openai.APIStatusError),
        (IntegrityFailed("i"), openai.InternalServerError),
        (MissingExtra.of("torch", "text"), openai.InternalServerError),
        (Unavailable("u"), openai.InternalServerError),
        (TimedOut("t"), openai.InternalServerError),
        (StorageFull("s"), openai.InternalServerError),
    ],
)
async def test_the_official_client_sees_code_and_type(
    stage: Stage, error: ModelworksError, seen: type[openai.APIStatusError]
) -> None:
    wire = error.to_wire()
    stage.replica.refusal = (error.status, wire)
    with pytest.raises(seen) as caught:
        await stage.client.chat.completions.create(model="tiny", messages=HI)
    assert caught.value.status_code == error.status
    assert (caught.value.code, caught.value.type) == (error.error_code, error.type)
    assert caught.value.request_id is not None


async def test_a_replicas_quarrel_with_the_server_is_not_the_callers(stage: Stage) -> None:
    stage.replica.refusal = (401, AuthenticationFailed("This replica answers only its own server.").to_wire())
    status, body, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": HI})
    assert (status, body["error"]["code"]) == (502, "upstream_failed")


async def test_a_client_repeats_only_what_may_succeed(stage: Stage) -> None:
    patient = stage.client.with_options(max_retries=2)
    stage.replica.refusal = (429, QuotaExceeded("Used up.").to_wire())
    with pytest.raises(openai.RateLimitError):
        await patient.chat.completions.create(model="tiny", messages=HI)
    assert len(stage.replica.requests) == 1
    stage.replica.requests.clear()
    stage.replica.refusal = (503, Unavailable("Wait.", retry_after_s=0.01).to_wire())
    with pytest.raises(openai.InternalServerError) as caught:
        await patient.chat.completions.create(model="tiny", messages=HI)
    assert len(stage.replica.requests) == 3
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.response.headers["retry-after-ms"] == "10"


async def test_keys_missing_wrong_revoked_and_expired(stage: Stage) -> None:
    assert isinstance(stage.access._clock, FixedClock)
    clock = stage.access._clock
    expiring = stage.key(expires_at=clock.now() + timedelta(hours=1))
    with stage.db.transaction() as session:
        revoked, revoked_secret = stage.access.create_key(session, stage.project_id, "r", scopes=["inference"])
        stage.access.revoke_key(session, stage.project_id, revoked.id)
    clock.advance(7200)
    for secret, code in [("mw-wrong", "invalid_api_key"), (revoked_secret, "revoked_api_key"), (expiring, "expired_api_key")]:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stage.client.with_options(api_key=secret).chat.completions.create(model="tiny", messages=HI)
        assert (caught.value.code, caught.value.type) == (code, "authentication_error")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/tasks/text-generation"):
        async with stage.http.post(stage.url + path, json={}) as response:
            assert response.status == 401
            assert complete((await response.json())["error"])
            assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/v1/models/tiny", "/v1/tasks", "/v1/tasks/text-generation/schema"):
        async with stage.http.get(stage.url + path) as response:
            assert response.status == 401
    assert stage.replica.requests == []
    assert stage.used() == []


async def test_both_headers_go_through_the_same_check(stage: Stage) -> None:
    body = {"model": "tiny", "messages": HI}
    for headers, status in [
        ({"x-api-key": stage.secret}, 200),
        ({"authorization": f"bearer {stage.secret}"}, 200),
        ({"x-api-key": "mw-wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Basic {stage.secret}"}, 401),
        ({"authorization": "Bearer mw-wrong", "x-api-key": stage.secret}, 401),
    ]:
        async with stage.http.post(stage.url + "/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == status, headers


async def test_scope_and_list_of_models_bind(stage: Stage) -> None:
    reader = stage.client.with_options(api_key=stage.key(scopes=["read"]))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await reader.chat.completions.create(model="tiny", messages=HI)
    assert (caught.value.code, caught.value.type) == ("permission_denied", "permission_error")
    limited = stage.client.with_options(api_key=stage.key(model_allow=["remote/gpt"]))
    for name in ("tiny", "tiny@v1", "no-such-model"):
        # The same answer whether it exists or not.
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await limited.chat.completions.create(model=name, messages=HI)
        assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")
        with pytest.raises(openai.PermissionDeniedError):
            await limited.models.retrieve(name)
    assert [model.id for model in (await limited.models.list()).data] == ["remote/gpt"]
    assert stage.replica.requests == []


async def test_another_projects_models_do_not_exist(stage: Stage) -> None:
    with stage.db.transaction() as session:
        other = stage.access.create_project(session, "other").id
        secret = stage.access.create_key(session, other, "o", scopes=["inference"])[1]
    theirs = stage.client.with_options(api_key=secret)
    with pytest.raises(openai.NotFoundError) as caught:
        await theirs.chat.completions.create(model="tiny", messages=HI)
    assert "'tiny'?" not in caught.value.message
    with pytest.raises(openai.NotFoundError):
        await theirs.models.retrieve("tiny")
    assert (await theirs.models.list()).data == []
    stage.deploy("tiny", project_id=other, version_id="mdl_other")
    await theirs.chat.completions.create(model="tiny", messages=HI)
    with stage.db.reading() as session:
        [record] = [each for each in stage.access.list_usage(session, other)[0] if each.status == 200]
    assert record.version_id == "mdl_other"
    assert stage.used() == []


async def test_errors_of_other_rooms_routes_have_the_envelope_too(stage: Stage) -> None:
    @stage.app.post("/api/things")
    def things(thing: Thing, limit: int = 5) -> None:
        raise HTTPException(418, "short and stout", headers={"x-pot": "tea"})

    status, body, _ = await stage.post("/api/things", {"size": 0})
    assert (status, body["error"]["param"], body["error"]["code"]) == (422, "size", "invalid_value")
    status, body, _ = await stage.post("/api/things", {})
    assert (status, body["error"]["param"], body["error"]["code"]) == (422, "size", "missing_required_parameter")
    status, body, _ = await stage.post("/api/things?limit=x", {"size": 1})
    assert (status, body["error"]["param"], body["error"]["code"]) == (422, "limit", "invalid_type")
    status, body, _ = await stage.post("/api/things", b"{")
    assert (status, body["error"]["code"]) == (400, "invalid_json")
    status, body, headers = await stage.post("/api/things", {"size": 1})
    assert (status, headers["x-pot"]) == (418, "tea")
    assert complete(body["error"])
    assert "short and stout" in body["error"]["message"]


async def test_a_deployment_that_failed_says_why_at_once(stage: Stage) -> None:
    stage.deploy("dead", urls=[], state="failed", last_error="Out of memory.")
    with pytest.raises(openai.InternalServerError) as caught:
        async with asyncio.timeout(2):
            await stage.client.chat.completions.create(model="dead", messages=HI)
    assert (caught.value.status_code, caught.value.code) == (503, "deployment_failed")
    assert "Out of memory." in caught.value.message


@pytest.mark.parametrize(
    ("status", "body", "expected_status", "expected_code", "words"),
    [
        (400, b'{"error":{"message":"bad n","param":"n","code":"bad"}}', 400, "bad", "bad n."),
        (
            400,
            b'{"object":"error","message":"This model\'s maximum context length is 8"}',
            400,
            "context_length_exceeded",
            "8.",
        ),
        (422, b'{"detail":"x"}', 400, "invalid_request", "x."),
        (401, b'{"error":"no key"}', 502, "upstream_failed", "no key."),
        (404, b"<html>", 502, "upstream_failed", "<html>."),
        (429, b"", 429, "rate_limit_exceeded", "no reason."),
        (500, b"{}", 502, "upstream_failed", "status 500"),
        (503, b"[]", 503, "unavailable", "[]."),
        (504, b"\xff", 504, "timed_out", "took too long"),
    ],
)
def test_an_upstreams_failure_as_ours(status: int, body: bytes, expected_status: int, expected_code: str, words: str) -> None:
    error = from_upstream(status, body, retry_after="7")
    assert (error.status, error.error_code) == (expected_status, expected_code)
    assert words in error.message
    assert error.retry_after_s == (7 if status in (429, 503) else None)
