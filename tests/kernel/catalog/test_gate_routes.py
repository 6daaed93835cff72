"""Evaluations, comparisons and promotions over HTTP."""

from __future__ import annotations

import pytest
from tests.kernel.catalog.test_gate import NEW, NOISE, OLD, Lab, lab
from tests.kernel.catalog.test_routes import Client, call

__all__ = ["call", "lab"]  # fixtures

WISH = {"ref": "chat@v2", "alias": "prod", "test": "test"}


@pytest.fixture
def measured(lab: Lab) -> Lab:
    """`chat@v1` is `prod`; v2 is better, v3 is not."""
    for losses in (OLD, NEW, NOISE):
        lab.measure(lab.add("chat"), "test", losses)
    lab.promote("chat@v1")
    return lab


async def test_evaluations_are_listed_by_model_and_data_to_their_own_project(call: Client, measured: Lab) -> None:
    listed = await call("reader", "GET", "/api/evaluations", params={"model": "chat@v2", "data": "test"})
    [found] = listed["data"]
    assert found["metrics"] == {"loss": 1.0, "perplexity": 2.0}
    assert found["report_digest"].startswith("sha256:")
    assert len((await call("reader", "GET", "/api/evaluations", params={"limit": 2}))["data"]) == 2
    assert (await call("bob", "GET", "/api/evaluations"))["data"] == []
    await call("bob", "GET", "/api/evaluations", 404, params={"model": "chat"})


async def test_a_comparison_over_http(call: Client, measured: Lab) -> None:
    asked = {"baseline": "chat@v1", "candidate": "chat@v2", "data": "test"}
    found = await call("reader", "POST", "/api/compare", json=asked)
    assert (found["verdict"], found["rows"][0]["num_samples"]) == ("better", 40)
    await call("bob", "POST", "/api/compare", 404, json=asked)
    await call("reader", "POST", "/api/compare", 422, json={**asked, "seed": 1})


async def test_promotion_asks_for_the_right_to_write_and_can_be_tried(call: Client, measured: Lab) -> None:
    await call("reader", "POST", "/api/promote", 403, json=WISH)
    plan = await call("alice", "POST", "/api/promote", params={"dry_run": "true"}, json=WISH)
    assert (plan["passed"], plan["moved"]) == (True, False)
    assert measured.prod() == 1
    refused = await call("alice", "POST", "/api/promote", 409, json={**WISH, "ref": "chat@v3"})
    assert refused["error"]["code"] == "gate_refused"
    assert "undecided" in refused["error"]["message"]
    assert (await call("alice", "POST", "/api/promote", json=WISH))["moved"] is True
    assert measured.prod() == 2
    forced = await call("alice", "POST", "/api/promote", json={**WISH, "ref": "chat@v3", "force": True, "reason": "a trial"})
    assert forced["forced"] is True
    moves = await call("reader", "GET", "/api/aliases", params={"ref": "chat", "alias": "prod"})
    assert [(move["to_number"], move["reason"], move["moved_by"]) for move in moves["data"][:2]] == [
        (3, "a trial", "key_alice"),
        (2, None, "key_alice"),
    ]
    await call("alice", "POST", "/api/aliases/rollback", json={"ref": "chat", "alias": "prod"})
    assert measured.prod() == 2
