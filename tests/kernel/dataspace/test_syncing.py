"""Sources of a space: looked at by real workers, and taken into its documents once, whatever dies meanwhile."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.dataspace.sources.surroundings import Site, serving
from tests.kernel.jobs.rooms import PROJECT, Rooms, make_rooms

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace import DataspaceService, Source, SourceService, SourceSteps, SpaceDocument
from modelworks.kernel.dataspace.schemas import SpaceCreate
from modelworks.kernel.dataspace.sourcing import Schedule, SourceCreate, SourceUpdate, SyncAsked
from modelworks.kernel.dataspace.store import SpaceRow
from modelworks.kernel.jobs import JobSpec
from modelworks.kernel.jobs.folder import AttemptFolder

BEN = Principal(key_id="key_ben", project_id=PROJECT, scopes=frozenset({"write"}))
#: Of another project.
EVE = Principal(key_id="key_eve", project_id="prj_other", scopes=frozenset({"admin"}))
ADMIN = Principal(key_id="key_adm", project_id=PROJECT, scopes=frozenset({"admin"}))
one_database = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@dataclass
class Place:
    """A space `manual` and what follows its sources, driven by hand."""

    rooms: Rooms
    spaces: DataspaceService
    sources: SourceService
    steps: SourceSteps
    secrets: dict[str, str] = field(default_factory=dict)

    def add(self, caller: Principal = ADMIN, *, dry_run: bool = False, **form: Any) -> Source:
        more = {name: form.pop(name) for name in ("defaults", "schedule") if name in form}
        asked = SourceCreate.model_validate({"source": form, **more})
        with self.spaces.db.transaction() as session:
            return self.sources.create(session, caller, "manual", asked, dry_run=dry_run)

    def get(self, source_id: str) -> Source:
        with self.spaces.db.reading() as session:
            return self.sources.get(session, PROJECT, "manual", source_id)

    def sync(self, source_id: str, **asked: Any) -> Source:
        """Look at a source and take in what was found."""
        with self.spaces.db.transaction() as session:
            self.sources.sync(session, PROJECT, "manual", source_id, SyncAsked(**asked))
        return self.follow(source_id)

    def follow(self, source_id: str) -> Source:
        self.steps.tick()
        source = self.get(source_id)
        if source.run_id is not None:
            self.rooms.finish(source.run_id)
            self.steps.tick()
        return self.get(source_id)

    def documents(self) -> dict[str, SpaceDocument]:
        with self.spaces.db.reading() as session:
            page = self.spaces.documents.list(session, PROJECT, "manual", limit=1000)
        assert len({document.key for document in page.data}) == len(page.data), "a document came twice"
        return {document.key: document for document in page.data}

    def remove(self, document_id: str) -> None:
        with self.spaces.db.transaction() as session:
            self.spaces.documents.remove(session, PROJECT, "manual", document_id)


@pytest.fixture
def place(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Place]:
    given = {"home": settings.home, "slots_cpu": 4, "slots_memory_bytes": 8 << 30}
    roots = {"pull_roots": [tmp_path / "in"], "egress_allow": ["127.0.0.0/8"]}
    settings = Settings(**given, **roots)
    (tmp_path / "in").mkdir()
    rooms = make_rooms(settings, database)
    clock = SystemClock()
    spaces = DataspaceService(database, rooms.jobs, clock, rooms.events)
    secrets: dict[str, str] = {}

    def open_secret(project_id: str, name: str) -> str:
        if name not in secrets or project_id != PROJECT:
            raise NotFound(f"The project has no secret {name!r}.", code="secret_not_found")
        return secrets[name]

    policy = SourcePolicy.of(settings)
    sources = SourceService(spaces, rooms.jobs, rooms.catalog, rooms.blobs, open_secret, policy, clock, rooms.events)
    steps = SourceSteps(sources, rooms.jobs, rooms.catalog, rooms.blobs, clock, rooms.events)
    with database.transaction() as session:
        spaces.create(session, PROJECT, "key_ann", SpaceCreate(name="manual"))
    yield Place(rooms, spaces, sources, steps, secrets)
    with database.reading() as session:
        active = rooms.jobs.attempts.active(session)
    for run in active:
        if run.handle is not None:
            rooms.executor.kill(run.handle)
            rooms.executor.cleanup(run.handle)


@one_database
def test_a_space_follows_a_folder(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.txt").write_text(f"Text {name}")
    defaults = {"licence": "CC-BY-4.0", "owner": "plant", "access": ["usr_ann"]}
    source = place.follow(place.add(kind="folder", uri=folder.as_uri(), defaults=defaults).id)
    assert (source.state, source.error, source.report["num_new"]) == ("idle", None, 4)
    before = place.documents()
    assert set(before) == {"a.txt", "b.txt", "c.txt", "d.txt"}
    assert (before["a.txt"].licence, before["a.txt"].access, before["a.txt"].source_id) == ("CC-BY-4.0", ["usr_ann"], source.id)
    assert b"".join(place.rooms.blobs.iter(before["a.txt"].digest)) == b"Text a"
    # Changed, gone, new, touched, and one that a person removes.
    (folder / "a.txt").write_text("Text a, anew")
    (folder / "b.txt").unlink()
    (folder / "e.txt").write_text("Text e")
    os.utime(folder / "c.txt", (1, 1))
    place.remove(before["d.txt"].id)
    source = place.sync(source.id)
    after = place.documents()
    assert set(after) == {"a.txt", "c.txt", "e.txt"}, "what a person removed stays away"
    assert (after["a.txt"].id, after["a.txt"].version) == (before["a.txt"].id, 2)
    assert after["c.txt"].version == 1
    counts = [source.report[f"num_{name}"] for name in ("new", "changed", "unchanged", "gone", "failed")]
    assert counts == [1, 1, 1, 1, 0]
    with place.spaces.db.reading() as session:
        told = place.sources.told(session, PROJECT, {"space_id": source.space_id, "source_id": source.id})
    assert told["removed"] == ["d.txt"], "what its source had lost may return"
    with place.spaces.db.reading() as session:
        with pytest.raises(NotFound):
            place.rooms.catalog.describe(session, PROJECT, f"{_catalog_name(place)}/incoming", "dataset")
        told = [event.message for event in place.spaces.events(session, PROJECT, "manual").data]
    assert any("1 new, 1 changed, 1 gone" in message for message in told)
    # The source ends, and its documents with it.
    with place.spaces.db.transaction() as session:
        place.sources.remove(session, PROJECT, "manual", source.id)
    assert place.documents() == {}


def _catalog_name(place: Place) -> str:
    with place.spaces.db.reading() as session:
        return place.spaces.get(session, PROJECT, "manual").deployment


@one_database
def test_what_fails_changes_nothing_and_says_why(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "share"
    folder.mkdir()
    (folder / "a.txt").write_text("A")
    source = place.follow(place.add(kind="folder", uri=folder.as_uri(), schedule={"every_s": 3600}).id)
    shutil.rmtree(folder)
    source = place.sync(source.id)
    assert source.state == "failed"
    assert source.error is not None
    assert "does not exist" in source.error["message"]
    assert source.next_sync_at is not None, "it is tried again when its time comes"
    assert set(place.documents()) == {"a.txt"}


@one_database
def test_a_worker_that_is_killed_goes_on_and_only_workers_are_told_secrets(place: Place) -> None:
    place.secrets["wiki"] = "hunter2-and-more"
    with serving() as site:
        names = [f"p{number}" for number in range(8)]
        site.put("/docs/", "".join(f'<a href="{name}">x</a>' for name in names))
        for name in names:
            site.put(f"/docs/{name}", f"<p>Page {name}</p>")
        form = {"kind": "web", "uri": f"{site.url}/docs/", "mode": "crawl", "delay_s": 0.05, "secret": "wiki"}
        with pytest.raises(PermissionDenied):
            place.add(BEN, **form)
        with pytest.raises(NotFound, match="no secret"):
            place.add(ADMIN, **(form | {"secret": "other"}))
        source_id = place.add(**form).id
        place.steps.tick()
        run_id = str(place.get(source_id).run_id)
        _until_asked(place, site, run_id, 4)
        with place.spaces.db.reading() as session:
            (active,) = place.rooms.jobs.attempts.active(session)
        os.kill(int(str(active.handle).partition(":")[0]), signal.SIGKILL)
        run = place.rooms.finish(run_id)
        place.steps.tick()
        assert (run.state, run.attempt) == ("succeeded", 2)
        documents = place.documents()
        assert len(documents) == 9
        assert {document.version for document in documents.values()} == {1}
        assert {sent["authorization"] for _, sent in site.asked} == {"Bearer hunter2-and-more"}
    with place.spaces.db.reading() as session:
        events = place.rooms.jobs.events(session, PROJECT, run.id)
    shown = f"{run.model_dump_json()}{events}{place.get(source_id).model_dump_json()}{place.rooms.log(run.id)}"
    assert "hunter2" not in shown
    kept = [file for file in place.rooms.settings.home.parent.rglob("*") if file.is_file()]
    assert not any(b"hunter2" in file.read_bytes() for file in kept)
    assert AttemptFolder.of(place.rooms.settings.home, run.id, 1).log in kept


def _until_asked(place: Place, site: Site, run_id: str, number: int) -> None:
    deadline = time.monotonic() + 60
    while len(site.paths()) < number:
        place.rooms.supervisor.tick()
        assert time.monotonic() < deadline, place.rooms.log(run_id)
        time.sleep(0.02)


@one_database
def test_a_server_that_dies_while_taking_in_takes_in_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelworks.kernel.dataspace.syncing._BATCH", 2)
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt").write_text(str(number))
    source_id = place.add(kind="folder", uri=(tmp_path / "in").as_uri()).id
    place.steps.tick()
    place.rooms.finish(str(place.get(source_id).run_id))
    put, calls = place.steps._put, [0]

    def dying(*given: Any) -> bool:
        calls[0] += 1
        is_outdated = put(*given)
        if calls[0] == 2:
            raise RuntimeError("the server died")
        return is_outdated

    monkeypatch.setattr(place.steps, "_put", dying)
    place.steps.tick()
    assert len(place.documents()) == 2
    place.steps.tick()
    assert len(place.documents()) == 5
    assert {document.version for document in place.documents().values()} == {1}
    assert place.get(source_id).state == "idle"


@one_database
def test_a_dry_run_says_what_would_change(place: Place, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.txt").write_text("A")
    assert place.add(kind="folder", uri=(tmp_path / "in").as_uri(), dry_run=True).kind == "folder"
    with place.spaces.db.reading() as session:
        assert place.sources.list(session, PROJECT, "manual").data == []
    source = place.add(kind="folder", uri=(tmp_path / "in").as_uri())
    with place.spaces.db.transaction() as session:
        asked = place.sources.sync(session, PROJECT, "manual", source.id, SyncAsked(dry_run=True))
    run = place.rooms.finish(asked.run_id)
    assert run.result is not None
    assert (run.result["new"], run.outputs) == (["a.txt"], [])
    assert place.documents() == {}


def test_sources_belong_to_their_project(place: Place, tmp_path: Path) -> None:
    source = place.add(kind="folder", uri=(tmp_path / "in").as_uri())
    asked = SourceCreate.model_validate({"source": {"kind": "folder", "uri": (tmp_path / "in").as_uri()}})
    with place.spaces.db.transaction() as session:
        other = place.spaces.create(session, EVE.project_id, "key_eve", SpaceCreate(name="manual"))
        for project_id, space in ((EVE.project_id, "manual"), (EVE.project_id, source.space_id), (PROJECT, other.id)):
            with pytest.raises(NotFound):
                place.sources.get(session, project_id, space, source.id)
            with pytest.raises(NotFound):
                place.sources.remove(session, project_id, space, source.id)
            with pytest.raises(NotFound):
                place.sources.sync(session, project_id, space, source.id, SyncAsked())
            with pytest.raises(NotFound):
                place.sources.told(session, project_id, {"space_id": space, "source_id": source.id})
        with pytest.raises(NotFound):
            place.sources.create(session, EVE, source.space_id, asked)
    with pytest.raises(InvalidRequest, match="not looked at by a run"):
        place.rooms.jobs.check_rights(JobSpec(verb="ingest", params={}), BEN)


def test_the_same_source_once_and_not_while_it_is_looked_at(place: Place, tmp_path: Path) -> None:
    source = place.add(kind="folder", uri=(tmp_path / "in").as_uri())
    with pytest.raises(Conflict) as caught:
        place.add(kind="folder", uri=(tmp_path / "in").as_uri())
    assert caught.value.error_code == "source_exists"
    place.steps.tick()
    with place.spaces.db.transaction() as session, pytest.raises(Conflict) as busy:
        place.sources.sync(session, PROJECT, "manual", source.id, SyncAsked())
    assert busy.value.error_code == "source_busy"
    with place.spaces.db.transaction() as session:
        place.sources.remove(session, PROJECT, "manual", source.id)
        (run,) = place.rooms.jobs.list(session, PROJECT).data
    assert run.state == "cancelled"
    with pytest.raises(PermissionDenied, match="outside"):
        place.add(kind="folder", uri="file:///etc")


def test_uploads_of_sources_are_kept(place: Place) -> None:
    digest = place.rooms.blobs.put(b"PK").digest
    with pytest.raises(NotFound):
        place.add(kind="archive", digest="sha256:" + "0" * 64)
    place.add(kind="archive", digest=digest)
    assert place.sources.referenced([digest, "sha256:" + "1" * 64]) == {digest}


@one_database
def test_another_upload_is_the_next_state_of_the_same_source(place: Place) -> None:
    def packed(**members: str) -> str:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, text in members.items():
                archive.writestr(f"{name}.md", text)
        return place.rooms.blobs.put(made.getvalue()).digest

    def renew(digest: str, **more: Any) -> Source:
        asked = SourceUpdate.model_validate({"source": {"kind": "archive", "name": "wiki.zip", "digest": digest}, **more})
        with place.spaces.db.transaction() as session:
            return place.sources.update(session, PROJECT, "manual", source.id, asked)

    source = place.follow(place.add(kind="archive", name="wiki.zip", digest=packed(a="A", b="B"), defaults={"owner": "x"}).id)
    before = place.documents()
    assert renew(packed(a="A", c="C")).state == "syncing"
    with pytest.raises(Conflict, match="being looked at"):
        renew(packed(a="Z"))
    found = place.follow(source.id)
    after = place.documents()
    assert (found.error, set(after), after["a.md"].id) == (None, {"a.md", "c.md"}, before["a.md"].id)
    assert [found.report[f"num_{name}"] for name in ("new", "unchanged", "gone")] == [1, 1, 1]
    renew(packed(a="A", c="C2"), defaults={"owner": "y", "access": ["usr_ann"]})
    place.follow(source.id)
    owners = {(each.owner, *each.access) for each in place.documents().values()}
    assert owners == {("y", "usr_ann")}, "also of what did not change"
    renew(place.rooms.blobs.put(b"no archive").digest)
    broken = place.follow(source.id)
    assert (broken.state, set(place.documents())) == ("failed", {"a.md", "c.md"}), "what cannot be read replaces nothing"
    other = SourceUpdate.model_validate({"source": {"kind": "mbox", "digest": packed(a="A")}})
    with place.spaces.db.transaction() as session, pytest.raises(InvalidRequest, match="same kind"):
        place.sources.update(session, PROJECT, "manual", source.id, other)
    with pytest.raises(NotFound):
        renew("sha256:" + "0" * 64)


def test_times_of_looks(place: Place, tmp_path: Path) -> None:
    now = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
    assert Schedule(every_s=3600).following(now) == now + timedelta(hours=1)
    assert Schedule(daily_at="03:30").following(now) == datetime(2026, 3, 3, 3, 30, tzinfo=UTC)
    assert Schedule(daily_at="23:00").following(now) == datetime(2026, 3, 2, 23, 0, tzinfo=UTC)
    assert Schedule().following(now) is None
    with pytest.raises(ValueError, match="not both"):
        Schedule(every_s=60, daily_at="03:30")
    with pytest.raises(ValueError, match="daily_at"):
        Schedule(daily_at="24:00")
    source = place.add(kind="folder", uri=(tmp_path / "in").as_uri())
    with place.spaces.db.transaction() as session:
        paused = place.sources.update(session, PROJECT, "manual", source.id, SourceUpdate(is_paused=True))
    assert paused.next_sync_at is None
    place.steps.tick()
    assert place.get(source.id).run_id is None


def _stored(place: Place, text: bytes) -> list[str]:
    """Digests of the documents that are there and hold a text."""
    return [each.key for each in place.documents().values() if text in place.rooms.blobs.read(each.digest, 1 << 20)]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    found = tmp_path / "in" / "shop.sqlite"
    with closing(sqlite3.connect(found)) as connection, connection:
        connection.execute("CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, pay REAL)")
        connection.executemany("INSERT INTO staff VALUES (?, ?, ?)", [(1, "Ada", 10), (2, "Bob", 20), (3, "Cy", 30)])
    return found


def _told(place: Place, key: str) -> list[list[str]]:
    """The rows of a table's document."""
    content = place.rooms.blobs.read(place.documents()[key].digest, 1 << 20)
    return [json.loads(line)[1] for line in content.splitlines()[1:]]


@one_database
def test_a_table_follows_its_database(place: Place, tmp_path: Path, shop: Path) -> None:
    form = {"kind": "sql", "dialect": "sqlite", "uri": shop.as_uri(), "tables": [{"name": "staff"}]}
    source = place.follow(place.add(**form, defaults={"access": ["usr_ann"]}).id)
    table = place.documents()["staff/card"]
    assert (table.media_type, table.access, table.version) == (TABLE_ROWS, ["usr_ann"], 1)
    assert place.sync(source.id).report["num_unchanged"] == 4
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("DELETE FROM staff WHERE id = 3")
        connection.execute("UPDATE staff SET pay = 11 WHERE id = 1")
    report = place.sync(source.id).report
    assert (report["changed"], report["gone"]) == (["staff/row/1", "staff/card"], ["staff/row/3"])
    assert (place.documents()["staff/card"].version, _told(place, "staff/card")) == (
        2,
        [["1", "Ada", "11.0"], ["2", "Bob", "20.0"]],
    )
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("ALTER TABLE staff RENAME TO people")
    source = place.sync(source.id)
    assert (source.state, _told(place, "staff/card")[0][1]) == ("failed", "Ada"), "what fails changes nothing"
    with place.spaces.db.transaction() as session:
        place.sources.remove(session, PROJECT, "manual", source.id)
    assert place.documents() == {}


@one_database
@pytest.mark.parametrize("way", ["removed", "closed", "expired", "forgotten"])
def test_a_row_that_is_taken_away_leaves_its_table_at_once_and_for_good(
    place: Place, tmp_path: Path, shop: Path, way: str
) -> None:
    form = {"kind": "sql", "dialect": "sqlite", "uri": shop.as_uri(), "tables": [{"name": "staff"}]}
    source = place.follow(place.add(**form).id)
    row = place.documents()["staff/row/2"]
    with place.spaces.db.transaction() as session:
        documents = place.spaces.documents
        owner = session.get_one(SpaceRow, row.space_id)
        if way == "removed":
            documents.remove(session, PROJECT, "manual", row.id)
        elif way == "closed":
            documents.update(session, PROJECT, "manual", row.id, access=["usr_ann"])
        elif way == "expired":
            documents.update(session, PROJECT, "manual", row.id, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
            documents.expire(session, owner)
        else:
            documents.forget(session, owner, row.id)
    assert "staff/card" not in place.documents()
    assert _stored(place, b"Bob") == (["staff/row/2"] if way == "closed" else [])
    # It is looked at again by itself, and stays as it is from then on.
    source = place.follow(source.id)
    assert source.next_sync_at is None
    assert "staff/row/2" not in source.report["new"], "its bytes are not even read again"
    assert [row[1] for row in _told(place, "staff/card")] == ["Ada", "Cy"]
    version = place.documents()["staff/card"].version
    place.sync(source.id)
    assert place.documents()["staff/card"].version == version


@one_database
def test_a_row_that_is_removed_while_its_table_is_read(place: Place, tmp_path: Path, shop: Path) -> None:
    form = {"kind": "sql", "dialect": "sqlite", "uri": shop.as_uri(), "tables": [{"name": "staff"}]}
    source = place.follow(place.add(**form).id)
    row = place.documents()["staff/row/2"]
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("UPDATE staff SET pay = 11 WHERE id = 1")
    with place.spaces.db.transaction() as session:
        run_id = place.sources.sync(session, PROJECT, "manual", source.id, SyncAsked()).run_id
    place.rooms.finish(run_id)
    place.remove(row.id)
    place.steps.tick()
    assert _stored(place, b"Bob") == [], "what was read before is not taken in"
    place.follow(source.id)
    assert _told(place, "staff/card") == [["1", "Ada", "11.0"], ["3", "Cy", "30.0"]]
