"""Keys, projects and usage over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.access import AccessService, UsageRecord, UsageRecorder
from modelworks.kernel.access.routes import principal_dependency, router
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as client:
        yield client


async def test_both_headers_go_through_the_same_check(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    secret = admin["authorization"].removeprefix("Bearer ")
    for headers in (admin, {"authorization": f"bearer  {secret} "}, {"x-api-key": secret}):
        answer = await http.get("/api/whoami", headers=headers)
        assert answer.status_code == 200
        assert answer.json()["scopes"] == ["admin", "inference", "read", "write"]
    for refused in (
        {},
        {"authorization": secret},
        {"authorization": "Basic eA=="},
        {"x-api-key": "mw-x"},
        {"authorization": "Bearer "},
    ):
        answer = await http.get("/api/whoami", headers=refused)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    # A wrong key is not rescued by a right one in the other header.
    assert (await http.get("/api/whoami", headers={"authorization": "Bearer mw-x", "x-api-key": secret})).status_code == 401


async def test_a_key_is_shown_once_listed_without_secret_and_revoked(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = await http.post("/api/keys", headers=admin, json={"name": "robot", "scopes": ["inference"], "model_allow": ["chat"]})
    assert made.status_code == 201
    key = made.json()
    assert key["secret"].startswith(key["prefix"])
    robot = {"x-api-key": key["secret"]}
    assert (await http.get("/api/whoami", headers=robot)).json()["model_allow"] == ["chat"]
    listed = (await http.get("/api/keys", headers=admin)).json()
    assert (listed["object"], listed["has_more"], listed["first_id"]) == ("list", False, key["id"])
    assert key["secret"] not in str(listed)
    assert {item["name"] for item in listed["data"]} == {"admin", "robot"}
    for method, path in (("GET", "/api/keys"), ("POST", "/api/keys"), ("GET", "/api/usage"), ("GET", "/api/projects")):
        answer = await http.request(method, path, headers=robot, json={"name": "x"} if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    revoked = await http.delete(f"/api/keys/{key['id']}", headers=admin)
    assert revoked.json()["revoked_at"] is not None
    answer = await http.get("/api/whoami", headers=robot)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked_api_key")


async def test_projects_are_apart(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    project = (await http.post("/api/projects", headers=admin, json={"name": "plant"})).json()
    assert (await http.post("/api/projects", headers=admin, json={"name": "plant"})).status_code == 409
    body = {"name": "chief", "scopes": ["admin"], "project_id": project["id"]}
    chief = {"x-api-key": (await http.post("/api/keys", headers=admin, json=body)).json()["secret"]}
    (own,) = (await http.get("/api/projects", headers=chief)).json()["data"]
    assert own["name"] == "plant"
    assert len((await http.get("/api/projects", headers=admin)).json()["data"]) == 2
    # The chief of one project neither sees, makes nor revokes keys of another.
    home = (await http.get("/api/whoami", headers=admin)).json()
    assert [key["name"] for key in (await http.get("/api/keys", headers=chief)).json()["data"]] == ["chief"]
    assert (await http.get(f"/api/keys?project_id={home['project_id']}", headers=chief)).status_code == 403
    assert (await http.post("/api/keys", headers=chief, json={**body, "project_id": home["project_id"]})).status_code == 403
    assert (await http.delete(f"/api/keys/{home['key_id']}", headers=chief)).status_code == 404
    assert (await http.delete(f"/api/keys/{home['key_id']}?project_id={home['project_id']}", headers=chief)).status_code == 403
    assert (await http.post("/api/projects", headers=chief, json={"name": "more"})).status_code == 403
    assert (await http.get("/api/whoami", headers=admin)).status_code == 200
    # The platform's administrators reach every project.
    assert len((await http.get(f"/api/keys?project_id={project['id']}", headers=admin)).json()["data"]) == 1


async def test_usage_of_the_own_project(http: httpx.AsyncClient, admin: dict[str, str], database: Database) -> None:
    who = (await http.get("/api/whoami", headers=admin)).json()
    recorder = UsageRecorder(database)
    for project_id in (who["project_id"], who["project_id"], "prj_other"):
        record = UsageRecord(
            project_id=project_id,
            key_id=who["key_id"],
            endpoint="/v1/x",
            model="m",
            request_id="r",
            status=200,
            prompt_tokens=7,
        )
        await recorder.record(record)
    recorder.close()
    summary = (await http.get("/api/usage?group_by=key", headers=admin)).json()
    assert [(group["key"], group["prompt_tokens"]) for group in summary["data"]] == [(who["key_id"], 14)]
    assert summary["total"]["num_requests"] == 2
    page = (await http.get("/api/usage/requests?limit=1", headers=admin)).json()
    assert (page["has_more"], len(page["data"])) == (True, 1)
    rest = (await http.get(f"/api/usage/requests?after={page['last_id']}", headers=admin)).json()
    assert (rest["has_more"], len(rest["data"])) == (False, 1)
    answer = await http.get("/api/usage?since=2026-01-01T00:00:00", headers=admin)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "since")
    # In UTC it would lie before the first year.
    answer = await http.get("/api/usage?until=0001-01-01T00:00:00%2B14:00", headers=admin)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "until")


async def test_a_rotated_key_overlaps_with_its_successor(
    http: httpx.AsyncClient, admin: dict[str, str], clock: FixedClock
) -> None:
    body = {"name": "robot", "scopes": ["inference"], "model_allow": ["chat"], "ip_allow": ["127.0.0.0/8"]}
    old = (await http.post("/api/keys", headers=admin, json=body)).json()
    made = await http.post(f"/api/keys/{old['id']}/rotate", headers=admin, json={"overlap_s": 3600})
    assert made.status_code == 201
    new = made.json()
    assert new["secret"] != old["secret"]
    for name in ("name", "scopes", "model_allow", "ip_allow", "project_id", "expires_at"):
        assert new[name] == old[name], name
    listed = {key["id"]: key for key in (await http.get("/api/keys", headers=admin)).json()["data"]}
    assert listed[old["id"]]["replaced_by"] == new["id"]

    async def status(key: dict[str, str]) -> tuple[int, str | None]:
        answer = await http.get("/api/whoami", headers={"x-api-key": key["secret"]})
        return answer.status_code, answer.json().get("error", {}).get("code")

    assert await status(old) == await status(new) == (200, None)
    again = await http.post(f"/api/keys/{old['id']}/rotate", headers=admin, json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "key_not_live")
    clock.advance(3601)
    assert await status(old) == (401, "expired_api_key")
    assert await status(new) == (200, None)
    third = (await http.post(f"/api/keys/{new['id']}/rotate", headers=admin, json={"overlap_s": 0})).json()
    assert await status(new) == (401, "revoked_api_key")
    assert await status(third) == (200, None)
    assert (await http.post("/api/keys/key_0/rotate", headers=admin, json={})).status_code == 404
    assert (
        await http.post(f"/api/keys/{third['id']}/rotate", headers={"x-api-key": third["secret"]}, json={})
    ).status_code == 403


async def test_a_key_is_taken_only_from_its_networks(access: AccessService, admin: dict[str, str]) -> None:
    app = FastAPI()
    app.include_router(router(access, principal_dependency(access)))

    @app.exception_handler(ModelworksError)
    async def render(_: Request, error: ModelworksError) -> JSONResponse:
        return JSONResponse(error.envelope(), error.status)

    def from_address(address: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 4711)), base_url="http://platform")

    async with from_address("192.0.2.1") as http:
        for wrong in (["10.0.0.0/33"], ["plant.lan"], [""]):
            refused = await http.post("/api/keys", headers=admin, json={"name": "robot", "ip_allow": wrong})
            assert refused.status_code == 422, wrong
        body = {"name": "robot", "ip_allow": ["10.1.0.7/16", "2001:db8::/32", "192.0.2.9"]}
        made = (await http.post("/api/keys", headers=admin, json=body)).json()
        assert made["ip_allow"] == ["10.1.0.0/16", "2001:db8::/32", "192.0.2.9/32"]
    for address, status in (
        ("10.1.255.1", 200),
        ("::ffff:10.1.2.3", 200),
        ("2001:db8::17", 200),
        ("192.0.2.9", 200),
        ("10.2.0.1", 403),
        ("192.0.2.8", 403),
        ("2001:db9::17", 403),
        ("::ffff:10.2.0.1", 403),
        ("somewhere", 403),
    ):
        async with from_address(address) as http:
            # What the caller says of itself does not count: proxies are named in the settings.
            headers = {"x-api-key": made["secret"], "x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
            answer = await http.get("/api/whoami", headers=headers)
            assert answer.status_code == status, address
            assert status == 200 or answer.json()["error"]["code"] == "address_not_allowed"
