"""What a chat answers, told as Anthropic's message: its content blocks, and the events that build them.

message_start → for each block: content_block_start → content_block_delta … → content_block_stop → message_delta → message_stop.
Blocks do not overlap. Source: Anthropic's reference of streaming messages, and its client, which adds the deltas up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from modelworks.contract.errors import UpstreamFailed
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.metering import Tally

Event = dict[str, Any]
PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
#: The field that each block's deltas lengthen, and what a delta calls itself and its text.
_DELTAS: Final = {
    "text": ("text", "text_delta", "text"),
    "thinking": ("thinking", "thinking_delta", "thinking"),
    "tool_use": ("input", "input_json_delta", "partial_json"),
}


class MessageComposer:
    """Makes one message from the chunks of a chat.

    Args:
        model: the name that the caller used.
        tally: what the chat has used so far.
    """

    def __init__(self, model: str, tally: Tally) -> None:
        self._model = model
        self._tally = tally
        self._id = new_id("msg")
        self._events: list[Event] = []
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        self._is_open = False
        self._call: int | None = None
        self._finish: str | None = None
        self._stop_sequence: str | None = None
        #: Whether the answer may go to the end of the context, as the caller's limit lies beyond it.
        self.to_the_end = False
        self.begun = False

    def begin(self) -> list[Event]:
        """The event before the first block."""
        if not self.begun:
            self.begun = True
            self._events.append({"type": "message_start", "message": self._message([], None)})
        return self._taken()

    def take(self, chunk: Mapping[str, Any]) -> list[Event]:
        """One `chat.completion.chunk`."""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                self._add("thinking", thought, signature="")
            if text := delta.get("content") or delta.get("refusal"):
                self._add("text", text)
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            self._finish = choice.get("finish_reason") or self._finish
            if isinstance(stop := choice.get("stop_reason"), str):
                self._stop_sequence = stop
        return self._taken()

    def complete(self) -> tuple[dict[str, Any], list[Event]]:
        """The message and the events that lead to it.

        Raises:
            UpstreamFailed: a call whose input is no JSON object, although the answer was not cut short.
        """
        begun = self.begin()
        self._close()
        reason = _REASONS.get(self._finish or "", "end_turn")
        if self._finish == "length" and self.to_the_end:
            reason = "model_context_window_exceeded"
        elif self._finish == "stop" and self._stop_sequence is not None:
            reason = "stop_sequence"
        message = self._message([self._opened(block) for block in self._blocks], reason)
        self._events.append(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": message["stop_sequence"]},
                "usage": message["usage"],
            }
        )
        self._events.append({"type": "message_stop"})
        return message, [*begun, *self._taken()]

    def _message(self, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        tally = self._tally
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": self._stop_sequence if reason == "stop_sequence" else None,
            "usage": {
                # What was read anew and what was remembered are two figures here.
                "input_tokens": tally.prompt_tokens - tally.cached_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": tally.cached_tokens,
                # Events that arrived together are counted together: at the start none of them has been told.
                "output_tokens": 0 if reason is None else tally.completion_tokens,
            },
        }

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # -- blocks ----------------------------------------------------------------------------------------------------------

    def _add(self, kind: str, text: str, **more: Any) -> None:
        if not self._is_open or self._blocks[-1]["type"] != kind:
            self._start({"type": kind, _DELTAS[kind][0]: "", **more})
        self._lengthen(text)

    def _add_call(self, call: Mapping[str, Any]) -> None:
        number, function = call.get("index") or 0, call.get("function") or {}
        if number != self._call:
            if self._call is not None and number < self._call:
                raise UpstreamFailed("The server behind this model wrote a call while it was writing the next.")
            self._call = number
            self._start(
                {"type": "tool_use", "id": call.get("id") or new_id("call"), "name": function.get("name") or "", "input": {}}
            )
        elif not self._is_open or self._blocks[-1]["type"] != "tool_use":
            raise UpstreamFailed("The server behind this model went on with a call that it had ended.")
        if piece := function.get("arguments"):
            self._lengthen(piece)

    def _start(self, block: dict[str, Any]) -> None:
        self._close()
        self._blocks.append(block)
        self._is_open = True
        self._events.append({"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": {**block}})

    def _lengthen(self, text: str) -> None:
        self._pieces.append(text)
        _, kind, field = _DELTAS[self._blocks[-1]["type"]]
        delta = {"type": kind, field: text}
        self._events.append({"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta})

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            block = self._blocks[-1]
            block[_DELTAS[block["type"]][0]] = "".join(self._pieces)
            self._pieces = []
            self._events.append({"type": "content_block_stop", "index": len(self._blocks) - 1})

    def _opened(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block of the whole message: the input of a call is an object there."""
        if block["type"] != "tool_use":
            return block
        try:
            found = orjson.loads(block["input"] or "{}")
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            if self._finish != "length":
                raise UpstreamFailed(
                    f"The model called {block['name']!r} with something that is no JSON object.", hint="Send it again."
                )
            # Cut short in the middle: there is no object to give, and the stop reason says why.
            found = {}
        return {**block, "input": found}


def wire(events: list[Event]) -> bytes:
    """Server-sent events, each with its name."""
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n" for event in events)
