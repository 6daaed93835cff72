"""A response whose model may call what the server itself calls: tools of servers elsewhere, and searches of files.

Ask, call, ask again, until it answers or a bound is met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.errors import REQUEST_ID, bug
from modelworks.kernel.gateway.generation.chat_reading import Chunk
from modelworks.kernel.gateway.metering import CLIENT_GONE, Meter, Tally, total
from modelworks.kernel.gateway.responses.events import Composer, Event, RemoteCall
from modelworks.kernel.gateway.responses.file_search import FileSearch, queries_of
from modelworks.kernel.gateway.responses.items import SEARCH, Item, remote_turns, search_turns
from modelworks.kernel.gateway.responses.remote import Remote, Toolbox
from modelworks.kernel.gateway.responses.wire import ResponseCreate, is_remote
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import Outlet

if TYPE_CHECKING:
    from modelworks.kernel.gateway.responses.calls import Reading

#: Calls of remote tools and searches in one response, where the request does not say fewer; after them the model must answer.
MAX_CALLS: Final = 32

Emit = Callable[[list[Event]], Awaitable[None]]


class Agency:
    """Makes one response. Each question to the model is a request of its own: reserved, metered and recorded by itself.

    Args:
        meter: of the response; nothing is written of it once the first question has a record.
    """

    def __init__(
        self,
        gateway: GatewayService,
        principal: Principal,
        meter: Meter,
        reading: Reading,
        asked: ResponseCreate,
        composer: Composer,
        box: Toolbox,
        search: FileSearch | None = None,
    ) -> None:
        self._gateway = gateway
        self._principal = principal
        self._meter = meter
        self._reading = reading
        self._asked = asked
        self._composer = composer
        self._box = box
        self._search = search
        self._calls_left = min(asked.max_tool_calls or MAX_CALLS, MAX_CALLS)

    async def work(self, emit: Emit, out: Outlet | None) -> Tally:
        """Ask until the model answers, needs approval, or calls functions of the caller; returns what all questions used.

        Raises:
            UpstreamFailed, PermissionDenied: a server cannot be asked for its tools, or its address must not be reached.
            ModelworksError: as the chat's route.
        """
        await self._list()
        if self._search is not None:
            await self._search.open()

        async def take(chunk: Chunk) -> None:
            # What was listed before is told now: until the model's first sign a refusal can still be a status.
            await emit([*self._composer.begin(), *self._composer.take(chunk)])

        await self._call_approved(emit)
        tallies: list[Tally] = []
        while True:
            self._offer(is_first=not tallies)
            tallies.append(await self._ask(take, out))
            calls, has_others, events = self._composer.end_round()
            await emit(events)
            if not calls:
                break
            waits = [await self._act(call, emit) for call in calls]
            if any(waits) or has_others:
                break
        return total(tallies)

    async def _list(self) -> None:
        """What the servers offer; told once in a conversation."""
        told = {item["server_label"] for item in self._reading.items if item["type"] == "mcp_list_tools"}
        for remote in self._reading.remotes:
            item = await self._box.learn(remote)
            if remote.label not in told:
                self._composer.listing(item)

    def _offer(self, *, is_first: bool) -> None:
        functions = self._box.functions() if self._calls_left > 0 else []
        if self._reading.searching is not None and self._calls_left > 0:
            functions.append(self._reading.searching.function())
        self._composer.remote = {function["function"]["name"] for function in functions}
        wanted = self._asked.tool_choice
        choice: Any = self._chosen(wanted) if is_first and functions and is_remote(wanted) else None
        if not is_first and wanted not in (None, "none"):
            choice = "auto"  # what was asked for has been done
        self._reading.offer(functions, choice)

    def _chosen(self, wanted: Any) -> dict[str, Any]:
        if wanted["type"] == SEARCH:
            return {"type": "function", "function": {"name": SEARCH}}
        return self._box.choice(wanted)

    async def _ask(self, take: Callable[[Chunk], Awaitable[None]], out: Outlet | None) -> Tally:
        outer = self._meter
        meter = self._gateway.meter(self._principal, {REQUEST_ID: outer.request_id}, outer.endpoint)
        meter.model, meter.split_by, meter.streamed = outer.model, outer.split_by, outer.streamed
        outer.leave()
        try:
            await self._reading.ask(self._gateway, meter, take, out)
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise
        except asyncio.CancelledError:
            await meter.record(CLIENT_GONE, aborted=True)
            raise
        except Exception:
            known = bug(meter.request_id)
            await meter.record(known.status, known)
            raise
        await meter.record(200)
        return total(meter.tallies)

    async def _act(self, call: RemoteCall, emit: Emit) -> bool:
        """Do what the model wants, or ask for approval; returns whether it has to wait for that."""
        if self._search is not None and call.name == SEARCH:
            await self._look(self._search, call, emit)
            return False
        found = self._box.find(call.name)
        if found is None:
            return False
        remote, tool = found
        if remote.needs_approval(tool):
            await emit(self._composer.requesting(remote.label, tool, call.arguments))
            return True
        await self._call(remote, tool, call.arguments, emit)
        return False

    async def _call(self, remote: Remote, tool: str, arguments: str, emit: Emit, request_id: str | None = None) -> None:
        begun = self._composer.begin()
        item, events = self._composer.calling(remote.label, tool, arguments, request_id)
        await emit([*begun, *events])
        output: str | None = None
        error: dict[str, Any] | None = None
        if self._calls_left > 0:
            self._calls_left -= 1
            output, error = await self._box.call(remote, tool, arguments)
        else:
            error = {"type": "mcp_protocol_error", "code": -32000, "message": "No further calls are made in this response."}
        await emit(self._composer.called(item, output, error))
        self._reading.add(remote_turns(item))

    async def _look(self, search: FileSearch, call: RemoteCall, emit: Emit) -> None:
        """One search of files. Of those beyond the bound the model is told that there are no more."""
        begun = self._composer.begin()
        item, events = self._composer.searching(queries_of(call.arguments))
        await emit([*begun, *events])
        results: list[Item] | None = None
        told, failed = "Error: No further calls are made in this response.", True
        if self._calls_left > 0:
            self._calls_left -= 1
            results, told, failed = await search.search(item["queries"])
        await emit(self._composer.searched(item, results, failed=failed))
        self._reading.add(search_turns(item, told))

    async def _call_approved(self, emit: Emit) -> None:
        """The calls that the request's own items approve of."""
        items = self._reading.items
        requests = {item["id"]: item for item in items if item["type"] == "mcp_approval_request"}
        done = {item.get("approval_request_id") for item in items if item["type"] == "mcp_call"}
        for number, item in enumerate(self._reading.given):
            if item["type"] != "mcp_approval_response" or item["approval_request_id"] in done:
                continue
            asked = requests.get(item["approval_request_id"])
            remote = None if asked is None else self._box.named(asked["server_label"], asked["name"])
            if asked is None or (remote is None and item["approve"]):
                place = f"input.{number}.approval_request_id"
                raise InvalidRequest(
                    f"{place}: there is no such request, or its server and tool are not among tools.",
                    hint="Go on from the response that holds the request (previous_response_id), with the same tools.",
                    param=place,
                    code="invalid_value",
                )
            if item["approve"] and remote is not None:
                done.add(asked["id"])
                await self._call(remote, asked["name"], asked["arguments"], emit, asked["id"])
