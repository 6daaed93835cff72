"""A space follows its documents: builds, what happens to changes meanwhile, crashes, failures, ends."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.kernel.gateway.spaces.mill import BROKEN, MILL, PROJECT, Mill, make_mill

from modelworks.contract.errors import NotFound, Unavailable
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.dataspace import SpaceSettings
from modelworks.kernel.dataspace.schemas import SpaceCreate, SpaceUpdate
from modelworks.kernel.dataspace.store import SpaceRow


@pytest.fixture
def mill(settings: Settings, database: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mill:
    monkeypatch.setattr(discovery, "capabilities", lambda: {"mill": MILL})
    return make_mill(settings, database, clock, tmp_path)


def test_documents_become_an_index_that_answers(mill: Mill) -> None:
    guide = mill.put("guide.md", "how to")
    mill.put("locked.pdf")
    assert mill.space().state == "pending"
    first = mill.tick()
    assert first.build is not None
    assert (first.state, first.build.step, first.documents.parsing) == ("building", "parsing", 2)
    told = {each.name: each for each in mill.handed_over(first.build.parsing_run_id)}
    assert (told["guide.md"].id, told["guide.md"].path) == (guide.id, f"files/{guide.id}.md")
    mill.play(first.build.parsing_run_id, ("progress", {"done": 1, "total": 2, "what": "documents"}))
    assert mill.space().build.progress == {"done": 1, "total": 2, "what": "documents"}  # type: ignore[union-attr]
    mill.parse("locked.pdf")
    second = mill.tick()
    assert second.build is not None
    assert (second.build.step, second.documents.failed) == ("indexing", 1)
    assert mill.run(second.build.indexing_run_id).inputs["passages"].version_id == second.build.passages_version_id
    mill.index()
    third = mill.tick()
    assert (third.build.step, third.index_version_id) == ("deploying", None)  # type: ignore[union-attr]
    with mill.db.reading() as session:
        deployed = mill.serving.get(session, PROJECT, third.deployment)
    assert (deployed.task, deployed.model) == ("passage-retrieval", f"{third.deployment}/index@live")
    assert mill.tick().state == "building", "the replica is still loading"
    mill.answer()
    space = mill.tick()
    assert space.build is not None
    assert (space.state, space.is_current, space.index_version_id) == ("ready", True, space.build.index_version_id)
    assert space.build.counts == {"num_documents": 2, "num_passages": 1, "num_partial": 0, "num_failed": 1}
    found = mill.documents()
    assert (found["guide.md"].state, found["guide.md"].answers) == ("indexed", True)
    assert (found["locked.pdf"].state, found["locked.pdf"].faults) == ("failed", [BROKEN])
    assert mill.scope().documents == (guide.id,)
    with mill.db.reading() as session:
        story = [event.message for event in mill.spaces.events(session, PROJECT, "manual").data]
    assert "locked.pdf could not be read: It asks for a password." in story
    assert story[-1] == "The index answers."
    assert not mill.steps.tick(), "nothing is left to do"


def test_a_change_takes_what_is_unchanged_from_the_versions_before_and_old_versions_go(mill: Mill) -> None:
    one, two = mill.put("one.md"), mill.put("two.md")
    before = mill.build()
    kept = [mill.catalog.materialise(version, mill.cache) for version in mill.versions("documents") + mill.versions("passages")]
    assert all(folder.is_dir() for folder in kept)
    mill.remove(one)
    assert mill.scope().documents == (two.id,), "a removed document answers no more at once"
    mill.put("three.md")
    during = mill.tick()
    assert during.build is not None
    parsing = mill.run(during.build.parsing_run_id)
    assert parsing.inputs["previous"].version_id == before.passages_version_id
    assert [each.name for each in mill.handed_over(parsing.id)] == ["two.md", "three.md"]
    mill.parse()
    indexing = mill.run(mill.tick().build.indexing_run_id)  # type: ignore[union-attr]
    assert indexing.inputs["previous"].version_id == before.index_version_id
    mill.index()
    mill.tick()
    assert mill.space().index_version_id == before.index_version_id, "the old one answers until the new one does"
    mill.answer()
    after = mill.tick()
    assert after.is_current
    assert not any(folder.exists() for folder in kept), "nor does anything lie in a cache"
    for noun, kept_id in (
        ("documents", after.documents_version_id),
        ("passages", after.passages_version_id),
        ("index", after.index_version_id),
    ):
        assert [version.id for version in mill.versions(noun)] == [kept_id], noun
    assert mill.catalog.referenced([one.digest]) | mill.spaces.referenced([one.digest]) == set()


def test_changes_during_a_build_are_the_next_ones(mill: Mill) -> None:
    mill.put("one.md")
    first = mill.tick().build
    mill.put("two.md")
    changed = mill.put("one.md", "changed")
    mill.parse()
    mill.tick()
    mill.index()
    mill.tick()
    mill.answer()
    done = mill.tick()
    assert done.build is not None
    assert first is not None
    assert not done.is_current
    assert (mill.documents()["one.md"].state, mill.documents()["two.md"].answers) in (("pending", False), ("parsing", False))
    next_ = mill.tick()
    assert next_.build is not None
    assert next_.build.id != first.id
    assert {each.digest for each in mill.handed_over(next_.build.parsing_run_id)} >= {changed.digest}
    mill.parse()
    mill.tick()
    mill.index()
    mill.tick()
    mill.answer()
    assert mill.tick().is_current


def test_a_crash_between_any_two_steps_loses_nothing(mill: Mill) -> None:
    mill.put("one.md")
    for play in (mill.tick, mill.parse, mill.tick, mill.index, mill.tick, mill.answer, mill.tick):
        play()
        mill.restart()
    space = mill.space()
    assert (space.state, space.documents.indexed) == ("ready", 1)
    with mill.db.reading() as session:
        assert len(mill.jobs.list(session, PROJECT).data) == 2, "each run was submitted once"


def test_a_failed_build_says_why_and_the_old_index_goes_on(mill: Mill) -> None:
    mill.put("one.md")
    before = mill.build()
    mill.put("two.md")
    build = mill.tick().build
    assert build is not None
    wire = {"class": "InvalidData", "code": "invalid_data", "message": "It broke."}
    mill.play(build.parsing_run_id, ("failed", {"error": wire, "retry": False}))
    failed = mill.tick()
    assert (failed.state, failed.index_version_id) == ("failed", before.index_version_id)
    assert failed.error is not None
    assert (failed.error["message"], failed.error["run_id"]) == ("It broke.", build.parsing_run_id)
    assert failed.documents.pending == 1
    mill.clock.advance(3600)
    assert mill.tick().build == failed.build, "it is not tried again by itself"
    with mill.db.transaction() as session:
        mill.spaces.rebuild(session, PROJECT, "manual")
    assert mill.build().is_current


def test_an_index_that_does_not_start_leaves_the_old_one_in_force(mill: Mill) -> None:
    mill.put("one.md")
    before = mill.build()
    mill.put("two.md")
    mill.tick()
    mill.parse()
    mill.tick()
    mill.index()
    mill.tick()
    mill.answer("degraded", fails=True)
    failed = mill.tick()
    assert (failed.state, failed.index_version_id) == ("failed", before.index_version_id)
    assert failed.error is not None
    assert failed.error["message"] == "The new index does not start: It is damaged."
    with mill.db.reading() as session:
        live = mill.catalog.resolve(session, PROJECT, f"{failed.deployment}/index@live")
    assert live.id == before.index_version_id


def test_a_setting_that_the_parser_does_not_know_fails_the_build_with_its_field(mill: Mill) -> None:
    with mill.db.transaction() as session:
        mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=SpaceSettings(parsing={"passage_chars": "many"})))
    mill.put("one.md")
    failed = mill.tick()
    assert failed.error is not None
    assert failed.error["param"] == "params.passage_chars"
    assert mill.versions("documents") == [], "nothing of the attempt stays"


def test_a_storage_that_is_away_delays_a_build(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    mill.put("one.md")

    def away(_data: bytes) -> None:
        raise Unavailable("The storage does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(mill.blobs, "put", away)
        assert mill.tick().state == "building"
    assert mill.tick().build.step == "parsing"  # type: ignore[union-attr]


def test_a_space_that_was_emptied_answers_nothing(mill: Mill) -> None:
    document = mill.put("one.md")
    mill.build()
    mill.remove(document)
    after = mill.tick()
    assert (after.state, after.index_version_id, after.is_current) == ("empty", None, True)
    assert mill.scope().is_empty
    with mill.db.reading() as session:
        assert not mill.serving.list(session, PROJECT)[0]
    assert mill.versions("index") == []


def test_what_was_made_for_a_deleted_space_is_taken_away(mill: Mill) -> None:
    mill.put("one.md")
    space = mill.build()
    mill.put("two.md")
    run_id = mill.tick().build.parsing_run_id  # type: ignore[union-attr]
    mill.play(run_id, ("progress", {"done": 0, "total": 2, "what": "documents"}))
    with mill.db.transaction() as session:
        mill.spaces.delete(session, PROJECT, "manual")
    mill.steps.tick()
    with mill.db.reading() as session:
        assert session.scalar(select(SpaceRow.id)) == space.id, "its run is still ending"
    assert mill.run(run_id).cancel_requested_at is not None
    mill.play(run_id, ("cancelled", {}))
    mill.steps.tick()
    with mill.db.reading() as session:
        assert session.scalar(select(SpaceRow.id)) is None
        assert not mill.serving.list(session, PROJECT)[0]
    assert not mill.versions("documents") + mill.versions("passages") + mill.versions("index")


def test_a_space_whose_time_is_over_rests_and_begins_anew_when_it_is_prolonged(mill: Mill) -> None:
    with mill.db.transaction() as session:
        mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(expires_after_days=1))
    mill.put("one.md")
    mill.build()
    mill.clock.advance(timedelta(days=1).total_seconds())
    over = mill.tick()
    assert (over.state, over.index_version_id, mill.versions("index")) == ("expired", None, [])
    assert mill.scope().is_empty
    assert not mill.steps.tick(), "it rests"
    with mill.db.transaction() as session:
        mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(expires_after_days=0))
    assert mill.build().state == "ready"
    with mill.db.transaction() as session:
        # Another space of the project is not disturbed by any of it.
        assert mill.spaces.create(session, PROJECT, None, SpaceCreate(name="other")).state == "empty"
        with pytest.raises(NotFound):
            mill.spaces.get(session, "prj_other", "manual")
