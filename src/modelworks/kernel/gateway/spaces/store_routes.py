"""`/v1/vector_stores`: OpenAI's routes over `VectorStores` and `SpaceSearch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.contract.passages import MAX_QUERIES
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.files.service import Listing
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object
from modelworks.kernel.gateway.spaces.search import PREFIX, SpaceSearch, Wish
from modelworks.kernel.gateway.spaces.stores import VectorStores, contents_page
from modelworks.kernel.gateway.spaces.wire import (
    BatchCreate,
    FileAttach,
    FileUpdate,
    StoreCreate,
    StoreFileQuery,
    StoreQuery,
    StoreSearch,
    StoreUpdate,
    results_page,
)
from modelworks.kernel.gateway.stream import whole_answer

_STORES = "/v1/vector_stores"
_STORE = _STORES + "/{vector_store_id}"
_FILES, _FILE = _STORE + "/files", _STORE + "/files/{file_id}"
_BATCHES, _BATCH = _STORE + "/file_batches", _STORE + "/file_batches/{batch_id}"
_Asked = TypeVar("_Asked", bound=BaseModel)
What = Callable[[Session, Principal], dict[str, Any] | Listing]


def router(gateway: GatewayService, stores: VectorStores, search: SpaceSearch) -> APIRouter:
    """The routes; reading needs the scope "read", changing "write", searching "inference"."""
    found = APIRouter(route_class=PlainRoute, tags=["Vector stores"])
    routes = _Routes(gateway, stores)
    _stores(found, routes)
    _files(found, routes)
    _batches(found, routes)
    _search(found, gateway, search)
    return found


class _Routes:
    def __init__(self, gateway: GatewayService, stores: VectorStores) -> None:
        self._gateway = gateway
        self.stores = stores

    async def look(self, request: Request, what: What) -> Response:
        caller = await self._gateway.principal(request.scope, "read")

        def read() -> dict[str, Any]:
            with self.stores.db.reading() as session:
                return _wire(what(session, caller))

        return answer(await run_in_threadpool(read))

    async def change(self, request: Request, what: What) -> Response:
        caller = await self._gateway.principal(request.scope, "write")

        def write() -> dict[str, Any]:
            with self.stores.db.transaction() as session:
                return _wire(what(session, caller))

        return answer(await run_in_threadpool(write))

    async def asked(self, request: Request, kind: type[_Asked]) -> _Asked:
        # Who may not write learns nothing of the form.
        await self._gateway.principal(request.scope, "write")
        return parse(kind, json_object(await request.body()))


def _wire(found: dict[str, Any] | Listing) -> dict[str, Any]:
    return found.wire() if isinstance(found, Listing) else found


def _described(path: str, kind: type[BaseModel] | None = None, query: type[BaseModel] | None = None) -> dict[str, Any]:
    """Path, query and body of a route, for OpenAPI."""
    names = [piece[1:-1] for piece in path.split("/") if piece.startswith("{")]
    parameters = [each for name in names for each in in_path(name)["parameters"]]
    if query is not None:
        parameters += query_of(query)["parameters"]
    return {"parameters": parameters, **({} if kind is None else described(inline_schema(kind)))}


def _stores(found: APIRouter, routes: _Routes) -> None:
    stores = routes.stores

    @found.post(_STORES, summary="Make a vector store", openapi_extra=_described(_STORES, StoreCreate))
    async def create_vector_store(request: Request) -> Response:
        asked = await routes.asked(request, StoreCreate)
        return await routes.change(request, lambda session, who: stores.create(session, who, asked))

    @found.get(_STORES, summary="List vector stores", openapi_extra=_described(_STORES, query=StoreQuery))
    async def list_vector_stores(request: Request) -> Response:
        asked = parse(StoreQuery, dict(request.query_params))
        return await routes.look(request, lambda session, who: stores.list(session, who, asked))

    @found.get(_STORE, summary="One vector store", openapi_extra=_described(_STORE))
    async def retrieve_vector_store(request: Request) -> Response:
        return await routes.look(request, lambda session, who: stores.get(session, who, request.path_params["vector_store_id"]))

    @found.post(_STORE, summary="Change a vector store", openapi_extra=_described(_STORE, StoreUpdate))
    async def update_vector_store(request: Request) -> Response:
        asked = await routes.asked(request, StoreUpdate)
        return await routes.change(
            request, lambda session, who: stores.update(session, who, request.path_params["vector_store_id"], asked)
        )

    @found.delete(_STORE, summary="Delete a vector store", openapi_extra=_described(_STORE))
    async def delete_vector_store(request: Request) -> Response:
        return await routes.change(
            request, lambda session, who: stores.delete(session, who, request.path_params["vector_store_id"])
        )


def _files(found: APIRouter, routes: _Routes) -> None:
    stores = routes.stores

    def named(request: Request) -> tuple[str, str]:
        return request.path_params["vector_store_id"], request.path_params["file_id"]

    @found.post(_FILES, summary="Put a file into a vector store", openapi_extra=_described(_FILES, FileAttach))
    async def create_vector_store_file(request: Request) -> Response:
        asked = await routes.asked(request, FileAttach)
        return await routes.change(
            request, lambda session, who: stores.attach(session, who, request.path_params["vector_store_id"], asked)
        )

    @found.get(_FILES, summary="List the files of a vector store", openapi_extra=_described(_FILES, query=StoreFileQuery))
    async def list_vector_store_files(request: Request) -> Response:
        asked = parse(StoreFileQuery, dict(request.query_params))
        return await routes.look(
            request, lambda session, who: stores.files(session, who, request.path_params["vector_store_id"], asked)
        )

    @found.get(_FILE, summary="One file of a vector store", openapi_extra=_described(_FILE))
    async def retrieve_vector_store_file(request: Request) -> Response:
        return await routes.look(request, lambda session, who: stores.file(session, who, *named(request)))

    @found.post(_FILE, summary="Change the attributes of a file", openapi_extra=_described(_FILE, FileUpdate))
    async def update_vector_store_file(request: Request) -> Response:
        asked = await routes.asked(request, FileUpdate)
        attributes = asked.attributes
        return await routes.change(request, lambda session, who: stores.update_file(session, who, *named(request), attributes))

    @found.delete(_FILE, summary="Take a file out of a vector store", openapi_extra=_described(_FILE))
    async def delete_vector_store_file(request: Request) -> Response:
        return await routes.change(request, lambda session, who: stores.detach(session, who, *named(request)))

    @found.get(_FILE + "/content", summary="The passages of a file", openapi_extra=_described(_FILE))
    async def vector_store_file_content(request: Request) -> Response:
        def read(session: Session, caller: Principal) -> dict[str, Any]:
            _, digest = stores.content(session, caller, *named(request))
            return contents_page([]) if digest is None else stores.texts(digest)

        return await routes.look(request, read)


def _batches(found: APIRouter, routes: _Routes) -> None:
    stores = routes.stores

    def named(request: Request) -> tuple[str, str]:
        return request.path_params["vector_store_id"], request.path_params["batch_id"]

    @found.post(_BATCHES, summary="Put many files into a vector store", openapi_extra=_described(_BATCHES, BatchCreate))
    async def create_vector_store_file_batch(request: Request) -> Response:
        asked = await routes.asked(request, BatchCreate)
        store_id = request.path_params["vector_store_id"]
        return await routes.change(request, lambda session, who: stores.create_batch(session, who, store_id, asked))

    @found.get(_BATCH, summary="One batch of files", openapi_extra=_described(_BATCH))
    async def retrieve_vector_store_file_batch(request: Request) -> Response:
        return await routes.look(request, lambda session, who: stores.batch(session, who, *named(request)))

    @found.post(_BATCH + "/cancel", summary="Take back the files that are not ready yet", openapi_extra=_described(_BATCH))
    async def cancel_vector_store_file_batch(request: Request) -> Response:
        return await routes.change(request, lambda session, who: stores.cancel_batch(session, who, *named(request)))

    @found.get(_BATCH + "/files", summary="List the files of a batch", openapi_extra=_described(_BATCH, query=StoreFileQuery))
    async def list_vector_store_file_batch_files(request: Request) -> Response:
        asked = parse(StoreFileQuery, dict(request.query_params))
        return await routes.look(request, lambda session, who: stores.batch_files(session, who, *named(request), asked))


def _search(found: APIRouter, gateway: GatewayService, search: SpaceSearch) -> None:
    path = _STORE + "/search"

    @found.post(path, summary="Search a vector store", openapi_extra=_described(path, StoreSearch))
    async def search_vector_store(request: Request) -> Response:
        principal = await gateway.caller(request.scope)
        meter = gateway.meter(principal, request.scope, _STORES + "/search")
        meter.model = PREFIX + request.path_params["vector_store_id"]
        try:
            asked = parse(StoreSearch, json_object(await request.body()))
            queries = _queries(asked.query)
            space = await search.opened(principal, request.path_params["vector_store_id"])
            meter.model = PREFIX + space.name
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise
        ranking = asked.ranking_options
        wish = Wish(
            queries=tuple(queries),
            limit=asked.max_num_results,
            filters=asked.filters,
            threshold=0.0 if ranking is None else ranking.score_threshold or 0.0,
            reranked=ranking is None or ranking.ranker != "none",
        )

        async def whole() -> bytes:
            return orjson.dumps(results_page(queries, await search.find(principal, space, wish, meter)))

        return await whole_answer(whole, meter, request.receive)


def _queries(given: str | list[str]) -> list[str]:
    queries = [given] if isinstance(given, str) else given
    if not 0 < len(queries) <= MAX_QUERIES or not all(query.strip() for query in queries):
        raise InvalidRequest(
            f"query: must be a text, or 1 to {MAX_QUERIES} of them, none empty.", param="query", code="invalid_value"
        )
    return queries
