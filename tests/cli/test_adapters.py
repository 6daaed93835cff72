"""adapters add, ls, rm; and deploy --adapter."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page, refusal
from tests.cli.test_deployments import DEPLOYMENT

ADAPTER: dict[str, Any] = {
    "id": "adp_1",
    "name": "polite",
    "deployment": "law/base",
    "deployment_id": "dep_1",
    "model": "polite@prod",
    "version_id": "mdl_2",
    "state": "ready",
    "last_error": None,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.cli.adapter.time.sleep", lambda _: None)


def test_add_waits_until_it_answers(cli: Cli, server: FakeServer) -> None:
    looks = [page([{**ADAPTER, "state": "loading"}]), page([ADAPTER])]
    server.on("POST", "/api/adapters", {**ADAPTER, "state": "loading"})
    server.on("GET", "/api/adapters", lambda _: looks.pop(0))
    done = cli("adapters", "add", "law/base", "polite@prod", "--name", "polite")
    assert done.code == 0
    assert server.asked[0].json == {"deployment": "law/base", "model": "polite@prod", "name": "polite"}
    assert "polite is ready." in done.err
    assert "polite@prod" in done.out


def test_a_refused_adapter_shows_why_and_exits_with_1(cli: Cli, server: FakeServer) -> None:
    failed = {**ADAPTER, "state": "failed", "last_error": "The adapter 'polite@v1' changes nothing."}
    server.on("POST", "/api/adapters", failed)
    done = cli("adapters", "add", "law/base", "polite@prod", "-o", "name")
    assert (done.code, done.out) == (1, "polite\n")
    assert "changes nothing" in done.err
    server.on("POST", "/api/adapters", refusal(400, "adapter_of_another_base", "The adapter was trained on another base."))
    done = cli("adapters", "add", "law/base", "polite@prod")
    assert done.code == 1
    assert "another base" in done.err


def test_list_and_remove(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/adapters", page([ADAPTER]))
    server.on("DELETE", "/api/adapters/polite", ADAPTER)
    assert "law/base" in cli("adapters", "ls").out
    assert cli("adapters", "rm", "polite", "--dry-run", "-o", "name").out == "polite\n"
    assert [each.method for each in server.asked] == ["GET", "GET"]
    done = cli("adapters", "rm", "polite", "-y")
    assert done.out == "polite\n"
    assert server.asked[-1].method == "DELETE"
    assert cli("adapters", "rm", "nobody", "-y").code == 1


def test_deploy_with_adapters(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/deployments", DEPLOYMENT)
    server.on("POST", "/api/adapters", ADAPTER)
    done = cli("deploy", "law/base", "--adapter", "polite@prod", "--adapter", "ft:rude=rude@v2")
    assert done.code == 0
    sent = [each.json for each in server.asked if each.path == "/api/adapters"]
    assert sent == [
        {"deployment": "law/base", "model": "polite@prod"},
        {"deployment": "law/base", "model": "rude@v2", "name": "ft:rude"},
    ]
    assert cli("deploy", "law/base", "--adapter", "x=").code == 2
