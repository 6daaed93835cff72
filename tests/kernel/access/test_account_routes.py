"""Budgets, limits, prices, invoices and the proof over HTTP: who may set what, and what is seen."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from modelworks.kernel.access import AccessService, Allowances, Prices, UsageRecord, UsageRecorder, account_routes
from modelworks.kernel.access.routes import principal_dependency
from modelworks.kernel.access.store import InvoiceRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.gateway import errors


@pytest.fixture
async def http(access: AccessService, app: FastAPI, clock: FixedClock, events: Events) -> AsyncIterator[httpx.AsyncClient]:
    errors.install(app)
    allowances, prices = Allowances(clock, events), Prices(clock, events)
    app.include_router(account_routes.router(access, allowances, prices, principal_dependency(access)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as client:
        yield client


def chief_of(access: AccessService) -> tuple[str, dict[str, str]]:
    """Another project, and an administrator of it."""
    with access.db.transaction() as session:
        project = access.create_project(session, "other")
        _, secret = access.create_key(session, project.id, "chief", scopes=["admin"])
    return project.id, {"authorization": f"Bearer {secret}"}


async def test_setting_showing_and_removing(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    budget = {"metric": "cost", "amount": 5_000_000, "period": "day"}
    said = await http.put("/api/budgets?dry_run=true", headers=admin, json=budget)
    assert (said.status_code, said.json()["amount"]) == (200, 5_000_000)
    assert (await http.get("/api/budgets", headers=admin)).json()["data"] == []
    made = (await http.put("/api/budgets", headers=admin, json=budget)).json()
    assert (made["object"], made["scope"], made["subject"], made["used"], made["reserved"]) == ("budget", "project", None, 0, 0)
    assert made["resets_at"] == "2026-01-02T00:00:00Z"
    again = (await http.put("/api/budgets", headers=admin, json={**budget, "amount": 7})).json()
    assert (again["id"], again["amount"]) == (made["id"], 7)
    limit = (await http.put("/api/limits", headers=admin, json={"metric": "concurrency", "amount": 8})).json()
    assert (limit["object"], limit["period"], limit["resets_at"]) == ("limit", "now", None)
    assert [each["id"] for each in (await http.get("/api/limits", headers=admin)).json()["data"]] == [limit["id"]]
    assert (await http.delete(f"/api/limits/{limit['id']}", headers=admin)).json()["id"] == limit["id"]
    assert (await http.delete(f"/api/limits/{limit['id']}", headers=admin)).status_code == 404
    assert [each["amount"] for each in (await http.get("/api/budgets", headers=admin)).json()["data"]] == [7]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("budgets", {"metric": "cost", "amount": -1}, 422),
        ("budgets", {"metric": "time", "amount": 1}, 422),
        ("budgets", {"metric": "cost", "amount": 1, "subject": "chat"}, 400),
        ("budgets", {"metric": "cost", "amount": 1, "scope": "model"}, 400),
        ("budgets", {"metric": "cost", "amount": 1, "scope": "model", "subject": "chat@best"}, 400),
        ("budgets", {"metric": "cost", "amount": 1, "scope": "key", "subject": "key_x"}, 404),
        ("budgets", {"metric": "cost", "amount": 1, "project_id": "prj_x"}, 404),
        ("limits", {"metric": "requests", "amount": 0}, 422),
        ("limits", {"metric": "cost", "amount": 1}, 422),
    ],
)
async def test_what_cannot_be_set(
    http: httpx.AsyncClient, admin: dict[str, str], path: str, body: dict[str, Any], status: int
) -> None:
    assert (await http.put(f"/api/{path}", headers=admin, json=body)).status_code == status


async def test_a_project_cannot_free_itself_of_what_the_platform_set(
    http: httpx.AsyncClient, admin: dict[str, str], access: AccessService
) -> None:
    other, chief = chief_of(access)
    budget = {"metric": "tokens", "amount": 10}
    made = (await http.put("/api/budgets", headers=admin, json={**budget, "project_id": other})).json()
    assert made["project_id"] == other
    assert [each["id"] for each in (await http.get("/api/budgets", headers=chief)).json()["data"]] == [made["id"]]
    assert (await http.put("/api/budgets", headers=chief, json={**budget, "amount": 99})).status_code == 403
    assert (await http.delete(f"/api/budgets/{made['id']}", headers=chief)).status_code == 403
    assert (await http.post("/api/prices", headers=chief, json={"model": "*", "input": 0, "output": 0})).status_code == 403
    own = await http.put("/api/budgets", headers=chief, json={**budget, "scope": "model", "subject": "chat"})
    assert own.status_code == 200
    assert (await http.delete(f"/api/budgets/{own.json()['id']}", headers=chief)).status_code == 200
    home = (await http.get("/api/whoami", headers=admin)).json()["project_id"]
    for path in ("budgets", "limits", "prices", "invoices", "usage/export", "invoices/verify"):
        assert (await http.get(f"/api/{path}?project_id={home}", headers=chief)).status_code == 403
    assert (await http.get("/api/invoices/verify?everything=true", headers=chief)).status_code == 403


async def test_prices_invoices_export_and_proof(http: httpx.AsyncClient, admin: dict[str, str], database: Database) -> None:
    who = (await http.get("/api/whoami", headers=admin)).json()
    wish = {"model": "chat", "input": 1_000_000, "output": 2_000_000}
    assert (await http.post("/api/prices?dry_run=true", headers=admin, json=wish)).status_code == 201
    made = await http.post("/api/prices", headers=admin, json=wish)
    assert (made.status_code, made.json()["cached"], made.json()["project_id"]) == (201, 1_000_000, None)
    beyond = {**wish, "valid_from": "9999-12-31T23:59:59-14:00"}  # no moment of UTC
    assert (await http.post("/api/prices", json=beyond, headers=admin)).status_code == 400
    past = {**wish, "valid_from": "2025-01-01T00:00:00Z"}
    assert (await http.post("/api/prices", headers=admin, json=past)).status_code == 400
    assert len((await http.get("/api/prices?model=chat", headers=admin)).json()["data"]) == 1
    recorder = UsageRecorder(database)
    for model in ("chat", "=HYPERLINK(1)"):
        await recorder.record(
            UsageRecord(
                project_id=who["project_id"],
                key_id=who["key_id"],
                endpoint="/v1/x",
                model=model,
                request_id="r",
                status=200,
                prompt_tokens=7,
                completion_tokens=1,
                cost=9,
                price_id=made.json()["id"],
            )
        )
    recorder.close()
    (invoice,) = (await http.get("/api/invoices", headers=admin)).json()["data"]
    assert (invoice["num_requests"], invoice["prompt_tokens"], invoice["cost"]) == (2, 14, 18)
    assert (await http.get("/api/invoices?month=2020-01", headers=admin)).json()["data"] == []
    assert (await http.get("/api/usage", headers=admin)).json()["total"]["cost"] == 18
    export = await http.get("/api/usage/export", headers=admin)
    assert export.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(export.text)))
    assert [(row["model"], row["cost"], row["prompt_tokens"]) for row in rows] == [
        ("chat", "9", "7"),
        ("'=HYPERLINK(1)", "9", "7"),
    ]
    empty = await http.get("/api/usage/export?until=2020-01-01T00:00:00Z", headers=admin)
    assert len(empty.text.splitlines()) == 1
    proof = (await http.get("/api/invoices/verify", headers=admin)).json()
    assert (proof["ok"], proof["num_requests"], proof["num_entries"], proof["cost"]) == (True, 2, 4, 18)
    with database.writing() as connection:
        connection.execute(update(InvoiceRow).values(cost=17))
    proof = (await http.get("/api/invoices/verify?everything=true", headers=admin)).json()
    assert (proof["ok"], proof["first_difference"]["expected"], proof["first_difference"]["found"]) == (False, 18, 17)
