"""One answer from a data space: what is looked for, answered by the space's language model or by quoting, and checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import structlog

from modelworks.contract.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    TimedOut,
    Unavailable,
    UnsupportedParameter,
    UpstreamFailed,
)
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace import Space
from modelworks.kernel.gateway.generation import chat
from modelworks.kernel.gateway.generation.chat_reading import Chat, Chunk
from modelworks.kernel.gateway.metering import Meter, Tally, total
from modelworks.kernel.gateway.schemas import ChatRequest
from modelworks.kernel.gateway.spaces import prompting, question, tabling
from modelworks.kernel.gateway.spaces.checking import Source
from modelworks.kernel.gateway.spaces.citing import Citation, Status, Told
from modelworks.kernel.gateway.spaces.extracting import arranged, is_answerable, quotations
from modelworks.kernel.gateway.spaces.question import Question
from modelworks.kernel.gateway.spaces.search import PREFIX, Found, SpaceSearch, Wish, own_record
from modelworks.kernel.gateway.spaces.tables import TableAnswer
from modelworks.kernel.gateway.spaces.wording import language_of, terms

log = structlog.get_logger(__name__)

Say = Callable[[str], Awaitable[None]]
Reason = Literal["no_model", "model_unavailable", "model_unsupported", "model_found_nothing", "nothing_found", "too_weak"]

#: What a caller may set of the model behind; all else that would change the answer is refused.
_PASSED: Final = ("temperature", "top_p", "seed", "max_tokens", "frequency_penalty", "presence_penalty")
_REFUSED: Final = ("tools", "answer_form", "logprobs", "stop", "template_args")
_ANSWER_TOKENS, _REWRITE_TOKENS, _QUERY_TOKENS = 512, 96, 400
#: What template, rules and question take beside the passages, in tokens.
_PROMPT_TOKENS: Final = 400
_BYTES_PER_TOKEN: Final = 3
#: So many passages are looked at for each that is answered from.
_LOOKED_AT: Final = 3
#: The reranker's score that says that a passage answers.
_RELEVANT: Final = 0.5
#: Where question and passages are in different languages, words say nothing: so near it must be by its vector.
_NEAR: Final = 3
#: Failures of the language model after which the documents still can be quoted.
_MISSABLE: Final = (ModelNotFound, Unavailable, UpstreamFailed, TimedOut)


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat that a space can answer. `turns` have plain texts; `further` is what its instructions say."""

    space: str
    turns: Sequence[Mapping[str, Any]]
    further: str
    sampling: Mapping[str, Any]

    @classmethod
    def of(cls, body: Mapping[str, Any], request: ChatRequest) -> Asked:
        """The request as a space reads it.

        Raises:
            UnsupportedParameter: tools, several choices, forms of answers: checked text with citations has none of these.
            InvalidRequest: nothing is asked; and as `chat.to_generation`.
        """
        found = chat.to_generation(request, dict(body))
        for name in _REFUSED:
            if found.get(name):
                given = {"answer_form": "response_format", "template_args": "chat_template_kwargs"}.get(name, name)
                raise UnsupportedParameter(
                    f"{given}: a data space answers with checked text and takes no {given}.",
                    hint="Leave it out, or search the space (POST /v1/vector_stores/{id}/search) and ask a model yourself.",
                    param=given,
                )
        if (request.n or 1) > 1:
            raise UnsupportedParameter("n: a data space gives one answer.", hint="Leave it out.", param="n")
        turns = [turn for turn in found["messages"] if turn["role"] in ("user", "assistant") and turn.get("content")]
        if not turns or turns[-1]["role"] != "user":
            raise InvalidRequest(
                "messages: the last turn must be the user's question.",
                hint="End with a message of the role user.",
                param="messages",
                code="invalid_value",
            )
        further = [str(turn["content"]) for turn in found["messages"] if turn["role"] in ("system", "developer")]
        sampling = {name: found[name] for name in _PASSED if found.get(name) is not None}
        return cls(request.model.removeprefix(PREFIX), turns, "\n".join(further), {"temperature": 0, **sampling})


@dataclass(slots=True)
class Outcome:
    """What was told. `tallies` are the model's; the index and its fellows write no tokens."""

    status: Status
    reason: Reason | None
    query: str
    space: Space
    told: Told
    tallies: list[Tally] = field(default_factory=list)
    #: The version of the language model that was asked, where one answered that the catalog knows.
    model_version_id: str | None = None
    #: Where the answer was computed.
    table: TableAnswer | None = None

    @property
    def citations(self) -> Sequence[Citation]:
        return self.told.citations

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object over everything that the language model was asked."""
        return total(self.tallies or [Tally()]).as_openai()

    def grounding(self) -> dict[str, Any]:
        """How the answer came about, for programs."""
        return {
            "status": self.status,
            "reason": self.reason,
            "space_id": self.space.id,
            "query": self.query,
            "num_supported": self.told.num_supported,
            "num_unsupported": self.told.num_unsupported,
            **({} if self.table is None else {"table": self.table.as_part()}),
        }


class SpaceAnswer:
    """One question to a space, for one caller.

    Args:
        meter: of the request; the search is recorded on it, the language model on records of its own.
    """

    def __init__(self, search: SpaceSearch, principal: Principal, meter: Meter, asked: Asked) -> None:
        self._search = search
        self._gateway = search.gateway
        self._principal = principal
        self._meter = meter
        self._asked = asked
        self._tallies: list[Tally] = []
        self._model_version_id: str | None = None

    async def tell(self, say: Say) -> Outcome:
        """Answer; the text is handed to `say` as it is checked.

        Raises:
            NotFound: no such space.
            InvalidRequest: it has no documents (`space_empty`).
            Unavailable: its first index is not there yet (`space_building`), or it does not answer.
            QuotaExceeded, RateLimited: a budget or a limit refuses.
        """
        space = await self._search.opened(self._principal, self._asked.space)
        _require_index(space)
        model = space.settings.language_model
        asked = question.read(self._asked.turns)
        if (computed := await self._computed(space, asked)) is not None:
            told = Told(tabling.cited(computed), asked.language)
            await say(told.compute(tabling.sentence(computed, asked.language), tabling.evidence(computed)))
            by_model = None if computed.by == "rules" else self._model_version_id
            return Outcome("computed", None, asked.query, space, told, self._tallies, by_model, computed)
        if asked.goes_on and model is not None:
            asked = await self._rewritten(model, asked)
        limit = space.settings.answering.passages
        wish = Wish(queries=(asked.query,), limit=_LOOKED_AT * limit)
        found = await self._search.find(self._principal, space, wish, self._meter)
        if not any(each.is_reranked for each in found):
            order = arranged(asked.query, [(_source(each), each.score) for each in found])
            found = [found[place] for place in order]
        found = found[:limit]
        told = Told(found, asked.language, space.settings.answering.unsupported)
        status, reason = await self._answer(space, asked, found, told, say)
        return Outcome(status, reason, asked.query, space, told, self._tallies, self._model_version_id)

    async def _computed(self, space: Space, asked: Question) -> TableAnswer | None:
        """The answer from a table, where the question is about one; what points back to another question is not tried."""
        tables = self._search.tables
        if tables is None or asked.goes_on or space.state == "expired" or space.settings.answering.tables == "off":
            return None
        found = await tables.answer(self._principal, space, asked.text)
        model = space.settings.language_model
        if found is None and model is not None and space.settings.answering.tables == "model":
            found = await tables.written(self._principal, space, asked.text, model, partial(self._query, model, asked.text))
        if found is not None:
            self._meter.answering()
        return found

    async def _answer(
        self, space: Space, asked: Question, found: Sequence[Found], told: Told, say: Say
    ) -> tuple[Status, Reason | None]:
        if not found:
            await say(told.nothing())
            return "not_in_documents", "nothing_found"
        if not self._is_answerable(asked, found, space.settings.answering.least_coverage):
            await say(told.nothing())
            return "not_in_documents", "too_weak"
        reason: Reason = "no_model"
        if (model := space.settings.language_model) is not None:
            try:
                wrote = await self._written(model, asked, found, told, say)
            except _MISSABLE as error:
                if told.text:
                    raise
                log.warning("a data space answers without its language model", model=model, reason=error.message)
                reason = "model_unavailable"
            else:
                if told.num_supported:
                    return "answered", None
                if prompting.NOT_FOUND in wrote.upper():
                    await say(told.nothing())
                    return "not_in_documents", "model_found_nothing"
                reason = "model_unsupported"
        sources = [_source(each) for each in found]
        quoted = quotations(asked.query, sources)
        if not quoted:
            # Found by meaning alone: the passage itself is what there is.
            await say(told.quote(0, found[0].passage.text[:600]))
        for each in quoted:
            await say(told.quote(each.passage, each.text))
        return "quoted", reason

    def _is_answerable(self, asked: Question, found: Sequence[Found], least: float | None) -> bool:
        if found[0].is_reranked and found[0].score >= _RELEVANT:
            return True
        best = found[0]
        if best.dense_rank is not None and best.dense_rank <= _NEAR and language_of(best.passage.text) != asked.language:
            return True
        sources = [_source(each) for each in found]
        # Words that were carried over find what was asked before: what a question itself names must be there as well.
        named = terms(asked.text).names if asked.goes_on else frozenset()
        if named and not any(named & (source.known.words | source.known.names) for source in sources):
            return False
        texts = {asked.query} | ({asked.text} if len(terms(asked.text).words) > 1 else set())
        return any(is_answerable(text, sources, least=least) for text in texts)

    # -- the language model ----------------------------------------------------------------------------------------------

    async def _query(self, model: str, text: str, schema: dict[str, Any], described: str) -> str | None:
        """Have the model describe a query in JSON of the schema; None where it cannot."""
        form = {"type": "json_schema", "json_schema": {"name": "query", "strict": True, "schema": schema}}
        messages = prompting.querying(text, described)
        body = {"messages": messages, "response_format": form, "max_tokens": _QUERY_TOKENS, "temperature": 0}
        pieces: list[str] = []

        async def take(piece: str) -> None:
            pieces.append(piece)

        try:
            await self._chat(model, body, take)
        except (*_MISSABLE, InvalidRequest) as error:
            log.info("a query is not described", model=model, reason=error.message)
            return None
        return "".join(pieces)

    async def _rewritten(self, model: str, asked: Question) -> Question:
        """The question as the model writes it anew, where it invents nothing; else as it is."""
        body = {"messages": prompting.rewriting(self._asked.turns), "max_tokens": _REWRITE_TOKENS, "temperature": 0}
        pieces: list[str] = []

        async def take(text: str) -> None:
            pieces.append(text)

        try:
            await self._chat(model, body, take)
        except (*_MISSABLE, InvalidRequest) as error:
            log.info("a question is not written anew", model=model, reason=error.message)
            return asked
        rewritten = "".join(pieces).strip()
        if not question.is_faithful(rewritten, self._asked.turns):
            return asked
        return Question(asked.text, rewritten, asked.language, asked.goes_on)

    async def _written(self, model: str, asked: Question, found: Sequence[Found], told: Told, say: Say) -> str:
        """Have the model answer, and tell those of its sentences that stand; returns what it wrote, whole."""
        deployed = self._gateway.pool.peek(self._principal.project_id, model)
        context = None if deployed is None else deployed.max_model_len
        sampling = {
            "max_tokens": _ANSWER_TOKENS if context is None else min(_ANSWER_TOKENS, context // 3),
            **self._asked.sampling,
        }
        num = len(found) if context is None else fitting(found, context - int(sampling["max_tokens"]) - _PROMPT_TOKENS)
        pieces: list[str] = []

        async def take(text: str) -> None:
            pieces.append(text)
            if ready := told.take(text):
                await say(ready)

        while True:
            before = self._asked.turns[:-1] if num > 1 else ()
            messages = prompting.answering(before, asked.text, asked.language, found[:num], further=self._asked.further)
            try:
                await self._chat(model, {"messages": messages, **sampling}, take)
            except ContextLengthExceeded as error:
                if pieces or num == 1:
                    raise UpstreamFailed(f"Not even one passage fits into the context of {model!r}.") from error
                num = max(1, num // 2)
            else:
                break
        if ready := told.end():
            await say(ready)
        return "".join(pieces)

    async def _chat(self, model: str, body: Mapping[str, Any], take: Callable[[str], Awaitable[None]]) -> None:
        """Ask the model without any tool; hand over its text, not its thoughts."""

        async def read(chunk: Chunk) -> None:
            for choice in chunk.get("choices") or ():
                if text := (choice.get("delta") or {}).get("content"):
                    await take(text)

        async with own_record(self._gateway, self._principal, model, self._meter) as meter:
            try:
                await Chat(self._gateway, self._principal, meter, {"model": model, **body}).read(read)
            finally:
                self._tallies += meter.tallies
                if meter.route is not None:
                    self._model_version_id = meter.route.version_id


def _source(found: Found) -> Source:
    return Source(found.passage.text, found.about, found.passage.place.headings, found.is_prose)


def _require_index(space: Space) -> None:
    if not space.documents.total:
        raise InvalidRequest(
            f"The data space {space.name!r} has no documents.",
            hint="Add some: `modelworks space add`, or POST /v1/vector_stores/{id}/files.",
            param="model",
            code="space_empty",
        )
    if space.index_version_id is None and space.state != "expired":
        why = f" {space.error['message']}" if space.state == "failed" and space.error else ""
        raise Unavailable(
            f"The data space {space.name!r} has no index yet.{why}",
            hint="Ask again when it is built: `modelworks space status` tells how far it is.",
            code="space_building",
            retry_after_s=2,
        )


def fitting(found: Sequence[Found], tokens: int) -> int:
    """How many of the first passages take no more tokens than that; one at least."""
    used = 0
    for num, each in enumerate(found):
        used += len(each.shown.encode()) // _BYTES_PER_TOKEN + 20
        if used > tokens:
            return max(1, num)
    return len(found)
