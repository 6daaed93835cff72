"""The register of tool servers: over the routes of a whole platform, and in responses over a server of the official library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.responses.test_remote_tools import LOOK, speaks, weather

from modelworks.contract.errors import NotFound
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.gateway.mcp.register import McpServerPut, ToolRegister
from modelworks.kernel.gateway.mcp.servers import ToolServers
from modelworks.server import Platform, create_app, create_platform

__all__ = ["weather"]

SECRETS = {"token": "s3cret", "team": "a", "broken": "a\nb"}


@pytest.fixture
async def stage(stage: Stage) -> Stage:
    """A gateway whose project has secrets and a register."""

    def secret(project_id: str, name: str) -> str:
        if project_id != stage.project_id or name not in SECRETS:
            raise NotFound(f"The project has no secret {name!r}.", code="secret_not_found")
        return SECRETS[name]

    servers = ToolServers(["127.0.0.1"], timeout_s=20)
    clock = FixedClock(datetime(2026, 11, 22, tzinfo=UTC))
    stage.responses.tool_servers = servers
    stage.responses.register = ToolRegister(stage.db, clock, servers, secret, ["127.0.0.1"])
    return stage


def register(stage: Stage, weather: dict[str, Any], **more: Any) -> ToolRegister:
    found = stage.responses.register
    assert found is not None
    wanted = McpServerPut(url=weather["server_url"], authorization_secret="token", header_secrets={"x-team": "team"}, **more)
    found.check(stage.project_id, wanted)
    with stage.db.transaction() as session:
        found.put(session, stage.project_id, "weather", wanted)
    return found


NAMED: dict[str, Any] = {"type": "mcp", "server_label": "weather"}


async def test_a_response_names_a_server_and_its_secrets_are_sent(stage: Stage, weather: dict[str, Any]) -> None:
    register(stage, weather, require_approval="never")
    speaks(stage, [LOOK], "It rains.")
    answer = await stage.client.responses.create(model="tiny", input="Weather?", tools=[NAMED])
    assert [item.type for item in answer.output] == ["mcp_list_tools", "mcp_call", "message"]
    assert answer.output[1].output == "Ulm: rain"
    kept = (await stage.client.responses.retrieve(answer.id)).model_dump_json()
    assert "s3cret" not in kept
    assert weather["server_url"] not in kept
    assert {(each.get("authorization"), each.get("x-team")) for each in weather["_seen"]} == {("Bearer s3cret", "a")}
    # In the background as well: what is sent is not part of what is kept.
    speaks(stage, [LOOK], "It rains.")
    promised = await stage.client.responses.create(model="tiny", input="?", tools=[NAMED], background=True)
    assert promised.status == "queued"


async def test_a_request_takes_nothing_back_of_what_the_register_says(stage: Stage, weather: dict[str, Any]) -> None:
    register(stage, weather, allowed_tools=["look"], require_approval="always")
    for said in ({}, {"require_approval": "never"}, {"allowed_tools": ["look", "wipe"]}):
        speaks(stage, [LOOK], "Never reached.")
        answer = await stage.client.responses.create(model="tiny", input="?", tools=[NAMED | said])
        assert [each.name for each in answer.output[0].tools] == ["look"]
        assert answer.output[-1].type == "mcp_approval_request"
    assert weather["_asked"] == []
    # It can ask for more care, and for fewer tools.
    register(stage, weather, require_approval="never")
    speaks(stage, [LOOK], "Never reached.")
    tool = NAMED | {"require_approval": "always", "allowed_tools": ["look"]}
    answer = await stage.client.responses.create(model="tiny", input="?", tools=[tool])
    assert answer.output[-1].type == "mcp_approval_request"
    assert weather["_asked"] == []


async def test_the_list_is_kept_for_an_hour_and_refreshed_when_asked(stage: Stage, weather: dict[str, Any]) -> None:
    found = register(stage, weather)

    async def asked(**how: Any) -> bool:
        before = len(weather["_seen"])
        listing = await found.tools(stage.project_id, "weather", **how)
        assert [tool["name"] for tool in listing.tools] == ["look", "wipe"]
        return len(weather["_seen"]) > before

    assert await asked()
    # Also by a process that has just started.
    clock = FixedClock(datetime(2026, 11, 22, tzinfo=UTC))
    found = ToolRegister(stage.db, clock, ToolServers(["127.0.0.1"], keep_s=0.0), lambda *_: "x", ["127.0.0.1"])
    assert not await asked()
    assert await asked(refresh=True)
    clock.advance(59 * 60)
    assert not await asked()
    clock.advance(2 * 60)
    assert await asked()
    # A server that was changed is asked anew.
    register(stage, weather)
    assert await asked()


@pytest.mark.parametrize(
    ("tool", "status", "param"),
    [
        ({"server_label": "nobody"}, 404, "tools.0.server_label"),
        ({"headers": {"x-team": "b"}}, 400, "tools.0.headers"),
        ({"authorization": "mine"}, 400, "tools.0.authorization"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_place(stage: Stage, tool: dict[str, Any], status: int, param: str) -> None:
    body = {"model": "tiny", "input": "?", "tools": [NAMED | tool]}
    found, answer, _ = await stage.post("/v1/responses", body)
    assert (found, answer["error"]["param"]) == (status, param)
    assert not stage.replica.requests


# -- the routes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = create_platform(Settings(home=tmp_path, log_level="error", egress_allow=["127.0.0.1"]))
    yield platform
    platform.close()


@pytest.fixture
async def http(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    key = (platform.settings.home / "admin.key").read_text().strip()
    transport = httpx.ASGITransport(create_app(platform))
    async with httpx.AsyncClient(transport=transport, base_url="http://platform", headers={"x-api-key": key}) as client:
        yield client


async def test_a_server_is_registered_changed_and_forgotten(platform: Platform, http: httpx.AsyncClient) -> None:
    await http.put("/api/secrets/token", json={"value": "s3cret"})
    body = {"url": "http://127.0.0.1:9/mcp", "authorization_secret": "token", "require_approval": {"never": ["look"]}}
    tried = await http.put("/api/mcp-servers/tools", json=body, params={"dry_run": True})
    assert (tried.status_code, (await http.get("/api/mcp-servers")).json()["data"]) == (200, [])
    made = await http.put("/api/mcp-servers/tools", json=body)
    assert made.status_code == 200, made.text
    assert {name: made.json()[name] for name in body} == body
    changed = await http.put("/api/mcp-servers/tools", json={"url": "http://127.0.0.1:10/mcp", "timeout_s": 3})
    assert changed.json()["authorization_secret"] is None
    assert changed.json()["created_at"] == made.json()["created_at"]
    assert [each["url"] for each in (await http.get("/api/mcp-servers")).json()["data"]] == ["http://127.0.0.1:10/mcp"]
    unreachable = await http.get("/api/mcp-servers/tools/tools")
    assert (unreachable.status_code, unreachable.json()["error"]["code"]) == (502, "tool_server_failed")
    assert (await http.delete("/api/mcp-servers/tools")).status_code == 200
    assert (await http.get("/api/mcp-servers/tools")).json()["error"]["code"] == "mcp_server_not_found"
    actions = [(each["action"], each["noun"]) for each in (await http.get("/api/audit")).json()["data"]]
    assert [pair for pair in reversed(actions) if pair[1] == "mcp_server"] == [
        ("created", "mcp_server"),
        ("updated", "mcp_server"),
        ("deleted", "mcp_server"),
    ]


async def test_what_cannot_be_registered(http: httpx.AsyncClient) -> None:
    for changed, status, code in (
        ({"url": "http://169.254.169.254/mcp"}, 403, "egress_denied"),
        ({"url": "file:///etc/passwd"}, 400, "invalid_request"),
        ({"authorization_secret": "nothing"}, 404, "secret_not_found"),
        ({"header_secrets": {"Host": "token"}}, 400, "invalid_value"),
        ({"allowed_tools": 5}, 400, "invalid_value"),
        ({"require_approval": "sometimes"}, 400, "invalid_value"),
        ({"headers": {"x": "y"}}, 422, "invalid_value"),
    ):
        answer = await http.put("/api/mcp-servers/tools", json={"url": "http://127.0.0.1:9/mcp", **changed})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert (await http.get("/api/mcp-servers")).json()["data"] == []
