"""Secrets at rest: sealed, bound to their place, and of no use to whoever only has the database."""

from __future__ import annotations

import base64
import json
import secrets as random
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from modelworks.contract.errors import IntegrityFailed, InvalidRequest, NotFound
from modelworks.kernel.access import AccessService, Sealer, SecretService, secret_routes
from modelworks.kernel.access.routes import principal_dependency
from modelworks.kernel.access.store import SecretRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events

VALUE = "sk-upstream-0123456789"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "secret.key"


@pytest.fixture
def service(database: Database, clock: FixedClock, key_file: Path) -> SecretService:
    return SecretService(database, clock, Sealer.from_file(key_file))


def put(service: SecretService, project: str, name: str, value: str = VALUE) -> str:
    with service.db.transaction() as session:
        service.put(session, project, name, value)
        return session.get_one(SecretRow, (project, name)).sealed


def test_what_is_stored_opens_again_and_does_not_hold_the_value(
    service: SecretService, database: Database, clock: FixedClock, key_file: Path
) -> None:
    sealed = put(service, "prj_a", "openai")
    assert VALUE not in sealed
    assert base64.b64encode(VALUE.encode()).decode()[:12] not in sealed
    assert put(service, "prj_a", "openai") != sealed, "the same value is sealed differently each time"
    again = SecretService(database, clock, Sealer.from_file(key_file))
    assert again.value("prj_a", "openai") == VALUE
    assert key_file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFound, match="no secret"):
        service.value("prj_b", "openai")


def test_a_row_that_is_moved_or_changed_does_not_open(service: SecretService) -> None:
    sealed = put(service, "prj_a", "openai")
    put(service, "prj_b", "openai", "other")
    prefix, _, data = sealed.rpartition(":")
    raw = bytearray(base64.b64decode(data))
    raw[-1] ^= 1
    for forged in (sealed, f"{prefix}:{base64.b64encode(raw).decode()}", f"{prefix}:x", "v1:00000000:AAAA", "", VALUE):
        with service.db.transaction() as session:
            session.get_one(SecretRow, ("prj_b", "openai")).sealed = forged
        with pytest.raises(IntegrityFailed) as failed:
            service.value("prj_b", "openai")
        assert failed.value.error_code == "secret_unreadable"


def test_a_new_sealing_key_comes_before_the_old_one(
    service: SecretService, database: Database, clock: FixedClock, key_file: Path
) -> None:
    put(service, "prj_a", "old")
    fresh = base64.b64encode(random.token_bytes(32)) + b"\n"
    key_file.write_bytes(fresh + key_file.read_bytes())
    rotated = SecretService(database, clock, Sealer.from_file(key_file))
    put(rotated, "prj_a", "new")
    assert (rotated.value("prj_a", "old"), rotated.value("prj_a", "new")) == (VALUE, VALUE)
    key_file.write_bytes(fresh)
    alone = SecretService(database, clock, Sealer.from_file(key_file))
    assert alone.value("prj_a", "new") == VALUE
    with pytest.raises(IntegrityFailed, match="a key that is not here"):
        alone.value("prj_a", "old")
    for broken in (b"", b"short\n", base64.b64encode(b"x" * 31)):
        key_file.write_bytes(broken)
        with pytest.raises(InvalidRequest):
            Sealer.from_file(key_file)


async def test_a_value_goes_in_and_never_comes_out(
    service: SecretService, database: Database, clock: FixedClock, tmp_path: Path
) -> None:
    access = AccessService(database, clock, Events())
    with database.transaction() as session:
        access.bootstrap(session, tmp_path)
    app = FastAPI()
    app.include_router(secret_routes.router(service, principal_dependency(access)))
    headers = {"x-api-key": (tmp_path / "admin.key").read_text().strip()}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform", headers=headers) as http:
        answers = [
            await http.put("/api/secrets/openai", json={"value": VALUE}),
            await http.get("/api/secrets"),
            await http.delete("/api/secrets/openai"),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [each["name"] for each in answers[1].json()["data"]] == ["openai"]
        assert VALUE not in json.dumps([answer.json() for answer in answers])
        assert (await http.get("/api/secrets")).json()["data"] == []
        for wrong in ("a b", "%2e%2e", "-x", "x" * 101):
            assert (await http.put(f"/api/secrets/{wrong}", json={"value": VALUE})).status_code in (404, 422), wrong
        refused = await http.put("/api/secrets/openai", json={"value": ""})
        assert refused.status_code == 422
