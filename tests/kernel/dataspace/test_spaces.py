"""Spaces: made, found by id and name, listed in pages, changed, gone; each project sees its own."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError
from tests.kernel.dataspace.conftest import EVE, PROJECT, PutDocument

from modelworks.contract.errors import Conflict, NotFound
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.events import Events
from modelworks.kernel.dataspace import DataspaceService, SpaceSettings
from modelworks.kernel.dataspace.schemas import SpaceCreate, SpaceUpdate
from modelworks.kernel.dataspace.service import TOPIC


def test_a_space_is_found_by_id_and_by_name_in_its_project_alone(spaces: DataspaceService) -> None:
    with spaces.db.transaction() as session:
        made = spaces.create(session, PROJECT, "key_ann", SpaceCreate(name="人力资源", metadata={"team": "hr"}))
    with spaces.db.reading() as session:
        assert spaces.get(session, PROJECT, made.id) == spaces.get(session, PROJECT, "人力资源") == made
        assert (made.state, made.metadata, made.is_current) == ("empty", {"team": "hr"}, True)
        assert made.id.startswith("vs_")
        assert made.deployment.startswith("spaces/space-")
        for ref in (made.id, made.name):
            with pytest.raises(NotFound, match="no data space"):
                spaces.get(session, EVE.project_id, ref)
        assert spaces.list(session, EVE.project_id).data == []


def test_a_name_is_taken_once_in_a_project_and_free_when_its_space_is_gone(spaces: DataspaceService) -> None:
    with spaces.db.transaction() as session:
        with pytest.raises(Conflict, match="'manual' already"):
            spaces.create(session, PROJECT, None, SpaceCreate(name=" manual "))
        spaces.create(session, EVE.project_id, None, SpaceCreate(name="manual"))
        gone = spaces.delete(session, PROJECT, "manual")
        fresh = spaces.create(session, PROJECT, None, SpaceCreate(name="manual"))
        assert fresh.id != gone.id
        with pytest.raises(NotFound):
            spaces.get(session, PROJECT, gone.id)
        # What was made for it is still to be taken away.
        assert gone.id in spaces.builds.due(session)


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a:b", "vs_01", "two\nlines"])
def test_names_that_could_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        SpaceCreate(name=name)


def test_pages_go_both_ways(spaces: DataspaceService) -> None:
    with spaces.db.transaction() as session:
        for number in range(4):
            spaces.create(session, PROJECT, None, SpaceCreate(name=f"space {number}"))
        everything = [space.id for space in spaces.list(session, PROJECT, order="asc").data]
        assert everything == sorted(everything)
        assert len(everything) == 5
        first = spaces.list(session, PROJECT, order="asc", limit=2)
        assert ([space.id for space in first.data], first.has_more) == (everything[:2], True)
        second = spaces.list(session, PROJECT, order="asc", limit=2, after=first.last_id)
        assert [space.id for space in second.data] == everything[2:4]
        before = spaces.list(session, PROJECT, order="asc", limit=2, before=second.first_id)
        assert [space.id for space in before.data] == everything[:2]
        newest = spaces.list(session, PROJECT, limit=1, search="SPACE")
        assert newest.data[0].id == max(everything[1:])


def test_another_encoder_asks_for_an_index_and_another_language_model_does_not(spaces: DataspaceService) -> None:
    with spaces.db.transaction() as session:
        spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=SpaceSettings(language_model="small")))
        assert spaces.get(session, PROJECT, "manual").is_current
        changed = spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=SpaceSettings(encoder="minilm"), name="book"))
        assert (changed.name, changed.is_current, changed.settings.language_model) == ("book", False, None)


def test_a_space_ends_some_days_after_its_last_use(spaces: DataspaceService, clock: FixedClock) -> None:
    with spaces.db.transaction() as session:
        spaces.update(session, PROJECT, "manual", SpaceUpdate(expires_after_days=2))
        clock.advance(timedelta(days=1).total_seconds())
        space = spaces.get(session, PROJECT, "manual")
        assert spaces.needs_note(space)
        spaces.used(session, PROJECT, space.id)
        assert not spaces.needs_note(spaces.get(session, PROJECT, "manual"))
        clock.advance(timedelta(days=1, hours=12).total_seconds())
        assert spaces.get(session, PROJECT, "manual").state != "expired"
        clock.advance(timedelta(days=1).total_seconds())
        assert spaces.get(session, PROJECT, "manual").state == "expired"
        kept = spaces.update(session, PROJECT, "manual", SpaceUpdate(expires_after_days=0))
        assert (kept.state, kept.expires_at) == ("empty", None)


def test_the_pipeline_hears_of_a_change_once_it_is_committed(
    spaces: DataspaceService, put: PutDocument, events: Events
) -> None:
    heard: list[str] = []
    events.subscribe(TOPIC, lambda _topic, payload: heard.append(payload["space_id"]))
    with spaces.db.transaction() as session:
        spaces.rebuild(session, PROJECT, "manual")
        session.flush()
        assert heard == []
    assert len(heard) == 1
    document = put("a.md")
    assert heard == [document.space_id] * 2


def test_the_story_of_a_space_is_told_in_order(spaces: DataspaceService) -> None:
    with spaces.db.transaction() as session:
        row = spaces.row(session, PROJECT, "manual", lock=True)
        spaces.tell(session, row, "something happened", level="warn", data={"number": 1})
        session.flush()
        told = spaces.events(session, PROJECT, "manual").data
        assert [(event.seq, event.level, event.message) for event in told] == [
            (1, "info", "The space was made."),
            (2, "warn", "something happened"),
        ]
        assert spaces.events(session, PROJECT, "manual", after_seq=1).data == told[1:]
