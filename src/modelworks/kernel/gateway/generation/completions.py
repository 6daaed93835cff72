"""Completions, the older form: prompts as text or token ids, several at once, with the older form of log-probabilities."""

from __future__ import annotations

import codecs
from typing import Any

import orjson

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.gateway.generation.chat import require_finished
from modelworks.kernel.gateway.generation.sampling import refuse_unsupported, sampling, unsupported
from modelworks.kernel.gateway.metering import Tally, total
from modelworks.kernel.gateway.schemas import CompletionRequest

#: What OpenAI's route gives when no length is asked for.
DEFAULT_MAX_TOKENS = 16
#: Prompts of one request.
MAX_PROMPTS = 128


def prompts_of(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompts: each a text or a list of token ids.

    Raises:
        InvalidRequest: too many of them.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(
            f"{len(prompt)} prompts are given, more than the {MAX_PROMPTS} that one request may hold.",
            hint="Send several requests.",
            param="prompt",
            code="invalid_value",
        )
    return prompt


def to_generations(request: CompletionRequest, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON forms of the `GenerationInput`s, one per prompt.

    Raises:
        UnsupportedParameter: a parameter that changes the answer's meaning and cannot be honoured.
        InvalidRequest: neither an answer nor the prompt is asked for.
    """
    refuse_unsupported(body)
    if request.suffix and request.echo:
        raise unsupported("echo", "Leave it out: an answer in the middle of a text has no prompt before it alone.")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise unsupported("best_of", "Use n, and choose among the answers.")
    shared = sampling(request)
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequest(
            "max_tokens 0 asks for nothing.",
            hint="Set it to 1 or more; with echo, 0 gives the prompt back.",
            param="max_tokens",
            code="invalid_value",
        )
    shared["max_tokens"] = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if request.logprobs is not None:
        shared["logprobs"] = True
        shared["top_logprobs"] = request.logprobs
    if request.echo:
        shared["echo"] = True
    if request.suffix:
        shared["suffix"] = request.suffix
    return [{**shared, ("prompt" if isinstance(prompt, str) else "prompt_ids"): prompt} for prompt in prompts_of(request)]


class CompletionAnswer:
    """Renders one answer of the older form. Choice `n * p + i` is the i-th choice of the p-th prompt.

    Args: as `ChatAnswer`; `tallies` has one entry per prompt.
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
        tallies: list[Tally],
    ) -> None:
        self._head = {
            "id": answer_id,
            "object": "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._n = n
        self._include_usage = include_usage
        self._tallies = tallies
        count = n * len(tallies)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._finish: list[str | None] = [None] * count
        self._logprobs = [LegacyLogprobs() for _ in range(count)] if logprobs else None

    def events(self, prompt_index: int, chunks: list[dict[str, Any]]) -> bytes:
        """The server-sent events of some chunks of one prompt."""
        found = []
        for chunk in chunks:
            self._tallies[prompt_index].add(chunk)
            index = prompt_index * self._n + (chunk.get("index") or 0)
            text, entries, finish = chunk.get("text"), chunk.get("logprobs"), chunk.get("finish_reason")
            logprobs = None
            if self._logprobs is not None and entries:
                logprobs = self._logprobs[index].take(entries)
            if finish:
                self._finish[index] = finish
            if text or logprobs or finish:
                body: dict[str, Any] = {
                    **self._head,
                    "choices": [{"text": text or "", "index": index, "logprobs": logprobs, "finish_reason": finish}],
                }
                if self._include_usage:
                    body["usage"] = None
                found.append(b"data: " + orjson.dumps(body) + b"\n\n")
        return b"".join(found)

    def last_event(self) -> bytes:
        """The usage chunk, where it was asked for."""
        require_finished(self._finish)
        if not self._include_usage:
            return b""
        return b"data: " + orjson.dumps({**self._head, "choices": [], "usage": total(self._tallies).as_openai()}) + b"\n\n"

    def take(self, prompt_index: int, chunks: list[dict[str, Any]]) -> None:
        """Collect chunks of one prompt for `whole`."""
        for chunk in chunks:
            self._tallies[prompt_index].add(chunk)
            index = prompt_index * self._n + (chunk.get("index") or 0)
            if text := chunk.get("text"):
                self._texts[index].append(text)
            if self._logprobs is not None and (entries := chunk.get("logprobs")):
                self._logprobs[index].take(entries)
            if finish := chunk.get("finish_reason"):
                self._finish[index] = finish

    def whole(self) -> bytes:
        """The complete answer as JSON."""
        require_finished(self._finish)
        choices = [
            {
                "text": "".join(texts),
                "index": index,
                "logprobs": None if self._logprobs is None else self._logprobs[index].whole(),
                "finish_reason": self._finish[index],
            }
            for index, texts in enumerate(self._texts)
        ]
        return orjson.dumps({**self._head, "choices": choices, "usage": total(self._tallies).as_openai()})


class LegacyLogprobs:
    r"""The four parallel lists of the older form, for one choice.

    `text_offset` counts characters of the choice's text. A token that holds a part of a character is written as OpenAI
    writes it (`bytes:\xe4`) and has the offset of the character that it belongs to.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._taken: list[dict[str, Any]] = []

    def take(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Add tokens and return the lists of these alone."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            name = _name(entry)
            found["tokens"].append(name)
            found["token_logprobs"].append(entry["logprob"])
            tops = entry.get("top") or ()
            found["top_logprobs"].append(
                {name: entry["logprob"], **{_name(top): top["logprob"] for top in tops}} if tops else None
            )
            found["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(bytes(entry["bytes"])))
        self._taken.append(found)
        return found

    def whole(self) -> dict[str, Any]:
        """The lists of all tokens taken."""
        return {
            key: [item for part in self._taken for item in part[key]]
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }


def _name(entry: dict[str, Any]) -> str:
    """The token as text, or as escaped bytes where it is no whole character."""
    try:
        return bytes(entry["bytes"]).decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry["bytes"])
