"""Tools for agents cross no border: every one of them is asked for another tenant's things."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from tests.defences import tenants

from modelworks.kernel.base.settings import Settings
from modelworks.kernel.gateway.mcp.tools import TOOLS
from modelworks.kernel.jobs.store import RunRow
from modelworks.server import Platform, create_app, create_platform

#: What each tool is asked with, naming the victim's things wherever something is named.
ASKED: dict[str, dict[str, Any]] = {
    "list_models": {},
    "chat": {"model": tenants.NAME, "messages": [{"role": "user", "content": "hello"}]},
    "complete": {"model": tenants.NAME, "prompt": "hello"},
    "embed": {"model": tenants.NAME, "texts": ["hello"]},
    "rerank": {"model": tenants.NAME, "query": "a", "documents": ["b"]},
    "search_space": {"space": tenants.identifier("spaces"), "query": tenants.MARK},
    "moderate": {"model": tenants.NAME, "texts": ["hello"]},
    "search_models": {"search": tenants.MARK},
    "show_model": {"ref": tenants.NAME},
    "search_datasets": {"search": tenants.MARK},
    "show_dataset": {"ref": tenants.identifier("versions")},
    "list_deployments": {},
    "list_runs": {},
    "show_run": {"run_id": tenants.identifier("runs")},
    "cancel_run": {"run_id": tenants.identifier("runs")},
    "list_evaluations": {"model": tenants.NAME},
    "compare_models": {"baseline": tenants.NAME, "candidate": tenants.NAME, "data": tenants.NAME},
}


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Platform]:
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    platform = create_platform(Settings(home=tmp_path, log_level="error"))
    tenants.settle(platform.db)
    yield platform
    platform.close()


def key(platform: Platform, project_id: str, *scopes: str) -> dict[str, str]:
    with platform.db.transaction() as session:
        return {"x-api-key": platform.access.create_key(session, project_id, "agent", scopes=scopes)[1]}


async def call(http: httpx.AsyncClient, key: dict[str, str], tool: str) -> tuple[dict[str, Any], str]:
    """The result of one call, and everything that was answered."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": ASKED[tool]}}
    answer = await http.post("/mcp", json=body, headers=key)
    assert answer.status_code == 200, (tool, answer.text)
    return answer.json()["result"], answer.text


async def test_no_tool_shows_or_changes_what_is_anothers(platform: Platform) -> None:
    assert {*ASKED} == {tool.name for tool in TOOLS}
    with platform.db.transaction() as session:
        project = platform.access.create_project(session, "intruder")
    intruder = key(platform, project.id, "admin")
    victim = key(platform, tenants.VICTIM, "admin")
    before = tenants.belongings(platform.db)
    transport = httpx.ASGITransport(create_app(platform))
    async with httpx.AsyncClient(transport=transport, base_url="http://platform") as http:
        for tool in ASKED:
            result, text = await call(http, intruder, tool)
            assert tenants.HIDDEN not in text, tool
            assert result["isError"] or tenants.MARK not in text, tool
        assert tenants.belongings(platform.db) == before
        shown = [tool for tool in ASKED if not (await call(http, victim, tool))[0]["isError"]]
        seen = [tool for tool in shown if tenants.MARK in (await call(http, victim, tool))[1]]
    assert {"search_models", "show_model", "list_runs", "show_run", "list_deployments"} <= {*seen}, shown


async def test_a_change_by_a_tool_is_in_the_audit_log_under_the_key(platform: Platform) -> None:
    with platform.db.transaction() as session:
        session.execute(update(RunRow).values(state="queued", cancel_requested_at=None))
        made, secret = platform.access.create_key(session, tenants.VICTIM, "agent", scopes=["write"])
    reader = key(platform, tenants.VICTIM, "read")
    transport = httpx.ASGITransport(create_app(platform))
    async with httpx.AsyncClient(transport=transport, base_url="http://platform") as http:

        async def noted() -> list[tuple[str, str, str]]:
            listed = await http.get("/api/audit", params={"limit": 100}, headers=key(platform, tenants.VICTIM, "admin"))
            entries = listed.json()["data"]
            return [(entry["action"], entry["author_id"], entry["subject"]) for entry in entries if entry["noun"] == "run"]

        refused, _ = await call(http, reader, "cancel_run")
        assert refused["isError"]
        assert "write" in refused["content"][0]["text"]
        assert not [entry for entry in await noted() if entry[1] != "platform"]
        done, _ = await call(http, {"x-api-key": secret}, "cancel_run")
        assert not done["isError"], done
        assert ("updated", made.id, tenants.identifier("runs")) in await noted()
