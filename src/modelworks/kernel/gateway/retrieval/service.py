"""Embeddings and reranking: OpenAI's, Jina's and Cohere's forms, over replicas of ours or a server that speaks them itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from modelworks.contract.errors import InvalidRequest
from modelworks.contract.retrieval import MAX_TEXTS
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway import proxy
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.exchange import Call, exchange, refusal
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.schemas import Wire
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.serving import Route

#: Documents that one search unit of Cohere's accounts holds.
_UNIT_DOCUMENTS = 100
#: How clients name the two sides of a search.
_KINDS = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}
_Wire = TypeVar("_Wire", bound=BaseModel)


class EmbeddingsRequest(Wire):
    """OpenAI's form, with the names that other servers have for cutting long texts and for prompts of models."""

    model: str
    input: Any = Field(description="A text, a list of texts, token ids, or a list of lists of token ids.")
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    input_type: str | None = Field(None, description="query or document, for models that tell them apart.")
    truncate: bool | None = Field(None, description="Cut texts at the model's longest input instead of refusing them.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Cut texts at so many tokens; -1: as truncate.")


class RerankRequest(Wire):
    """Jina's and Cohere's form."""

    model: str
    query: str = Field(min_length=1)
    documents: list[str | dict[str, Any]] = Field(
        min_length=1, max_length=MAX_TEXTS, description="Texts, or objects with a text."
    )
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Cut documents at so many tokens.")
    truncate: bool | None = Field(None, description="Cut documents at the model's longest input instead of refusing them.")
    user: str | None = None


class RetrievalCall(ABC):
    """One request to a route of retrieval.

    A request for a model of ours is validated in full, at once; one for an upstream server is the upstream's to judge.

    Raises (on construction):
        InvalidRequest: with `param` naming the field.
    """

    #: Of the route, below /v1 and at an upstream.
    path: str
    #: The tasks of the models that answer it.
    tasks: tuple[str, ...]

    def __init__(self, gateway: GatewayService, principal: Principal, meter: Meter, body: dict[str, Any]) -> None:
        self._gateway = gateway
        self._project_id = principal.project_id
        self._meter = meter
        self._body = body
        if isinstance(user := body.get("user"), str) and user:
            meter.split_by = user
        deployed = gateway.pool.peek(principal.project_id, meter.model)
        if deployed is None or deployed.kind != "openai":
            self._understand()

    @abstractmethod
    def _understand(self) -> dict[str, Any]:
        """The task's input; raises InvalidRequest."""

    @abstractmethod
    def _answer(self, output: dict[str, Any]) -> dict[str, Any]:
        """The route's form of the task's output."""

    def _place_of(self, param: str | None) -> str | None:
        """Where in the caller's request that lies which the replica found fault with."""
        return param

    def _prepare(self, route: Route) -> Call:
        if route.kind == "openai":
            return proxy.call(route, self.path, self._body)
        if route.kind != "predictor" or route.task not in self.tasks:
            raise InvalidRequest(
                f"The model {route.name!r} answers the task {route.task}, not {' or '.join(self.tasks)}.",
                hint="GET /v1/tasks lists the models of each task.",
                param="model",
                code="model_not_supported",
            )
        return Call("/invoke", orjson.dumps(self._told(route, self._understand())))

    def _told(self, route: Route, given: dict[str, Any]) -> dict[str, Any]:
        """The input in the form of the task that the route's model answers."""
        return given

    async def whole(self) -> bytes:
        """The answer."""
        meter = self._meter
        async with exchange(self._gateway.pool, self._project_id, meter.model, self._prepare, meter) as (route, response):
            if route.kind == "openai":
                return await proxy.whole(response, meter)
            if response.status != 200:
                error = await refusal(response)
                error.param = self._place_of(error.param)
                raise error
            output = orjson.loads(await response.read())
            meter.answering()
            meter.tallies[0].add({"usage": {"prompt_tokens": output["prompt_tokens"]}})
            return orjson.dumps(self._answer(output))


class EmbeddingsCall(RetrievalCall):
    """One request to /v1/embeddings."""

    path = "/embeddings"
    tasks = ("feature-extraction",)

    def _understand(self) -> dict[str, Any]:
        if self._body.get("input") is None:
            raise InvalidRequest(
                "The parameter 'input' is missing.", hint="Add it.", param="input", code="missing_required_parameter"
            )
        request = _validated(EmbeddingsRequest, self._body)
        kind = _KINDS.get(request.input_type or "query")
        if kind is None:
            raise _wrong("input_type", f"must be one of {', '.join(_KINDS)}", "invalid_value")
        cut = request.truncate_prompt_tokens
        if cut == 0:
            raise _wrong("truncate_prompt_tokens", "must be -1 or at least 1", "invalid_value")
        return {
            **_items(request.input),
            "kind": kind if request.input_type else None,
            "dimensions": request.dimensions,
            "encoding_format": request.encoding_format or "float",
            "truncate": bool(request.truncate) or cut == -1,
            "max_tokens": cut if cut is not None and cut > 0 else None,
        }

    def _answer(self, output: dict[str, Any]) -> dict[str, Any]:
        used = self._meter.tallies[0].prompt_tokens
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(output["embeddings"])
            ],
            "model": self._meter.model,
            # As chats have it: an index names the version whose vectors it holds.
            "system_fingerprint": None if self._meter.route is None else self._meter.route.version_id,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }

    def _place_of(self, param: str | None) -> str | None:
        kind, _, index = (param or "").partition(".")
        if kind not in ("texts", "token_ids"):
            return param
        given = self._body["input"]
        is_one = isinstance(given, str) or isinstance(given[0], int)
        return "input" if is_one or not index else f"input.{index}"


class RerankCall(RetrievalCall):
    """One request to /v1/rerank or /v2/rerank. An encoder answers too: by how near the vectors lie."""

    path = "/rerank"
    tasks = ("text-ranking", "feature-extraction")

    def _understand(self) -> dict[str, Any]:
        # The two forms of a document would each be named in the place of an error.
        for index, document in enumerate(_list(self._body.get("documents"))):
            text = document.get("text") if isinstance(document, dict) else document
            if not isinstance(text, str):
                raise _wrong(f"documents.{index}", "must be a text, or an object with a field text", "invalid_type")
        request = _validated(RerankRequest, self._body)
        return {
            "query": request.query,
            "documents": [each if isinstance(each, str) else each["text"] for each in request.documents],
            "truncate": bool(request.truncate),
            "max_tokens": request.max_tokens_per_doc,
        }

    def _told(self, route: Route, given: dict[str, Any]) -> dict[str, Any]:
        if route.task == self.tasks[0]:
            return given
        documents = given.pop("documents")
        return {**given, "texts": documents, "kind": "document"}

    def _place_of(self, param: str | None) -> str | None:
        kind, _, index = (param or "").partition(".")
        return f"documents.{index}" if kind == "texts" else param

    def _answer(self, output: dict[str, Any]) -> dict[str, Any]:
        documents = self._body["documents"]
        scores: list[float] | None = output.get("scores")
        if scores is None:
            raise InvalidRequest(
                f"The model {self._meter.model!r} gives vectors only.",
                hint="Take a reranker, or an encoder that this server runs itself.",
                param="model",
                code="model_not_supported",
            )
        best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: self._body.get("top_n")]
        results: list[dict[str, Any]] = []
        for index in best:
            result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
            if self._body.get("return_documents"):
                document = documents[index]
                result["document"] = document if isinstance(document, dict) else {"text": document}
            results.append(result)
        used = self._meter.tallies[0].prompt_tokens
        return {
            "id": new_id("rerank"),
            "object": "list",
            "model": self._meter.model,
            "results": results,
            "usage": {"prompt_tokens": used, "total_tokens": used},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": math.ceil(len(documents) / _UNIT_DOCUMENTS)},
                "tokens": {"input_tokens": used},
            },
        }


def _items(given: Any) -> dict[str, Any]:
    """The field `input`, which is one of four things, in the task's form."""
    if isinstance(given, str):
        return {"texts": [_text(given, "input")]}
    if not isinstance(given, list):
        raise _wrong("input", "must be a text, a list of texts, token ids, or a list of lists of token ids", "invalid_type")
    if not given:
        raise _wrong("input", "must not be empty", "invalid_value")
    if isinstance(given[0], int):
        return {"token_ids": [_ids(given, "input")]}
    if len(given) > MAX_TEXTS:
        raise _wrong("input", f"holds {len(given)} items, {MAX_TEXTS} are the most", "invalid_value")
    if isinstance(given[0], list):
        return {"token_ids": [_ids(each, f"input.{index}") for index, each in enumerate(given)]}
    return {"texts": [_text(each, f"input.{index}") for index, each in enumerate(given)]}


def _text(given: Any, param: str) -> str:
    if not isinstance(given, str):
        raise _wrong(param, "must be a text, as the first item or its kind is", "invalid_type")
    if not given:
        raise _wrong(param, "must not be an empty text", "invalid_value")
    return given


def _ids(given: Any, param: str) -> list[int]:
    if not isinstance(given, list) or any(type(each) is not int for each in given):
        raise _wrong(param, "must be a list of token ids", "invalid_type")
    if not given or min(given) < 0 or max(given) > 0x7FFFFFFF:
        raise _wrong(param, "must not be empty, and ids are 0 or more", "invalid_value")
    return given


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


def _wrong(param: str, what: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}.", param=param, code=code)


def _validated(kind: type[_Wire], body: dict[str, Any]) -> _Wire:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from error
