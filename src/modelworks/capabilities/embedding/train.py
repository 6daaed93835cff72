"""Train an encoder by contrast, or a cross-encoder by lists: from nothing or from a base, on pairs of queries and passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.embedding.batches import ContrastiveSteps, PairTable, RankingSteps, miner
from modelworks.capabilities.embedding.data import Pair, read_pairs, split
from modelworks.capabilities.embedding.encoder import (
    EncoderCard,
    PairScorer,
    RowMaker,
    TextEncoder,
    load_encoder,
    load_ranker,
    read_card,
    uses_segments,
)
from modelworks.capabilities.embedding.layout import new_model, write_encoder, write_ranker
from modelworks.capabilities.embedding.loop import Position, TrainingLoop, tokenizer_folder
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams
from modelworks.capabilities.embedding.tokenizer import train_tokenizer
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import Run

#: A tokenizer learns nothing more from text beyond this many characters.
_TOKENIZER_SAMPLE_CHARS = 20_000_000
#: How often progress is told while negatives are looked for.
_MINED_EACH = 256


def train_encoder(run: Run, params: EmbeddingTrainParams) -> None:
    """Train an encoder and save it in sentence-transformers' layout.

    Inputs: data set "train" (pairs, see `data.read_pairs`); optionally data set "documents" (pairs too, such as titles and
    texts), which goes first; optionally model "base", whose weights, tokenizer and pooling are continued from.

    Raises:
        InvalidData: a line of the data has a fault. InvalidRequest: dimensions beyond the encoder's, or the loss stopped being
        a number. Cancelled: the user stopped the run; a checkpoint was stored first.
    """
    learnt, held_out, documents = _begin(run, params)
    card = _base_card(run)
    tokenizer = _tokenizer(run, params, [*documents, *learnt])
    torch.manual_seed(run.seed % (1 << 63))
    model = new_model(params, tokenizer, ranking=False) if card is None else load_encoder(card)
    pooling = params.pooling if card is None else card.pooling
    width = int(model.config.hidden_size)
    dimensions = params.dimensions or sorted({max(1, width // 4), max(1, width // 2), width})
    if dimensions[-1] > width:
        raise InvalidRequest(
            f"dimensions: this encoder's vectors have {width} dimensions, not {dimensions[-1]}.", param="dimensions"
        )
    if dimensions[-1] < width:
        dimensions = [*dimensions, width]
    maker = _maker(run, tokenizer, with_segments=False)
    _check_positions(params, card, maker.num_special, params.max_query_tokens, params.max_passage_tokens)
    stages = [(_table(run, params, maker, learnt), params.epochs)]
    if documents:
        stages.insert(0, (_table(run, params, maker, documents), params.document_epochs))
    source = ContrastiveSteps(params, maker, dimensions, stages, _table(run, params, maker, held_out, mining=False), run.seed)
    loop = TrainingLoop(run, params, TextEncoder(model, pooling), tokenizer, source)
    done = loop.finish()
    metrics = loop.validation_metrics()
    run.log(done.step, **metrics)
    folder = run.workdir / "model"
    max_length = params.context_length if card is None else card.max_length
    write_encoder(
        folder,
        model,
        tokenizer,
        pooling=pooling,
        dimensions=dimensions,
        max_length=max_length,
        prompts=None if card is None else dict(card.prompts),
    )
    more = {"dimensions": dimensions, "pooling": pooling, "context_length": max_length}
    _save(run, params, folder, "feature-extraction", model, done, metrics, more)


def train_ranker(run: Run, params: RankingTrainParams) -> None:
    """Train a cross-encoder and save it as transformers does, with a head of one score.

    Inputs: data set "train" (pairs, see `data.read_pairs`); optionally model "base", an encoder that gets a head, or a
    cross-encoder of one score that is continued from.

    Raises:
        as `train_encoder`; InvalidRequest also where the base tells classes apart.
    """
    learnt, held_out, _ = _begin(run, params)
    card = _base_card(run)
    tokenizer = _tokenizer(run, params, learnt)
    torch.manual_seed(run.seed % (1 << 63))
    if card is None:
        model = new_model(params, tokenizer, ranking=True)
    else:
        model = load_ranker(card, new_head=not card.is_ranking)
        if int(model.config.num_labels) != 1:
            raise InvalidRequest("The base tells classes apart; a cross-encoder that is trained on gives one score.")
    maker = _maker(run, tokenizer, with_segments=card is not None and uses_segments(card))
    _check_positions(params, card, maker.num_pair_special, params.max_query_tokens + params.max_passage_tokens)
    source = RankingSteps(params, maker, _table(run, params, maker, learnt), _table(run, params, maker, held_out), run.seed)
    loop = TrainingLoop(run, params, PairScorer(model), tokenizer, source)
    done = loop.finish()
    metrics = loop.validation_metrics()
    run.log(done.step, **metrics)
    folder = run.workdir / "model"
    write_ranker(folder, model, tokenizer)
    _save(run, params, folder, "text-ranking", model, done, metrics, {})


def _begin(run: Run, params: EmbeddingTrainParams | RankingTrainParams) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Pairs to learn from, pairs that are held out, and pairs of documents that go before."""
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    learnt, held_out = split(read_pairs(run.dataset("train").path), params.validation_fraction)
    documents: list[Pair] = []
    if isinstance(params, EmbeddingTrainParams) and run.has_input("documents"):
        hidden = {pair.positive for pair in held_out}
        documents = [pair for pair in read_pairs(run.dataset("documents").path) if pair.positive not in hidden]
    return learnt, held_out, documents


def _base_card(run: Run) -> EncoderCard | None:
    return read_card(run.model("base").path) if run.has_input("base") else None


def _tokenizer(run: Run, params: EmbeddingTrainParams | RankingTrainParams, pairs: Sequence[Pair]) -> PreTrainedTokenizerFast:
    if run.resume_from is not None:
        return _opened(tokenizer_folder(run.resume_from))
    if run.has_input("base"):
        return _opened(run.model("base").path)
    return train_tokenizer(_sample(pairs), params.vocab_size, params.context_length)


def _opened(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    # How it was loaded is no part of it, but would be saved with it.
    for argument in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(argument, None)
    return tokenizer


def _sample(pairs: Sequence[Pair]) -> Iterator[str]:
    """Each text once, from all over the data set, up to the sample's size."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.query, pair.positive)))
    every = max(1, -(-sum(map(len, texts)) // _TOKENIZER_SAMPLE_CHARS))
    yield from texts[::every]


def _maker(run: Run, tokenizer: PreTrainedTokenizerFast, *, with_segments: bool) -> RowMaker:
    folder = run.workdir / "tokenizer"
    tokenizer.save_pretrained(folder)
    return RowMaker(folder, with_segments=with_segments)


def _check_positions(
    params: EmbeddingTrainParams | RankingTrainParams, card: EncoderCard | None, num_special: int, *lengths: int
) -> None:
    positions = params.context_length if card is None else card.positions
    if max(lengths) + num_special > positions:
        raise InvalidRequest(
            f"max_query_tokens and max_passage_tokens need {max(lengths) + num_special} positions with special tokens; "
            f"the encoder has {positions}.",
            hint="Lower them, or raise context_length of a new encoder.",
            param="max_passage_tokens",
        )


def _table(
    run: Run,
    params: EmbeddingTrainParams | RankingTrainParams,
    maker: RowMaker,
    pairs: Sequence[Pair],
    *,
    mining: bool = True,
) -> PairTable:
    def on_query(done: int, total: int) -> None:
        if done % _MINED_EACH == 0:
            run.raise_if_cancelled()
            run.progress(done, total, "queries searched for negatives")

    mine: Callable[[Sequence[str], Sequence[str]], list[list[int]]] | None = None
    if mining and params.mining == "bm25" and params.num_negatives:
        mine = miner(params.mining_skip, params.mining_depth, on_query)
    return PairTable.of(
        pairs,
        maker,
        max_query_tokens=params.max_query_tokens,
        max_passage_tokens=params.max_passage_tokens,
        mine=mine,
    )


def _save(
    run: Run,
    params: EmbeddingTrainParams | RankingTrainParams,
    folder: Path,
    task: str,
    model: Any,
    done: Position,
    metrics: dict[str, float],
    more: dict[str, Any],
) -> None:
    base = run.model("base") if run.has_input("base") else None
    run.save(
        folder,
        kind="model",
        metadata={
            "task": task,
            "level": params.level or ("L0" if base is None else "L1"),
            "name": params.name,
            "licence": (base.licence if base is not None else None) or run.dataset("train").licence,
            "metrics": {
                "loss": done.last_loss,
                "first_loss": done.first_loss,
                "tokens_seen": float(done.tokens_seen),
                **metrics,
            },
            "architecture": model.config.model_type,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            **more,
        },
    )
