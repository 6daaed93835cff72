"""Responses and conversations in both databases: chains, turns, ends and what is left after deleting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway import ConversationService, ResponseService
from modelworks.kernel.gateway.responses.calls import head
from modelworks.kernel.gateway.responses.items import checked
from modelworks.kernel.gateway.responses.wire import ResponseCreate
from modelworks.kernel.gateway.store import ConversationItemRow, ResponseItemRow

CALLER = Principal(key_id="key_1", project_id="prj_1", scopes=frozenset({"inference"}))


def said(role: str, text: str) -> list[dict[str, Any]]:
    return checked([{"role": role, "content": text}])


def response(number: int, status: str = "completed", **fields: Any) -> dict[str, Any]:
    asked = ResponseCreate.model_validate({"model": "tiny", "input": "?", **fields})
    made = head(asked, response_id=f"resp_{number}", created_at=0)
    return {**made, "status": status, "output": [] if status == "queued" else said("assistant", f"a{number}")}


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


def test_a_chain_is_read_from_its_beginning(database: Database, clock: FixedClock) -> None:
    service = ResponseService(database, ConversationService(database, clock), clock)
    with database.transaction() as session:
        for number in range(1, 5):
            before = {"previous_response_id": f"resp_{number - 1}"} if number > 1 else {}
            service.keep(session, CALLER, response(number, **before), said("user", f"q{number}"))
        # A branch, which the others do not see.
        service.keep(session, CALLER, response(9, previous_response_id="resp_2"), said("user", "q9"))

    def before(response_id: str) -> list[str]:
        with database.reading() as session:
            found = service.context(session, "prj_1", [], previous_response_id=response_id, conversation_id=None)
        return texts(found[0])

    assert before("resp_4") == ["q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4"]
    assert before("resp_9") == ["q1", "a1", "q2", "a2", "q9", "a9"]
    with database.transaction() as session:
        service.delete(session, "prj_1", "resp_3")
    assert before("resp_9") == ["q1", "a1", "q2", "a2", "q9", "a9"]
    with pytest.raises(InvalidRequest, match="resp_3"):
        before("resp_4")


def test_a_promised_response_is_finished_once(database: Database, clock: FixedClock) -> None:
    service = ResponseService(database, ConversationService(database, clock), clock)
    with database.transaction() as session:
        made = service.conversations.create(session, "prj_1", None, [])
        promised = response(1, "queued", conversation=made["id"], background=True)
        given = said("user", "q1")
        service.keep(session, CALLER, promised, given, asked={"model": "tiny"})
    for _ in range(2):
        with database.transaction() as session:
            service.finish(session, response(1, conversation=made["id"], background=True), given)
    with database.reading() as session:
        assert texts(service.get(session, "prj_1", "resp_1")["output"]) == ["a1"]
        assert texts(service.conversations.history(session, "prj_1", made["id"])) == ["q1", "a1"]
    with database.transaction() as session:
        assert service.cancel(session, "prj_1", "resp_1")["status"] == "completed"
        service.conversations.delete(session, "prj_1", made["id"])
        assert session.scalar(select(func.count()).select_from(ConversationItemRow)) == 0


def test_what_is_over_goes_with_its_items_and_what_waits_stays(database: Database, clock: FixedClock) -> None:
    service = ResponseService(database, ConversationService(database, clock), clock, life=timedelta(days=1))
    with database.transaction() as session:
        service.keep(session, CALLER, response(1), said("user", "q1"))
        service.keep(session, CALLER, response(2, "queued", background=True), said("user", "q2"), asked={"model": "tiny"})
    assert service.expire() == 0
    clock.advance(2 * 86_400)
    assert service.expire() == 1
    with database.reading() as session:
        assert [*session.scalars(select(ResponseItemRow.response_id))] == ["resp_2"]
        assert service.get(session, "prj_1", "resp_2")["status"] == "queued"
