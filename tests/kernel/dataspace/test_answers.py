"""What answers rest on: noted, read by those who may, forgotten in time; and what is left of a forgotten document's row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.kernel.dataspace.conftest import ANN, BEN, EVE, PROJECT, PutDocument

from modelworks.contract.errors import NotFound
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.dataspace import DataspaceService, SpaceDocument
from modelworks.kernel.dataspace.answers import AnswerNote, CitedPassage
from modelworks.kernel.dataspace.documents import FORGOTTEN
from modelworks.kernel.dataspace.store import DocumentRow


def note(spaces: DataspaceService, document: SpaceDocument, number: int = 1, *, keep_days: float = 1.0) -> str:
    answer_id = f"chatcmpl_{number}"
    spaces.answers.note(
        AnswerNote(
            id=answer_id,
            space_id=document.space_id,
            project_id=PROJECT,
            key_id=ANN.key_id,
            user_id=ANN.user_id,
            request_id=f"req_{number}",
            status="quoted",
            index_version_id="mdl_1",
            model=None,
            model_version_id=None,
            keep_days=keep_days,
            passages=(
                CitedPassage(f"{document.id}:0", document.id, document.digest, document.version),
                CitedPassage(f"{document.id}:0", document.id, document.digest, document.version),
            ),
        )
    )
    spaces.answers.flush()
    return answer_id


def test_an_answer_is_found_by_either_id_by_its_asker_and_by_administrators(spaces: DataspaceService, put: PutDocument) -> None:
    document = put("a.md")
    answer_id = note(spaces, document)
    admin = replace(BEN, scopes=frozenset({"admin"}))
    same_person = replace(ANN, key_id="key_other")
    with spaces.db.reading() as session:
        for caller in (ANN, same_person, admin):
            for ref in (answer_id, "req_1"):
                row, (cited,) = spaces.answers.find(session, caller, ref)
                assert (row.id, row.status, cited.document_id) == (answer_id, "quoted", document.id)
                assert (cited.document_digest, cited.document_version) == (document.digest, 1)
        for caller in (BEN, EVE):
            with pytest.raises(NotFound):
                spaces.answers.find(session, caller, answer_id)


def test_a_note_ends_in_time_and_where_nothing_is_to_be_kept_there_is_none(
    spaces: DataspaceService, put: PutDocument, clock: FixedClock
) -> None:
    document = put("a.md")
    answer_id = note(spaces, document)
    unkept = note(spaces, document, 2, keep_days=0)
    clock.advance(86401)
    with spaces.db.reading() as session:
        for each in (answer_id, unkept):
            with pytest.raises(NotFound):
                spaces.answers.find(session, ANN, each)
        assert spaces.answers.num_of(session, document.id) == 1, "the row is there still"
    note(spaces, document, 3)
    with spaces.db.reading() as session:
        assert spaces.answers.num_of(session, document.id) == 1, "the old one went with the next"
        assert spaces.answers.find(session, ANN, "chatcmpl_3")[0].id == "chatcmpl_3"


def test_one_note_that_cannot_be_written_takes_no_other_with_it(spaces: DataspaceService, put: PutDocument) -> None:
    document = put("a.md")
    note(spaces, document)
    note(spaces, document)  # the same id again
    note(spaces, document, 2)
    with spaces.db.reading() as session:
        assert spaces.answers.num_of(session, document.id) == 2


def test_of_a_forgotten_document_its_row_says_nothing_and_its_source_does_not_bring_it_back(
    spaces: DataspaceService, put: PutDocument
) -> None:
    document = put("a.md", source_id="src_1", key="folder/a.md", owner="Ann", licence="MIT", attributes={"topic": "x"})
    with spaces.db.transaction() as session:
        owner = spaces.row(session, PROJECT, "manual", lock=True)
        revision = owner.revision
        for _ in range(2):
            spaces.documents.forget(session, owner, document.id)
        assert owner.revision == revision + 1
        row = session.get_one(DocumentRow, document.id)
        assert (row.name, row.owner, row.licence, row.attributes) == (FORGOTTEN, None, None, {})
        assert row.key.startswith("forgotten:")
        assert "folder" not in row.key
    answer_id = note(spaces, document)
    again = put("a.md", source_id="src_1", key="folder/a.md")
    assert (again.id, again.state) == (document.id, "removed")
    assert put("a.md", source_id="src_2", key="folder/a.md").state == "pending"
    assert put("a.md").state == "pending", "a person has decided so"
    with spaces.db.reading() as session, pytest.raises(NotFound):
        spaces.answers.find(session, ANN, answer_id)
