"""What a chat answers, told as a response: its items, and the events in the order that OpenAI's client insists on.

created → in_progress → for each item: output_item.added → its content → output_item.done → completed, incomplete or failed.
A text is content_part.added → output_text.delta … → output_text.done → content_part.done; a call is
function_call_arguments.delta … → function_call_arguments.done. The streamed and the stored response are one object: their ids
are the same. Source: the client's own state machine, and OpenAI's reference of streaming events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import orjson

from modelworks.contract.errors import InvalidRequest, ModelworksError, RateLimited
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.responses.items import PREFIXES, Item

Event = dict[str, Any]
Status = Literal["completed", "incomplete", "failed", "cancelled"]
_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Cites(Protocol):
    """Finds annotations of a text, as it is written; `file_search.Citer`."""

    def take(self, piece: str) -> list[dict[str, Any]]:
        """Those of the text so far that were not told."""
        ...

    def end(self) -> list[dict[str, Any]]:
        """The last ones; another text follows."""
        ...


@dataclass(slots=True)
class RemoteCall:
    """A call of a tool that the server itself calls, as the model wrote it: the function's name and the arguments as JSON."""

    name: str
    arguments: str = ""


class Composer:
    """Makes one response from the chunks of a chat, or of several one after the other.

    Args:
        head: the response object but for what the answer decides: output, usage, status and error.
        custom: names of the tools whose input is plain text.
        citer: finds what the texts cite; without it only what the chat itself says.
    """

    def __init__(self, head: Mapping[str, Any], *, custom: frozenset[str] = frozenset(), citer: Cites | None = None) -> None:
        self._head = head
        self._custom = custom
        self._citer = citer
        #: Names of functions that the server itself calls: their calls are gathered, and told when they are made.
        self.remote: Collection[str] = ()
        self._remote_calls: dict[int, RemoteCall] = {}
        self._sequence = 0
        self._events: list[Event] = []
        self.output: list[Item] = []
        #: The place of the item that text or thoughts are being added to.
        self._open: int | None = None
        #: Places of the calls under way, by the chat's index.
        self._calls: dict[int, int] = {}
        #: What was added to the last part of that item, and to each call by its place; joined when they end.
        self._pieces: list[str] = []
        self._entries: list[dict[str, Any]] = []
        self._arguments: dict[int, list[str]] = {}
        self._annotations: list[dict[str, Any]] = []
        self._finish: str | None = None
        #: How a data space came to its answer.
        self._grounding: Mapping[str, Any] | None = None
        self.begun = False

    # -- the whole -------------------------------------------------------------------------------------------------------

    def begin(self, *, queued: bool = False) -> list[Event]:
        """The events before the first item."""
        self._begin("queued" if queued else "in_progress")
        return self._taken()

    def _begin(self, status: Literal["queued", "in_progress"] = "in_progress") -> None:
        if not self.begun:
            self.begun = True
            self._emit("response.created", response=self.response(status))
            self._emit(f"response.{status}", response=self.response(status))

    def go_on(self) -> list[Event]:
        """A response that was queued is worked on."""
        self._emit("response.in_progress", response=self.response("in_progress"))
        return self._taken()

    def take(self, chunk: Mapping[str, Any]) -> list[Event]:
        """One `chat.completion.chunk`."""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                self._think(thought)
            entries = (choice.get("logprobs") or {}).get("content")
            if (text := delta.get("content")) or entries:
                self._write(text or "", entries or [])
            if refusal := delta.get("refusal"):
                self._refuse(refusal)
            for annotation in delta.get("annotations") or ():
                self._annotate(annotation)
            self._grounding = delta.get("grounding") or self._grounding
            for call in delta.get("tool_calls") or ():
                self._call(call)
            self._finish = choice.get("finish_reason") or self._finish
        return self._taken()

    def complete(self, usage: Mapping[str, Any], completed_at: int) -> tuple[dict[str, Any], list[Event]]:
        """The final response and the events that lead to it.

        Args:
            usage: OpenAI's usage object of the chat.
            completed_at: Unix seconds.
        """
        self._begin()
        if not self.output:
            # An answer without a token is an empty text, not an answer without a message.
            self._write("", [])
        reason = _REASONS.get(self._finish or "")
        status: Status = "completed" if reason is None else "incomplete"
        self._close(status)
        for place in self._calls.values():
            self._close_call(place, status)
        found = self.response(
            status,
            usage=as_usage(usage),
            completed_at=completed_at if reason is None else None,
            incomplete_details=None if reason is None else {"reason": reason},
        )
        self._emit(f"response.{status}", response=found)
        return found, self._taken()

    def fail(self, error: ModelworksError) -> tuple[dict[str, Any], list[Event]]:
        """The failed response and its event. Items under way stay as far as they came."""
        self._begin()
        self._settle()
        for place in self._calls.values():
            self._settle_call(place)
        for item in self.output:
            if item.get("status") == "in_progress":
                item["status"] = "incomplete"
        found = self.response("failed", error=as_error(error))
        self._emit("response.failed", response=found)
        return found, self._taken()

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        """The response object as it stands."""
        found = {**self._head, "status": status, "output": [{**item} for item in self.output], **more}
        if self._grounding is not None:
            found["grounding"] = self._grounding
        return found

    def _emit(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # -- tools of servers elsewhere --------------------------------------------------------------------------------------

    def end_round(self) -> tuple[list[RemoteCall], bool, list[Event]]:
        """The calls of remote tools that a chat ended with, whether it called others too, and the events that end its items.

        Without such calls nothing ends: `complete` follows. Calls that were cut for their length are not made.
        """
        if not self._remote_calls or self._finish in _REASONS:
            self._remote_calls = {}
            return [], False, []
        calls, self._remote_calls = [*self._remote_calls.values()], {}
        self._close("completed")
        for place in self._calls.values():
            self._close_call(place, "completed")
        has_others = bool(self._calls)
        self._calls, self._finish = {}, None
        return calls, has_others, self._taken()

    def listing(self, item: Item) -> None:
        """The tools of a server, as an item; its events are told with the next ones."""
        self._begin()
        place = self._add({"id": new_id("mcpl"), "type": "mcp_list_tools", **item, "tools": []})
        self._emit("response.mcp_list_tools.in_progress", **self._at(place))
        self._emit("response.mcp_list_tools.completed", **self._at(place))
        self.output[place]["tools"] = item["tools"]
        self._emit("response.output_item.done", output_index=place, item={**self.output[place]})

    def requesting(self, label: str, name: str, arguments: str) -> list[Event]:
        """A call that waits for approval."""
        item = {"id": new_id("mcpr"), "type": "mcp_approval_request", "server_label": label, "name": name}
        place = self._add({**item, "arguments": arguments})
        self._emit("response.output_item.done", output_index=place, item={**self.output[place]})
        return self._taken()

    def calling(self, label: str, name: str, arguments: str, request_id: str | None = None) -> tuple[Item, list[Event]]:
        """A call that is about to be made; the item is one of the response's, ended by `called`."""
        item: Item = {"id": new_id("mcp"), "type": "mcp_call", "status": "in_progress", "server_label": label, "name": name}
        place = self._add({**item, "arguments": "", "output": None, "error": None, "approval_request_id": request_id})
        self._emit("response.mcp_call_arguments.delta", **self._at(place), delta=arguments)
        self._emit("response.mcp_call_arguments.done", **self._at(place), arguments=arguments)
        self.output[place]["arguments"] = arguments
        self._emit("response.mcp_call.in_progress", **self._at(place))
        return self.output[place], self._taken()

    def called(self, item: Item, output: str | None, error: dict[str, Any] | None) -> list[Event]:
        """What the call gave."""
        place = next(at for at, each in enumerate(self.output) if each is item)
        item |= {"output": output, "error": error}
        self._emit(f"response.mcp_call.{'completed' if error is None else 'failed'}", **self._at(place))
        self._done(place, "completed" if error is None else "failed")
        return self._taken()

    def searching(self, queries: list[str]) -> tuple[Item, list[Event]]:
        """A search of files that is about to be made; the item is one of the response's, ended by `searched`."""
        item: Item = {"id": new_id("fs"), "type": "file_search_call", "status": "in_progress"}
        place = self._add({**item, "queries": queries, "results": None})
        self._emit("response.file_search_call.in_progress", **self._at(place))
        self._emit("response.file_search_call.searching", **self._at(place))
        return self.output[place], self._taken()

    def searched(self, item: Item, results: list[Item] | None, *, failed: bool) -> list[Event]:
        """What the search gave; OpenAI has no event for one that failed: its item says so."""
        place = next(at for at, each in enumerate(self.output) if each is item)
        item["results"] = results
        if not failed:
            self._emit("response.file_search_call.completed", **self._at(place))
        self._done(place, "failed" if failed else "completed")
        return self._taken()

    # -- items -----------------------------------------------------------------------------------------------------------

    def _add(self, item: Item) -> int:
        place = len(self.output)
        self.output.append(item)
        self._emit("response.output_item.added", output_index=place, item={**item})
        return place

    def _at(self, place: int) -> dict[str, Any]:
        return {"item_id": self.output[place]["id"], "output_index": place}

    def _in_part(self, place: int) -> dict[str, Any]:
        return {**self._at(place), "content_index": len(self.output[place]["content"]) - 1}

    def _done(self, place: int, status: Status) -> None:
        item = self.output[place]
        item["status"] = status
        self._emit("response.output_item.done", output_index=place, item={**item})

    def _opened(self, kind: str, part_type: str) -> int:
        """The item of that kind with a last part of that type, made where it is not there yet."""
        if self._open is not None and self.output[self._open]["type"] != kind:
            self._close("completed")
        if self._open is None:
            item: Item = {"id": new_id(PREFIXES[kind]), "type": kind, "status": "in_progress"}
            own: Item = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
            self._open = self._add({**item, **own, "content": []})
        parts = self.output[self._open]["content"]
        if parts and parts[-1]["type"] != part_type:
            self._close_part()
            parts = self.output[self._open]["content"]
        if not parts or parts[-1]["type"] != part_type:
            part: dict[str, Any] = {"type": part_type, "refusal" if part_type == "refusal" else "text": ""}
            if part_type == "output_text":
                part |= {"annotations": [], "logprobs": []}
            self.output[self._open]["content"] = [*parts, part]
            self._emit("response.content_part.added", **self._at(self._open), content_index=len(parts), part=part)
        return self._open

    def _think(self, text: str) -> None:
        place = self._opened("reasoning", "reasoning_text")
        self._pieces.append(text)
        self._emit("response.reasoning_text.delta", **self._in_part(place), delta=text)

    def _write(self, text: str, entries: list[dict[str, Any]]) -> None:
        place = self._opened("message", "output_text")
        self._pieces.append(text)
        self._entries.extend(entries)
        if text or entries:
            self._emit("response.output_text.delta", **self._in_part(place), delta=text, logprobs=entries)
        if self._citer is not None:
            for annotation in self._citer.take(text):
                self._annotate(annotation)

    def _annotate(self, annotation: Mapping[str, Any]) -> None:
        """An annotation of the text so far; what a chat has in a field of its type's name, a response has beside the type."""
        kind = annotation.get("type")
        within = annotation.get(str(kind))
        flat = {"type": kind, **within} if isinstance(within, Mapping) else dict(annotation)
        place = self._opened("message", "output_text")
        number = len(self._annotations)
        self._annotations.append(flat)
        event = "response.output_text.annotation.added"
        self._emit(event, **self._in_part(place), annotation_index=number, annotation=flat)

    def _refuse(self, text: str) -> None:
        place = self._opened("message", "refusal")
        self._pieces.append(text)
        self._emit("response.refusal.delta", **self._in_part(place), delta=text)

    def _settle(self) -> None:
        """Write what was added to the last part into it."""
        if self._open is None:
            return
        *before, last = self.output[self._open]["content"]
        field = "refusal" if last["type"] == "refusal" else "text"
        last = {**last, field: "".join(self._pieces)}
        if last["type"] == "output_text":
            last["logprobs"] = self._entries
            last["annotations"] = self._annotations
        # Parts are replaced, never changed: events made before hold the earlier ones.
        self.output[self._open]["content"] = [*before, last]
        self._pieces, self._entries, self._annotations = [], [], []

    def _close_part(self) -> None:
        assert self._open is not None  # noqa: S101 - only called with an item open
        if self._citer is not None and self.output[self._open]["content"][-1]["type"] == "output_text":
            for annotation in self._citer.end():
                self._annotate(annotation)
        self._settle()
        where = self._in_part(self._open)
        part = self.output[self._open]["content"][-1]
        if part["type"] == "output_text":
            self._emit("response.output_text.done", **where, text=part["text"], logprobs=part["logprobs"])
        elif part["type"] == "refusal":
            self._emit("response.refusal.done", **where, refusal=part["refusal"])
        else:
            self._emit("response.reasoning_text.done", **where, text=part["text"])
        self._emit("response.content_part.done", **where, part=part)

    def _close(self, status: Status) -> None:
        """End the text or the thoughts under way."""
        if self._open is not None:
            self._close_part()
            place, self._open = self._open, None
            self._done(place, status)

    # -- calls -----------------------------------------------------------------------------------------------------------

    def _call(self, call: Mapping[str, Any]) -> None:
        number = call.get("index") or 0
        function = call.get("function") or {}
        if number not in self._calls and function.get("name") in self.remote:
            self._close("completed")
            self._remote_calls[number] = RemoteCall(function["name"])
        if number in self._remote_calls:
            self._remote_calls[number].arguments += function.get("arguments") or ""
            return
        if number not in self._calls:
            self._close("completed")
            name = function.get("name") or ""
            kind = "custom_tool_call" if name in self._custom else "function_call"
            item: Item = {
                "id": new_id(PREFIXES[kind]),
                "type": kind,
                "status": "in_progress",
                "call_id": call.get("id") or new_id("call"),
                "name": name,
                "input" if kind == "custom_tool_call" else "arguments": "",
            }
            self._calls[number] = self._add(item)
            self._arguments[self._calls[number]] = []
        if piece := function.get("arguments"):
            self._add_arguments(self._calls[number], piece)

    def _add_arguments(self, place: int, piece: str) -> None:
        self._arguments[place].append(piece)
        # A custom tool's text lies inside of a JSON string, which is opened when it is whole.
        if self.output[place]["type"] == "function_call":
            self._emit("response.function_call_arguments.delta", **self._at(place), delta=piece)

    def _settle_call(self, place: int) -> str:
        item, arguments = self.output[place], "".join(self._arguments[place])
        if item["type"] == "function_call":
            item["arguments"] = arguments
            return arguments
        item["input"] = _plain_input(arguments)
        return str(item["input"])

    def _close_call(self, place: int, status: Status) -> None:
        found = self._settle_call(place)
        if self.output[place]["type"] == "custom_tool_call":
            self._emit("response.custom_tool_call_input.delta", **self._at(place), delta=found)
            self._emit("response.custom_tool_call_input.done", **self._at(place), input=found)
        else:
            name = self.output[place]["name"]
            self._emit("response.function_call_arguments.done", **self._at(place), name=name, arguments=found)
        self._done(place, status)


def _plain_input(arguments: str) -> str:
    """The text of a custom tool's call; the arguments as they are where a model wrote something else."""
    try:
        found = orjson.loads(arguments)["input"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return arguments
    return found if isinstance(found, str) else arguments


def as_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's usage in a response's words."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
            "cache_write_tokens_details": {"ttl_12h_tokens": 0, "ttl_30m_tokens": 0},
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def as_error(error: ModelworksError) -> dict[str, Any]:
    """The error of a response, whose codes are a closed list."""
    code = "server_error"
    if isinstance(error, RateLimited):
        code = "rate_limit_exceeded"
    elif isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    return {"code": code, "message": message, "type": error.type, "param": error.param}


def wire(events: list[Event]) -> bytes:
    """Server-sent events, each with its name."""
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n" for event in events)
