"""What is kept of answers that were computed: the query, the tables and the rows, for whoever may read these now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import update
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.spaces.library import Library
from tests.kernel.gateway.spaces.test_tables import SALES_ROWS, put

from modelworks.contract.errors import NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace.proofs import Impact, Why
from modelworks.kernel.dataspace.store import DocumentRow, SpaceAnswerRow
from modelworks.kernel.gateway.spaces.tracing import Tracing

QUESTION = "What is the sum of units by region?"
SQL = 'SELECT "region", sum("units") AS "sum of units" FROM "sales" GROUP BY "region"'


class NoVersions:
    """A catalog, and what serves, where nothing is."""

    adapters = evaluations = property(lambda self: self)

    def of_versions(self, *_: Any) -> Any:
        return []

    def get_version(self, *_: Any) -> Any:
        raise NotFound("There is no such version.", hint="")

    def list(self, _session: Any, _project_id: str, limit: int | None = None) -> Any:
        return [] if limit is None else ([], None)


async def computed(stage: Stage, library: Library, question: str = QUESTION) -> str:
    """The id of an answer that is computed, once it is noted."""
    status, body, _ = await stage.post("/v1/chat/completions", library.body(question))
    assert (status, body["choices"][0]["message"]["grounding"]["status"]) == (200, "computed")
    stage.spaces.answers.flush()
    return str(body["id"])


def admin(stage: Stage) -> Principal:
    return Principal(key_id="key_admin", project_id=stage.project_id, scopes=frozenset({"admin", "read"}))


def why(stage: Stage, answer_id: str, caller: Principal | None = None) -> Why:
    nothing = cast(Any, NoVersions())
    with stage.db.reading() as session:
        return Tracing(stage.spaces, nothing, nothing, stage.blobs).why(session, caller or admin(stage), answer_id)


async def test_why_tells_the_query_the_tables_and_the_rows(stage: Stage, library: Library) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    found = why(stage, await computed(stage, library)).computed
    assert found is not None
    assert (found.state, found.by, found.sql, found.is_cut) == ("current", "rules", SQL, False)
    assert found.columns == [{"name": "region", "unit": None}, {"name": "sum of units", "unit": None}]
    assert found.rows == [["North", 8], ["South", 4]]
    [table] = found.tables
    digest = stage.blobs.put(SALES_ROWS).digest
    assert (table.name, table.num_rows, table.document_id, table.digest, table.version) == ("sales", 3, document, digest, 1)


async def test_rows_beyond_those_that_were_shown_are_not_kept(stage: Stage, library: Library) -> None:
    lines = "".join(f"r{number},{number}\n" for number in range(30))
    put(stage, library, "sales.csv", f"region,units\n{lines}".encode())
    found = why(stage, await computed(stage, library, "What is the sum of units by region?")).computed
    assert found is not None
    assert found.rows is not None
    assert (len(found.rows), found.is_cut) == (20, True)


async def test_an_answer_from_passages_has_none(stage: Stage, library: Library) -> None:
    status, body, _ = await stage.post("/v1/chat/completions", library.body("How long does the warranty of the X200 last?"))
    assert status == 200
    stage.spaces.answers.flush()
    assert why(stage, body["id"]).computed is None


async def test_rows_are_told_while_the_tables_are_what_they_were(stage: Stage, library: Library) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    answer_id = await computed(stage, library)
    assert put(stage, library, "sales.csv", SALES_ROWS.replace(b"South", b"West")) == document
    found = why(stage, answer_id).computed
    assert found is not None
    assert (found.state, found.sql, found.rows) == ("changed", SQL, None)
    assert "South" not in found.model_dump_json()


@pytest.mark.parametrize(
    "change",
    [
        {"access": ["usr_other"], "is_restricted": True},
        {"state": "removed"},
        {"num_cleaned": 2, "dropped": {"personal_data": 1}},
    ],
)
async def test_nothing_is_told_of_tables_that_the_caller_may_not_compute_from_now(
    stage: Stage, library: Library, change: dict[str, Any]
) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    answer_id = await computed(stage, library)
    with stage.db.transaction() as session:
        session.execute(update(DocumentRow).where(DocumentRow.id == document).values(**change))
    reader = replace(admin(stage), user_id="usr_x")
    found = why(stage, answer_id, reader).computed
    assert found is not None
    assert (found.state, found.sql, found.tables, found.columns, found.rows) == ("withheld", None, [], [], None)


async def test_what_is_taken_away_while_an_answer_is_told_is_not_noted(
    stage: Stage, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    waiting: list[Any] = []
    monkeypatch.setattr(stage.spaces.answers, "note", waiting.append)
    answer_id = await computed(stage, library)
    monkeypatch.undo()
    # A row of it goes: the table has another content from here on.
    assert put(stage, library, "sales.csv", SALES_ROWS.replace(b"South,Desk,4\n", b"")) == document
    for each in waiting:
        stage.spaces.answers.note(each)
    stage.spaces.answers.flush()
    with stage.db.reading() as session:
        noted = session.get_one(SpaceAnswerRow, answer_id)
        assert noted.computed is None
        assert stage.spaces.answers.num_of(session, document) == 1, "that it rests on this document is known"


def impact(stage: Stage, library: Library, document: str, caller: Principal) -> Impact:
    nothing = cast(Any, NoVersions())
    tracing = Tracing(stage.spaces, nothing, nothing, stage.blobs)
    tracing._named = lambda *_, **__: []  # type: ignore[method-assign] # nothing was made in the catalog
    with stage.db.reading() as session:
        return tracing.impact(session, caller, library.name, document)


async def test_impact_tells_what_was_computed_from_a_document_to_those_who_may_see_it(stage: Stage, library: Library) -> None:
    sales = put(stage, library, "sales.csv", SALES_ROWS)
    rooms = put(stage, library, "rooms.csv", b"room,seats\nA,3\nB,4\n")
    answer_id = await computed(stage, library)
    [told] = impact(stage, library, sales, admin(stage)).computed
    assert (told.answer_id, told.computed.sql, told.computed.rows) == (answer_id, SQL, [["North", 8], ["South", 4]])
    assert impact(stage, library, rooms, admin(stage)).computed == []
    stranger = Principal(key_id="key_other", project_id=stage.project_id, scopes=frozenset({"read"}))
    found = impact(stage, library, sales, stranger)
    assert (found.computed, found.num_answers) == ([], 1), "what others asked is theirs"
