"""Projects and keys: made, checked, revoked; nothing crosses from one project to another."""

from __future__ import annotations

import re
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from modelworks.contract.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.access import SCOPES, AccessService, Principal
from modelworks.kernel.access.store import KeyRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.events import Events


@pytest.fixture
def project_id(access: AccessService) -> str:
    with access.db.transaction() as session:
        return access.create_project(session, "plant").id


def make_key(access: AccessService, project_id: str, **options: object) -> tuple[str, str]:
    with access.db.transaction() as session:
        key, secret = access.create_key(session, project_id, "robot", **{"scopes": ["inference"], **options})  # type: ignore[arg-type]
    return key.id, secret


def refused(access: AccessService, secret: str | None) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        access.authenticate(secret)
    assert caught.value.hint
    assert caught.value.status == 401
    return caught.value.error_code


def test_a_key_opens_its_project(access: AccessService, project_id: str) -> None:
    key_id, secret = make_key(access, project_id, scopes=["read", "inference"], model_allow=["chat"])
    for _ in range(2):  # from the database, then from memory
        principal = access.authenticate(secret)
        assert principal == Principal(
            key_id=key_id,
            project_id=project_id,
            scopes=frozenset({"inference", "read"}),
            model_allow=("chat",),
            key_prefix=secret[:9],
            name="robot",
        )


def test_the_database_holds_no_secret(access: AccessService, project_id: str) -> None:
    _, secret = make_key(access, project_id)
    assert re.fullmatch(r"mw-[0-9A-Za-z]{43}", secret)
    with access.db.reading() as session:
        rows = session.execute(text("SELECT * FROM api_keys")).all()
    assert len(rows) == 1
    assert secret not in repr(rows)
    assert secret[9:] not in repr(rows)
    assert secret[:9] in repr(rows)


def test_unknown_and_missing_keys(access: AccessService, project_id: str) -> None:
    _, secret = make_key(access, project_id)
    for wrong in (None, "", "mw-unknown", secret + "x", secret[:-1], secret.swapcase(), "ключ", "\ud800"):
        assert refused(access, wrong) == "invalid_api_key"
        assert refused(access, wrong) == "invalid_api_key"


def test_an_expired_key_is_refused_even_from_memory(access: AccessService, project_id: str, clock: FixedClock) -> None:
    _, secret = make_key(access, project_id, expires_at=clock.now() + timedelta(seconds=2))
    access.authenticate(secret)
    clock.advance(2)
    assert refused(access, secret) == "expired_api_key"


def test_a_revoked_key_is_refused_at_once(access: AccessService, project_id: str) -> None:
    key_id, secret = make_key(access, project_id)
    access.authenticate(secret)
    with access.db.transaction() as session:
        revoked = access.revoke_key(session, project_id, key_id)
        again = access.revoke_key(session, project_id, key_id)
    assert revoked.revoked_at is not None
    assert again.revoked_at == revoked.revoked_at
    assert refused(access, secret) == "revoked_api_key"


def test_a_key_revoked_by_another_server_is_refused_within_five_seconds(
    access: AccessService, project_id: str, clock: FixedClock
) -> None:
    key_id, secret = make_key(access, project_id)
    access.authenticate(secret)
    elsewhere = AccessService(access.db, clock, Events())
    with access.db.transaction() as session:
        elsewhere.revoke_key(session, project_id, key_id)
    access.authenticate(secret)
    clock.advance(5)
    assert refused(access, secret) == "revoked_api_key"


def test_a_revocation_that_is_rolled_back_changes_nothing(access: AccessService, project_id: str) -> None:
    key_id, secret = make_key(access, project_id)

    def revoke_and_fail() -> None:
        with access.db.transaction() as session:
            access.revoke_key(session, project_id, key_id)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        revoke_and_fail()
    assert access.authenticate(secret).key_id == key_id


def test_an_answer_read_before_a_revocation_is_not_remembered_after_it(
    access: AccessService, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, secret = make_key(access, project_id)
    outcome = access._outcome

    def revoked_meanwhile(session: Session, row: KeyRow | None) -> Principal | AuthenticationFailed:
        found = outcome(session, row)
        monkeypatch.undo()
        threads = [threading.Thread(target=revoke)]
        threads[0].start()
        threads[0].join()
        return found

    def revoke() -> None:
        with access.db.transaction() as session:
            access.revoke_key(session, project_id, key_id)

    monkeypatch.setattr(access, "_outcome", revoked_meanwhile)
    access.authenticate(secret)
    assert refused(access, secret) == "revoked_api_key"


def test_a_key_in_memory_needs_no_database(access: AccessService, project_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = make_key(access, project_id)
    access.authenticate(secret)
    monkeypatch.delattr(access, "db")
    assert access.authenticate(secret).name == "robot"


def test_memory_is_bounded(access: AccessService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.access.service._MAX_CACHED", 10)
    for number in range(25):
        refused(access, f"mw-{number}")
    assert len(access._cache) <= 10


def test_keys_of_another_project_are_out_of_reach(access: AccessService, project_id: str) -> None:
    with access.db.transaction() as session:
        other = access.create_project(session, "other").id
    key_id, secret = make_key(access, project_id)
    with pytest.raises(NotFound), access.db.transaction() as session:
        access.revoke_key(session, other, key_id)
    assert access.authenticate(secret).project_id == project_id
    with access.db.reading() as session:
        assert access.list_keys(session, other) == ([], False)


def test_lists_keys_newest_first_in_pages(access: AccessService, project_id: str) -> None:
    made = sorted((make_key(access, project_id)[0] for _ in range(5)), reverse=True)
    seen: list[str] = []
    after, has_more = None, True
    with access.db.reading() as session:
        while has_more:
            page, has_more = access.list_keys(session, project_id, after, limit=2)
            seen += [key.id for key in page]
            after = seen[-1]
    assert seen == made


def test_bad_requests_for_keys_are_refused(access: AccessService, project_id: str, clock: FixedClock) -> None:
    for options in (
        {"scopes": ["root"]},
        {"scopes": []},
        {"expires_at": clock.now()},
        {"expires_at": (clock.now() + timedelta(days=1)).replace(tzinfo=None)},
        {"expires_at": datetime.fromisoformat("9999-12-31T23:59:59-14:00")},
    ):
        with pytest.raises(InvalidRequest) as caught:
            make_key(access, project_id, **options)
        assert caught.value.param in ("scopes", "expires_at")
    with pytest.raises(NotFound):
        make_key(access, "prj_unknown")
    with pytest.raises(Conflict, match="plant"), access.db.transaction() as session:
        access.create_project(session, "plant")


def test_the_first_start_writes_an_admin_key(access: AccessService, tmp_path: Path, clock: FixedClock) -> None:
    for _ in range(2):
        with access.db.transaction() as session:
            access.bootstrap(session, tmp_path)
    path = tmp_path / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    principal = access.authenticate(path.read_text().strip())
    assert principal.scopes == SCOPES
    with access.db.reading() as session:
        assert [project.name for project in access.list_projects(session)] == ["default"]
        assert len(access.list_keys(session, principal.project_id)[0]) == 1
        access.require_platform_admin(session, principal)
    # With its last admin key revoked, the next start lets the owner of the machine in again.
    with access.db.transaction() as session:
        access.revoke_key(session, principal.project_id, principal.key_id)
        access.bootstrap(session, tmp_path)
    assert access.authenticate(path.read_text().strip()).key_id != principal.key_id
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith("admin.key")] == ["admin.key"]


def test_admins_of_other_projects_are_not_platform_admins(access: AccessService, project_id: str) -> None:
    _, secret = make_key(access, project_id, scopes=["admin"])
    principal = access.authenticate(secret)
    with access.db.reading() as session:
        with pytest.raises(PermissionDenied, match="Only administrators"):
            access.require_platform_admin(session, principal)
        assert [project.id for project in access.visible_projects(session, principal)] == [project_id]


def test_scopes_and_allow_lists() -> None:
    writer = Principal(key_id="k", project_id="p", scopes=frozenset({"write"}), model_allow=("a", "org/b"))
    assert writer.has("read")
    assert not writer.has("inference")
    with pytest.raises(PermissionDenied, match="admin"):
        writer.require("admin")
    assert Principal(key_id="k", project_id="p", scopes=frozenset({"admin"})).has("inference")
    for name in ("a", "a@v3", "org/b@stable"):
        writer.require_model(name)
    with pytest.raises(PermissionDenied) as caught:
        writer.require_model("org")
    assert caught.value.error_code == "model_not_allowed"


def test_keys_made_at_once_are_all_kept(access: AccessService, project_id: str) -> None:
    failures: list[Exception] = []

    def make() -> None:
        try:
            for _ in range(3):
                access.authenticate(make_key(access, project_id)[1])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with access.db.reading() as session:
        assert len(list(session.scalars(select(KeyRow.id)))) == 24


def test_the_rights_of_a_holder_are_those_of_now(access: AccessService, project_id: str) -> None:
    key_id, _ = make_key(access, project_id, scopes=["inference"], model_allow=["chat"], ip_allow=["10.0.0.0/8"])
    found = access.principal_of(key_id)
    assert (found.key_id, found.project_id, found.scopes) == (key_id, project_id, {"inference"})
    assert (found.model_allow, found.ip_allow) == (("chat",), None)
    with access.db.transaction() as session:
        access.revoke_key(session, project_id, key_id)
    with pytest.raises(AuthenticationFailed) as caught:
        access.principal_of(key_id)
    assert caught.value.error_code == "revoked_api_key"
    with pytest.raises(AuthenticationFailed):
        access.principal_of("key_unknown")
