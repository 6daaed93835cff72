"""Cleaning as a step of a build: what it takes, what it says, that everything comes back. The cleaner is the real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from starlette.requests import Request
from tests.kernel.gateway.spaces.mill import ANN, MILL, PROJECT, Mill, make_mill

from modelworks.capabilities.document.cleaning.cleaning import clean
from modelworks.capabilities.document.cleaning.copies import num_copies
from modelworks.capabilities.document.cleaning.schemas import CleanPassages
from modelworks.contract.data import CleanReport
from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage
from modelworks.kernel.access import AccessService
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.dataspace import Space
from modelworks.kernel.dataspace.schemas import UNCLEANED, CleaningSettings, SpaceSettings, SpaceUpdate
from modelworks.kernel.dataspace.store import SpaceRow
from modelworks.kernel.gateway import errors
from modelworks.kernel.gateway.spaces import cleaning_routes
from modelworks.kernel.jobs.schemas import RunRecord

LEAVE, MAIL, CODA = "Thirty days a year.", "Ask hr@example.com.", "Call +86 138-1234-5678 now."
BEN = Principal(key_id="key_ben", project_id=PROJECT, user_id="usr_ben", scopes=frozenset({"read", "write"}))
EVE = Principal(key_id="key_eve", project_id="prj_other", scopes=frozenset({"admin"}))
#: What asks the databases nothing that the others do not.
one_database = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


class Laundry:
    """The mill with passages that can be cleaned; the text of a document is a passage a line."""

    def __init__(self, mill: Mill, tmp_path: Path) -> None:
        self.mill = mill
        self._tmp_path = tmp_path
        self._num_cleaned = 0

    def rules(self, **rules: Any) -> None:
        with self.mill.db.transaction() as session:
            settings = SpaceSettings(cleaning=CleaningSettings(**rules))
            self.mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=settings))

    def put(self, name: str, *texts: str, **known: Any) -> str:
        blob = self.mill.blobs.put("\n".join(texts).encode())
        with self.mill.db.transaction() as session:
            known |= {"name": name, "digest": blob.digest, "num_bytes": blob.num_bytes}
            return self.mill.spaces.documents.put(session, PROJECT, "manual", **known)[0].id

    def parse(self) -> None:
        """Let the parser read every line as a passage; what it read before it takes over, whatever the text is now."""
        build = self.mill.space().build
        assert build is not None
        run = self.mill.run(build.parsing_run_id)
        before = self.texts(run.inputs["previous"].version_id) if "previous" in run.inputs else {}
        content: dict[str, bytes] = {}
        listing = []
        for document in self.mill.handed_over(run.id):
            texts = before.get(document.id) or b"".join(self.mill.blobs.iter(document.digest)).decode().split("\n")
            made = [Passage(id=f"{document.id}:{n}", document_id=document.id, ordinal=n, text=t) for n, t in enumerate(texts)]
            content[f"{PASSAGES_FOLDER}/{document.id}.jsonl"] = _lines(made)
            listing.append(
                ParsedDocument(
                    id=document.id,
                    name=document.name,
                    digest=document.digest,
                    parser="mill",
                    state="parsed",
                    licence=document.licence,
                    num_passages=len(made),
                    num_copies=num_copies(made),
                )
            )
        self.mill.end(run.id, "dataset", {DOCUMENTS_FILE: _lines(listing), **content}, {"num_documents": len(listing)})

    def clean(self, run: RunRecord | None = None) -> CleanReport:
        """Let the cleaning run of the build under way, or that one, do its work."""
        build = self.mill.space().build
        run = run or self.mill.run(build.cleaning_run_id if build is not None else None)
        with self.mill.db.reading() as session:
            version = self.mill.catalog.get_version(session, PROJECT, str(run.inputs["data"].version_id))
        self._num_cleaned += 1
        into = None if run.output_name is None else self._tmp_path / f"clean-{self._num_cleaned}"
        report = clean(self.mill.catalog.materialise(version, self.mill.cache), CleanPassages(**run.params), into=into)
        result = report.model_dump(mode="json")
        if into is None:
            self.mill.play(run.id, ("finished", {"result": result}))
        else:
            kept = into / "train"
            files = {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
            self.mill.end(run.id, "dataset", files, result)
        return report

    def build(self, *, cleaned: bool = True, restart: bool = False) -> Space:
        """One build to its end, with a server that is killed after each step where asked."""
        steps = [self.mill.tick, self.parse, *([self.mill.tick, self.clean] if cleaned else []), self.mill.tick]
        for step in [*steps, self.mill.index, self.mill.tick, self.mill.answer]:
            step()
            if restart:
                self.mill.restart()
        return self.mill.tick()

    def texts(self, version_id: str | None) -> dict[str, list[str]]:
        """The passages of a data set, by document."""
        with self.mill.db.reading() as session:
            version = self.mill.catalog.get_version(session, PROJECT, str(version_id))
        found = {}
        for file in version.files:
            if file.path.startswith(f"{PASSAGES_FOLDER}/"):
                lines = b"".join(self.mill.blobs.iter(file.digest)).splitlines()
                found[file.path.split("/")[1].removesuffix(".jsonl")] = [
                    Passage.model_validate_json(line).text for line in lines
                ]
        return found

    def indexed(self, space: Space) -> dict[str, list[str]]:
        """What the index of the last build was made from."""
        assert space.build is not None
        return self.texts(self.mill.run(space.build.indexing_run_id).inputs["passages"].version_id)


def _lines(models: Sequence[Any]) -> bytes:
    return "".join(f"{each.model_dump_json(exclude_none=True)}\n" for each in models).encode()


@pytest.fixture
def laundry(
    settings: Settings, database: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Laundry:
    monkeypatch.setattr(discovery, "capabilities", lambda: {"mill": MILL})
    return Laundry(make_mill(settings, database, clock, tmp_path), tmp_path)


def test_the_settings_of_a_space_are_the_rules_of_the_cleaner_all_switched_off() -> None:
    rules = CleaningSettings().model_dump(mode="json")
    assert set(rules) == set(CleanPassages.model_fields) - {"excerpts"}
    assert CleanPassages.model_validate({**rules, "excerpts": False}).duplicates == "document"
    assert not UNCLEANED.has_work(copies=True)
    assert not CleaningSettings(boilerplate_documents=9).has_work(copies=False)
    for rule in ({"min_chars": 3}, {"licences": []}, {"duplicates": True}, {"personal_data": {"iban": "drop"}}):
        assert CleaningSettings.model_validate(rule).has_work(copies=False), rule


@one_database
def test_without_copies_there_is_nothing_to_clean(laundry: Laundry) -> None:
    laundry.put("a.md", LEAVE, MAIL)
    space = laundry.build(cleaned=False)
    assert space.build is not None
    assert (space.state, space.clean_version_id, space.build.cleaning_run_id) == ("ready", None, None)
    assert "dropped" not in space.build.counts


def test_copies_inside_one_document_go_by_themselves_and_a_crash_in_between_loses_nothing(laundry: Laundry) -> None:
    document = laundry.put("a.md", LEAVE, MAIL, LEAVE)
    laundry.put("b.md", LEAVE)
    space = laundry.build(restart=True)
    assert (space.state, space.num_passages) == ("ready", 3)
    assert laundry.indexed(space)[document] == [LEAVE, MAIL], "no other rule is on"
    assert space.build is not None
    assert space.clean_version_id == space.build.clean_version_id
    assert space.build.counts == {
        "num_documents": 2,
        "num_passages": 3,
        "num_partial": 0,
        "num_failed": 0,
        "dropped": {"duplicate": 1},
        "changed": {},
    }
    found = laundry.mill.documents()
    assert (found["a.md"].num_passages, found["a.md"].dropped, found["b.md"].dropped) == (2, {"duplicate": 1}, {})
    with laundry.mill.db.reading() as session:
        dropped = laundry.mill.spaces.documents.list(session, PROJECT, "manual", is_cleaned=True).data
        story = [event.message for event in laundry.mill.spaces.events(session, PROJECT, "manual").data]
        assert len(laundry.mill.jobs.list(session, PROJECT).data) == 3, "each run was submitted once"
    assert [each.name for each in dropped] == ["a.md"]
    assert "Cleaning took away 1 by the rule duplicate." in story


def test_what_was_removed_does_not_come_back_and_a_rule_that_is_switched_off_gives_it_back(laundry: Laundry) -> None:
    document = laundry.put("a.md", LEAVE, MAIL, CODA)
    laundry.rules(personal_data={"email": "drop", "phone": "mask"})
    first = laundry.build()
    assert laundry.indexed(first) == {document: [LEAVE, "Call [phone] now."]}
    laundry.put("b.md", CODA)
    laundry.put("c.md", "Something new.")
    second = laundry.build()
    assert second.build is not None
    parsing = laundry.mill.run(second.build.parsing_run_id)
    assert parsing.inputs["previous"].version_id == first.passages_version_id, "the parser goes on from what it parsed"
    assert laundry.indexed(second)[document] == [LEAVE, "Call [phone] now."]
    assert laundry.texts(second.passages_version_id)[document] == [LEAVE, MAIL, CODA], "nothing is lost"
    with laundry.mill.db.reading() as session:
        cleaned = laundry.mill.spaces.documents.list(session, PROJECT, "manual", is_cleaned=True, order="asc").data
    assert [(each.name, each.dropped) for each in cleaned] == [("a.md", {"personal_data": 1}), ("b.md", {})], "b was masked"
    assert [version.id for version in laundry.mill.versions("clean")] == [second.clean_version_id], "old versions go"
    with laundry.mill.db.transaction() as session:
        settings = SpaceSettings(cleaning=UNCLEANED)
        laundry.mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=settings))
    undone = laundry.build(cleaned=False)
    assert laundry.indexed(undone)[document] == [LEAVE, MAIL, CODA]
    assert (undone.clean_version_id, laundry.mill.versions("clean")) == (None, [])
    found = laundry.mill.documents()["a.md"]
    assert (found.num_passages, found.dropped) == (3, {})


def test_a_licence_rule_may_leave_nothing_and_another_licence_gives_it_back(laundry: Laundry) -> None:
    document = laundry.put("a.md", LEAVE, licence="proprietary")
    laundry.build(cleaned=False)

    def licensed(licence: str) -> bool:
        with laundry.mill.db.transaction() as session:
            laundry.mill.spaces.documents.update(session, PROJECT, "manual", document, licence=licence)
            return laundry.mill.spaces.get(session, PROJECT, "manual").is_current

    assert licensed("closed"), "no rule goes by licences"
    laundry.rules(licences=["mit"])
    laundry.mill.tick()
    laundry.parse()
    laundry.mill.tick()
    laundry.clean()
    empty = laundry.mill.tick()
    assert (empty.is_current, empty.index_version_id, empty.num_passages) == (True, None, 0)
    assert laundry.mill.scope().is_empty
    found = laundry.mill.documents()["a.md"]
    assert (found.state, found.answers, found.dropped) == ("indexed", False, {"licence": 1})
    assert not licensed("MIT")
    assert laundry.indexed(laundry.build()) == {document: [LEAVE]}
    with laundry.mill.db.transaction() as session:
        put = laundry.mill.spaces.documents.put
        known = {"name": "a.md", "digest": found.digest, "num_bytes": found.num_bytes}
        assert put(session, PROJECT, "manual", **known, licence="closed")[1] == "unchanged"  # type: ignore[arg-type]
        assert not laundry.mill.spaces.get(session, PROJECT, "manual").is_current


@one_database
def test_a_space_that_is_older_than_cleaning_is_not_built_anew_by_another_setting(laundry: Laundry) -> None:
    laundry.put("a.md", LEAVE)
    laundry.build(cleaned=False)
    with laundry.mill.db.transaction() as session:
        row = laundry.mill.spaces.row(session, PROJECT, "manual")
        old = {name: value for name, value in row.settings.items() if name != "cleaning"}
        session.execute(update(SpaceRow).where(SpaceRow.id == row.id).values(settings=old))
    with laundry.mill.db.transaction() as session:
        changed = SpaceUpdate(settings=SpaceSettings(language_model="small"))
        assert laundry.mill.spaces.update(session, PROJECT, "manual", changed).is_current


@one_database
def test_what_is_learned_from_is_the_clean_version(laundry: Laundry) -> None:
    laundry.put("a.md", LEAVE, LEAVE)
    space = laundry.build()
    with laundry.mill.db.transaction() as session:
        row = laundry.mill.spaces.row(session, PROJECT, "manual", lock=True)
        begun = laundry.mill.spaces.learnings.begin(
            session, row, key_id=None, base="base", base_version_id="mdl_1", automatic=False
        )
        assert begun.passages_version_id == space.clean_version_id


@one_database
def test_a_space_that_is_deleted_leaves_nothing_of_it(laundry: Laundry) -> None:
    laundry.put("a.md", LEAVE, LEAVE)
    laundry.build()
    laundry.put("b.md", LEAVE, LEAVE)
    laundry.mill.tick()
    laundry.parse()
    run_id = laundry.mill.tick().build.cleaning_run_id  # type: ignore[union-attr]
    laundry.mill.play(run_id, ("progress", {"done": 0, "total": 2, "what": "bytes"}))
    assert laundry.mill.space().build.progress == {"done": 0, "total": 2, "what": "bytes"}  # type: ignore[union-attr]
    with laundry.mill.db.transaction() as session:
        laundry.mill.spaces.delete(session, PROJECT, "manual")
    laundry.mill.steps.tick()
    assert laundry.mill.run(run_id).cancel_requested_at is not None
    laundry.mill.play(run_id, ("cancelled", {}))
    laundry.mill.steps.tick()
    assert laundry.mill.versions("clean") + laundry.mill.versions("passages") == []


# -- what is shown of it -------------------------------------------------------------------------------------------------


@pytest.fixture
def http(laundry: Laundry, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    async def principal(request: Request) -> Principal:
        readers = ANN.scopes | {"read"}
        ann = Principal(key_id=ANN.key_id, project_id=PROJECT, scopes=frozenset(readers))
        return {"ann": ann, "ben": BEN, "eve": EVE}[request.headers.get("x-caller", "ann")]

    monkeypatch.setattr(cleaning_routes, "principal_dependency", lambda _access: principal)
    app = FastAPI()
    errors.install(app)
    access = cast(AccessService, object())
    app.include_router(cleaning_routes.router(access, laundry.mill.spaces, laundry.mill.steps.cleaning))
    return TestClient(app, raise_server_exceptions=False)


@one_database
def test_a_preview_counts_by_rule_and_shows_examples_of_what_the_caller_may_read(laundry: Laundry, http: TestClient) -> None:
    # It comes first, and must not take the place of what others may read.
    secret = laundry.put("secret.md", "Nightjar: spy@example.com.", access=["key_ann"])
    laundry.put("open.md", LEAVE, MAIL, "x", "y")
    space = laundry.build(cleaned=False)
    rules = {"personal_data": {"email": "drop"}, "min_chars": 5}
    asked = http.post("/api/spaces/manual/cleaning/preview", json={"cleaning": rules})
    assert asked.status_code == 202, asked.text
    run = laundry.mill.run(asked.json()["id"])
    assert (run.verb, run.output_name, run.inputs["data"].version_id) == ("clean", None, space.passages_version_id)
    path = f"/api/spaces/manual/cleaning/preview/{run.id}"
    assert (http.get(path).json()["state"], http.get(path).json()["examples"]) == ("queued", [])
    laundry.clean(run)
    report = http.get(path, params={"per_rule": 1}).json()
    assert (report["state"], report["num_read"], report["num_kept"]) == ("succeeded", 5, 1)
    assert report["removed"] == {"personal_data": 2, "quality": 2}
    assert [(each["rule"], each["name"], each["excerpt"]) for each in report["examples"]] == [
        ("personal_data", "secret.md", "Nightjar: spy@example.com."),
        ("quality", "open.md", "x"),
    ]
    assert "Nightjar" in http.get(path).text
    for per_rule, names in ((1, ["open.md"] * 2), (9, ["open.md"] * 3)):
        of_ben = http.get(path, params={"per_rule": per_rule}, headers={"x-caller": "ben"})
        assert (of_ben.status_code, [each["name"] for each in of_ben.json()["examples"]]) == (200, names)
        assert "Nightjar" not in of_ben.text
    done = laundry.mill.run(run.id)
    assert done.result is not None
    assert all(text not in str(done.result) for text in ("Nightjar", "hr@", LEAVE)), "a run is for everybody, and stays"
    after = laundry.mill.tick()
    assert (after.is_current, after.settings, after.build) == (True, space.settings, space.build), "nothing has changed"
    with laundry.mill.db.transaction() as session:
        laundry.mill.spaces.documents.remove(session, PROJECT, "manual", secret)
    assert "Nightjar" not in http.get(path).text, "what was removed is shown to nobody"
    assert http.get(path, headers={"x-caller": "eve"}).status_code == 404


@one_database
def test_a_preview_needs_passages_and_its_own_run(laundry: Laundry, http: TestClient) -> None:
    assert http.post("/api/spaces/manual/cleaning/preview", json={}).json()["error"]["code"] == "space_empty"
    wrong = http.post("/api/spaces/manual/cleaning/preview", json={"cleaning": {"similarity": 2}})
    assert wrong.status_code in (400, 422)
    laundry.put("a.md", LEAVE)
    space = laundry.build(cleaned=False)
    assert space.build is not None
    other = http.get(f"/api/spaces/manual/cleaning/preview/{space.build.parsing_run_id}")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "run_not_found")


@one_database
def test_what_was_dropped_is_shown_passage_by_passage_to_those_who_may_read_the_document(
    laundry: Laundry, http: TestClient
) -> None:
    laundry.rules(duplicates=True, min_chars=5)
    first = laundry.put("a.md", LEAVE, "x")
    second = laundry.put("b.md", LEAVE, MAIL, access=["key_ann"])
    laundry.build()
    told = http.get(f"/api/spaces/manual/documents/{first}/dropped").json()
    assert (told["name"], [(each["rule"], each["excerpt"]) for each in told["data"]]) == ("a.md", [("quality", "x")])
    path = f"/api/spaces/manual/documents/{second}/dropped"
    (copy,) = http.get(path).json()["data"]
    assert (copy["passage_id"], copy["rule"], copy["like"]) == (f"{second}:0", "duplicate", None)
    assert http.get(path, headers={"x-caller": "ben"}).status_code == 404
    laundry.rules(duplicates=False)
    laundry.build(cleaned=False)
    assert http.get(path).json() == {
        "object": "space.dropped",
        "document_id": second,
        "name": "b.md",
        "data": [],
        "has_more": False,
    }


@one_database
def test_the_errors_of_the_service_itself(laundry: Laundry) -> None:
    with laundry.mill.db.transaction() as session:
        with pytest.raises(InvalidRequest, match="no passages to clean"):
            laundry.mill.steps.cleaning.preview(session, ANN, "manual", None)
        with pytest.raises(NotFound):
            laundry.mill.steps.cleaning.preview(session, ANN, "nothing", None)
