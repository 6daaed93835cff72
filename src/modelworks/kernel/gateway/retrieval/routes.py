"""/v1/embeddings, /v1/rerank and /v2/rerank."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from modelworks.kernel.gateway.answers.form import gives
from modelworks.kernel.gateway.answers.language import EmbeddingList, Ranking
from modelworks.kernel.gateway.retrieval.service import EmbeddingsCall, EmbeddingsRequest, RerankCall, RerankRequest
from modelworks.kernel.gateway.routes import PlainRoute, described
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import whole_answer


def router(gateway: GatewayService) -> APIRouter:
    """The routes of retrieval."""
    found = APIRouter(route_class=PlainRoute)

    async def answer(request: Request, kind: type[EmbeddingsCall] | type[RerankCall]) -> Response:
        async with gateway.question(request, "/v1" + kind.path) as (principal, meter, body):
            call = kind(gateway, principal, meter, body)
        return await whole_answer(call.whole, meter, request.receive)

    @found.post(
        "/v1/embeddings",
        summary="Vectors of texts",
        tags=["OpenAI"],
        responses=gives(EmbeddingList),
        openapi_extra=described(inline_schema(EmbeddingsRequest)),
    )
    async def create_embedding(request: Request) -> Response:
        return await answer(request, EmbeddingsCall)

    for version, summary in (("v1", "Order documents by a query"), ("v2", "Order documents by a query, where clients look")):

        @found.post(
            f"/{version}/rerank",
            name=f"rerank_{version}",
            summary=summary,
            tags=["Reranking"],
            responses=gives(Ranking),
            openapi_extra=described(inline_schema(RerankRequest)),
        )
        async def rerank(request: Request) -> Response:
            return await answer(request, RerankCall)

    return found
