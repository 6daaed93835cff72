"""Passages of a data space for questions: what the caller may see now, by words and vectors, put in order by a reranker.

Which deployments take part is the space's business; they are known by their tasks. Encoder and reranker are asked as a caller
would ask them, and recorded as requests of their own; the index is asked on the record of the request itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
import structlog
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import ModelNotFound, ModelworksError, TimedOut, Unavailable, UpstreamFailed
from modelworks.contract.passages import MAX_PASSAGES, Hit, IndexFacts, Passage, SearchInput, SearchOutput
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace import DataspaceService, Scope, Space, SpaceDocument
from modelworks.kernel.gateway.errors import REQUEST_ID, bug
from modelworks.kernel.gateway.exchange import Call, exchange, refusal
from modelworks.kernel.gateway.metering import CLIENT_GONE, Meter
from modelworks.kernel.gateway.retrieval.service import EmbeddingsCall, RerankCall
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.spaces.tables import SpaceTables
from modelworks.kernel.serving import Route

log = structlog.get_logger(__name__)

#: The task of an index.
SEARCH_TASK: Final = "passage-retrieval"
#: What clients call a space where they name a model.
PREFIX: Final = "space:"
#: Passages that a reranker is shown for each that is wanted, and the fewest.
_SHOWN, _LEAST_SHOWN = 3, 20
#: Endings of files that programs read.
_DATA_ENDINGS: Final = "json jsonl ndjson yaml yml toml ini cfg csv tsv xml log lock sql py js ts java c h cpp go rs sh"
_DATA: Final = frozenset(_DATA_ENDINGS.split())
#: Failures of a model beside the index that leave a search by words.
_MISSABLE: Final = (ModelNotFound, Unavailable, UpstreamFailed, TimedOut)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage for a question, and the document that it stands in."""

    passage: Passage
    #: 0 to 1: the reranker's where there is one, else comparable within one answer only.
    score: float
    document: SpaceDocument
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    #: Its place in the order of vectors; None where words alone found it.
    dense_rank: int | None = None
    is_reranked: bool = False

    @property
    def file_id(self) -> str:
        """As clients know the document: the file that it was made from, else the document itself."""
        return self.document.file_id or self.document.id

    @property
    def filename(self) -> str:
        return self.document.name

    @property
    def shown(self) -> str:
        """The passage with its neighbours."""
        return "\n".join((*self.before, self.passage.text, *self.after))

    @property
    def is_prose(self) -> bool:
        """Whether it is written to be read: no code, no table, and in no file of data or source code."""
        ending = self.document.name.rpartition(".")[2].lower()
        return self.passage.kind not in ("code", "table") and ending not in _DATA

    @property
    def about(self) -> str:
        """What it stands under: the document's name and the headings."""
        return "\n".join((self.document.name, *self.passage.place.headings))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is looked for.

    Args:
        filters: OpenAI's, over attributes of documents. param: what the caller calls them.
        around: neighbours that come with each passage.
        threshold: passages with a lower score are left out.
        reranked: whether the space's reranker is asked.
    """

    queries: tuple[str, ...]
    limit: int = 10
    filters: Mapping[str, Any] | None = None
    param: str = "filters"
    around: int = 0
    threshold: float = 0.0
    reranked: bool = True


@dataclass(slots=True)
class SpaceSearch:
    """Searches of the spaces of a project; those of others do not exist for it. `tables`: those that can be asked."""

    gateway: GatewayService
    spaces: DataspaceService
    tables: SpaceTables | None = None
    _facts: dict[str, IndexFacts] = field(default_factory=dict)

    async def opened(self, principal: Principal, ref: str) -> Space:
        """A space by name or id, for a caller who may ask it.

        Raises:
            PermissionDenied: the key's list of models does not contain it.
            NotFound: there is none.
        """

        def read() -> Space:
            with self.spaces.db.reading() as session:
                return self.spaces.get(session, principal.project_id, ref)

        space = await run_in_threadpool(read)
        if not principal.may_use(PREFIX + space.id):
            principal.require_model(PREFIX + space.name)
        return space

    async def find(self, principal: Principal, space: Space, wish: Wish, meter: Meter) -> list[Found]:
        """The passages for all queries together, best first.

        Args:
            meter: of the request; the index that answers is noted on it.

        Raises:
            InvalidRequest: the filter is wrong.
            Unavailable: the index does not answer, or the space's time is over.
            QuotaExceeded, RateLimited: a budget or a limit refuses.
        """
        if space.state == "expired":
            raise Unavailable(
                f"The data space {space.name!r} has expired.", hint="Give it another expires_after.", code="space_expired"
            )
        scope = await run_in_threadpool(self._scope, principal, space, wish)
        if scope.is_empty or space.index_version_id is None:
            return []
        queries = list(wish.queries)
        vectors = await self._vectors(principal, space, queries, meter)
        reranker = space.settings.reranker if wish.reranked else None
        limit = wish.limit if reranker is None else max(_LEAST_SHOWN, _SHOWN * wish.limit)
        asked = SearchInput(
            queries=queries,
            vectors=vectors,
            limit=min(limit, MAX_PASSAGES),
            documents=None if scope.documents is None else list(scope.documents),
            without=list(scope.without),
            around=wish.around,
        )
        hits = await self._hits(principal, space, asked, meter)
        # What was removed while the index was asked is not told.
        wanted = {hit.passage.document_id for each in hits for hit in each}
        documents = await run_in_threadpool(self._documents, principal, space, wanted)
        found = _merged(hits, documents)
        if reranker is not None:
            found = await self._reranked(principal, reranker, queries, found, meter)
        return [each for each in found if each.score >= wish.threshold][: wish.limit]

    # -- what the space's room knows -------------------------------------------------------------------------------------

    def _scope(self, principal: Principal, space: Space, wish: Wish) -> Scope:
        with self.spaces.db.reading() as session:
            scope = self.spaces.documents.scope(session, principal, space.id, filters=wish.filters, param=wish.param)
        if self.spaces.needs_note(space):
            with self.spaces.db.transaction() as session:
                self.spaces.used(session, principal.project_id, space.id)
        return scope

    def _documents(self, principal: Principal, space: Space, ids: set[str]) -> dict[str, SpaceDocument]:
        with self.spaces.db.reading() as session:
            return self.spaces.documents.records(session, principal, space.id, ids)

    def _facts_of(self, project_id: str, version_id: str) -> IndexFacts | None:
        """What the index says of itself; versions do not change, so it is read once."""
        found = self._facts.get(version_id)
        if found is None:
            with self.spaces.db.reading() as session:
                version = self.gateway.catalog.get_version(session, project_id, version_id)
            try:
                found = IndexFacts.model_validate(version.metadata.get("index"))
            except ValidationError:
                return None
            self._facts[version_id] = found
        return found

    # -- asking deployments ----------------------------------------------------------------------------------------------

    async def _vectors(self, principal: Principal, space: Space, queries: list[str], outer: Meter) -> list[list[float]] | None:
        """Vectors of the queries by the very encoder whose vectors the index holds; None leaves words alone."""
        version_id = space.index_version_id
        if version_id is None:
            return None
        facts = await run_in_threadpool(self._facts_of, principal.project_id, version_id)
        if facts is None or facts.encoder is None:
            return None
        deployed = self.gateway.pool.peek(principal.project_id, facts.encoder)
        if deployed is None or (facts.encoder_version is not None and deployed.version_id != facts.encoder_version):
            log.warning("a data space is searched by words alone: its encoder is another one now", space_id=space.id)
            return None
        body: dict[str, Any] = {"model": facts.encoder, "input": queries, "encoding_format": "float"}
        if deployed.kind != "openai":
            body |= {"input_type": "query", "truncate": True}
        try:
            async with self._own(principal, facts.encoder, outer) as meter:
                answer = orjson.loads(await EmbeddingsCall(self.gateway, principal, meter, body).whole())
        except _MISSABLE as error:
            log.warning("a data space is searched by words alone", space_id=space.id, reason=error.message)
            return None
        return [each["embedding"] for each in answer["data"]]

    async def _hits(self, principal: Principal, space: Space, asked: SearchInput, meter: Meter) -> list[list[Hit]]:
        body = asked.model_dump_json().encode()

        def prepare(route: Route) -> Call:
            if route.task != SEARCH_TASK:
                raise Unavailable(
                    f"The deployment {route.name!r} answers the task {route.task}: it is no index.", code="space_unavailable"
                )
            return Call("/invoke", body)

        try:
            pool = self.gateway.pool
            async with exchange(pool, principal.project_id, space.deployment, prepare, meter) as (_, response):
                if response.status != 200:
                    raise await refusal(response)
                output = SearchOutput.model_validate_json(await response.read())
        except ModelNotFound as error:
            # Its name means nothing to the caller.
            raise Unavailable(
                f"The index of the data space {space.name!r} is not deployed at this moment.",
                hint="Ask again shortly; `modelworks space status` tells how far it is.",
                code="space_unavailable",
                retry_after_s=2,
            ) from error
        meter.answering()
        return output.hits

    async def _reranked(
        self, principal: Principal, reranker: str, queries: list[str], found: list[Found], outer: Meter
    ) -> list[Found]:
        if not found:
            return found
        texts = [each.passage.text for each in found]
        body: dict[str, Any] = {"model": reranker, "query": " ".join(queries), "documents": texts}
        deployed = self.gateway.pool.peek(principal.project_id, reranker)
        if deployed is not None and deployed.kind != "openai":
            body["truncate"] = True
        try:
            async with self._own(principal, reranker, outer) as meter:
                answer = orjson.loads(await RerankCall(self.gateway, principal, meter, body).whole())
        except _MISSABLE as error:
            log.warning("passages are not reranked", reason=error.message)
            return found
        return [
            replace(found[each["index"]], score=each["relevance_score"], is_reranked=True)
            for each in sorted(answer["results"], key=lambda result: -result["relevance_score"])
        ]

    @asynccontextmanager
    async def _own(self, principal: Principal, model: str, outer: Meter) -> AsyncIterator[Meter]:
        async with own_record(self.gateway, principal, model, outer) as meter:
            yield meter


@asynccontextmanager
async def own_record(gateway: GatewayService, principal: Principal, model: str, outer: Meter) -> AsyncIterator[Meter]:
    """A question to a model within another request: reserved, metered and recorded by itself, however it ends."""
    meter = gateway.meter(principal, {REQUEST_ID: outer.request_id}, outer.endpoint)
    meter.model, meter.split_by = model, outer.split_by
    try:
        yield meter
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


def _merged(hits: Sequence[Sequence[Hit]], documents: Mapping[str, SpaceDocument]) -> list[Found]:
    """One order over the answers to several queries: each passage by its best score."""
    best: dict[str, Hit] = {}
    for each in hits:
        for hit in each:
            other = best.get(hit.passage.id)
            if hit.passage.document_id in documents and (other is None or hit.score > other.score):
                best[hit.passage.id] = hit
    ordered = sorted(best.values(), key=lambda hit: -hit.score)
    return [
        Found(
            hit.passage,
            hit.score,
            documents[hit.passage.document_id],
            tuple(hit.before),
            tuple(hit.after),
            hit.dense_rank,
        )
        for hit in ordered
    ]
