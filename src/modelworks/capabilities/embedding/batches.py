"""What each step of a training reads: pairs with their negatives, and the losses over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from modelworks.capabilities.embedding.data import Pair
from modelworks.capabilities.embedding.encoder import RowMaker, normalised
from modelworks.capabilities.embedding.loop import Work
from modelworks.capabilities.embedding.mining import WordIndex
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams

#: Batches whose pairs are looked at together to put passages of like length into one.
_WINDOW_BATCHES = 16
_RECIPROCAL_RANKS = 10


@dataclass(slots=True)
class PairTable:
    """Pairs as numbers of texts, each text once, with what may stand against them.

    `query` and `passage` give each pair's numbers; `given` and `mined` the passages that are wrong answers to its query.
    """

    queries: list[list[int]]
    passages: list[list[int]]
    query: list[int]
    passage: list[int]
    given: list[list[int]]
    mined: list[list[int]]
    #: Passages that answer a query, by its number.
    answers: list[set[int]]

    @classmethod
    def of(
        cls,
        pairs: Sequence[Pair],
        maker: RowMaker,
        *,
        max_query_tokens: int,
        max_passage_tokens: int,
        mine: Callable[[Sequence[str], Sequence[str]], list[list[int]]] | None = None,
    ) -> PairTable:
        """Number and tokenise the texts of pairs.

        Args:
            max_query_tokens, max_passage_tokens: longer texts are cut; special tokens come on top.
            mine: from passages and queries to the numbers of passages that are like each query, the best first.
        """
        queries, passages = dict[str, int](), dict[str, int]()
        query = [queries.setdefault(pair.query, len(queries)) for pair in pairs]
        passage = [passages.setdefault(pair.positive, len(passages)) for pair in pairs]
        given = [[passages.setdefault(text, len(passages)) for text in pair.negatives] for pair in pairs]
        answers: list[set[int]] = [set() for _ in queries]
        for asked, answer in zip(query, passage, strict=True):
            answers[asked].add(answer)
        found = mine(list(passages), list(queries)) if mine is not None else [[] for _ in queries]
        return cls(
            queries=[ids[:max_query_tokens] for ids in maker.ids(list(queries))],
            passages=[ids[:max_passage_tokens] for ids in maker.ids(list(passages))],
            query=query,
            passage=passage,
            given=[[each for each in wrong if each not in answers[asked]] for asked, wrong in zip(query, given, strict=True)],
            mined=[[each for each in found[asked] if each not in answers[asked]] for asked in query],
            answers=answers,
        )

    def __len__(self) -> int:
        return len(self.query)

    def negatives(self, pair: int, count: int, draw: random.Random) -> list[int]:
        """At most `count` wrong answers: those that the data give come first, then what was mined."""
        given = self.given[pair]
        if len(given) >= count:
            return draw.sample(given, count)
        mined = [each for each in self.mined[pair] if each not in given]
        return given + draw.sample(mined, min(count - len(given), len(mined)))


def miner(
    skip: int, depth: int, on_query: Callable[[int, int], None]
) -> Callable[[Sequence[str], Sequence[str]], list[list[int]]]:
    """A `mine` for `PairTable.of` that searches by words and passes over the best `skip`, told of each query done."""

    def mine(passages: Sequence[str], queries: Sequence[str]) -> list[list[int]]:
        index = WordIndex(passages)
        found = []
        for number, query in enumerate(queries, start=1):
            found.append(index.best(query, skip + depth)[skip:])
            on_query(number, len(queries))
        return found

    return mine


class Epochs:
    """The order in which pairs are read: by chance from the seed, passages of like length together.

    Args:
        table: the pairs.
        batch_size: the most pairs of a batch; all batches have about the same size.
    """

    def __init__(self, table: PairTable, batch_size: int, epochs: int, seed: int) -> None:
        self._lengths = np.array([len(table.passages[each]) for each in table.passage])
        self._batch_size = batch_size
        self._seed = seed
        self.batches_each = -(-len(table) // batch_size)
        self.num_steps = self.batches_each * epochs
        self._kept: tuple[int, list[list[int]]] | None = None

    def batch(self, number: int) -> list[int]:
        """The pairs of step `number`."""
        epoch, place = divmod(number, self.batches_each)
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, self._shuffled(epoch))
        return self._kept[1][place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        chance = np.random.default_rng([self._seed % (1 << 63), epoch])
        order = chance.permutation(len(self._lengths))
        window = _WINDOW_BATCHES * self._batch_size
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        ranked = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in parts])
        batches = np.array_split(ranked, self.batches_each)
        return [[int(each) for each in batches[place]] for place in chance.permutation(len(batches))]


class ContrastiveSteps:
    """Steps of a contrastive training: first the pairs of documents, where there are some, then the others.

    Loss: InfoNCE over the passages of the batch and its hard negatives (van den Oord et al. 2018; Karpukhin et al. 2020), the
    mean over the lengths of vectors (Kusupati et al. 2022, Matryoshka). Another answer to a query is no negative of it.
    """

    def __init__(
        self,
        params: EmbeddingTrainParams,
        maker: RowMaker,
        dimensions: Sequence[int],
        stages: Sequence[tuple[PairTable, int]],
        held_out: PairTable,
        seed: int,
    ) -> None:
        self._params = params
        self._maker = maker
        self._dimensions = dimensions
        self._stages = [
            (table, Epochs(table, params.batch_size, epochs, seed + number)) for number, (table, epochs) in enumerate(stages)
        ]
        self._held_out = held_out
        self._seed = seed

    @property
    def num_steps(self) -> int:
        return sum(epochs.num_steps for _, epochs in self._stages)

    def step(self, number: int) -> Work:
        draw = random.Random(f"{self._seed} {number}")  # noqa: S311 - reproducible, not secret
        for table, epochs in self._stages:
            if number < epochs.num_steps:
                return self._work(table, epochs.batch(number), self._params.num_negatives, draw)
            number -= epochs.num_steps
        raise IndexError(number)

    def validation(self) -> Work:
        pairs = range(min(len(self._held_out), self._params.max_validation))
        return self._work(self._held_out, pairs, 0, random.Random(0))  # noqa: S311

    def _work(self, table: PairTable, pairs: Iterable[int], num_negatives: int, draw: random.Random) -> Work:
        pairs = list(pairs)
        columns: dict[int, int] = {}
        targets = [columns.setdefault(table.passage[pair], len(columns)) for pair in pairs]
        for pair in pairs:
            for negative in table.negatives(pair, num_negatives, draw):
                columns.setdefault(negative, len(columns))
        also_right = torch.zeros((len(pairs), len(columns)), dtype=torch.bool)
        for place, pair in enumerate(pairs):
            for answer in table.answers[table.query[pair]]:
                if answer in columns and columns[answer] != targets[place]:
                    also_right[place, columns[answer]] = True
        rows = [self._maker.single(table.queries[table.query[pair]]) for pair in pairs]
        rows += [self._maker.single(table.passages[passage]) for passage in columns]
        wanted = torch.tensor(targets)
        return Work(rows, lambda outputs: self._loss(outputs, len(pairs), wanted, also_right))

    def _loss(
        self, outputs_nd: torch.Tensor, num_queries: int, wanted: torch.Tensor, also_right: torch.Tensor
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        total = outputs_nd.new_zeros(())
        for length in self._dimensions:
            vectors_nd = normalised(outputs_nd[:, :length])
            cosines_qp = vectors_nd[:num_queries] @ vectors_nd[num_queries:].T
            cosines_qp = cosines_qp.masked_fill(also_right, -torch.inf)
            total = total + functional.cross_entropy(cosines_qp / self._params.temperature, wanted)
        with torch.no_grad():
            # The last length is the whole vector.
            own = cosines_qp.gather(1, wanted.unsqueeze(1))
            ranks = (cosines_qp > own).sum(1) + 1
            reciprocal = torch.where(ranks <= _RECIPROCAL_RANKS, 1.0 / ranks, 0.0).mean()
        return total / len(self._dimensions), {"mrr_at_10": float(reciprocal)}


class RankingSteps:
    """Steps of a cross-encoder's training: each query with its passage and so many wrong ones.

    Loss: softmax over the list of each query (listwise; Cao et al. 2007, ListNet with one right answer), mixed with binary
    cross-entropy of every pair.
    """

    def __init__(self, params: RankingTrainParams, maker: RowMaker, learnt: PairTable, held_out: PairTable, seed: int) -> None:
        self._params = params
        self._maker = maker
        self._learnt = learnt
        self._held_out = held_out
        self._seed = seed
        self._epochs = Epochs(learnt, params.batch_size, params.epochs, seed)

    @property
    def num_steps(self) -> int:
        return self._epochs.num_steps

    def step(self, number: int) -> Work:
        draw = random.Random(f"{self._seed} {number}")  # noqa: S311 - reproducible, not secret
        return self._work(self._learnt, self._epochs.batch(number), draw)

    def validation(self) -> Work:
        pairs = range(min(len(self._held_out), self._params.max_validation))
        return self._work(self._held_out, pairs, random.Random(0))  # noqa: S311

    def _work(self, table: PairTable, pairs: Iterable[int], draw: random.Random) -> Work:
        rows = []
        width = 1 + self._params.num_negatives
        for pair in pairs:
            query = table.query[pair]
            candidates = [table.passage[pair], *table.negatives(pair, width - 1, draw)]
            # Where too few share words with the query, any other passage is wrong enough.
            while len(candidates) < width:
                other = draw.randrange(len(table.passages))
                if other not in table.answers[query] or len(table.answers[query]) == len(table.passages):
                    candidates.append(other)
            rows += [self._maker.pair(table.queries[query], table.passages[passage]) for passage in candidates]
        return Work(rows, lambda outputs: self._loss(outputs, width))

    def _loss(self, outputs_n1: torch.Tensor, width: int) -> tuple[torch.Tensor, Mapping[str, float]]:
        scores_qw = outputs_n1.view(-1, width)
        right = torch.zeros(len(scores_qw), dtype=torch.long)
        listwise = functional.cross_entropy(scores_qw, right)
        is_right_qw = torch.zeros_like(scores_qw)
        is_right_qw[:, 0] = 1.0
        pairwise = functional.binary_cross_entropy_with_logits(scores_qw, is_right_qw)
        share = self._params.bce_weight
        accuracy = (scores_qw.argmax(1) == 0).float().mean()
        return (1 - share) * listwise + share * pairwise, {"accuracy": float(accuracy)}
