"""orgs, projects and members."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page

MEMBER: dict[str, Any] = {
    "user_id": "usr_1",
    "kind": "person",
    "name": "Ann",
    "email": "ann@plant.example",
    "place_id": "prj_1",
    "role": "admin",
    "disabled_at": None,
    "created_at": "2026-01-01T00:00:00Z",
}
PLACE = {"id": "org_1", "name": "plant", "created_at": "2026-01-01T00:00:00Z", "organisation_id": None}


def test_places_are_made_and_listed(cli: Cli, server: FakeServer) -> None:
    for noun, path in (("orgs", "/api/organisations"), ("projects", "/api/projects")):
        server.on("GET", path, page([PLACE]))
        server.on("POST", path, lambda asked: Answer({**PLACE, **asked.json}, 201))
        assert cli(noun, "ls", "-o", "name").out == "org_1\n"
        assert cli(noun, "create", "lab", "-o", "json").json["name"] == "lab"
    assert cli("projects", "create", "lab", "--org", "org_1").code == 0
    assert server.asked[-1].json == {"name": "lab", "organisation_id": "org_1"}


def test_a_project_declares_its_use(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/whoami", {"project_id": "prj_1"})
    server.on("PATCH", "/api/projects/prj_1", lambda asked: {**PLACE, "id": "prj_1", **asked.json})
    assert cli("projects", "use", "non-commercial", "-o", "json").json["use"] == "non-commercial"
    assert server.asked[-1].json == {"use": "non-commercial"}
    assert cli("projects", "use", "some").code != 0


def test_accounts_and_roles(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/whoami", {"project_id": "prj_1"})
    server.on("POST", "/api/users", lambda asked: Answer({"id": "usr_1", **asked.json}, 201))
    assert cli("members", "create", "robot", "--role", "service", "-o", "name").out == "usr_1\n"
    assert server.asked[-1].json == {"kind": "service_account", "name": "robot", "place_id": "prj_1", "role": "service"}
    assert cli("members", "create", "Ann", "--role", "admin", "--email", "a@b.example", "--place", "org_1").code == 0
    assert (server.asked[-1].json["kind"], server.asked[-1].json["place_id"]) == ("person", "org_1")
    assert cli("members", "create", "Ann", "--role", "king").code == 2
    server.on("GET", "/api/members", page([MEMBER]))
    server.on("PUT", "/api/members/ann@plant.example", MEMBER)
    server.on("DELETE", "/api/members/usr_1", MEMBER)
    done = cli("members", "ls")
    assert "ann@plant.example" in done.out
    assert cli("members", "set", "ann@plant.example", "--role", "viewer", "--place", "org_1").code == 0
    assert server.asked[-1].json == {"place_id": "org_1", "role": "viewer"}
    assert cli("members", "rm", "usr_1", "--dry-run", "-o", "name").out == "usr_1\n"
    assert server.asked[-1].method == "GET"
    assert cli("members", "rm", "usr_1").code != 0, "it asks, and nobody is there"
    assert cli("members", "rm", "usr_1", "-y", "-o", "name").out == "usr_1\n"
    for verb in ("disable", "enable"):
        server.on("POST", f"/api/users/usr_1/{verb}", {"id": "usr_1", "name": "Ann", "kind": "person"})
    assert cli("members", "disable", "usr_1", "-y").code == 0
    assert cli("members", "enable", "usr_1", "-o", "name").out == "usr_1\n"


def test_a_password_is_read_from_where_nobody_else_sees_it(cli: Cli, server: FakeServer) -> None:
    server.on("PUT", "/api/users/usr_1/password", Answer(None, 204))
    done = cli("members", "password", "usr_1", piped="correct horse battery\n")
    assert (done.code, done.out) == (0, "usr_1\n")
    assert server.asked[-1].json == {"password": "correct horse battery"}
