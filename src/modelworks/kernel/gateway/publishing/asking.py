"""A stranger's question to a published space: streamed, with citations that can be opened, and nothing of what is behind."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.contract.errors import AuthenticationFailed, ModelworksError, RateLimited, Unavailable
from modelworks.contract.passages import Place
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.dataspace import Published
from modelworks.kernel.dataspace.feedback import Rating, Told
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.publishing.documents import is_text
from modelworks.kernel.gateway.publishing.tickets import ANSWER_LIFE, Tickets
from modelworks.kernel.gateway.spaces import tabling
from modelworks.kernel.gateway.spaces.answering import Asked, Outcome, SpaceAnswer
from modelworks.kernel.gateway.spaces.calls import note_of
from modelworks.kernel.gateway.spaces.citing import Citation, Status
from modelworks.kernel.gateway.spaces.search import SpaceSearch
from modelworks.kernel.gateway.stream import DONE, Outlet

log = structlog.get_logger(__name__)

MAX_TURNS: Final = 20
#: Of what a reader writes, and of an answer that is handed back.
MAX_QUESTION_CHARS, MAX_ANSWER_CHARS = 4000, 20_000
#: A quotation longer than this is found by its beginning and its end.
_LONG_QUOTE_CHARS: Final = 120
_EDGE_WORDS: Final = 6


class Turn(BaseModel):
    """One turn of a dialogue. Instructions are not for strangers to give: there is no further role."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1, max_length=MAX_ANSWER_CHARS)


class QuestionBody(BaseModel):
    """POST /embed/{publication}/ask."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Turn] = Field(min_length=1, max_length=MAX_TURNS)
    #: Origin of the page that holds the chat, as its browser says it.
    parent: str = Field(max_length=300)

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> QuestionBody:
        last = self.messages[-1]
        if last.role != "user" or len(last.content) > MAX_QUESTION_CHARS or not last.content.strip():
            raise ValueError(f"messages: the last turn must be a question of at most {MAX_QUESTION_CHARS} characters")
        return self


class FeedbackBody(BaseModel):
    """POST /embed/{publication}/feedback: what was answered, word for word, with its ticket, and what the reader says of it."""

    model_config = ConfigDict(extra="forbid")

    ticket: str = Field(max_length=1000)
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARS)
    answer: str = Field(max_length=MAX_ANSWER_CHARS)
    status: Status
    documents: list[Annotated[str, Field(max_length=80)]] = Field(max_length=100)
    rating: Rating
    correction: str | None = Field(default=None, max_length=4000)


class PublishedCall:
    """One question to a published space.

    Args:
        search: of spaces. published: which one, and in whose name.
        meter: of the request.
        turns: the dialogue, which ends with the question.
        origin: of the page that asks.
    """

    def __init__(
        self,
        search: SpaceSearch,
        published: Published,
        meter: Meter,
        turns: list[Turn],
        origin: str,
        tickets: Tickets,
    ) -> None:
        said = [turn.model_dump() for turn in turns]
        asked = Asked(space=published.space_id, turns=said, further="", sampling={"temperature": 0})
        self._answer = SpaceAnswer(search, published.principal, meter, asked)
        self._answers = search.spaces.answers
        self._meter = meter
        self._published = published
        self._question = turns[-1].content
        self._origin = origin
        self._tickets = tickets

    async def stream_to(self, out: Outlet) -> bytes:
        """Events `{"text"}` as the answer is told, then `{"answer"}` with its citations; returns the last ones.

        Raises:
            RateLimited: a budget or a limit refuses. Unavailable: all else; strangers are not told why.
        """
        out.comment = b": keep-alive\n\n"

        async def say(text: str) -> None:
            await out.send(_event({"text": text}))

        try:
            outcome = await self._answer.tell(say)
        except ModelworksError as error:
            raise for_strangers(error, self._published) from error
        answer_id = new_id("msg")
        self._answers.note(note_of(answer_id, outcome, self._published.principal, self._meter))
        return _event({"answer": self._told(answer_id, outcome)}) + DONE

    def _told(self, answer_id: str, outcome: Outcome) -> dict[str, Any]:
        documents = list(dict.fromkeys(each.found.document.id for each in outcome.citations))
        told = Told(
            answer_id=answer_id,
            question=self._question,
            answer=outcome.told.text,
            status=outcome.status,
            documents=documents,
            origin=self._origin,
        )
        return {
            "text": told.answer,
            "status": told.status,
            "documents": documents,
            "citations": [self._citation(each) for each in outcome.citations],
            # The query and its rows, which stand in the text as well.
            "computed": None if outcome.table is None else tabling.shown(outcome.table),
            "ticket": sealed(self._tickets, self._published, told),
        }

    def _citation(self, citation: Citation) -> dict[str, Any]:
        document, place = citation.found.document, citation.found.passage.place
        path = f"/embed/{self._published.id}/documents/{document.id}"
        link = self._tickets.link(path, ANSWER_LIFE)
        return {
            "number": citation.number,
            "document": document.name,
            "quote": citation.quote,
            "headings": list(place.headings),
            "page": place.page,
            "cells": place.cells,
            "lines": place.lines,
            # Below /embed/{publication}/, wherever a proxy has put that.
            "url": link.removeprefix(f"/embed/{self._published.id}/") + fragment(document.name, place, citation.quote),
        }


def fragment(name: str, place: Place, quoted: str) -> str:
    """What leads a browser to the place: the page of a PDF (RFC 8118), the words of a text (WICG, Text Fragments)."""
    if name.lower().endswith(".pdf") and place.page is not None:
        return f"#page={place.page}"
    words = quoted.split()
    if not words or not is_text(name):
        return ""
    ends = [" ".join(words)]
    if len(ends[0]) > _LONG_QUOTE_CHARS and len(words) > 2 * _EDGE_WORDS:
        ends = [" ".join(words[:_EDGE_WORDS]), " ".join(words[-_EDGE_WORDS:])]
    # A hyphen has a meaning of its own there, and `quote` leaves it.
    return "#:~:text=" + ",".join(quote(each, safe="").replace("-", "%2D") for each in ends)


def sealed(tickets: Tickets, published: Published, told: Told) -> str:
    """A ticket that proves, to this server alone, that it has told this answer."""
    return tickets.issue("EMBED-ANSWER", [published.id, told.answer_id, told.origin, _digest(told)], ANSWER_LIFE)


def unsealed(tickets: Tickets, published: Published, body: FeedbackBody) -> Told:
    """The answer that a reader comments on.

    Raises:
        AuthenticationFailed: this server has not told it, not here, not so, or too long ago.
    """
    parts = tickets.read("EMBED-ANSWER", body.ticket)
    if len(parts) == 4 and parts[0] == published.id:
        _, answer_id, origin, digest = parts
        told = Told(
            answer_id=answer_id,
            question=body.question,
            answer=body.answer,
            status=body.status,
            documents=body.documents,
            origin=origin,
        )
        if digest == _digest(told):
            return told
    raise AuthenticationFailed(
        "This is not what was answered.",
        hint="Send the question and the answer unchanged, with its ticket.",
        code="unknown_answer",
    )


def for_strangers(error: ModelworksError, published: Published) -> ModelworksError:
    """What readers of a page are told of a failure: nothing of names, budgets and machines."""
    log.warning("a published space was not answered", publication=published.id, code=error.error_code, reason=error.message)
    if isinstance(error, RateLimited):
        return RateLimited(
            "Too many questions at this moment.", hint="Ask again shortly.", retry_after_s=error.retry_after_s or 60.0
        )
    return Unavailable(
        "The documents cannot be asked at this moment.",
        hint="Ask again later.",
        code="publication_unavailable",
        retry_after_s=5.0,
    )


def _digest(told: Told) -> str:
    said = [told.question, told.answer, told.status, [*told.documents], told.origin]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
