"""Builds: when one begins, what its steps say of the documents, and what an end without an index leaves."""

from __future__ import annotations

from sqlalchemy.orm import Session
from tests.kernel.dataspace.conftest import ANN, PROJECT, PutDocument

from modelworks.contract.passages import Fault, ParsedDocument
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.dataspace import DataspaceService, SpaceDocument
from modelworks.kernel.dataspace.store import SpaceBuildRow, SpaceRow


def parsed(document: SpaceDocument, state: str = "parsed", passages: int = 2, **known: object) -> ParsedDocument:
    told = {"id": document.id, "name": document.name, "digest": document.digest, "parser": "toy", "state": state}
    return ParsedDocument.model_validate(told | {"num_passages": passages} | known)


def test_documents_that_come_together_share_a_build(spaces: DataspaceService, put: PutDocument, clock: FixedClock) -> None:
    def is_time() -> bool:
        with spaces.db.reading() as session:
            return spaces.builds.is_time(spaces.row(session, PROJECT, "manual"))

    assert not is_time()
    for number in range(20):
        put(f"{number}.md")
        waits_long = number * 0.9 >= 15
        assert is_time() is waits_long
        clock.advance(0.9)
    clock.advance(0.2)
    assert is_time()


def begun(spaces: DataspaceService) -> str:
    with spaces.db.transaction() as session:
        return spaces.builds.begin(session, spaces.row(session, PROJECT, "manual", lock=True)).id


def rows(spaces: DataspaceService, session: Session) -> tuple[SpaceRow, SpaceBuildRow]:
    row = spaces.row(session, PROJECT, "manual", lock=True)
    build = spaces.builds.running(session, row.id)
    assert build is not None
    return row, build


def test_a_build_that_ends_well_marks_what_its_index_holds(spaces: DataspaceService, put: PutDocument) -> None:
    good, broken, changing, removed = put("good.PDF"), put("broken.pdf"), put("changing.md", "old"), put("removed.md")
    begun(spaces)
    with spaces.db.reading() as session:
        told = {document.id: document for document in spaces.builds.handed_over(session, good.space_id)}
    assert told[good.id].path == f"files/{good.id}.pdf"
    assert len(told) == 4
    with spaces.db.transaction() as session:
        row, _ = rows(spaces, session)
        spaces.builds.mark_parsing(session, row, list(told))
        assert spaces.get(session, PROJECT, "manual").documents.parsing == 4
    put("changing.md", "new")
    late = put("late.md")
    with spaces.db.transaction() as session:
        spaces.documents.remove(session, PROJECT, "manual", removed.id)
    fault = Fault(code="encrypted", message="It is locked.")
    found = [
        parsed(good, num_pages=3, language="en"),
        parsed(broken, "failed", 0, faults=[fault]),
        parsed(changing),
        parsed(removed),
    ]
    with spaces.db.transaction() as session:
        row, build = rows(spaces, session)
        spaces.builds.mark_parsed(session, row, found)
        spaces.builds.finish(session, row, build, found)
        space = spaces.get(session, PROJECT, "manual")
        states = {
            document.name: (document.state, document.answers)
            for document in spaces.documents.list(session, PROJECT, "manual").data
        }
        assert states == {
            "good.PDF": ("indexed", True),
            "broken.pdf": ("failed", False),
            "changing.md": ("pending", True),
            "late.md": ("pending", False),
        }
        assert spaces.documents.get(session, PROJECT, "manual", broken.id).faults == [fault]
        assert spaces.documents.get(session, PROJECT, "manual", good.id).num_pages == 3
        # What came meanwhile is the next build's.
        assert (space.state, space.is_current) == ("pending", False)
        assert space.build is not None
        assert (space.build.state, space.build.step) == ("succeeded", "done")
        assert removed.id not in spaces.documents.records(session, ANN, "manual", [removed.id, late.id])


def test_a_build_that_fails_says_why_and_is_not_tried_again_until_something_changes(
    spaces: DataspaceService, put: PutDocument, clock: FixedClock
) -> None:
    put("one.md")
    begun(spaces)
    with spaces.db.transaction() as session:
        row, build = rows(spaces, session)
        build.step = "parsing"
        spaces.builds.fail(session, row, build, {"code": "boom", "message": "It broke."})
    clock.advance(60)
    with spaces.db.transaction() as session:
        space = spaces.get(session, PROJECT, "manual")
        assert (space.state, space.error, space.documents.pending) == ("failed", {"code": "boom", "message": "It broke."}, 1)
        assert not spaces.builds.is_time(spaces.row(session, PROJECT, "manual"))
        assert spaces.builds.due(session) == []
        spaces.rebuild(session, PROJECT, "manual")
        assert spaces.builds.is_time(spaces.row(session, PROJECT, "manual"))
        assert [build.state for build in spaces.builds.list(session, PROJECT, "manual").data] == ["failed"]
