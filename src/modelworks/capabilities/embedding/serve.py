"""Answer with vectors of texts, or with scores of documents for a query."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from modelworks.capabilities.embedding.encoder import (
    EncoderCard,
    PairScorer,
    Row,
    RowMaker,
    TextEncoder,
    load_encoder,
    load_ranker,
    read_card,
    uses_segments,
)
from modelworks.capabilities.embedding.engine import Batcher, open_compute
from modelworks.capabilities.embedding.schemas import ServeOptions
from modelworks.contract.errors import ContextLengthExceeded, InvalidRequest, UnsupportedArchitecture
from modelworks.contract.retrieval import EmbeddingInput, EmbeddingOutput, RankingInput, RankingOutput
from modelworks.contract.run import LocalModel

#: Both scripts, so that an engine that goes wrong in one of them is noticed, and two lengths, so that padding is.
_PROBE = ("The quick brown fox jumps over the lazy dog 42 times.", "北京今天多云转晴，最高气温二十五度，东北风三级。", "no")
#: The key in a prompt's table for each side, as publishers write them.
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage")}


class _Served:
    """What both predictors have: the checkpoint, its rows and its batches."""

    engine = "auto"

    def __init__(self, model: LocalModel | None, options: ServeOptions | None) -> None:
        if model is None:
            raise InvalidRequest("This task needs a model.", hint="Name one in the deployment.", param="model")
        options = options or ServeOptions()
        self.card: EncoderCard = read_card(model.path)
        self.max_length = min(options.context_length or self.card.max_length, self.card.positions)
        self.maker = RowMaker(model.path, with_segments=self._with_segments())
        compute, self.engine_name = open_compute(
            self._module(),
            self._probe(),
            engine=self.engine,
            precision=options.precision,
            num_threads=options.num_threads,
        )
        self._batcher = Batcher(compute, options.max_batch_tokens)

    def _module(self) -> Any:
        return TextEncoder(load_encoder(self.card), self.card.pooling).eval()

    def _with_segments(self) -> bool:
        return False

    def _probe(self) -> list[Row]:
        room = self.max_length - self.maker.num_special
        return [self.maker.single(ids[:room]) for ids in self.maker.ids(_PROBE)]

    def close(self) -> None:
        """End the thread that computes."""
        self._batcher.close()


class Embedder(_Served):
    """Vectors of texts (task feature-extraction)."""

    def __init__(self, model: LocalModel | None, options: ServeOptions | None = None) -> None:
        super().__init__(model, options)
        if self.card.is_ranking:
            self.close()
            raise UnsupportedArchitecture(
                "This checkpoint scores pairs and gives no vectors.", hint="Deploy it for the task text-ranking."
            )

    def predict(self, request: EmbeddingInput) -> EmbeddingOutput:
        """One vector per text, cut to `dimensions` and then normalised; or one score, by the query.

        Raises:
            InvalidRequest: an id that the tokenizer does not have, or dimensions that the model was not trained for.
            ContextLengthExceeded: a text is longer than the model reads, and was not to be cut.
        """
        dimensions = self._dimensions(request.dimensions)
        rows = [self.maker.single(ids) for ids in (*self._query(request), *self._ids(request))]
        vectors_nd = self._batcher.run(rows)[:, :dimensions]
        if self.card.normalise or dimensions < self.card.dimensions[-1]:
            vectors_nd = vectors_nd / np.maximum(np.linalg.norm(vectors_nd, axis=1, keepdims=True), 1e-12)
        prompt_tokens = sum(len(row.ids) for row in rows)
        if request.query is not None:
            return EmbeddingOutput(embeddings=[], prompt_tokens=prompt_tokens, scores=_nearness(vectors_nd))
        return EmbeddingOutput(
            embeddings=_encoded(vectors_nd) if request.encoding_format == "base64" else vectors_nd.tolist(),
            prompt_tokens=prompt_tokens,
        )

    def _dimensions(self, asked: int | None) -> int:
        known = self.card.dimensions
        if asked is None or asked == known[-1]:
            return known[-1]
        if len(known) == 1:
            raise InvalidRequest(
                f"This model's vectors have {known[-1]} dimensions, and it was not trained for shorter ones.",
                hint="Leave dimensions out.",
                param="dimensions",
            )
        if not known[0] <= asked <= known[-1]:
            raise InvalidRequest(
                f"This model's vectors have {known[0]} to {known[-1]} dimensions, not {asked}.",
                hint=f"It was trained for {', '.join(map(str, known))}.",
                param="dimensions",
            )
        return asked

    def _prompt(self, kind: str | None) -> str:
        names = _PROMPT_NAMES.get(kind or "", ())
        return next((self.card.prompts[name] for name in names if name in self.card.prompts), "")

    def _query(self, request: EmbeddingInput) -> list[list[int]]:
        if request.query is None:
            return []
        [ids] = self.maker.ids([self._prompt("query") + request.query])
        room = self.max_length - self.maker.num_special
        if len(ids) > room and not request.truncate:
            raise _too_long("The query", len(ids) + self.maker.num_special, self.max_length, "query")
        return [ids[:room]]

    def _ids(self, request: EmbeddingInput) -> list[list[int]]:
        prompt = self._prompt(request.kind)
        given, kind = request.token_ids, "token_ids"
        if given is None:
            texts = request.texts or []
            given, kind = self.maker.ids([prompt + text for text in texts]), "texts"
        else:
            for index, ids in enumerate(given):
                wrong = next((each for each in ids if not 0 <= each < self.maker.vocab_size), None)
                if wrong is not None:
                    raise InvalidRequest(
                        f"There is no token {wrong}: this model's tokenizer has {self.maker.vocab_size}.",
                        hint="Send ids of the model's own tokenizer, or the text.",
                        param=f"token_ids.{index}",
                    )
            if prompt:
                [before] = self.maker.ids([prompt])
                given = [before + ids for ids in given]
        room = self.max_length - self.maker.num_special
        if request.max_tokens is not None:
            room = min(room, request.max_tokens)
        elif not request.truncate:
            for index, ids in enumerate(given):
                if len(ids) > room:
                    raise _too_long("The text", len(ids) + self.maker.num_special, self.max_length, f"{kind}.{index}")
        return [ids[:room] for ids in given]


def _nearness(vectors_nd: npt.NDArray[np.float32]) -> list[float]:
    """Of the first vector and each of the others: (1 + cosine) / 2."""
    unit_nd = vectors_nd / np.maximum(np.linalg.norm(vectors_nd, axis=1, keepdims=True), 1e-12)
    found: list[float] = ((1 + np.clip(unit_nd[1:] @ unit_nd[0], -1, 1)) / 2).tolist()
    return found


class OpenVINOEmbedder(Embedder):
    """`Embedder` on OpenVINO or not at all."""

    engine = "openvino"


class TransformersEmbedder(Embedder):
    """`Embedder` on torch."""

    engine = "torch"


class Ranker(_Served):
    """Scores of documents (task text-ranking)."""

    def __init__(self, model: LocalModel | None, options: ServeOptions | None = None) -> None:
        super().__init__(model, options)

    def _module(self) -> Any:
        if not self.card.is_ranking:
            raise UnsupportedArchitecture(
                "This checkpoint has no head that scores pairs.", hint="Deploy it for the task feature-extraction."
            )
        return PairScorer(load_ranker(self.card)).eval()

    def _with_segments(self) -> bool:
        return uses_segments(self.card)

    def _probe(self) -> list[Row]:
        query, *documents = (ids[: self.max_length // 2 - 2] for ids in self.maker.ids((_PROBE[2], *_PROBE)))
        return [self.maker.pair(query, document) for document in documents]

    def predict(self, request: RankingInput) -> RankingOutput:
        """The sigmoid of the score of each document.

        Raises:
            ContextLengthExceeded: query and document are longer than the model reads, and the document was not to be cut; or
                the query alone is.
        """
        query, *documents = self.maker.ids([request.query, *request.documents])
        room = self.max_length - self.maker.num_pair_special - len(query)
        if room < 1:
            raise _too_long("The query", len(query) + self.maker.num_pair_special + 1, self.max_length, "query")
        if request.max_tokens is not None:
            room = min(room, request.max_tokens)
        elif not request.truncate:
            for index, ids in enumerate(documents):
                if len(ids) > room:
                    length = len(query) + len(ids) + self.maker.num_pair_special
                    raise _too_long("The query with the document", length, self.max_length, f"documents.{index}")
        rows = [self.maker.pair(query, ids[:room]) for ids in documents]
        logits_n = self._batcher.run(rows)[:, 0].astype(np.float64)
        return RankingOutput(
            scores=(1 / (1 + np.exp(-np.clip(logits_n, -500, 500)))).tolist(), prompt_tokens=sum(len(row.ids) for row in rows)
        )


class OpenVINORanker(Ranker):
    """`Ranker` on OpenVINO or not at all."""

    engine = "openvino"


class TransformersRanker(Ranker):
    """`Ranker` on torch."""

    engine = "torch"


def _encoded(vectors_nd: np.ndarray[Any, Any]) -> list[str]:
    """Each row as base64 of little-endian float32."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in np.ascontiguousarray(vectors_nd, dtype="<f4")]


def _too_long(what: str, length: int, most: int, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"{what} has {length} tokens, special ones included; this model reads {most}.",
        hint="Send less, or ask for a cut (truncate).",
        param=param,
    )
