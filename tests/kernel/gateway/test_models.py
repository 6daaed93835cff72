"""The list of models, one model, health, forgiving paths and pages from other origins."""

from __future__ import annotations

import dataclasses
import re
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.rooms import serve

from modelworks.kernel.gateway import install

HI: Any = [{"role": "user", "content": "Hi"}]


async def test_models_are_listed(stage: Stage) -> None:
    stage.deploy("asleep", state="stopped", urls=[])
    page = await stage.client.models.list()
    assert [model.id for model in page.data] == ["remote/gpt", "tiny"]
    assert not page.has_next_page()
    [_, tiny] = page.data
    assert (tiny.object, tiny.created, tiny.owned_by) == ("model", 1767225600, "modelworks")
    extra: Any = tiny
    assert (extra.max_model_len, extra.root, extra.task, extra.state) == (512, "tiny@default", "text-generation", "ready")
    async with stage.http.get(stage.url + "/v1/models", headers={"x-api-key": stage.secret}) as response:
        body = await response.json()
    assert (body["object"], body["has_more"], body["first_id"], body["last_id"]) == ("list", False, "remote/gpt", "tiny")


async def test_a_model_with_a_slash_is_found_escaped_or_not(stage: Stage) -> None:
    assert (await stage.client.models.retrieve("remote/gpt")).id == "remote/gpt"
    async with stage.http.get(stage.url + "/v1/models/remote/gpt", headers={"x-api-key": stage.secret}) as response:
        assert (await response.json())["id"] == "remote/gpt"
    assert (await stage.client.models.retrieve("tiny@v1")).id == "tiny@v1"


async def test_an_unknown_model_is_not_found(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await stage.client.models.retrieve("remote/gpd")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "remote/gpt" in caught.value.message


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_any_spelling_of_the_base_url_works(stage: Stage, base: str) -> None:
    async with AsyncOpenAI(base_url=stage.url + base, api_key=stage.secret, max_retries=0) as client:
        assert len((await client.models.list()).data) == 2
        assert (await client.models.retrieve("remote/gpt")).id == "remote/gpt"
        assert (await client.chat.completions.create(model="tiny", messages=HI)).choices
        assert (await client.completions.create(model="tiny", prompt="a")).choices


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/chat/completions/", "/v1/chat/completions//"])
async def test_a_trailing_slash_is_forgiven_without_a_redirect(stage: Stage, path: str) -> None:
    async with stage.http.post(
        stage.url + path, json={"model": "tiny", "messages": HI}, headers={"x-api-key": stage.secret}, allow_redirects=False
    ) as response:
        assert response.status == 200


async def test_only_named_origins_may_call_from_a_page(stage: Stage) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    url = stage.url + "/v1/chat/completions"
    async with stage.http.options(url, headers={**asked, "origin": "https://page.example"}) as response:
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        assert "x-stainless-lang" in response.headers["access-control-allow-headers"]
    async with stage.http.options(url, headers={**asked, "origin": "https://evil.example"}) as response:
        assert "access-control-allow-origin" not in response.headers
    async with stage.http.post(url, json={}, headers={"origin": "https://page.example"}) as response:
        # An error must be readable by the page too.
        assert response.status == 401
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_health_readiness_and_figures(stage: Stage) -> None:
    problems: dict[str, str] = {}
    observed: list[tuple[Any, ...]] = []
    gateway = dataclasses.replace(stage.gateway, problems=lambda: problems, metrics=lambda: b"requests 1\n")
    app = FastAPI()
    install(app, gateway, max_body_bytes=1000, observe=lambda *seen: observed.append(seen))
    async with AsyncExitStack() as stack:
        url = await serve(app, stack)
        async with stage.http.get(url + "/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok", "version": ""})
        async with stage.http.get(url + "/readyz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ready"})
        problems["database"] = "It does not answer."
        async with stage.http.get(url + "/readyz") as response:
            assert response.status == 503
            assert (await response.json())["problems"] == {"database": "It does not answer."}
        async with stage.http.get(url + "/metrics") as response:
            assert response.content_type == "text/plain"
            assert await response.read() == b"requests 1\n"
        async with stage.http.get(url + "/v1/models/some/name") as response:
            assert response.status == 401
        async with stage.http.get(url + "/healthz", headers={"origin": "https://page.example"}) as response:
            # No origin is named, so none is allowed.
            assert "access-control-allow-origin" not in response.headers
    assert [seen[:3] for seen in observed[:4]] == [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/readyz", 503),
        ("GET", "/metrics", 200),
    ]
    # The route's template, not the path: figures must not grow with the names that callers think of.
    assert observed[4][:3] == ("GET", "/v1/models/{model:path}", 401)
    assert all(seen[3] > 0 for seen in observed)


async def test_the_openapi_document_describes_the_routes(stage: Stage) -> None:
    document = stage.app.openapi()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages"} <= set(body["required"])
    assert body["properties"]["messages"]["items"]["properties"]["role"]["enum"][0] == "system"
    assert "$defs" not in str(body)
    assert (
        "prompt"
        in document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"]
    )
    for path in ("/v1/models", "/v1/models/{model}", "/v1/tasks", "/v1/tasks/{task}", "/v1/tasks/{task}/schema", "/healthz"):
        assert path in document["paths"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
