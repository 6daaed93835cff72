"""keys and usage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page

from modelworks.cli.connection import moment_of
from modelworks.contract.errors import InvalidRequest

KEY: dict[str, Any] = {
    "id": "key_1",
    "name": "ci",
    "prefix": "mw-abcd",
    "scopes": ["inference"],
    "model_allow": ["base"],
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": None,
    "revoked_at": None,
}


def test_create_prints_the_secret_alone_on_stdout(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/keys", lambda asked: Answer({**KEY, **asked.json, "secret": "mw-abcdef"}, 201))
    done = cli("keys", "create", "ci", "--scope", "inference", "--model", "base", "--expires", "2027-01-31T00:00:00+00:00")
    assert (done.code, done.out) == (0, "mw-abcdef\n")
    assert "only time" in done.err
    assert server.asked[0].json == {
        "name": "ci",
        "scopes": ["inference"],
        "model_allow": ["base"],
        "expires_at": "2027-01-31T00:00:00+00:00",
    }
    done = cli("keys", "create", "ci", "-o", "json")
    assert (done.json["secret"], server.asked[1].json) == ("mw-abcdef", {"name": "ci"})
    done = cli("keys", "create", "ci", "-o", "name")
    assert (done.out, "mw-abcdef" in done.err) == ("key_1\n", True)


def test_spans_and_dates() -> None:
    now = datetime.now(UTC)
    for text, hours in (("90m", 1.5), ("12h", 12), ("30d", 720), ("2w", 336)):
        for ahead, sign in ((True, 1), (False, -1)):
            moment = datetime.fromisoformat(moment_of(text, ahead=ahead))
            assert abs((moment - now).total_seconds() - sign * hours * 3600) < 60
    assert datetime.fromisoformat(moment_of("2027-01-31")).tzinfo is not None
    for text in ("soon", "5y", "-3d", ""):
        with pytest.raises(InvalidRequest):
            moment_of(text)


def test_a_wrong_span_is_a_usage_error(cli: Cli, server: FakeServer) -> None:
    assert cli("keys", "create", "ci", "--expires", "soon").code == 2
    assert server.asked == []


def test_ls_never_shows_a_secret(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/keys", page([KEY]))
    assert cli("keys", "ls").out.splitlines()[1].split()[:5] == ["key_1", "ci", "mw-abcd…", "inference", "base"]
    assert cli("keys", "ls", "-o", "name").out == "key_1\n"


def test_revoke_finds_by_id_name_and_prefix_and_asks(cli: Cli, server: FakeServer) -> None:
    revoked = {**KEY, "id": "key_0", "revoked_at": "2026-01-02T00:00:00Z"}
    twins = [{**KEY, "id": f"key_{number}", "name": "twin", "prefix": f"mw-{number}"} for number in (2, 3)]
    server.on("GET", "/api/keys", page([KEY, revoked, *twins]))
    server.on("DELETE", "/api/keys/key_1", KEY)
    for name in ("key_1", "ci", "mw-abcd"):
        done = cli("keys", "revoke", name, "-y")
        assert (done.code, done.out) == (0, "key_1\n")
    assert cli("keys", "revoke", "ci", "--dry-run").code == 0
    assert cli("keys", "revoke", "ci").code == 2
    assert cli("keys", "revoke", "ci", typed="n\n").code == 1
    assert "2 keys are called" in cli("keys", "revoke", "twin", "-y").err
    assert "no live key" in cli("keys", "revoke", "key_0", "-y").err
    assert len(server.calls("DELETE", "/api/keys/key_1")) == 3


def test_usage_sums_and_single_requests(cli: Cli, server: FakeServer) -> None:
    sums = {"num_requests": 2, "num_errors": 0, "num_aborted": 0, "prompt_tokens": 10, "completion_tokens": 4}
    summary = {"data": [{"key": "a", **sums}, {"key": "b", **sums}], "total": {"key": "", **sums, "num_requests": 4}}
    server.on("GET", "/api/usage", summary)
    lines = cli("usage", "--by", "model", "--since", "7d").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["MODEL", "REQUESTS"], ["a", "2"], ["b", "2"], ["total", "4"]]
    assert server.asked[0].query["group_by"] == "model"
    assert datetime.fromisoformat(server.asked[0].query["since"]) < datetime.now(UTC)
    assert cli("usage", "-o", "json").json == summary
    assert cli("usage", "-o", "name").out == "a\nb\n"
    request = {
        "id": "usg_1",
        "created_at": "2026-01-01T00:00:00Z",
        "model": "m",
        "endpoint": "/v1/chat/completions",
        "status": 404,
    }
    server.on("GET", "/api/usage/requests", page([{**request, "error_code": "model_not_found", "duration_ms": 1.6}]))
    assert "model_not_found" in cli("usage", "--requests").out


def test_rotate_prints_the_new_secret_and_how_long_the_old_one_works(cli: Cli, server: FakeServer) -> None:
    old = {**KEY, "id": "key_0", "replaced_by": "key_1"}
    server.on("GET", "/api/keys", page([KEY, old]))
    server.on("POST", "/api/keys/key_1/rotate", lambda asked: Answer({**KEY, "id": "key_2", "secret": "mw-new"}, 201))
    done = cli("keys", "rotate", "ci", "--overlap", "12h")
    assert (done.code, done.out) == (0, "mw-new\n")
    assert "12h" in done.err
    assert server.asked[-1].json == {"overlap_s": 43200}
    assert cli("keys", "rotate", "ci", "--overlap", "0", "-o", "json").json["id"] == "key_2"
    assert server.asked[-1].json == {"overlap_s": 0}
    asked = len(server.asked)
    assert cli("keys", "rotate", "ci", "--dry-run", "-o", "name").out == "key_1\n"
    assert [each.method for each in server.asked[asked:]] == ["GET"]
    assert cli("keys", "rotate", "ci", "--overlap", "soon").code == 2
    assert cli("keys", "rotate", "nobody").code == 1


def test_a_key_may_be_limited_to_networks(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/api/keys", lambda asked: Answer({**KEY, **asked.json, "secret": "mw-abcdef"}, 201))
    assert cli("keys", "create", "ci", "--from", "10.1.0.0/16", "--from", "192.0.2.9").code == 0
    assert server.asked[0].json == {"name": "ci", "ip_allow": ["10.1.0.0/16", "192.0.2.9"]}


def test_a_secret_is_read_from_where_nobody_else_sees_it(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    server.on("PUT", "/api/secrets/openai", {"name": "openai", "updated_at": "2026-01-01T00:00:00Z"})
    done = cli("secrets", "set", "openai", piped="sk-1\n")
    assert done.code == 0
    assert server.asked[-1].json == {"value": "sk-1"}
    (tmp_path / "key").write_text("sk-2\n")
    assert cli("secrets", "set", "openai", f"@{tmp_path / 'key'}", "-o", "name").out == "openai\n"
    assert server.asked[-1].json == {"value": "sk-2"}
    asked = len(server.asked)
    assert cli("secrets", "set", "openai", "sk-3").code == 2
    assert len(server.asked) == asked
    server.on("GET", "/api/secrets", page([{"name": "openai", "updated_at": "2026-01-01T00:00:00Z"}]))
    server.on("DELETE", "/api/secrets/openai", {"name": "openai"})
    assert cli("secrets", "ls", "-o", "name").out == "openai\n"
    assert cli("secrets", "rm", "openai", "-y").code == 0


def test_tool_servers(cli: Cli, server: FakeServer) -> None:
    server.on("PUT", "/api/mcp-servers/docs", lambda asked: Answer({"name": "docs", **asked.json}))
    done = cli("mcp", "add", "docs", "https://h/mcp", "--header", "x-team=team", "--bearer-secret", "token", "--trust-reads")
    assert done.code == 0, done.err
    assert server.asked[-1].json == {
        "url": "https://h/mcp",
        "authorization_secret": "token",
        "header_secrets": {"x-team": "team"},
        "require_approval": {"never": {"read_only": True}},
    }
    assert cli("mcp", "add", "docs", "https://h/mcp", "--tool", "look", "-o", "json").json["allowed_tools"] == ["look"]
    assert cli("mcp", "add", "docs", "https://h/mcp", "--header", "x-team").code == 2
    assert cli("mcp", "add", "docs", "https://h/mcp", "--never-ask", "--unasked", "look").code == 2
    server.on("GET", "/api/mcp-servers/docs/tools", page([{"name": "look", "annotations": {"readOnlyHint": True}}]))
    assert "look" in cli("mcp", "tools", "docs", "--refresh").out
    assert server.asked[-1].query == {"refresh": "true"}
    server.on("GET", "/api/mcp-servers", page([{"name": "docs", "url": "https://h/mcp", "require_approval": "always"}]))
    assert cli("mcp", "ls", "-o", "name").out == "docs\n"
    server.on("DELETE", "/api/mcp-servers/docs", {"name": "docs"})
    assert cli("mcp", "rm", "docs", "-y").code == 0
