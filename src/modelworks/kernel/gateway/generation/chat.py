"""Chat: OpenAI's request to `GenerationInput`, and chunks of an engine to OpenAI's answer, whole or streamed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import ValidationError

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter, UpstreamFailed
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.generation.answer_form import answer_form
from modelworks.kernel.gateway.generation.sampling import refuse_unsupported, sampling, unsupported
from modelworks.kernel.gateway.generation.tools import tools_of
from modelworks.kernel.gateway.metering import Tally
from modelworks.kernel.gateway.schemas import CacheOptions, ChatMessage, ChatRequest

#: Pieces of a padded stream are a multiple of this long.
_PADDED_BYTES: Final = 64


def to_generation(request: ChatRequest, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON form of a `GenerationInput`.

    Raises:
        UnsupportedParameter: a parameter or a content part that changes the answer's meaning and cannot be honoured.
        InvalidRequest: parameters that contradict each other.
    """
    refuse_unsupported(body)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            "top_logprobs is given without logprobs.", hint="Set logprobs to true.", param="top_logprobs", code="invalid_value"
        )
    found = sampling(request)
    expected = None if request.prediction is None else request.prediction.content
    for number, part in enumerate(expected if isinstance(expected, list) else ()):
        if part.get("prompt_cache_breakpoint") is not None:
            checked_mark(part["prompt_cache_breakpoint"], f"prediction.content.{number}.prompt_cache_breakpoint")
    for position, message in enumerate(body["messages"]):
        for name in ("audio", "function_call"):
            if message.get(name):
                raise unsupported(f"messages.{position}.{name}", "Send text, and calls of tools in tool_calls.")
    found["messages"] = [_message(position, message) for position, message in enumerate(request.messages)]
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None:
        found["max_tokens"] = limit
    if request.logprobs:
        found["logprobs"] = True
        found["top_logprobs"] = request.top_logprobs or 0
    if form := answer_form(request.response_format):
        found["answer_form"] = form
    found |= tools_of(request)
    if request.chat_template_kwargs:
        found["template_args"] = request.chat_template_kwargs
    return found


def _message(position: int, message: ChatMessage) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role}
    if isinstance(message.content, list):
        found["content"] = _text(position, message.content)
    elif message.content is not None:
        found["content"] = message.content
    elif message.refusal is not None:
        found["content"] = message.refusal
    elif message.role != "assistant":
        raise InvalidRequest(
            f"Message {position} has no content.",
            hint="Only an assistant's message may be without.",
            param=f"messages.{position}.content",
            code="missing_required_parameter",
        )
    if message.tool_calls is not None:
        found["tool_calls"] = [call.model_dump(exclude_unset=True) for call in message.tool_calls]
    for name in ("name", "reasoning_content", "tool_call_id"):
        value = getattr(message, name)
        if value is not None:
            found[name] = value
    return found


def _text(position: int, parts: list[dict[str, Any]]) -> str:
    """The text parts of a message, one below the other."""
    texts = []
    for number, part in enumerate(parts):
        kind = part.get("type", "text")
        place = f"messages.{position}.content.{number}"
        if kind not in ("text", "refusal"):
            raise UnsupportedParameter(
                f"This model reads text only; content part {number} of message {position} is of type {kind!r}.",
                hint="Send text, or choose a model that takes such content.",
                param=place,
            )
        text = part.get(kind)
        if not isinstance(text, str):
            raise InvalidRequest(f"{place}.{kind}: must be a string.", param=f"{place}.{kind}", code="invalid_type")
        mark = part.get("prompt_cache_breakpoint")
        if mark is not None:
            checked_mark(mark, f"{place}.prompt_cache_breakpoint")
        texts.append(text)
    return "\n".join(texts)


def checked_mark(mark: Any, place: str) -> None:
    """Check where a caller would have a prompt cached; raises InvalidRequest with its place."""
    try:
        CacheOptions.model_validate(mark)
    except ValidationError as error:
        raise from_validation(error, prefix=f"{place}." if isinstance(mark, dict) else place) from error


class ChatAnswer:
    """Renders one chat answer. `take` feeds it; use either `events` (streamed) or `whole`.

    Args:
        answer_id: `chatcmpl_…`.
        created: Unix seconds.
        model: the name the caller used.
        fingerprint: what the answer depends on beside the request: the model version.
        n: number of choices.
        logprobs: whether they were asked for.
        include_usage: whether a streamed answer ends with a usage chunk.
        tally: of the one prompt.
        may_call: whether tools are on offer.
        told: what the request has the answer say again.
        padded: whether the pieces of a stream are made equally long, so that nobody learns the text from their lengths.
    """

    def __init__(
        self,
        *,
        answer_id: str,
        created: int,
        model: str,
        fingerprint: str | None,
        n: int,
        logprobs: bool,
        include_usage: bool,
        tally: Tally,
        may_call: bool = False,
        told: Mapping[str, Any] | None = None,
        padded: bool = False,
    ) -> None:
        self._head = {"id": answer_id, "created": created, "model": model, "system_fingerprint": fingerprint}
        self._told = told or {}
        if "service_tier" in self._told:
            self._head["service_tier"] = self._told["service_tier"]
        self._padded = padded
        self._n = n
        self._logprobs = logprobs
        self._include_usage = include_usage
        # A call alone has no content, and clients take an empty one for some.
        self._greeting = {"role": "assistant", "content": None if may_call else "", "refusal": None}
        self._tally = tally
        self._texts: list[list[str]] = [[] for _ in range(n)]
        self._thoughts: list[list[str]] = [[] for _ in range(n)]
        self._calls: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self._entries: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self._finish: list[str | None] = [None] * n
        #: An extension that vLLM made common: which stop string ended a choice.
        self._stops: list[dict[str, str]] = [{} for _ in range(n)]
        self._greeted = [False] * n

    def events(self, chunks: list[dict[str, Any]]) -> bytes:
        """The server-sent events of some chunks; empty where they carry nothing to show."""
        found = []
        for chunk in chunks:
            self._tally.add(chunk)
            index = chunk.get("index") or 0
            if not self._greeted[index]:
                self._greeted[index] = True
                found.append(self._event(index, self._greeting))
            text, entries, finish = chunk.get("text"), chunk.get("logprobs"), chunk.get("finish_reason")
            if thoughts := chunk.get("reasoning"):
                found.append(self._event(index, {"reasoning_content": thoughts}))
            if text or (self._logprobs and entries):
                found.append(self._event(index, {"content": text or ""}, entries=entries))
            if pieces := chunk.get("tool_calls"):
                found.append(self._event(index, {"tool_calls": [self._delta(index, piece) for piece in pieces]}))
            if finish:
                self._end(index, chunk)
                found.append(self._event(index, {}, finish=finish))
        return b"".join(found)

    def _end(self, index: int, chunk: dict[str, Any]) -> None:
        self._finish[index] = chunk["finish_reason"]
        if stop := chunk.get("stopped_by"):
            self._stops[index] = {"stop_reason": stop}

    def _event(
        self, index: int, delta: dict[str, Any], *, entries: list[dict[str, Any]] | None = None, finish: str | None = None
    ) -> bytes:
        logprobs = {"content": [_entry(entry) for entry in entries], "refusal": None} if self._logprobs and entries else None
        body: dict[str, Any] = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish, **self._stops[index]}],
        }
        if self._include_usage:
            body["usage"] = None
        if self._padded and delta:
            body["obfuscation"] = padding(orjson.dumps(delta))
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def _delta(self, index: int, piece: dict[str, Any]) -> dict[str, Any]:
        """A `ToolCallPiece` as OpenAI's clients put it together: id and name come once, then the arguments in pieces."""
        if piece.get("name") is None:
            return {"index": piece["index"], "function": {"arguments": piece["arguments"]}}
        call = self._take_call(index, piece)
        return {"index": piece["index"], **call}

    def _take_call(self, index: int, piece: dict[str, Any]) -> dict[str, Any]:
        call = {
            "id": new_id("call"),
            "type": "function",
            "function": {"name": piece["name"], "arguments": piece.get("arguments") or ""},
        }
        self._calls[index].append(call)
        return call

    def last_event(self) -> bytes:
        """The usage chunk, where it was asked for."""
        self._require_finished()
        if not self._include_usage:
            return b""
        body = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._tally.as_openai()}
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def take(self, chunks: list[dict[str, Any]]) -> None:
        """Collect chunks for `whole`."""
        for chunk in chunks:
            self._tally.add(chunk)
            index = chunk.get("index") or 0
            if text := chunk.get("text"):
                self._texts[index].append(text)
            if thoughts := chunk.get("reasoning"):
                self._thoughts[index].append(thoughts)
            for piece in chunk.get("tool_calls") or ():
                if piece.get("name") is not None:
                    self._take_call(index, piece)
                else:
                    self._calls[index][piece["index"]]["function"]["arguments"] += piece["arguments"]
            if self._logprobs and (entries := chunk.get("logprobs")):
                self._entries[index].extend(_entry(entry) for entry in entries)
            if chunk.get("finish_reason"):
                self._end(index, chunk)

    def whole(self) -> bytes:
        """The complete answer as JSON."""
        self._require_finished()
        choices = [
            {
                "index": index,
                "message": self._message(index),
                "logprobs": {"content": self._entries[index], "refusal": None} if self._logprobs else None,
                "finish_reason": self._finish[index],
                **self._stops[index],
            }
            for index in range(self._n)
        ]
        head = {**self._head, **self._told, "object": "chat.completion"}
        return orjson.dumps({**head, "choices": choices, "usage": self._tally.as_openai()})

    def _message(self, index: int) -> dict[str, Any]:
        """Calls, and thoughts apart from the content, stand only where there are some."""
        text, thoughts, calls = "".join(self._texts[index]), "".join(self._thoughts[index]), self._calls[index]
        content = None if calls and not text else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message["tool_calls"] = calls
        return message

    def _require_finished(self) -> None:
        require_finished(self._finish)


def told_again(request: ChatRequest) -> dict[str, Any]:
    """What an answer repeats of its request: labels, and the tier that did the work, which is the only one there is."""
    found: dict[str, Any] = {}
    if request.metadata is not None:
        found["metadata"] = request.metadata
    if request.service_tier is not None:
        found["service_tier"] = "default"
    return found


def padding(piece: bytes) -> str:
    """Random letters that, put beside a piece, make it as long as every other piece but the longest ones."""
    return secrets.token_urlsafe(_PADDED_BYTES)[: _PADDED_BYTES - len(piece) % _PADDED_BYTES]


def require_finished(finish: list[str | None]) -> None:
    """Raise UpstreamFailed where an engine ended without saying why: its answer may be cut short."""
    if None in finish:
        raise UpstreamFailed(
            "The engine ended its answer without a reason; it may be incomplete.",
            hint="Send the request again.",
            code="replica_lost",
        )


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A `TokenLogprob` as an item of OpenAI's `logprobs.content`."""
    return {
        "token": entry["text"],
        "logprob": entry["logprob"],
        "bytes": entry["bytes"],
        "top_logprobs": [
            {"token": top["text"], "logprob": top["logprob"], "bytes": top["bytes"]} for top in entry.get("top") or ()
        ],
    }
