"""Publications of a space: who may make them, what their token is worth, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select
from starlette.requests import Request
from tests.kernel.dataspace.conftest import ANN, EVE, PROJECT, PutDocument

from modelworks.contract.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.feedback import Told
from modelworks.kernel.dataspace.publication_routes import router
from modelworks.kernel.dataspace.publications import PublicationCreate, origin_of
from modelworks.kernel.dataspace.store import DocumentRow, PublicationRow
from modelworks.kernel.gateway import errors

SHOP = "https://shop.example"
CALLERS = {
    "admin": Principal(key_id="key_admin", project_id=PROJECT, scopes=frozenset({"admin"})),
    "writer": ANN,
    "reader": Principal(key_id="key_reader", project_id=PROJECT, scopes=frozenset({"read"})),
    "eve": EVE,
}


@pytest.fixture
def http(spaces: DataspaceService) -> TestClient:
    async def principal(request: Request) -> Principal:
        return CALLERS[request.headers.get("x-caller", "admin")]

    app = FastAPI()
    errors.install(app)
    app.include_router(router(spaces, principal, public_url="https://answers.example"))
    return TestClient(app, raise_server_exceptions=False)


def published(http: TestClient, **more: Any) -> dict[str, Any]:
    body = {"name": "shop", "origins": [SHOP]} | more
    answer = http.post("/api/spaces/manual/publications", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def live(spaces: DataspaceService, publication: str) -> Any:
    with spaces.db.reading() as session:
        return spaces.publications.live(session, publication)


def check(spaces: DataspaceService, publication: str, token: str) -> Any:
    with spaces.db.reading() as session:
        return spaces.publications.with_token(session, publication, token)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://Shop.Example", "https://shop.example"),
        ("https://shop.example:443/", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_written_as_browsers_write_them(written: str, meant: str) -> None:
    assert origin_of(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "shop.example",
        "*",
        "https://*.example",
        "null",
        "ftp://shop.example",
        "https://shop.example/page",
        "https://shop.example?x",
        "https://ann@shop.example",
        "https://shop.example; script-src *",
        "https://shop.example https://other.example",
        "https://",
        "https://shop.example:99999",
        "https://[::1",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        origin_of(text)


def test_a_publication_with_what_is_no_origin_is_refused(http: TestClient) -> None:
    answer = http.post("/api/spaces/manual/publications", json={"name": "shop", "origins": [SHOP, "https://*.example"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "origins")


def test_a_token_is_shown_once_and_kept_as_its_hash(http: TestClient, spaces: DataspaceService) -> None:
    made = published(http, share=True)
    token, publication = made["token"], made["publication"]
    assert token.startswith("mwp_")
    assert len(token) >= 40
    src = f"https://answers.example/embed/{publication['id']}.js"
    assert made["snippet"] == f'<script src="{src}" data-token="{token}" async></script>'
    assert made["link"] == f"https://answers.example/share/{publication['id']}#{token}"
    listed = http.get("/api/spaces/manual/publications", headers={"x-caller": "reader"})
    assert [each["id"] for each in listed.json()["data"]] == [publication["id"]]
    assert token not in listed.text
    with spaces.db.reading() as session:
        row = session.scalars(select(PublicationRow)).one()
        stored = [str(getattr(row, column.key)) for column in PublicationRow.__table__.columns]
    assert not any(token in each for each in stored)


def test_a_dry_run_makes_nothing(http: TestClient, spaces: DataspaceService) -> None:
    answer = http.post("/api/spaces/manual/publications", params={"dry_run": True}, json={"name": "x", "origins": [SHOP]})
    assert (answer.status_code, answer.json()["token"], answer.json()["snippet"]) == (201, None, None)
    assert http.get("/api/spaces/manual/publications").json()["data"] == []


def test_only_administrators_publish_and_end_it(http: TestClient, spaces: DataspaceService) -> None:
    made = published(http)
    path = f"/api/spaces/manual/publications/{made['publication']['id']}"
    for caller, status in (("writer", 403), ("reader", 403), ("eve", 404)):
        headers = {"x-caller": caller}
        answer = http.post("/api/spaces/manual/publications", json={"name": "x", "origins": [SHOP]}, headers=headers)
        assert answer.status_code == status, answer.text
        assert http.delete(path, headers=headers).status_code == status
    assert live(spaces, made["publication"]["id"]).settings.origins == [SHOP]
    assert http.get("/api/spaces/manual/publications", headers={"x-caller": "eve"}).status_code == 404


def test_nobody_to_ask_and_an_end_that_has_passed_are_refused(spaces: DataspaceService, clock: FixedClock) -> None:
    beyond = datetime.fromisoformat("9999-12-31T23:59:59-14:00")  # no moment of UTC
    for more in (
        {"origins": []},
        {"origins": [SHOP], "expires_at": clock.now() - timedelta(days=1)},
        {"origins": [SHOP], "expires_at": beyond},
    ):
        asked = PublicationCreate(name="x", **more)
        with spaces.db.transaction() as session, pytest.raises(InvalidRequest):
            spaces.publications.create(session, CALLERS["admin"], "manual", asked)


def test_its_token_opens_it_until_it_is_revoked(http: TestClient, spaces: DataspaceService) -> None:
    made, other = published(http), published(http, name="other")
    publication = made["publication"]["id"]
    assert check(spaces, publication, made["token"]).space == "manual"
    for wrong in (other["token"], "", made["token"] + "x", "mwp_ünknown"):
        with pytest.raises(AuthenticationFailed):
            check(spaces, publication, wrong)
    gone = http.delete(f"/api/spaces/manual/publications/{publication}")
    assert (gone.status_code, gone.json()["is_live"]) == (200, False)
    with pytest.raises(NotFound):
        check(spaces, publication, made["token"])
    assert check(spaces, other["publication"]["id"], other["token"]).id == other["publication"]["id"]


def test_it_ends_with_its_time_and_with_its_space(http: TestClient, spaces: DataspaceService, clock: FixedClock) -> None:
    short = published(http, expires_at=(clock.now() + timedelta(hours=1)).isoformat())["publication"]["id"]
    long = published(http)["publication"]["id"]
    clock.advance(3601)
    with pytest.raises(NotFound):
        live(spaces, short)
    assert live(spaces, long).id == long
    with spaces.db.transaction() as session:
        spaces.delete(session, PROJECT, "manual")
    with pytest.raises(NotFound):
        live(spaces, long)


def test_strangers_may_ask_this_space_alone_and_see_what_everybody_may(
    http: TestClient, spaces: DataspaceService, put: PutDocument
) -> None:
    found = live(spaces, published(http)["publication"]["id"])
    open_, closed, named = put("open.md"), put("closed.md", access=["usr_ann"]), put("named.md", access=[found.id])
    principal = found.principal
    assert (principal.project_id, principal.scopes) == (PROJECT, frozenset({"inference"}))
    assert principal.may_use(f"space:{found.space_id}")
    assert not principal.may_use("my-lm")
    assert not principal.may_use("space:other")
    with spaces.db.transaction() as session:
        for row in session.scalars(select(DocumentRow)):
            row.indexed_digest = row.digest
        session.flush()
        ids = [open_.id, closed.id, named.id]
        assert set(spaces.documents.records(session, principal, found.space_id, ids)) == {open_.id, named.id}
        assert set(spaces.documents.scope(session, principal, found.space_id).documents or ()) == {open_.id, named.id}


def told(number: int, *documents: str) -> Told:
    return Told(
        answer_id=f"msg_{number}", question="How long?", answer="24 months", status="quoted", documents=documents, origin=SHOP
    )


def test_feedback_is_one_for_each_answer_and_belongs_to_the_project(
    http: TestClient, spaces: DataspaceService, put: PutDocument
) -> None:
    found, document = live(spaces, published(http)["publication"]["id"]), put("a.md").id
    with spaces.db.transaction() as session:
        spaces.feedback.put(session, found, told(1, document), "up")
    with spaces.db.transaction() as session:
        spaces.feedback.put(session, found, told(1, document), "down", "36 months")
    said = http.get("/api/spaces/manual/feedback", headers={"x-caller": "reader"}).json()["data"]
    assert [(each["rating"], each["correction"], each["documents"]) for each in said] == [("down", "36 months", [document])]
    assert http.get("/api/spaces/manual/feedback", params={"rating": "up"}).json()["data"] == []
    assert http.get("/api/spaces/manual/feedback", headers={"x-caller": "eve"}).status_code == 404


def test_what_cites_a_forgotten_document_is_forgotten_and_not_taken_again(
    http: TestClient, spaces: DataspaceService, put: PutDocument
) -> None:
    found, one, other = live(spaces, published(http)["publication"]["id"]), put("one.md").id, put("other.md").id
    with spaces.db.transaction() as session:
        for number, documents in enumerate(((one, other), (other,), ())):
            spaces.feedback.put(session, found, told(number, *documents), "up")
    with spaces.db.transaction() as session:
        assert spaces.feedback.forget(session, found.space_id, one) == 1
        spaces.documents.remove(session, PROJECT, "manual", one)
    assert {each["answer_id"] for each in http.get("/api/spaces/manual/feedback").json()["data"]} == {"msg_1", "msg_2"}
    with spaces.db.transaction() as session, pytest.raises(Conflict):
        spaces.feedback.put(session, found, told(0, one, other), "up")


def test_an_end_without_a_zone_is_refused(http: TestClient) -> None:
    later = (datetime.now(UTC) + timedelta(days=900)).replace(tzinfo=None).isoformat()
    answer = http.post("/api/spaces/manual/publications", json={"name": "x", "origins": [SHOP], "expires_at": later})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_at")
