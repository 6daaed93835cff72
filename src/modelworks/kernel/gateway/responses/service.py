"""Responses that are kept: what they were given, what they gave, and what they go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, insert, literal, select
from sqlalchemy.orm import Session, aliased

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway.evals.service import Order
from modelworks.kernel.gateway.files.service import Listing
from modelworks.kernel.gateway.mcp.register import ToolRegister
from modelworks.kernel.gateway.mcp.servers import ToolServers
from modelworks.kernel.gateway.responses.conversations import ConversationService
from modelworks.kernel.gateway.responses.items import REFERENCE, Item
from modelworks.kernel.gateway.store import ConversationItemRow, ResponseItemRow, ResponseRow

#: States of a response in which the server still has to do something.
OPEN: Final = ("queued", "in_progress")
#: States from which a conversation can go on.
_ANSWERED: Final = ("completed", "incomplete")
_BATCH: Final = 500


class ResponseService:
    """Responses of a project; those of others do not exist for it. Methods with a `session` take part in its transaction.

    Args:
        life: how long a response is kept.
        wake: called after a commit that leaves something to do in the background.
        tool_servers: asks tool servers elsewhere; without it those on the public network alone.
        register: the tool servers that projects name; without it there are none.
    """

    def __init__(
        self,
        db: Database,
        conversations: ConversationService,
        clock: Clock,
        *,
        life: timedelta = timedelta(days=30),
        wake: Callable[[], None] = lambda: None,
        tool_servers: ToolServers | None = None,
        register: ToolRegister | None = None,
    ) -> None:
        self.db = db
        self.conversations = conversations
        self.tool_servers = tool_servers or ToolServers()
        self.register = register
        self.clock = clock
        self.wake = wake
        self._life = life

    # -- context ---------------------------------------------------------------------------------------------------------

    def context(
        self,
        session: Session,
        project_id: str,
        items: Sequence[Item],
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
    ) -> tuple[list[Item], list[Item]]:
        """What precedes a request's items, and these with every reference resolved.

        Raises:
            NotFound: no such response, conversation or item.
            InvalidRequest: the response that is gone on from is not over, or what it stands on has been deleted.
        """
        before: list[Item] = []
        if previous_response_id is not None:
            before = self._chain(session, project_id, previous_response_id)
        elif conversation_id is not None:
            before = self.conversations.history(session, project_id, conversation_id)
        return before, [self._resolved(session, project_id, item, number, before) for number, item in enumerate(items)]

    def _chain(self, session: Session, project_id: str, response_id: str) -> list[Item]:
        """The items of a response and of all that it goes on from, the oldest first."""
        row = self.row(session, project_id, response_id, param="previous_response_id")
        if row.state not in _ANSWERED:
            raise InvalidRequest(
                f"The response {response_id} is {row.state}: nothing can go on from it.",
                hint="Wait until it is completed, or start anew.",
                param="previous_response_id",
                code="response_not_over",
            )
        chain = (
            select(ResponseRow.id, ResponseRow.previous_response_id, literal(0).label("depth"))
            .where(ResponseRow.id == row.id)
            .cte("chain", recursive=True)
        )
        older = aliased(ResponseRow)
        chain = chain.union_all(
            select(older.id, older.previous_response_id, chain.c.depth + 1).where(
                older.id == chain.c.previous_response_id,
                older.project_id == project_id,
                older.expires_at > self.clock.now(),
            )
        )
        ids = [*session.execute(select(chain.c.id, chain.c.previous_response_id).order_by(chain.c.depth.desc())).tuples()]
        if ids[0][1] is not None:
            raise InvalidRequest(
                f"The response {ids[0][1]}, which {response_id} stands on, was deleted or has expired.",
                hint="Send the whole conversation as input, or use /v1/conversations.",
                param="previous_response_id",
                code="response_not_found",
            )
        items: dict[str, list[Item]] = {found: [] for found, _ in ids}
        wanted = list(items)
        for start in range(0, len(wanted), _BATCH):
            query = select(ResponseItemRow.response_id, ResponseItemRow.item).where(
                ResponseItemRow.response_id.in_(wanted[start : start + _BATCH])
            )
            for found, item in session.execute(query.order_by(ResponseItemRow.seq)).tuples():
                items[found].append(item)
        return [item for each in items.values() for item in each]

    def _resolved(self, session: Session, project_id: str, item: Item, number: int, before: Sequence[Item]) -> Item:
        if item["type"] != REFERENCE:
            return item
        wanted = item["id"]
        found = next((each for each in before if each["id"] == wanted), None)
        for table in (ResponseItemRow, ConversationItemRow):
            if found is None:
                query = select(table.item).where(table.project_id == project_id, table.id == wanted)
                found = session.scalar(query.limit(1))
        if found is None:
            raise NotFound(
                f"input.{number}: there is no item {wanted[:80]!r}.",
                hint="Send the item itself: only items of stored responses and conversations can be referred to.",
                param=f"input.{number}.id",
                code="item_not_found",
            )
        return found

    # -- keeping ---------------------------------------------------------------------------------------------------------

    def keep(
        self,
        session: Session,
        caller: Principal,
        response: Mapping[str, Any],
        given: Sequence[Item],
        *,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Store a response with the items that it was given; with `asked` it is one that is still to be answered."""
        now = self.clock.now()
        session.execute(
            insert(ResponseRow).values(
                id=response["id"],
                project_id=caller.project_id,
                key_id=caller.key_id,
                state=response["status"],
                background=bool(response["background"]),
                previous_response_id=response["previous_response_id"],
                asked=None if asked is None else dict(asked),
                body=_without_output(response),
                created_at=now,
                expires_at=now + self._life,
            )
        )
        self._keep_items(session, caller.project_id, response["id"], given, 0, is_output=False)
        self._keep_items(session, caller.project_id, response["id"], response["output"], len(given), is_output=True)

    def finish(self, session: Session, response: Mapping[str, Any], given: Sequence[Item]) -> None:
        """Store what became of a response that was promised, with its turn in the conversation.

        Nothing happens where it is over already or was deleted.
        """
        query = select(ResponseRow).where(ResponseRow.id == response["id"], ResponseRow.state.in_(OPEN))
        row = session.scalar(query.with_for_update())
        if row is None:
            return
        row.state, row.asked, row.body = response["status"], None, _without_output(response)
        self._keep_items(session, row.project_id, row.id, response["output"], len(given), is_output=True)
        self.append_turn(session, row.project_id, response, given)

    def cancel(self, session: Session, project_id: str, response_id: str) -> dict[str, Any]:
        """Stop a response in the background; one that is over stays as it is.

        Raises:
            NotFound: no such response. InvalidRequest: its caller waits for it, and ends it by closing the connection.
        """
        row = self.row(session, project_id, response_id, lock=True)
        if not row.background:
            raise InvalidRequest(
                f"The response {response_id} was not made in the background.",
                hint="Only responses made with background=true can be cancelled.",
                param="response_id",
                code="not_in_background",
            )
        if row.state in OPEN:
            row.state, row.asked, row.body = "cancelled", None, {**row.body, "status": "cancelled"}
        return self.show(session, row)

    def append_turn(self, session: Session, project_id: str, response: Mapping[str, Any], given: Sequence[Item]) -> None:
        """Add a response's turn to its conversation; one that was deleted in the meantime stays so."""
        if response["conversation"] is not None and response["status"] in _ANSWERED:
            try:
                self.conversations.add(session, project_id, response["conversation"]["id"], [*given, *response["output"]])
            except NotFound:
                return

    def _keep_items(
        self, session: Session, project_id: str, response_id: str, items: Sequence[Item], first: int, *, is_output: bool
    ) -> None:
        if items:
            session.execute(
                insert(ResponseItemRow),
                [
                    {
                        "response_id": response_id,
                        "seq": seq,
                        "project_id": project_id,
                        "id": item["id"],
                        "is_output": is_output,
                        "item": item,
                    }
                    for seq, item in enumerate(items, first)
                ],
            )

    # -- reading and deleting --------------------------------------------------------------------------------------------

    def get(self, session: Session, project_id: str, response_id: str) -> dict[str, Any]:
        """One response; raises NotFound."""
        return self.show(session, self.row(session, project_id, response_id))

    def is_to_be_told(self, session: Session, project_id: str, response_id: str) -> bool:
        """Whether a response in the background is under way, or waits, and its events are told meanwhile; raises NotFound."""
        row = self.row(session, project_id, response_id)
        return row.asked is not None and bool(row.asked.get("stream"))

    def show(self, session: Session, row: ResponseRow) -> dict[str, Any]:
        """OpenAI's response object of a row."""
        query = select(ResponseItemRow.item).where(ResponseItemRow.response_id == row.id, ResponseItemRow.is_output)
        return {**row.body, "output": [*session.scalars(query.order_by(ResponseItemRow.seq))]}

    def delete(self, session: Session, project_id: str, response_id: str) -> dict[str, Any]:
        """Forget a response; one under way stops. What goes on from it cannot go on any more. Raises NotFound."""
        row = self.row(session, project_id, response_id)
        session.execute(delete(ResponseItemRow).where(ResponseItemRow.response_id == row.id))
        session.execute(delete(ResponseRow).where(ResponseRow.id == row.id))
        return {"id": response_id, "object": "response.deleted", "deleted": True}

    def given(
        self, session: Session, project_id: str, response_id: str, *, after: str | None, limit: int, order: Order
    ) -> Listing:
        """The items of the request itself, not of what it goes on from; raises NotFound where `after` is none of them."""
        row = self.row(session, project_id, response_id)
        query = select(ResponseItemRow).where(ResponseItemRow.response_id == row.id, ~ResponseItemRow.is_output)
        seq = ResponseItemRow.seq
        if after is not None:
            last = session.scalar(query.where(ResponseItemRow.id == after).limit(1))
            if last is None:
                raise NotFound(
                    f"after: the response {response_id} was not given an item {after[:80]!r}.",
                    hint="Take the last id of the page before.",
                    param="after",
                    code="item_not_found",
                )
            query = query.where(seq > last.seq if order == "asc" else seq < last.seq)
        rows = [*session.scalars(query.order_by(seq if order == "asc" else seq.desc()).limit(limit + 1))]
        return Listing([each.item for each in rows[:limit]], len(rows) > limit)

    def expire(self) -> int:
        """Delete the responses whose time is over; returns how many there were."""
        deleted = 0
        while True:
            # A few at a time: other writers wait for milliseconds.
            with self.db.transaction() as session:
                query = select(ResponseRow.id).where(ResponseRow.expires_at <= self.clock.now(), ResponseRow.state.not_in(OPEN))
                over = [*session.scalars(query.limit(_BATCH))]
                session.execute(delete(ResponseItemRow).where(ResponseItemRow.response_id.in_(over)))
                session.execute(delete(ResponseRow).where(ResponseRow.id.in_(over)))
            deleted += len(over)
            if len(over) < _BATCH:
                return deleted

    def row(
        self, session: Session, project_id: str, response_id: str, *, param: str = "response_id", lock: bool = False
    ) -> ResponseRow:
        """The row of a response of this project; raises NotFound where there is none, or its time is over."""
        query = select(ResponseRow).where(
            ResponseRow.id == response_id,
            ResponseRow.project_id == project_id,
            (ResponseRow.expires_at > self.clock.now()) | ResponseRow.state.in_(OPEN),
        )
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                f"There is no response {response_id[:80]!r}.",
                hint="Responses are kept for a while, unless they were made with store=false.",
                param=param,
                code="response_not_found",
            )
        return row


def _without_output(response: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in response.items() if key != "output"}
