"""`gate show`, `gate set`."""

from __future__ import annotations

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer

GATE = {"object": "gate", "test": "held-out", "general": None, "min_gain": 0.02, "set_by": "key_1", "updated_at": None}


def test_the_terms_are_shown(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/gate", GATE)
    done = cli("gate", "show")
    assert done.code == 0
    for text in ("held-out", "0.02", "key_1"):
        assert text in done.out
    assert cli("gate", "show", "-o", "json").json == GATE


def test_what_is_not_given_stays(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/gate", GATE)
    server.on("PUT", "/api/gate", lambda asked: {**GATE, **asked.json})
    done = cli("gate", "set", "--general", "wide", "--confidence", "0.99")
    assert done.code == 0
    assert "wide" in done.out
    terms = {
        "test": "held-out",
        "general": "wide",
        "metric": None,
        "min_gain": 0.02,
        "max_regression": None,
        "confidence": 0.99,
    }
    (sent,) = server.calls("PUT", "/api/gate")
    assert sent.json == terms
    assert cli("gate", "set", "--min-gain", "0", "--dry-run").code == 0
    assert server.calls("PUT", "/api/gate")[-1].query == {"dry_run": "true"}
    assert server.calls("PUT", "/api/gate")[-1].json["min_gain"] == 0
    assert cli("gate", "set", "--confidence", "2").code == 2
