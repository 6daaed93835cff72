"""`space publish | unpublish | publications | feedback | accept`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page

PUBLICATION: dict[str, Any] = {
    "object": "space.publication",
    "id": "pub_1",
    "space_id": "vs_1",
    "name": "shop",
    "prefix": "mwp_abcdef",
    "is_live": True,
    "origins": ["https://shop.example"],
    "share": False,
    "title": None,
    "greeting": None,
    "language": "auto",
    "requests_per_minute": 60,
    "requests_per_minute_per_address": 10,
    "expires_at": None,
    "revoked_at": None,
    "created_at": "2026-01-01T00:00:00Z",
}
SNIPPET = '<script src="https://answers.example/embed/pub_1.js" data-token="mwp_abcdefgh" async></script>'
MADE = {
    "object": "space.publication.made",
    "publication": PUBLICATION,
    "token": "mwp_abcdefgh",
    "snippet": SNIPPET,
    "link": None,
}
PATH = "/api/spaces/manual/publications"


def test_a_space_is_published_and_the_page_gets_its_element(cli: Cli, server: FakeServer) -> None:
    server.on("POST", PATH, MADE)
    done = cli("space", "publish", "manual", "--origin", "https://shop.example", "--expires", "30d", "--per-address", "5")
    assert done.code == 0, done.err
    assert SNIPPET in done.out
    assert "Put this into the page:" in done.err
    assert "only time the token is shown" in done.err
    body = server.calls("POST", PATH)[0].json
    assert (body["origins"], body["requests_per_minute_per_address"], body["share"]) == (["https://shop.example"], 5, False)
    assert body["expires_at"].endswith("+00:00")
    named = cli("space", "publish", "manual", "--origin", "https://shop.example", "-o", "name")
    assert (named.out, SNIPPET in named.err) == ("pub_1\n", True)
    assert cli("space", "publish", "manual", "--share", "-o", "json").json == MADE


def test_a_dry_run_shows_what_it_would_be(cli: Cli, server: FakeServer) -> None:
    server.on("POST", PATH, {**MADE, "token": None, "snippet": None})
    done = cli("space", "publish", "manual", "--origin", "https://shop.example", "--dry-run")
    assert (done.code, server.calls("POST", PATH)[0].query) == (0, {"dry_run": "true"})
    assert "https://shop.example" in done.out
    assert "token" not in done.err


def test_publications_are_listed_and_ended(cli: Cli, server: FakeServer) -> None:
    over = {**PUBLICATION, "id": "pub_0", "revoked_at": "2026-01-02T00:00:00Z", "is_live": False}
    server.on("GET", PATH, page([PUBLICATION, over]))
    server.on("DELETE", PATH + "/pub_1", {**PUBLICATION, "is_live": False})
    assert "mwp_abcdef…" in cli("space", "publications", "manual").out
    tried = cli("space", "unpublish", "manual", "shop", "--dry-run")
    assert (tried.code, "pub_1" in tried.out, server.calls("DELETE", PATH + "/pub_1")) == (0, True, [])
    assert cli("space", "unpublish", "manual", "shop", "-y", "-o", "json").json["is_live"] is False
    assert len(server.calls("DELETE", PATH + "/pub_1")) == 1
    missing = cli("space", "unpublish", "manual", "pub_0", "-y")
    assert (missing.code, "has not ended" in missing.err) == (1, True)


def test_what_readers_said_is_listed(cli: Cli, server: FakeServer) -> None:
    said = {"id": "fdbk_1", "rating": "down", "question": "How long?", "answer": "24 months", "correction": "36 \x1b[31mmonths"}
    server.on("GET", "/api/spaces/manual/feedback", page([{**said, "created_at": "2026-01-01T00:00:00Z"}]))
    done = cli("space", "feedback", "manual", "--rating", "down")
    assert server.calls("GET", "/api/spaces/manual/feedback")[0].query["rating"] == "down"
    assert "36" in done.out
    assert "\x1b" not in done.out


def test_a_correction_is_accepted_and_taken_back(cli: Cli, server: FakeServer) -> None:
    said = {"id": "fdbk_1", "question": "How long?", "answer": "24 months", "correction": "36 months", "accepted": True}
    server.on("POST", "/api/spaces/manual/feedback/fdbk_1/accept", said)
    assert "36 months" in cli("space", "accept", "manual", "fdbk_1").out
    assert cli("space", "accept", "manual", "fdbk_1", "--undo", "-o", "json").json["id"] == "fdbk_1"
    calls = server.calls("POST", "/api/spaces/manual/feedback/fdbk_1/accept")
    assert [call.query for call in calls] == [{}, {"undo": "true"}]


def test_it_is_said_in_chinese(cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_LANG", "zh")
    server.on("POST", PATH, MADE)
    assert "将以下内容放入网页" in cli("space", "publish", "manual", "--origin", "https://shop.example").err
