"""The OpenAPI document describes what the server really answers: checked here on real answers of a whole platform."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator

from modelworks.kernel.base.settings import Settings
from modelworks.kernel.gateway.publishing import documents
from modelworks.kernel.gateway.schemas import ChatRequest, inline_schema
from modelworks.server import create_app, create_platform


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """A platform that is open and does nothing by itself."""
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    platform = create_platform(Settings(home=tmp_path, log_level="error"))
    yield create_app(platform)
    platform.close()


@pytest.fixture
async def http(app: FastAPI, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://platform", headers=headers) as client:
        yield client


def response_of(document: dict[str, Any], method: str, path: str, status: int) -> dict[str, Any]:
    responses: dict[str, dict[str, Any]] = document["paths"][path][method]["responses"]
    found = responses.get(str(status)) or responses[f"{status // 100}XX"]
    shared: dict[str, Any] = document["components"]["responses"]
    return dict(shared[found["$ref"].rpartition("/")[2]]) if "$ref" in found else found


def check(document: dict[str, Any], method: str, path: str, answer: httpx.Response) -> None:
    """The answer has a media type that the document names, and its schema."""
    content = response_of(document, method, path, answer.status_code).get("content", {})
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in content, (method, path, answer.status_code, kind)
    schema = {**content[kind]["schema"], "components": document["components"]}
    if kind == "application/json":
        Draft202012Validator(schema).validate(answer.json())


def test_a_schema_that_somebody_changed_is_whole_for_the_next_one() -> None:
    inline_schema(ChatRequest)["properties"].clear()
    assert "messages" in inline_schema(ChatRequest)["properties"]


async def test_errors_are_answered_as_the_document_says(app: FastAPI, http: httpx.AsyncClient) -> None:
    document = app.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("post", "/v1/chat/completions", {"content": b"{"}, 400),
        ("post", "/v1/chat/completions", {"json": {"model": "none", "messages": [{"role": "user", "content": "a"}]}}, 404),
        ("post", "/v1/messages", {"json": {"model": 1}}, 400),
        ("put", "/api/budgets", {"json": {"metric": "tokens", "amount": -1}}, 422),
        ("post", "/mcp", {"content": b"{"}, 400),
        ("post", "/mcp", {"json": {"jsonrpc": "2.0", "id": "a", "method": "none"}}, 200),
        ("get", "/api/usage/requests", {"params": {"limit": "many"}}, 422),
        ("get", "/v1/files", {"headers": {"authorization": "Bearer none"}}, 401),
    ]
    for method, path, options, status in asked:
        answer = await http.request(method, path, **options)
        assert answer.status_code == status, answer.text
        check(document, method, path, answer)


async def test_what_is_no_json_is_described_as_what_it_is(app: FastAPI, http: httpx.AsyncClient) -> None:
    document = app.openapi()
    check(document, "get", "/metrics", await http.get("/metrics"))
    digest = (await http.put("/api/blobs", content=b"some bytes")).json()["digest"]
    for headers, status in (({}, 200), ({"range": "bytes=0-3"}, 206)):
        answer = await http.get(f"/api/blobs/{digest}", headers=headers)
        assert answer.status_code == status
        check(document, "get", "/api/blobs/{digest}", answer)
    held = await http.get(f"/api/blobs/{digest}", headers={"if-none-match": answer.headers["etag"]})
    assert "content" not in response_of(document, "get", "/api/blobs/{digest}", held.status_code)
    size = await http.head(f"/api/blobs/{digest}")
    assert "content" not in response_of(document, "head", "/api/blobs/{digest}", size.status_code)


def test_every_operation_names_its_errors_and_how_to_prove_who_asks(app: FastAPI) -> None:
    document = app.openapi()
    assert set(document["components"]["securitySchemes"]) == {"Bearer", "ApiKey"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert "422" not in operation["responses"], (method, path)
            is_open = path in ("/healthz", "/readyz", "/metrics") or path.startswith(("/embed/", "/share/"))
            assert operation.get("security", document["security"]) == ([] if is_open else document["security"]), path
    # Asked for again it is the same document.
    assert app.openapi() is document


def test_every_route_is_described(app: FastAPI) -> None:
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    routers = [router for each in app.routes if (router := getattr(each, "original_router", None)) is not None]
    found = {
        (method, re.sub(r":[a-z]+}", "}", route.path))
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert described < found
    # What runs on other nodes talk to, with a key of their own.
    assert {path.split("/")[1] for _, path in found - described} == {"internal"}
    assert [route.path for route in app.routes if hasattr(route, "path")] == ["/openapi.json"]


def test_documents_are_described_as_everything_that_they_are_opened_as(app: FastAPI) -> None:
    content = response_of(app.openapi(), "get", "/embed/{publication}/documents/{document_id}", 200)["content"]
    for name in ("a.pdf", "a.md", "a.html", "a.png", "a.jpg", "a.gif", "a.webp", "a.exe", "a"):
        kind = documents.media_type(name) or "application/octet-stream"
        assert kind.partition(";")[0] in content, name


async def test_no_number_is_larger_than_a_database_holds(app: FastAPI, http: httpx.AsyncClient) -> None:
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for parameter in methods.get("get", {}).get("parameters", []):
            forms = [parameter["schema"], *parameter["schema"].get("anyOf", [])]
            if not any(form.get("type") == "integer" for form in forms):
                continue
            answer = await http.get(path.replace("{", "").replace("}", ""), params={parameter["name"]: 1 << 87})
            assert answer.status_code in (400, 422), (path, parameter["name"], answer.text)
            assert parameter["name"] in answer.text
            asked += 1
    assert asked > 10
