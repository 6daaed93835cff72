"""deploy, undeploy, ps."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page, refusal

DEPLOYMENT: dict[str, Any] = {
    "id": "dep_1",
    "name": "law/base",
    "kind": "predictor",
    "task": "text-generation",
    "engine": "openvino",
    "model": "law/base@default",
    "version_id": "mdl_1",
    "num_replicas": 2,
    "replicas": [{"state": "ready"}, {"state": "starting"}],
    "options": {},
    "state": "ready",
    "last_error": None,
    "created_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.cli.deployment.time.sleep", lambda _: None)


def test_deploy_waits_until_it_answers(cli: Cli, server: FakeServer) -> None:
    looks = [{**DEPLOYMENT, "state": "loading", "last_error": "The port was taken; trying again."}, DEPLOYMENT]
    server.on("POST", "/api/deployments", {**DEPLOYMENT, "state": "loading"})
    server.on("GET", "/api/deployments/law/base", lambda _: looks.pop(0))
    done = cli("deploy", "law/base@default", "-p", "precision=int8", "--engine", "openvino", "--replicas", "2")
    assert done.code == 0
    sent = server.asked[0].json
    assert sent == {
        "name": "law/base",
        "model": "law/base@default",
        "engine": "openvino",
        "num_replicas": 2,
        "options": {"precision": "int8"},
    }
    for text in ("Waiting for law/base to load", "The port was taken", "law/base is ready."):
        assert text in done.err
    assert "openvino" in done.out


def test_deploy_that_fails_says_why_and_exits_with_1(cli: Cli, server: FakeServer) -> None:
    failed = {**DEPLOYMENT, "state": "failed", "last_error": "No engine reads the architecture Foo."}
    server.on("POST", "/api/deployments", failed)
    done = cli("deploy", "law/base", "-o", "name")
    assert (done.code, done.out) == (1, "law/base\n")
    assert "architecture Foo" in done.err


def test_deploy_gives_up_waiting(cli: Cli, server: FakeServer) -> None:
    loading = {**DEPLOYMENT, "state": "loading"}
    server.on("POST", "/api/deployments", loading)
    server.on("GET", "/api/deployments/law/base", loading)
    done = cli("deploy", "law/base", "--timeout", "0")
    assert done.code == 1
    assert "still loading" in done.err
    assert cli("deploy", "law/base", "--no-wait").code == 0


def test_deploy_of_a_server_elsewhere(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/deployments", {**DEPLOYMENT, "name": "gpt", "base_url": "https://host/v1"})
    arguments = ["--base-url", "https://host/v1", "--upstream-model", "big", "--api-key-env", "HOST_API_KEY"]
    assert cli("deploy", *arguments).code == 2
    assert server.asked == []
    assert cli("deploy", "--name", "gpt", *arguments, "--dry-run").code == 0
    assert server.asked[0].query == {"dry_run": "true"}
    assert server.asked[0].json["api_key_env"] == "HOST_API_KEY"
    assert "model" not in server.asked[0].json


def test_ps(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/deployments", page([DEPLOYMENT]))
    row = cli("ps").out.splitlines()[1]
    assert row.split()[:6] == ["law/base", "ready", "1/2", "text-generation", "openvino", "law/base@default"]
    assert cli("ps", "-o", "name").out == "law/base\n"
    assert cli("ps", "-o", "json").json == [DEPLOYMENT]


def test_a_long_error_does_not_burst_the_list_and_is_whole_as_json(cli: Cli, server: FakeServer) -> None:
    error = "No engine here serves architecture 'frobnicate'. " * 10
    server.on("GET", "/api/deployments", page([{**DEPLOYMENT, "state": "failed", "last_error": error}]))
    heading, row = cli("ps").out.splitlines()
    assert row[heading.index("ERROR") :].startswith("No engine here serves architecture")
    assert row.endswith("…")
    assert len(row) - heading.index("ERROR") <= 80
    assert cli("ps", "-o", "json").json[0]["last_error"] == error


def test_undeploy_asks(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/deployments/law/base", DEPLOYMENT)
    server.on("DELETE", "/api/deployments/law/base", {**DEPLOYMENT, "desired": "removed"})
    assert cli("undeploy", "law/base", "--dry-run").code == 0
    assert cli("undeploy", "law/base").code == 2
    assert cli("undeploy", "law/base", typed="\n").code == 1
    assert server.calls("DELETE", "/api/deployments/law/base") == []
    done = cli("undeploy", "law/base", "-y")
    assert (done.code, done.out) == (0, "law/base\n")
    assert cli("undeploy", "law/base", typed="y\n").code == 0
    server.on("GET", "/api/deployments/nope", refusal(404, "not_found", "There is no deployment nope."))
    assert cli("undeploy", "nope", "-y").code == 1
