"""The client's methods for embeddings and reranking; `client.tasks` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.client.transport import AsyncGroup, Record, given


class AsyncRetrieval(AsyncGroup):
    """Search by meaning."""

    async def embed(
        self, /, model: str, input: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], **fields: Any
    ) -> Record:
        """Vectors of texts or of token ids in OpenAI's form, as lists of numbers unless `encoding_format` says otherwise.

        Args:
            fields: `dimensions`, `input_type` ("query", "document"), `truncate` and what else the route takes.

        Raises:
            InvalidRequest: code `context_length_exceeded` for a text that is too long and was not to be cut.
        """
        body = {"model": model, "input": input if isinstance(input, str) else list(input), **given(**fields)}
        return dict(await self._transport.json("POST", "/v1/embeddings", json=body))

    async def rerank(self, /, model: str, query: str, documents: Sequence[str | Mapping[str, Any]], **fields: Any) -> Record:
        """Documents in order of their relevance to a query: `results` with `index` and `relevance_score` from 0 to 1.

        Args:
            fields: `top_n`, `return_documents`, `truncate`, `max_tokens_per_doc`.
        """
        body = {"model": model, "query": query, "documents": list(documents), **given(**fields)}
        return dict(await self._transport.json("POST", "/v1/rerank", json=body))
