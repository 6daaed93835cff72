"""The tool `file_search` of a response: the model searches vector stores, reads what is found, and its text cites files.

The tool is offered as a function; the server makes the calls. Passages are numbered through the whole response, and the
numbers in square brackets that the model writes become `file_citation` annotations where they stand.
Source: https://platform.openai.com/docs/guides/tools-file-search, and the types of the official client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
import structlog
from pydantic import Field, ValidationError

from modelworks.contract.errors import (
    InvalidRequest,
    ModelNotFound,
    NotFound,
    TimedOut,
    Unavailable,
    UnsupportedParameter,
    UpstreamFailed,
)
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace import Space
from modelworks.kernel.dataspace.filters import compiled
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.responses.items import SEARCH, Item
from modelworks.kernel.gateway.schemas import Wire
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.spaces import prompting
from modelworks.kernel.gateway.spaces.answering import fitting
from modelworks.kernel.gateway.spaces.calls import SpaceDoor
from modelworks.kernel.gateway.spaces.checking import Source, says_nothing, verdict
from modelworks.kernel.gateway.spaces.search import PREFIX, Found, SpaceSearch, Wish, own_record
from modelworks.kernel.gateway.spaces.wire import MAX_RESULTS, RankingOptions
from modelworks.kernel.gateway.spaces.wording import MARKS, sentences

log = structlog.get_logger(__name__)

#: What `include` names to have the passages in the item.
RESULTS: Final = "file_search_call.results"
_DESCRIPTION: Final = (
    "Searches the user's files for passages, by words and by meaning. Use it before you answer what files may say."
)
_MAX_STORES, _MAX_QUERIES, _MAX_QUERY_CHARS = 16, 4, 200
#: What passages may take of a model's context, and of one whose length nobody knows, in tokens.
_SHARE, _UNKNOWN_CONTEXT = 2, 32_768
#: A mark that is still being written is no longer than this.
_OPEN_MARK_CHARS: Final = 40
#: Failures of one search, of which the model is told.
_TOLD: Final = (ModelNotFound, Unavailable, UpstreamFailed, TimedOut)


class FileSearchTool(Wire):
    """The tool as a request names it."""

    type: Literal["file_search"]
    vector_store_ids: list[str] = Field(min_length=1, max_length=_MAX_STORES)
    max_num_results: int = Field(default=10, ge=1, le=MAX_RESULTS)
    ranking_options: RankingOptions | None = None
    filters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Searching:
    """The tool, and its place among the request's tools."""

    place: str
    tool: FileSearchTool

    def function(self) -> dict[str, Any]:
        """The tool as a chat offers it."""
        query = {"type": "string", "minLength": 1, "maxLength": _MAX_QUERY_CHARS}
        queries = {"type": "array", "items": query, "minItems": 1, "maxItems": _MAX_QUERIES}
        parameters = {
            "type": "object",
            "properties": {"queries": queries},
            "required": ["queries"],
            "additionalProperties": False,
        }
        return {
            "type": "function",
            "function": {"name": SEARCH, "description": _DESCRIPTION, "parameters": parameters},
        }


def parse(tools: Sequence[Mapping[str, Any]] | None) -> Searching | None:
    """The tool among a request's tools; None where it is not there.

    Raises:
        InvalidRequest: what is said of it is wrong, it stands there twice, or a function has its name; `param` is the place.
    """
    found: Searching | None = None
    for number, tool in enumerate(tools or ()):
        place = f"tools.{number}"
        if tool.get("type") != SEARCH:
            continue
        if found is not None:
            raise _wrong(place, f"{SEARCH} stands there twice")
        try:
            known = FileSearchTool.model_validate(tool)
        except ValidationError as error:
            raise from_validation(error, prefix=f"{place}.") from error
        if known.filters is not None:
            compiled(known.filters, f"{place}.filters")
        found = Searching(place, known)
    if found is not None:
        for number, tool in enumerate(tools or ()):
            if tool.get("type") != SEARCH and tool.get("name") == SEARCH:
                raise _wrong(f"tools.{number}.name", f"{SEARCH!r} is the name of the tool at {found.place}")
    return found


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as the response shows it."""
    ranking = {"ranker": "auto", "score_threshold": 0.0} | (tool.get("ranking_options") or {})
    return {"filters": None, "max_num_results": 10, **tool, "ranking_options": ranking}


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {what}.", param=place, code="invalid_value")


@dataclass(slots=True)
class Citer:
    """Finds what a text cites, as it is written: one text after the other, of one response.

    Args:
        is_prose: whether sentences without a number are given the passage that supports them when the text is over.
    """

    is_prose: bool = True
    passages: list[Found] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _text: str = ""
    _at: int = 0

    def add(self, found: Found) -> int:
        """The number of a passage, from 1; the same for the same passage."""
        number = self._numbers.get(found.passage.id)
        if number is None:
            self.passages.append(found)
            number = self._numbers[found.passage.id] = len(self.passages)
        return number

    def take(self, piece: str) -> list[dict[str, Any]]:
        """More of the text; returns annotations for the marks that are complete."""
        self._text += piece
        found: list[dict[str, Any]] = []
        for match in MARKS.finditer(self._text, self._at):
            self._at = match.end()
            index = match.start() + len(match[0]) - len(match[0].lstrip())
            numbers = dict.fromkeys(int(each) for each in _figures(match[1]))
            found += [self._citation(each, index) for each in numbers if 0 < each <= len(self.passages)]
        self._at = max(self._at, len(self._text) - _OPEN_MARK_CHARS)
        return found

    def end(self) -> list[dict[str, Any]]:
        """The text is over; returns annotations for what it says without a number, at the end of each sentence."""
        text, self._text, self._at = self._text, "", 0
        if not self.is_prose or not self.passages:
            return []
        sources = [Source(each.passage.text, each.about) for each in self.passages]
        found: list[dict[str, Any]] = []
        for span in sentences(text):
            if MARKS.search(span.text) or says_nothing(span.text):
                continue
            shares = {
                number: judged.share
                for number, source in enumerate(sources, 1)
                if (judged := verdict(span.text, source)).stands
            }
            if shares:
                found.append(self._citation(max(shares, key=lambda number: shares[number]), span.end))
        return found

    def _citation(self, number: int, index: int) -> dict[str, Any]:
        found = self.passages[number - 1]
        return {"type": "file_citation", "index": index, "file_id": found.file_id, "filename": found.filename}


def _figures(marks: str) -> list[str]:
    return "".join(char if char.isdigit() else " " for char in marks).split()


class FileSearch:
    """The searches of one response.

    Args:
        meter: of the response: searches are recorded beside it, each by itself.
        with_results: whether items show the passages.
    """

    def __init__(
        self,
        gateway: GatewayService,
        principal: Principal,
        meter: Meter,
        searching: Searching,
        citer: Citer,
        *,
        with_results: bool,
    ) -> None:
        if not isinstance(gateway.spaces, SpaceDoor):
            raise UnsupportedParameter(f"{searching.place}: there are no vector stores here.", param=searching.place)
        self._gateway = gateway
        self._search: SpaceSearch = gateway.spaces.search(gateway)
        self._principal = principal
        self._meter = meter
        self._place, self._tool = searching.place, searching.tool
        self._citer = citer
        self._with_results = with_results
        self._spaces: list[Space] = []
        deployed = gateway.pool.peek(principal.project_id, meter.model)
        context = None if deployed is None else deployed.max_model_len
        self._room = (context or _UNKNOWN_CONTEXT) // _SHARE

    async def open(self) -> None:
        """Find the stores.

        Raises:
            NotFound: there is no such store. PermissionDenied: the caller may not ask it.
        """
        self._spaces = []
        for number, store_id in enumerate(self._tool.vector_store_ids):
            place = f"{self._place}.vector_store_ids.{number}"
            try:
                space = await self._search.opened(self._principal, store_id)
            except NotFound as error:
                raise NotFound(
                    f"{place}: there is no vector store {store_id[:80]!r}.",
                    hint="GET /v1/vector_stores lists them.",
                    param=place,
                    code="vector_store_not_found",
                ) from error
            if space.id not in [each.id for each in self._spaces]:
                self._spaces.append(space)

    async def search(self, queries: Sequence[str]) -> tuple[list[Item] | None, str, bool]:
        """What one call of the model's gives: the item's results, what the model reads, and whether it failed.

        Raises:
            QuotaExceeded, RateLimited: a budget or a limit refuses.
        """
        if not queries:
            return None, "Error: queries must be a list of texts, none empty.", True
        try:
            found = await self._find(queries)
        except _TOLD as error:
            log.warning("a model's search of files failed", reason=error.message)
            return None, f"Error: {error.message}", True
        return [_result(each) for each in found] if self._with_results else None, self._told(found), False

    async def _find(self, queries: Sequence[str]) -> list[Found]:
        ranking = self._tool.ranking_options
        wish = Wish(
            queries=tuple(queries),
            limit=self._tool.max_num_results,
            filters=self._tool.filters,
            param=f"{self._place}.filters",
            threshold=0.0 if ranking is None else ranking.score_threshold or 0.0,
            reranked=ranking is None or ranking.ranker != "none",
        )
        lists = []
        for space in self._spaces:
            async with own_record(self._gateway, self._principal, PREFIX + space.name, self._meter) as meter:
                lists.append(await self._search.find(self._principal, space, wish, meter))
        return merged(lists)[: wish.limit]

    def _told(self, found: Sequence[Found]) -> str:
        if not found:
            return "No passage was found."
        chosen = found[: fitting(found, self._room)]
        self._room = max(0, self._room - sum(len(each.shown.encode()) // 3 + 20 for each in chosen))
        return prompting.found([(self._citer.add(each), each) for each in chosen])


def merged(lists: Sequence[Sequence[Found]]) -> list[Found]:
    """One order of what several stores gave: by score where a reranker gave them all, else the best of each in turn."""
    every = [each for found in lists for each in found]
    if len(lists) < 2 or all(each.is_reranked for each in every):
        return sorted(every, key=lambda each: -each.score)
    longest = max(len(found) for found in lists)
    return [found[rank] for rank in range(longest) for found in lists if rank < len(found)]


def queries_of(arguments: str) -> list[str]:
    """What a model asks for; empty where it is in no form. Servers elsewhere need not hold a model to it."""
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return []
    queries = given.get("queries") if isinstance(given, dict) else None
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        return []
    return [query.strip() for query in queries if query.strip()][:_MAX_QUERIES]


def _result(found: Found) -> Item:
    return {
        "attributes": found.document.attributes,
        "file_id": found.file_id,
        "filename": found.filename,
        "score": found.score,
        "text": found.passage.text,
    }
