"""Signing in with a browser: passwords, cookies, forged requests, guessing, and ends of sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy import select

from modelworks.contract.errors import AuthenticationFailed
from modelworks.kernel.access import AccessService, AuditLog, SessionService, session_routes
from modelworks.kernel.access.routes import principal_dependency
from modelworks.kernel.access.sessions import COOKIE
from modelworks.kernel.access.store import SessionRow, UserRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events

PASSWORD = "correct horse battery"


class Browser:
    """One person's browser, and the administrator's key beside it."""

    def __init__(self, app: FastAPI, admin: str, database: Database) -> None:
        self.app, self.db = app, database
        self.admin = {"x-api-key": admin}
        self.token: str | None = None
        self.http = self.open()

    def open(self, address: str = "192.0.2.1") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, client=(address, 1)), base_url="http://platform")

    async def root(self, method: str, path: str, **body: Any) -> Any:
        answer = await self.open().request(method, f"/api{path}", headers=self.admin, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    async def sign_in(self, password: str = PASSWORD, email: str = "ann@plant.example", **body: Any) -> httpx.Response:
        answer = await self.http.post("/api/session", json={"email": email, "password": password, **body})
        if answer.status_code == 201:
            self.token = answer.json()["csrf_token"]
        return answer

    async def ask(self, method: str, path: str, *, token: bool = True, **body: Any) -> httpx.Response:
        headers = {"x-csrf-token": self.token} if token and self.token else {}
        return await self.http.request(method, f"/api{path}", headers=headers, json=body or None)


@pytest.fixture
async def browser(
    app: FastAPI, access: AccessService, admin_key: str, clock: FixedClock, events: Events
) -> AsyncIterator[Browser]:
    """Ann is an admin of the project plant and has a password; she is not signed in yet."""
    AuditLog(access.db, clock)
    sessions = SessionService(access, clock, events, PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    app.include_router(session_routes.router(sessions, principal_dependency(access), secure=False))
    browser = Browser(app, admin_key, access.db)
    plant = await browser.root("POST", "/projects", name="plant")
    person = {"kind": "person", "name": "Ann", "email": "ann@plant.example", "place_id": plant["id"], "role": "admin"}
    ann = await browser.root("POST", "/users", **person)
    await browser.root("PUT", f"/users/{ann['id']}/password", password=PASSWORD)
    yield browser
    await browser.http.aclose()


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_person_signs_in_acts_and_signs_out(browser: Browser) -> None:
    assert code(await browser.ask("GET", "/session")) == (401, "invalid_api_key")
    answer = await browser.sign_in(email=" Ann@Plant.example")
    assert answer.status_code == 201
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.json()["role"], answer.json()["email"]) == ("admin", "ann@plant.example")
    secret = browser.http.cookies[COOKIE]
    with browser.db.reading() as session:
        row = session.query(SessionRow).one()
        user = session.query(UserRow).one()
        assert secret not in (row.secret_hash, row.id)
        assert user.password_hash is not None
        assert user.password_hash.startswith("$argon2id$")
    made = await browser.ask("POST", "/keys", name="mine")
    assert made.status_code == 201
    who = (await browser.ask("GET", "/whoami")).json()
    assert (who["name"], who["scopes"]) == ("Ann", ["admin", "inference", "read", "write"])
    assert (await browser.ask("GET", "/session")).json()["csrf_token"] == browser.token
    assert (await browser.ask("DELETE", "/session")).status_code == 204
    browser.http.cookies.set(COOKIE, secret)  # somebody kept a copy
    assert code(await browser.ask("GET", "/whoami")) == (401, "session_ended")


async def test_a_request_that_a_foreign_page_forged_is_refused(browser: Browser) -> None:
    await browser.sign_in()
    for token in (None, "", "0" * 64, browser.http.cookies[COOKIE]):
        headers = {} if token is None else {"x-csrf-token": token}
        forged = await browser.http.post("/api/keys", headers=headers, json={"name": "spy"})
        assert code(forged) == (403, "csrf_failed")
    assert (await browser.ask("GET", "/keys", token=False)).status_code == 200, "reading changes nothing"
    assert (await browser.ask("GET", "/keys")).json()["data"] == []
    # A key in a header cannot be sent by a foreign page, so it needs no token, even beside a cookie.
    answer = await browser.http.post("/api/keys", headers=browser.admin, json={"name": "script"})
    assert answer.status_code == 201


async def test_guessing_is_slowed_and_tells_nothing(browser: Browser, clock: FixedClock) -> None:
    wrong = await browser.sign_in("wrong password")
    stranger = await browser.sign_in(email="nobody@plant.example")
    assert code(wrong) == code(stranger) == (401, "sign_in_failed")
    assert wrong.json() == stranger.json()
    for _ in range(4):
        assert (await browser.sign_in("wrong password")).status_code == 401
    throttled = await browser.sign_in()  # now even the right one waits
    assert code(throttled) == (429, "sign_in_throttled")
    clock.advance(1.1)
    assert (await browser.sign_in("wrong password")).status_code == 401
    clock.advance(1.1)
    assert (await browser.sign_in()).status_code == 429, "the wait doubles"
    clock.advance(1)
    assert (await browser.sign_in()).status_code == 201
    assert (await browser.sign_in("wrong password")).status_code == 401
    assert (await browser.sign_in()).status_code == 201, "success forgets the failures"


async def test_many_names_from_one_address_are_slowed_too(browser: Browser) -> None:
    for number in range(49):
        assert (await browser.sign_in(email=f"{number}@plant.example")).status_code == 401
    assert (await browser.sign_in(email="last@plant.example")).status_code == 401
    assert (await browser.sign_in()).status_code == 429
    browser.http = browser.open("192.0.2.2")
    assert (await browser.sign_in()).status_code == 201


async def test_sessions_end_by_time_by_password_and_by_the_account(browser: Browser, clock: FixedClock) -> None:
    ann = (await browser.sign_in()).json()["user_id"]
    clock.advance(12 * 3600 + 1)
    assert code(await browser.ask("GET", "/whoami")) == (401, "session_ended")

    await browser.sign_in()
    path = f"/users/{ann}/password"
    assert code(await browser.ask("PUT", path, password="another good one")) == (401, "wrong_password")
    assert code(await browser.ask("PUT", path, password="short", current=PASSWORD)) == (400, "invalid_request")
    other = Browser(browser.app, browser.admin["x-api-key"], browser.db)
    await other.sign_in()
    assert (await browser.ask("PUT", path, password="another good one", current=PASSWORD)).status_code == 204
    for each in (browser, other):
        assert code(await each.ask("GET", "/whoami")) == (401, "session_ended")
    assert (await browser.sign_in()).status_code == 401
    assert (await browser.sign_in("another good one")).status_code == 201

    await other.sign_in("another good one")
    assert (await browser.ask("DELETE", "/session?everywhere=true")).status_code == 204
    assert code(await other.ask("GET", "/whoami")) == (401, "session_ended")

    await browser.sign_in("another good one")
    access = AccessService(browser.db, clock, Events())
    with browser.db.reading() as session:
        session_id = session.scalars(select(SessionRow.id).order_by(SessionRow.id)).first() or ""
    # Work that was asked for goes on after signing out, with the person's rights of now.
    assert (access.principal_of(session_id).user_id, access.principal_of(session_id).has("write")) == (ann, True)
    await browser.root("POST", f"/users/{ann}/disable")
    with pytest.raises(AuthenticationFailed):
        access.principal_of(session_id)
    assert code(await browser.ask("GET", "/whoami")) == (401, "session_ended")
    assert code(await browser.sign_in("another good one")) == (401, "sign_in_failed")


async def test_going_to_another_project_changes_the_secret(browser: Browser) -> None:
    first = (await browser.sign_in()).json()
    before = browser.http.cookies[COOKIE]
    away = await browser.root("POST", "/projects", name="away")
    refused = await browser.ask("PUT", "/session", project_id=away["id"])
    assert code(refused) == (403, "permission_denied")
    await browser.root("PUT", f"/members/{first['user_id']}", place_id=away["id"], role="viewer")
    moved = await browser.ask("PUT", "/session", project_id=away["id"])
    assert (moved.status_code, moved.json()["scopes"]) == (200, ["read"])
    after = browser.http.cookies[COOKIE]
    assert before != after
    browser.token = moved.json()["csrf_token"]
    assert (await browser.ask("GET", "/whoami")).json()["project_id"] == away["id"]
    assert code(await browser.ask("POST", "/keys", name="mine")) == (403, "permission_denied")
    stolen = browser.open()
    stolen.cookies.set(COOKIE, before)
    assert code(await stolen.get("/api/whoami")) == (401, "session_ended")


async def test_only_the_administrator_and_oneself_set_a_password(browser: Browser) -> None:
    project = (await browser.sign_in()).json()["project_id"]
    person = {"kind": "person", "name": "Bob", "email": "bob@plant.example", "place_id": project, "role": "viewer"}
    bob = await browser.root("POST", "/users", **person)
    assert code(await browser.ask("PUT", f"/users/{bob['id']}/password", password="a password of Ann's")) == (
        403,
        "permission_denied",
    )
    assert (await browser.sign_in(email="bob@plant.example")).status_code == 401, "no password, no way in"
    robot = await browser.root("POST", "/users", name="robot", place_id=project, role="service")
    refused = await browser.open().put(f"/api/users/{robot['id']}/password", headers=browser.admin, json={"password": PASSWORD})
    assert refused.status_code == 404
