"""What the gateway and an engine say to each other about the tasks `feature-extraction` and `text-ranking`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

#: Texts of one request.
MAX_TEXTS = 2048


class _Limits(BaseModel):
    """What is done with a text that is too long: by default it is refused with its length, never cut unasked."""

    #: Cut a text at the model's longest input.
    truncate: bool = False
    #: Cut a text (of a ranking: a document) at so many of its own tokens, and at the model's longest input.
    max_tokens: int | None = Field(default=None, ge=1)


class EmbeddingInput(_Limits):
    """Texts, or token ids of the model's own tokenizer without special tokens: exactly one of them."""

    texts: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    token_ids: list[list[int]] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    #: For models that write a prompt of their own before queries and documents; others see no difference.
    kind: Literal["query", "document"] | None = None
    #: Where given, the texts are judged by it: scores come back, and no vectors. It is never cut at `max_tokens`.
    query: str | None = None
    #: Length of the vectors, for models that were trained for shorter ones; they are normalised after the cut.
    dimensions: int | None = Field(default=None, ge=1)
    #: base64: of float32 numbers, little-endian.
    encoding_format: Literal["float", "base64"] = "float"

    @model_validator(mode="after")
    def _one_kind(self) -> EmbeddingInput:
        if (self.texts is None) == (self.token_ids is None):
            raise ValueError("give exactly one of texts and token_ids")
        return self


class EmbeddingOutput(BaseModel):
    """One vector per text, in their order, or one score. `prompt_tokens` is what the model read, special tokens included."""

    embeddings: list[list[float]] | list[str]
    prompt_tokens: int
    #: Where a query was given: (1 + the cosine of its vector and the text's) / 2.
    scores: list[float] | None = None


class RankingInput(_Limits):
    """A query, and the documents that are to be judged by it."""

    query: str
    documents: list[str] = Field(min_length=1, max_length=MAX_TEXTS)


class RankingOutput(BaseModel):
    """How relevant each document is, from 0 to 1, in the order of the documents; `prompt_tokens` counts every pair."""

    scores: list[float]
    prompt_tokens: int
