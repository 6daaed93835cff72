"""`/v1/conversations`: OpenAI's routes over `ConversationService`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import UnsupportedParameter
from modelworks.kernel.gateway.answers.form import Page, gives
from modelworks.kernel.gateway.answers.responses import Conversation
from modelworks.kernel.gateway.answers.responses import Item as ItemForm
from modelworks.kernel.gateway.answers.stored import Deleted
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.responses.conversations import ConversationService
from modelworks.kernel.gateway.responses.items import Item, checked, references
from modelworks.kernel.gateway.responses.routes import ItemQuery, page_of_items
from modelworks.kernel.gateway.responses.wire import ConversationCreate, ConversationUpdate, ItemsCreate
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object

_CONVERSATIONS = "/v1/conversations"
_CONVERSATION = _CONVERSATIONS + "/{conversation_id}"
_ITEMS = _CONVERSATION + "/items"
_ITEM = _ITEMS + "/{item_id}"


def router(gateway: GatewayService, conversations: ConversationService) -> APIRouter:
    """The routes of conversations; all need the scope "inference", as the responses that write them do."""
    found = APIRouter(route_class=PlainRoute, tags=["Conversations"])
    door = _Door(gateway, conversations)
    _conversations(found, door)
    _items(found, door)
    return found


class _Door:
    """Checks the key, and opens the one transaction of a request."""

    def __init__(self, gateway: GatewayService, conversations: ConversationService) -> None:
        self._gateway = gateway
        self.conversations = conversations

    async def look(self, request: Request, what: Callable[..., dict[str, Any]], **more: Any) -> Response:
        """Answer with what is read; `what` gets the session, the project and the ids in the path."""
        caller = await self._gateway.caller(request.scope)

        def read() -> dict[str, Any]:
            with self.conversations.db.reading() as session:
                return what(session, caller.project_id, *_ids(request), **more)

        return answer(await run_in_threadpool(read))

    async def change(self, request: Request, what: Callable[..., dict[str, Any]], *more: Any) -> Response:
        """Answer with what was written."""
        caller = await self._gateway.caller(request.scope)

        def write() -> dict[str, Any]:
            with self.conversations.db.transaction() as session:
                return what(session, caller.project_id, *_ids(request), *more)

        return answer(await run_in_threadpool(write))


def _conversations(found: APIRouter, door: _Door) -> None:
    conversations = door.conversations

    @found.post(
        _CONVERSATIONS,
        summary="Begin a conversation",
        openapi_extra=described(inline_schema(ConversationCreate)),
        responses=gives(Conversation),
    )
    async def create_conversation(request: Request) -> Response:
        raw = await request.body()
        asked = parse(ConversationCreate, json_object(raw) if raw else {})
        return await door.change(request, conversations.create, asked.metadata, _own(asked.items or []))

    @found.get(
        _CONVERSATION, summary="One conversation", openapi_extra=_in_path("conversation_id"), responses=gives(Conversation)
    )
    async def retrieve_conversation(request: Request) -> Response:
        return await door.look(request, conversations.get)

    @found.post(
        _CONVERSATION,
        summary="Change a conversation's metadata",
        openapi_extra={**_in_path("conversation_id"), **described(inline_schema(ConversationUpdate))},
        responses=gives(Conversation),
    )
    async def update_conversation(request: Request) -> Response:
        asked = parse(ConversationUpdate, json_object(await request.body()))
        return await door.change(request, conversations.update, asked.metadata)

    @found.delete(
        _CONVERSATION, summary="Delete a conversation", openapi_extra=_in_path("conversation_id"), responses=gives(Deleted)
    )
    async def delete_conversation(request: Request) -> Response:
        return await door.change(request, conversations.delete)


def _items(found: APIRouter, door: _Door) -> None:
    conversations = door.conversations

    @found.post(
        _ITEMS,
        summary="Add items to a conversation",
        openapi_extra={**_in_path("conversation_id"), **described(inline_schema(ItemsCreate))},
        responses=gives(Page[ItemForm]),
    )
    async def create_items(request: Request) -> Response:
        items = _own(parse(ItemsCreate, json_object(await request.body())).items)

        def add(session: Session, project_id: str, conversation_id: str) -> dict[str, Any]:
            kept = conversations.add(session, project_id, conversation_id, items)
            return {
                "object": "list",
                "data": kept,
                "has_more": False,
                "first_id": kept[0]["id"],
                "last_id": kept[-1]["id"],
            }

        return await door.change(request, add)

    @found.get(
        _ITEMS,
        summary="List the items of a conversation",
        openapi_extra=_in_path("conversation_id", query=ItemQuery),
        responses=gives(Page[ItemForm]),
    )
    async def list_items(request: Request) -> Response:
        page = page_of_items(request)
        return await door.look(request, lambda *who, **page: conversations.list(*who, **page).wire(), **page)

    @found.get(
        _ITEM,
        summary="One item of a conversation",
        openapi_extra=_in_path("conversation_id", "item_id"),
        responses=gives(ItemForm),
    )
    async def retrieve_item(request: Request) -> Response:
        return await door.look(request, conversations.item)

    @found.delete(
        _ITEM,
        summary="Take an item out of a conversation",
        openapi_extra=_in_path("conversation_id", "item_id"),
        responses=gives(Conversation),
    )
    async def delete_item(request: Request) -> Response:
        return await door.change(request, conversations.remove)


def _own(items: list[Item]) -> list[Item]:
    """Items that are kept as they are; raises as `checked`, and for references, which a conversation does not hold."""
    found = checked(items, "items")
    if references(found):
        raise UnsupportedParameter(
            "items: an item_reference cannot be put into a conversation.", hint="Send the item itself.", param="items"
        )
    return found


def _ids(request: Request) -> list[str]:
    return [request.path_params[name] for name in ("conversation_id", "item_id") if name in request.path_params]


def _in_path(*names: str, query: type[BaseModel] | None = None) -> dict[str, Any]:
    parameters = [parameter for name in names for parameter in in_path(name)["parameters"]]
    return {"parameters": parameters + (query_of(query)["parameters"] if query is not None else [])}
