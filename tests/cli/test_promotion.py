"""`compare`, `promote`, `rollback`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page, refusal

ROW = {
    "metric": "loss", "lower_is_better": True, "num_samples": 40, "baseline": 2.3, "candidate": 2.1,
    "difference": -0.2, "low": -0.25, "high": -0.15, "verdict": "better",
}  # fmt: skip
COMPARISON = {"baseline": "chat@v1", "candidate": "chat@v2", "data": "test@v1", "verdict": "better", "rows": [ROW]}
CAPABILITIES = page([{"name": "text", "tasks": [{"name": "text-generation", "evaluable": True}]}])
MISSING = refusal(404, "evaluation_missing", "chat@v2 was not measured.", hint="Run: modelworks evaluate …")


def promotion(**known: Any) -> dict[str, Any]:
    check = {"role": "test", "passed": True, "sentence": "loss goes down: better.", "comparison": COMPARISON}
    plan = {"alias": "prod", "candidate": "chat@v2", "baseline": "chat@v1", "passed": True, "moved": False, "forced": False}
    return {**plan, "checks": [check], **known}


@pytest.fixture
def evaluable(server: FakeServer) -> FakeServer:
    """Evaluations of chat@v2 are missing; chat@v1 was measured with the same parameters."""
    run = {"id": "run_1", "state": "succeeded", "params": {"window": None}}
    known = {"report_digest": "sha256:1", "params": {"window": None}}
    server.on("GET", "/api/gate", {"test": None, "general": None})
    server.on("GET", "/api/capabilities", CAPABILITIES)
    server.on("GET", "/api/models/.*", {"version": {"task": "text-generation"}})
    server.on("GET", "/api/evaluations", lambda asked: page([known] if asked.query["model"] == "chat@v1" else []))
    server.on("POST", "/api/runs", run)
    server.on("GET", "/api/runs/run_1", run)
    return server


def submitted(server: FakeServer) -> list[Any]:
    return [asked.json["inputs"] for asked in server.calls("POST", "/api/runs") if "dry_run" not in asked.query]


def test_compare_prints_before_after_interval_and_verdict(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/compare", COMPARISON)
    done = cli("compare", "chat@v1", "chat@v2", "--data", "test", "--metric", "loss")
    assert done.code == 0
    for text in ("test@v1: chat@v1 -> chat@v2", "lower", "2.3", "2.1", "-0.2", "[-0.25, -0.15]", "40", "better"):
        assert text in done.out
    assert server.asked[-1].json == {"baseline": "chat@v1", "candidate": "chat@v2", "data": "test", "metric": "loss"}
    assert cli("compare", "a", "b", "--data", "test", "-o", "name").out == "better\n"
    assert cli("compare", "a", "b", "--data", "test", "-o", "json").json == COMPARISON


def test_a_missing_evaluation_is_an_error_or_is_made(cli: Cli, evaluable: FakeServer) -> None:
    answers = [MISSING, MISSING, COMPARISON]
    evaluable.on("POST", "/api/compare", lambda _: answers.pop(0))
    done = cli("compare", "chat@v1", "chat@v2", "--data", "test")
    assert done.code == 1
    assert "hint: Run: modelworks evaluate" in done.err
    done = cli("compare", "chat@v1", "chat@v2", "--data", "test", "--run")
    assert done.code == 0
    assert submitted(evaluable) == [{"model": "chat@v2", "test": "test"}], "what was measured is not measured again"
    assert "run_1" in done.err


def test_promote_shows_the_table_and_moves_the_alias(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/promote", lambda asked: promotion(moved="dry_run" not in asked.query))
    done = cli("promote", "chat@v2", "--alias", "prod", "--test", "test", "--general", "wide", "--max-regression", "0.02")
    assert done.code == 0
    assert "test: test@v1: chat@v1 -> chat@v2" in done.out
    assert "chat@prod means chat@v2 now." in done.err
    wish = {"ref": "chat@v2", "alias": "prod", "test": "test", "general": "wide", "max_regression": 0.02, "force": False}
    assert [asked.json for asked in server.calls("POST", "/api/promote")] == [wish, wish]
    assert cli("promote", "chat@v2", "--alias", "prod", "--test", "test", "--dry-run").code == 0
    assert len(server.calls("POST", "/api/promote")) == 3


def test_a_refusal_prints_the_table_and_fails(cli: Cli, server: FakeServer) -> None:
    worse = {**COMPARISON, "verdict": "worse", "rows": [{**ROW, "verdict": "worse"}]}
    check = {"role": "test", "passed": False, "sentence": "loss goes up: worse.", "comparison": worse}
    plan = promotion(passed=False, checks=[check])
    refused = refusal(409, "gate_refused", "chat@v2 does not become 'prod'.")
    server.on("POST", "/api/promote", lambda asked: plan if "dry_run" in asked.query else refused)
    done = cli("promote", "chat@v2", "--alias", "prod", "--test", "test")
    assert done.code == 1
    assert "worse" in done.out
    assert "does not become 'prod'" in done.err
    done = cli("promote", "chat@v2", "--alias", "prod", "--test", "test", "--dry-run")
    assert done.code == 1
    assert "- loss goes up: worse." in done.err


def test_promote_can_make_what_is_missing(cli: Cli, evaluable: FakeServer) -> None:
    lacking = {"role": "test", "passed": False, "sentence": "chat@v2 was not measured.", "comparison": None}
    answers = [promotion(passed=False, checks=[lacking]), promotion(), promotion(moved=True)]
    evaluable.on("POST", "/api/promote", lambda _: answers.pop(0))
    done = cli("promote", "chat@v2", "--alias", "prod", "--test", "test", "--run", "-o", "name")
    assert (done.code, done.out) == (0, "chat@v2\n")
    assert submitted(evaluable) == [{"model": "chat@v2", "test": "test"}]


def test_rollback_says_what_the_alias_means_now(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/deployments", page([]))
    server.on("POST", "/api/aliases/rollback", {"id": "mdl_1", "name": "chat", "number": 1, "aliases": ["prod"]})
    done = cli("rollback", "chat", "--alias", "prod")
    assert done.code == 0
    assert "mdl_1" in done.out
    assert server.asked[-1].json == {"ref": "chat", "alias": "prod", "kind": "model"}


def deployment(name: str, model: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "model": model, "state": "ready", "canary_of": None, "share": None, **more}


@pytest.mark.parametrize(("written", "share"), [("10%", 0.1), ("0.25", 0.25), ("2.5 %", 0.025)])
def test_a_canary_is_started_where_the_alias_is_followed(cli: Cli, server: FakeServer, written: str, share: float) -> None:
    server.on("POST", "/api/promote", promotion())
    server.on("GET", "/api/deployments", page([deployment("web", "chat@prod"), deployment("other", "chat@v1")]))
    server.on("POST", "/api/deployments/.*/canary", deployment("web.canary", "mdl_2", canary_of="web", share=share))
    asked = ("promote", "chat@v2", "--alias", "prod", "--test", "test", "--canary", written)
    assert cli(*asked, "--dry-run").code == 0
    assert server.calls("POST", "/api/deployments/web/canary") == []
    done = cli(*asked)
    assert done.code == 0
    assert f"chat@v2 answers {100 * share:g} % of the requests to web." in done.err
    assert [call.json for call in server.calls("POST", "/api/deployments/web/canary")] == [{"model": "chat@v2", "share": share}]
    assert all("dry_run" in call.query for call in server.calls("POST", "/api/promote")), "the alias stays"
    assert cli(*asked, "-o", "json").json["canaries"] == ["web"]


def test_a_canary_needs_the_gate_a_share_and_a_deployment(cli: Cli, server: FakeServer) -> None:
    refused = refusal(409, "gate_refused", "chat@v2 does not become 'prod'.")
    judged = promotion(passed=False)
    server.on("POST", "/api/promote", lambda asked: judged if "dry_run" in asked.query else refused)
    server.on("GET", "/api/deployments", page([]))
    asked = ("promote", "chat@v2", "--alias", "prod", "--test", "test", "--canary")
    done = cli(*asked, "10%")
    assert done.code == 1
    assert "does not become" in done.err
    done = cli(*asked, "10%", "--force", "--reason", "try")
    assert done.code == 1
    assert "No deployment follows chat@prod" in done.err
    for wrong in ("0", "100%", "ten", "-1%", "nan"):
        assert cli(*asked, wrong).code == 2, wrong


def test_rollback_ends_a_canary_and_leaves_the_alias(cli: Cli, server: FakeServer) -> None:
    web, canary = deployment("web", "chat@prod"), deployment("web.canary", "mdl_2", canary_of="web", share=0.1)
    shown = page([web, canary])
    version = {"name": "chat", "number": 1, "id": "mdl_1", "aliases": ["prod"]}
    server.on("GET", "/api/deployments", lambda _: shown)
    server.on("DELETE", "/api/deployments/web/canary", canary)
    server.on("GET", "/api/models/.*", {"version": version})
    server.on("POST", "/api/aliases/rollback", version)
    done = cli("rollback", "chat", "--alias", "prod")
    assert done.code == 0
    assert "web answers all of its requests itself again." in done.err
    assert len(server.calls("DELETE", "/api/deployments/web/canary")) == 1
    assert server.calls("POST", "/api/aliases/rollback") == []
    shown = page([web])
    assert cli("rollback", "chat", "--alias", "prod").code == 0
    assert len(server.calls("POST", "/api/aliases/rollback")) == 1
