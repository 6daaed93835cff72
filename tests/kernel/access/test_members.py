"""Organisations, accounts, roles, and keys that act for somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modelworks.kernel.access import AuditLog
from modelworks.kernel.access.roles import ROLE_SCOPES, common_scopes
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database


class Desk:
    """The routes of the room, asked as somebody."""

    def __init__(self, http: httpx.AsyncClient, secret: str) -> None:
        self.http = http
        self.secret = secret

    async def __call__(self, method: str, path: str, status: int = 200, /, **body: Any) -> Any:
        headers = {"x-api-key": self.secret}
        asked: dict[str, Any] = {"params": body} if method in ("GET", "DELETE") else {"json": body}
        answer = await self.http.request(method, f"/api{path}", headers=headers, **asked)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def key(self, status: int = 201, **body: Any) -> Any:
        made = await self("POST", "/keys", status, name="key", **body)
        return Desk(self.http, made["secret"]) if status == 201 else made


@pytest.fixture
async def root(app: FastAPI, admin_key: str, database: Database, clock: FixedClock) -> AsyncIterator[Desk]:
    """The administrator of the platform."""
    AuditLog(database, clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as http:
        yield Desk(http, admin_key)


async def test_the_owners_of_a_project_declare_its_use(root: Desk) -> None:
    plant = await root("POST", "/projects", 201, name="plant", use="commercial")
    away = await root("POST", "/projects", 201, name="away")
    assert (plant["use"], away["use"]) == ("commercial", None)
    manager = await root.key(project_id=plant["id"], scopes=["read", "admin"])
    changed = await manager("PATCH", f"/projects/{plant['id']}", use="non-commercial")
    assert changed["use"] == "non-commercial"
    known = {each["name"]: each["use"] for each in (await root("GET", "/projects"))["data"]}
    assert (known["plant"], known["away"]) == ("non-commercial", None)
    await manager("PATCH", f"/projects/{away['id']}", 404, use="commercial")
    await manager("PATCH", f"/projects/{plant['id']}", 422, use="research")
    await manager("PATCH", f"/projects/{plant['organisation_id']}", 403, use="commercial")
    developer = await root.key(project_id=plant["id"], scopes=["read", "write"])
    await developer("PATCH", f"/projects/{plant['id']}", 403, use="commercial")


async def test_old_projects_belong_to_the_first_organisation(root: Desk) -> None:
    organisation = (await root("GET", "/organisations"))["data"]
    assert [each["name"] for each in organisation] == ["default"]
    project = await root("POST", "/projects", 201, name="plant")
    assert project["organisation_id"] == organisation[0]["id"]
    assert {each["organisation_id"] for each in (await root("GET", "/projects"))["data"]} == {organisation[0]["id"]}


async def test_an_organisation_runs_itself_and_sees_nothing_of_another(root: Desk) -> None:
    ours, theirs = [await root("POST", "/organisations", 201, name=name) for name in ("ours", "theirs")]
    await root("POST", "/organisations", 409, name="ours")
    plant = await root("POST", "/projects", 201, name="plant", organisation_id=ours["id"])
    away = await root("POST", "/projects", 201, name="away", organisation_id=theirs["id"])
    ann = await root(
        "POST", "/users", 201, kind="person", name="Ann", email="Ann@Plant.example", place_id=ours["id"], role="owner"
    )
    assert ann["email"] == "ann@plant.example"
    anns = await root.key(project_id=plant["id"], user_id=ann["id"], scopes=["admin"])

    # Ann makes a project, a service account and a key for it, without the administrator of the platform.
    lab = await anns("POST", "/projects", 201, name="lab", organisation_id=ours["id"])
    assert {each["name"] for each in (await anns("GET", "/projects"))["data"]} == {"plant", "lab"}
    robot = await anns("POST", "/users", 201, name="robot", place_id=plant["id"], role="service")
    robots = await anns.key(user_id=robot["id"], scopes=["inference"])
    assert (await robots("GET", "/whoami"))["scopes"] == ["inference"]
    await robots("GET", "/projects", 403)
    assert {each["name"]: each["role"] for each in (await anns("GET", "/members", place_id=ours["id"]))["data"]} == {
        "Ann": "owner"
    }
    assert {each["name"]: each["role"] for each in (await anns("GET", "/members"))["data"]} == {"robot": "service"}
    assert [each["name"] for each in (await anns("GET", "/organisations"))["data"]] == ["ours"]

    # What belongs to others does not exist for her.
    for place in (theirs["id"], away["id"], "prj_0"):
        assert (await anns("GET", "/members", 404, place_id=place))["error"]["code"] == "not_found"
        await anns("PUT", f"/members/{ann['id']}", 404, place_id=place, role="viewer")
        await anns("POST", "/users", 404, name="spy", place_id=place, role="viewer")
    await anns("POST", "/projects", 404, name="spy", organisation_id=theirs["id"])
    await anns("POST", "/projects", 403, name="spy")
    await anns("POST", "/organisations", 403, name="mine")
    await anns("POST", "/users", 403, kind="person", name="Eve", email="eve@x.example", place_id=ours["id"], role="viewer")
    await anns("POST", "/keys", 403, name="spy", project_id=away["id"])
    await anns("POST", f"/users/{robot['id']}/disable", 403)
    assert lab["organisation_id"] == ours["id"]


async def test_roles_bound_what_keys_may_do(root: Desk) -> None:
    plant = await root("POST", "/projects", 201, name="plant")
    people = {
        role: await root("POST", "/users", 201, name=role, place_id=plant["id"], role=role)
        for role in ("owner", "admin", "developer", "viewer", "service")
    }
    for role, account in people.items():
        rights = ROLE_SCOPES[role]  # type: ignore[index]
        mine = await root.key(project_id=plant["id"], user_id=account["id"], scopes=sorted(rights))
        assert set((await mine("GET", "/whoami"))["scopes"]) == rights
        for scope in {"inference", "read", "write", "admin"} - rights:
            refused = await root.key(400, project_id=plant["id"], user_id=account["id"], scopes=[scope])
            assert refused["error"]["param"] == "scopes"
        await mine("GET", "/keys", 200 if "admin" in rights else 403)
    admins = await root.key(project_id=plant["id"], user_id=people["admin"]["id"], scopes=["admin"])
    # An admin manages members, and neither makes nor removes owners.
    await admins("PUT", f"/members/{people['viewer']['id']}", role="developer")
    await admins("PUT", f"/members/{people['viewer']['id']}", 403, role="owner")
    await admins("PUT", f"/members/{people['owner']['id']}", 403, role="viewer")
    await admins("DELETE", f"/members/{people['owner']['id']}", 403)
    owners = await root.key(project_id=plant["id"], user_id=people["owner"]["id"], scopes=["admin"])
    last = await owners("DELETE", f"/members/{people['owner']['id']}", 409)
    assert last["error"]["code"] == "last_owner"
    await owners("PUT", f"/members/{people['owner']['id']}", 409, role="viewer")
    await owners("PUT", f"/members/{people['admin']['id']}", role="owner")
    await owners("DELETE", f"/members/{people['owner']['id']}")
    await owners("GET", "/whoami")
    await owners("GET", "/keys", 403)


async def test_a_key_follows_the_role_of_its_account_at_once(root: Desk) -> None:
    plant = await root("POST", "/projects", 201, name="plant")
    account = await root("POST", "/users", 201, name="dev", place_id=plant["id"], role="developer")
    key = await root.key(project_id=plant["id"], user_id=account["id"], scopes=["read", "write"])
    assert (await key("GET", "/whoami"))["scopes"] == ["read", "write"]
    await root("PUT", f"/members/{account['id']}", place_id=plant["id"], role="viewer")
    assert (await key("GET", "/whoami"))["scopes"] == ["read"]
    await root("DELETE", f"/members/{account['id']}", place_id=plant["id"])
    assert (await key("GET", "/whoami"))["scopes"] == []
    await key("GET", "/projects", 403)
    await root.key(404, project_id=plant["id"], user_id=account["id"], scopes=["read"])
    await root("PUT", f"/members/{account['id']}", place_id=plant["organisation_id"], role="admin")
    assert (await key("GET", "/whoami"))["scopes"] == ["read", "write"], "a role in the organisation counts in its projects"
    await root("POST", f"/users/{account['id']}/disable")
    assert (await key("GET", "/whoami", 401))["error"]["code"] == "disabled_account"
    await root("POST", f"/users/{account['id']}/enable")
    await key("GET", "/whoami")


async def test_wrong_accounts_and_roles_are_refused(root: Desk) -> None:
    plant = await root("POST", "/projects", 201, name="plant")
    await root("POST", "/users", 422, name="x", place_id=plant["id"], role="king")
    await root("POST", "/users", 422, kind="person", name="x", email="nobody", place_id=plant["id"], role="viewer")
    await root("POST", "/users", 400, name="x", email="x@x.example", place_id=plant["id"], role="viewer")
    body = {"kind": "person", "name": "x", "email": "x@x.example", "place_id": plant["id"], "role": "viewer"}
    await root("POST", "/users", 201, **body)
    taken = await root("POST", "/users", 409, **body | {"email": "X@x.example"})
    assert taken["error"]["param"] == "email"
    await root("PUT", "/members/X@x.example", place_id=plant["id"], role="admin")
    await root("PUT", "/members/y@x.example", 404, place_id=plant["id"], role="admin")
    await root("DELETE", "/members/usr_0", 404, place_id=plant["id"])


def test_what_a_key_and_a_role_have_in_common() -> None:
    assert common_scopes(["admin"], frozenset({"read"})) == {"read"}
    assert common_scopes(["write"], frozenset({"read"})) == {"read"}
    assert common_scopes(["inference", "read"], ROLE_SCOPES["developer"]) == {"inference", "read"}
    assert common_scopes(["inference"], ROLE_SCOPES["viewer"]) == frozenset()
