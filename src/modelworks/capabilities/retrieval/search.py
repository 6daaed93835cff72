"""One search: words and meaning weighed together, phrases preferred, within the documents that may answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.layout import VECTORS_FILE, Passages, open_card
from modelworks.capabilities.retrieval.subjects import Subjects
from modelworks.capabilities.retrieval.terms import is_unspaced, plain, terms, units
from modelworks.capabilities.retrieval.vectors import VectorIndex, likeness, unit
from modelworks.capabilities.retrieval.words import WordIndex
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.passages import Hit, Passage, SearchInput, SearchOutput

#: So many of each order are named in a hit's ranks.
_DEPTH = 200
#: So many of the best are looked through for what the query has word for word.
_READ_AGAIN = 50
#: Passages with all words of a phrase in quotes that are looked through, the best first.
_MAX_PHRASE_PASSAGES = 500
#: How much of what lacks to 1 a passage gains that has every phrase in quotes, or all of the query word for word.
_QUOTED_GAIN, _VERBATIM_GAIN = 0.5, 0.2
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|「([^」]+)」|『([^』]+)』|«([^»]+)»')
#: Gained in the same way by a passage that begins with all terms of the query; a term that stands so many terms behind the
#: beginning counts half.
_EARLY_GAIN, _EARLY_HALF = 0.15, 50
#: Of a longer passage the beginning is looked at: what stands behind it counts next to nothing.
_BEGINNING_CHARS = 4000
#: A shorter run says no more than its words.
_LEAST_RUN = 3
#: Longer queries are compared word for word in their beginning only.
_MAX_UNITS = 64


class Index:
    """An opened index. Read only: may be asked from several threads.

    Args:
        folder: of the index.
        dense_weight: of meaning against words; the index's own when None.
        rerank: order the best passages again by how early the query's terms stand in them.

    Raises:
        InvalidData, IntegrityFailed: see `open_card`; the files do not fit together.
    """

    def __init__(
        self, folder: Path, *, dense_weight: float | None = None, with_digests: bool = True, rerank: bool = True
    ) -> None:
        self.card = open_card(folder, with_digests=with_digests)
        self.passages = Passages(folder)
        self.words = WordIndex(folder, len(self.passages))
        self._rerank = rerank
        self._subjects = Subjects(self.passages, self.words)
        dimensions = self.card.facts.dimensions
        self.vectors = None if dimensions is None else VectorIndex(folder / VECTORS_FILE, len(self.passages), dimensions)
        self._weights = (
            (self.card.dense_weight, self.card.dense_weight_unspaced) if dense_weight is None else (dense_weight, dense_weight)
        )

    def search(self, asked: SearchInput) -> SearchOutput:
        """Hits of each query, best first.

        Raises:
            InvalidRequest: the vectors are not those of this index's encoder, or not one for each query.
        """
        mask = self._mask(asked)
        queries = self._queries(asked)
        rows = None if mask is None else np.flatnonzero(mask)
        cosines = None if queries is None or self.vectors is None else self.vectors.cosines(queries, rows)
        return SearchOutput(
            hits=[
                self._hits(query, None if cosines is None else cosines[place], rows, asked.limit, asked.around)
                for place, query in enumerate(asked.queries)
            ]
        )

    def _mask(self, asked: SearchInput) -> NDArray[np.bool_] | None:
        """Which rows may answer; None: all."""
        mask = None if asked.documents is None else self.passages.mask(asked.documents)
        if asked.without:
            others = ~self.passages.mask(asked.without)
            mask = others if mask is None else mask & others
        return None if mask is None or bool(mask.all()) else mask

    def _queries(self, asked: SearchInput) -> NDArray[np.float32] | None:
        if asked.vectors is None:
            return None
        dimensions = self.card.facts.dimensions
        if dimensions is None:
            raise InvalidRequest(
                "This index was built without an encoder and takes no vectors.",
                hint="Leave them out, or build an index with the input encoder.",
                param="vectors",
            )
        if len(asked.vectors) != len(asked.queries):
            raise InvalidRequest(
                f"There are {len(asked.vectors)} vectors for {len(asked.queries)} queries.",
                hint="Give one for each query.",
                param="vectors",
            )
        for place, vector in enumerate(asked.vectors):
            if len(vector) != dimensions or not np.isfinite(vector).all():
                raise InvalidRequest(
                    f"Vector {place} is not {dimensions} finite numbers, as the encoder of this index gives them.",
                    hint=f"Encode queries with {self.card.facts.encoder or 'the encoder of the index'}.",
                    param=f"vectors.{place}",
                )
        return unit(asked.vectors)

    def _hits(
        self, query: str, cosines: NDArray[np.float32] | None, rows: NDArray[np.intp] | None, limit: int, around: int
    ) -> list[Hit]:
        """Best hits of one query. `cosines` and all that follows are by place in `rows` where these are given."""
        by_words = self._subjects.lifted(query, self.words.scores(query))
        words = by_words if rows is None else by_words[rows]
        total, meaning = self._fused(query, words, cosines)
        depth = max(limit, _DEPTH)
        lexical = _ranks(words, depth)
        dense = {} if meaning is None else _ranks(meaning, depth)
        best = top(total, max(2 * limit, _READ_AGAIN))
        scores = {place: float(total[place]) for place in best}
        self._prefer_phrases(query, total, rows, scores)
        if self._rerank:
            self._prefer_early(query, rows, scores)
        found: list[Hit] = []
        told: set[tuple[str, str]] = set()
        for place in sorted(scores, key=lambda place: (-scores[place], place)):
            if len(found) == limit:
                break
            row = place if rows is None else int(rows[place])
            passage = self.passages.at(row)
            # What a document says twice is told once, where it says so best.
            if (passage.document_id, passage.text) in told:
                continue
            told.add((passage.document_id, passage.text))
            before, after = self._around(row, passage, around)
            found.append(
                Hit(
                    passage=passage,
                    score=round(min(1.0, max(0.0, scores[place])), 6),
                    lexical_rank=lexical.get(place),
                    dense_rank=dense.get(place),
                    before=before,
                    after=after,
                )
            )
        return found

    def _fused(
        self, query: str, words: NDArray[np.float32], cosines: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores of both together, and those of meaning alone, each from 0 to 1."""
        if cosines is None:
            return words, None
        meaning = likeness(cosines, self.card.unlike)
        weight = np.float32(self._weights[is_unspaced(query)])
        return weight * meaning + (1 - weight) * words, meaning

    def _prefer_phrases(
        self, query: str, total: NDArray[np.float32], rows: NDArray[np.intp] | None, scores: dict[int, float]
    ) -> None:
        """Raise passages that have the query's phrases in quotes, or a long part of it, word for word."""
        quoted = [_spaced(phrase) for groups in _QUOTED.findall(query) for phrase in groups if units(plain(phrase))]
        having: dict[int, int] = {}
        for phrase in quoted:
            found = self.words.with_all(terms(phrase)).astype(np.intp)
            places = found if rows is None else np.flatnonzero(np.isin(rows, found, assume_unique=True))
            for place in places[np.argsort(-total[places], kind="stable")][:_MAX_PHRASE_PASSAGES].tolist():
                if phrase in self._spaced_text(place, rows):
                    having[place] = having.get(place, 0) + 1
        for place, count in having.items():
            score = float(total[place])
            scores[place] = score + _QUOTED_GAIN * count / len(quoted) * (1 - score)
        wanted = units(plain(query))[:_MAX_UNITS]
        if not quoted and len(wanted) >= _LEAST_RUN:
            for place, score in scores.items():
                run = _longest_run(wanted, self._spaced_text(place, rows))
                if run >= _LEAST_RUN:
                    scores[place] = score + _VERBATIM_GAIN * run / len(wanted) * (1 - score)

    def _prefer_early(self, query: str, rows: NDArray[np.intp] | None, scores: dict[int, float]) -> None:
        """Raise passages that begin with what is asked for: a text says early what it is about."""
        shares = self.words.shares(query)
        if not shares:
            return
        for place, score in scores.items():
            text = self.passages.at(place if rows is None else int(rows[place])).text[:_BEGINNING_CHARS]
            first: dict[str, int] = {}
            for at, term in enumerate(terms(text)):
                if term in shares:
                    first.setdefault(term, at)
            early = sum(shares[term] / (1 + at / _EARLY_HALF) for term, at in first.items())
            scores[place] = score + _EARLY_GAIN * early * (1 - score)

    def _spaced_text(self, place: int, rows: NDArray[np.intp] | None) -> str:
        passage = self.passages.at(place if rows is None else int(rows[place]))
        return _spaced("\n".join((*passage.place.headings, passage.text)))

    def _around(self, row: int, passage: Passage, count: int) -> tuple[list[str], list[str]]:
        """Texts of the neighbours in the same section, in reading order."""
        if not count or passage.section is None:
            return [], []
        first, last = passage.section
        here = self.passages.document_rows(row)
        ordinals = self.passages.ordinals
        before = [each for each in range(max(here.start, row - count), row) if ordinals[each] >= first]
        after = [each for each in range(row + 1, min(here.stop, row + 1 + count)) if ordinals[each] <= last]
        return [self.passages.at(each).text for each in before], [self.passages.at(each).text for each in after]


def top(scores_n: NDArray[np.float32], count: int) -> list[int]:
    """Places of the highest scores above 0, at most `count`; of equals the earlier comes first."""
    if count < len(scores_n):
        least = np.partition(scores_n, -count)[-count]
        candidates = np.flatnonzero(scores_n >= max(least, np.finfo(np.float32).tiny))
    else:
        candidates = np.flatnonzero(scores_n > 0)
    ranked = candidates[np.lexsort((candidates, -scores_n[candidates]))]
    return [int(place) for place in ranked[:count]]


def _ranks(scores_n: NDArray[np.float32], count: int) -> dict[int, int]:
    return {place: rank for rank, place in enumerate(top(scores_n, count), start=1)}


def _spaced(text: str) -> str:
    """A text as phrases are looked for in it: its units with one blank around each, whatever stood between them."""
    return f" {' '.join(units(plain(text)))} "


def _longest_run(wanted: Sequence[str], text: str) -> int:
    """The most units of a query that follow one another in a text (see `_spaced`), as they do in the query."""
    best, first = 0, 0
    for last in range(len(wanted)):
        while first <= last and f" {' '.join(wanted[first : last + 1])} " not in text:
            first += 1
        best = max(best, last + 1 - first)
    return best
