"""Chat: OpenAI's request to `GenerationInput`, and chunks of an engine to OpenAI's answer, whole or streamed."""

from __future__ import annotations

from typing import Any

import orjson

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter, UpstreamFailed
from modelworks.kernel.gateway.answer_form import answer_form
from modelworks.kernel.gateway.metering import Tally
from modelworks.kernel.gateway.sampling import refuse_unsupported, sampling, unsupported
from modelworks.kernel.gateway.schemas import ChatMessage, ChatRequest


def to_generation(request: ChatRequest, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON form of a `GenerationInput`.

    Raises:
        UnsupportedParameter: a parameter or a content part that changes the answer's meaning and cannot be honoured.
        InvalidRequest: parameters that contradict each other.
    """
    refuse_unsupported(body)
    if request.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "Use 'auto' or 'none'; a call cannot be forced.")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            "top_logprobs is given without logprobs.", hint="Set logprobs to true.", param="top_logprobs", code="invalid_value"
        )
    found = sampling(request)
    found["messages"] = [_message(position, message) for position, message in enumerate(request.messages)]
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None:
        found["max_tokens"] = limit
    if request.logprobs:
        found["logprobs"] = True
        found["top_logprobs"] = request.top_logprobs or 0
    if form := answer_form(request.response_format):
        found["answer_form"] = form
    if request.tools:
        found["tools"] = request.tools
    if request.chat_template_kwargs:
        found["template_args"] = request.chat_template_kwargs
    return found


def _message(position: int, message: ChatMessage) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role}
    if isinstance(message.content, list):
        found["content"] = _text(position, message.content)
    elif message.content is not None:
        found["content"] = message.content
    elif message.role != "assistant":
        raise InvalidRequest(
            f"Message {position} has no content.",
            hint="Only an assistant's message may be without.",
            param=f"messages.{position}.content",
            code="missing_required_parameter",
        )
    for name in ("name", "reasoning_content", "tool_calls", "tool_call_id"):
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
        texts.append(text)
    return "\n".join(texts)


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
    ) -> None:
        self._head = {"id": answer_id, "created": created, "model": model, "system_fingerprint": fingerprint}
        self._n = n
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._tally = tally
        self._texts: list[list[str]] = [[] for _ in range(n)]
        self._entries: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self._finish: list[str | None] = [None] * n
        self._greeted = [False] * n

    def events(self, chunks: list[dict[str, Any]]) -> bytes:
        """The server-sent events of some chunks; empty where they carry nothing to show."""
        found = []
        for chunk in chunks:
            self._tally.add(chunk)
            index = chunk.get("index") or 0
            if not self._greeted[index]:
                self._greeted[index] = True
                found.append(self._event(index, {"role": "assistant", "content": "", "refusal": None}))
            text, entries, finish = chunk.get("text"), chunk.get("logprobs"), chunk.get("finish_reason")
            if text or (self._logprobs and entries):
                found.append(self._event(index, {"content": text or ""}, entries=entries))
            if finish:
                self._finish[index] = finish
                found.append(self._event(index, {}, finish=finish))
        return b"".join(found)

    def _event(
        self, index: int, delta: dict[str, Any], *, entries: list[dict[str, Any]] | None = None, finish: str | None = None
    ) -> bytes:
        logprobs = {"content": [_entry(entry) for entry in entries], "refusal": None} if self._logprobs and entries else None
        body: dict[str, Any] = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
        }
        if self._include_usage:
            body["usage"] = None
        return b"data: " + orjson.dumps(body) + b"\n\n"

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
            if self._logprobs and (entries := chunk.get("logprobs")):
                self._entries[index].extend(_entry(entry) for entry in entries)
            if finish := chunk.get("finish_reason"):
                self._finish[index] = finish

    def whole(self) -> bytes:
        """The complete answer as JSON."""
        self._require_finished()
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
                "logprobs": {"content": self._entries[index], "refusal": None} if self._logprobs else None,
                "finish_reason": self._finish[index],
            }
            for index in range(self._n)
        ]
        return orjson.dumps({**self._head, "object": "chat.completion", "choices": choices, "usage": self._tally.as_openai()})

    def _require_finished(self) -> None:
        require_finished(self._finish)


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
