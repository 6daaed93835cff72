"""budgets, limits, prices, invoices and their proof, and what usage costs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page

BUDGET: dict[str, Any] = {
    "id": "bud_1",
    "scope": "model",
    "subject": "chat",
    "metric": "cost",
    "period": "month",
    "amount": 12_500_000,
    "used": 1_000_001,
    "reserved": 0,
    "resets_at": "2026-12-01T00:00:00Z",
}
PROOF: dict[str, Any] = {
    "ok": True,
    "num_invoices": 1,
    "num_requests": 2,
    "num_entries": 4,
    "cost": 18,
    "first_difference": None,
}


def test_money_is_given_and_shown_in_whole_units(cli: Cli, server: FakeServer) -> None:
    server.on("PUT", "/api/budgets", lambda asked: Answer({**BUDGET, **asked.json}))
    server.on("GET", "/api/budgets", page([BUDGET]))
    done = cli("budgets", "set", "12.50", "--model", "chat", "--dry-run", "-o", "json")
    assert done.json["amount"] == 12_500_000
    sent = {"metric": "cost", "amount": 12_500_000, "period": "month", "scope": "model", "subject": "chat"}
    assert server.asked[0].json == sent
    assert server.asked[0].query == {"dry_run": "true"}
    row = cli("budgets", "show").out.splitlines()[1].split()
    assert row == ["bud_1", "model", "chat", "cost", "month", "12.5", "1.000001", "0", "2026-12-01T00:00:00Z"]
    cli("budgets", "set", "1_000_000", "--metric", "tokens", "--per", "day", "--key", "key_1")
    assert server.asked[-1].json == {
        "metric": "tokens",
        "amount": 1_000_000,
        "period": "day",
        "scope": "key",
        "subject": "key_1",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("budgets", "set", "abc"),
        ("budgets", "set", "--", "-1"),
        ("budgets", "set", "0.0000001"),
        ("budgets", "set", "nan"),
        ("budgets", "set", "1.5", "--metric", "tokens"),
        ("budgets", "set", "1", "--key", "key_1", "--model", "chat"),
        ("limits", "set", "1.5"),
        ("prices", "set", "chat", "--input-price", "x", "--output-price", "1"),
    ],
)
def test_an_amount_that_is_none_is_a_usage_error(cli: Cli, server: FakeServer, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments).code == 2
    assert server.asked == []


def test_limits_are_set_and_removed(cli: Cli, server: FakeServer) -> None:
    limit = {**BUDGET, "id": "lim_1", "metric": "requests", "period": "minute", "amount": 60}
    server.on("PUT", "/api/limits", limit)
    server.on("GET", "/api/limits", page([limit]))
    server.on("DELETE", "/api/limits/lim_1", limit)
    assert cli("limits", "set", "60", "-o", "name").out == "lim_1\n"
    assert server.asked[0].json == {"metric": "requests", "amount": 60, "scope": "project"}
    assert cli("limits", "rm", "lim_1", "--dry-run").code == 0
    assert [asked.method for asked in server.asked].count("DELETE") == 0
    assert cli("limits", "rm", "lim_1", "-y").out == "lim_1\n"
    done = cli("limits", "rm", "lim_2", "-y")
    assert (done.code, "limits show" in done.err) == (1, True)


def test_prices_are_per_million_tokens(cli: Cli, server: FakeServer) -> None:
    price = {"id": "prc_1", "model": "chat", "input": 150_000, "cached": 75_000, "output": 600_000, "valid_from": "2027-01-31"}
    server.on("POST", "/api/prices", price)
    server.on("GET", "/api/prices", page([price]))
    arguments = (
        "--input-price",
        "0.15",
        "--cached-price",
        "0.075",
        "--output-price",
        "0.6",
        "--from",
        "2027-01-31T00:00:00+00:00",
    )
    assert cli("prices", "set", "chat", *arguments).code == 0
    assert server.asked[0].json == {
        "model": "chat",
        "input": 150_000,
        "cached": 75_000,
        "output": 600_000,
        "valid_from": "2027-01-31T00:00:00+00:00",
    }
    assert cli("prices", "show", "chat").out.splitlines()[1].split()[:4] == ["chat", "0.15", "0.075", "0.6"]


def test_the_proof_decides_the_exit_code(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/invoices/verify", PROOF)
    done = cli("invoices", "verify", "-o", "json")
    assert (done.code, done.json) == (0, PROOF)
    assert cli("invoices", "verify", "-o", "name").out == "ok\n"
    difference = {"what": "cost of the invoice", "expected": 18, "found": 17, "month": "2026-11", "project_id": "prj_1"}
    server.on("GET", "/api/invoices/verify", {**PROOF, "ok": False, "first_difference": {**difference, "request": "usg_1"}})
    done = cli("invoices", "verify", "--all")
    assert done.code == 1
    assert "cost of the invoice" in done.out
    assert server.asked[-1].query == {"everything": "true"}
    assert cli("invoices", "verify", "-o", "name").out == "usg_1\n"


def test_what_was_used_with_its_cost_and_as_csv(cli: Cli, server: FakeServer) -> None:
    group = {"key": "chat", "num_requests": 2, "cost": 1_500_000}
    server.on("GET", "/api/usage", {"data": [group], "total": group})
    assert cli("usage", "--cost").out.splitlines()[1].split()[-1] == "1.5"
    assert "COST" not in cli("usage").out
    server.on("GET", "/api/usage/export", Answer(b"id,cost\nusg_1,9\n"))
    done = cli("usage", "--csv", "--since", "2026-01-01T00:00:00+00:00")
    assert (done.code, done.out) == (0, "id,cost\nusg_1,9\n")
    assert server.asked[-1].query == {"since": "2026-01-01T00:00:00+00:00"}
    invoice = {"month": "2026-11", "project_id": "prj_1", "num_requests": 2, "cost": 30}
    server.on("GET", "/api/invoices", page([invoice]))
    assert cli("invoices", "show", "--month", "2026-11").out.splitlines()[1].split()[-1] == "0.00003"
