"""Search by words: BM25 over postings that lie in files and are read where a query needs them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.terms import terms, weighed
from modelworks.contract.errors import IntegrityFailed

#: Saturation of a term's count, and how far a passage's length counts (Robertson & Zaragoza 2009).
_K1, _B = 1.2, 0.75
#: Files of the whole index: terms in the order of their bytes, where each begins, where its postings begin, and these.
WORD_FILES = ("terms.utf8", "terms.npy", "starts.npy", "rows.npy", "weights.npy")


def write_block(folder: Path, texts: Sequence[str]) -> None:
    """Count the terms of some passages, and write what `merge` reads."""
    numbers: dict[str, int] = {}
    flat: list[int] = []
    lengths = np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = terms(text)
        lengths[row] = len(found)
        flat.extend([numbers.setdefault(term, len(numbers)) for term in found])
    known = sorted(numbers, key=str.encode)
    place_of = np.zeros(max(1, len(known)), np.int64)
    place_of[[numbers[term] for term in known]] = np.arange(len(known))
    size = max(1, len(texts))
    # One number for each pair of term and row, so that one sort groups by term and, within it, by row.
    pairs = place_of[np.array(flat, np.int64)] * size + np.repeat(np.arange(len(texts)), lengths)
    unique, counts = np.unique(pairs, return_counts=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "terms.txt").write_text("\n".join(known), "utf-8", newline="\n")
    np.save(folder / "term_of.npy", (unique // size).astype(np.int32))
    np.save(folder / "rows.npy", (unique % size).astype(np.uint32))
    np.save(folder / "counts.npy", np.minimum(counts, 65_535).astype(np.uint16))
    np.save(folder / "lengths.npy", lengths.astype(np.uint32))


def merge(blocks: Sequence[Path], into: Path) -> None:
    """One index of all blocks, in their order. Holds one block and one number for each term in memory, not all postings."""
    found: Counter[str] = Counter()
    lengths: list[NDArray[np.uint32]] = []
    for block in blocks:
        known = _terms_of(block)
        found.update(dict(zip(known, np.bincount(np.load(block / "term_of.npy"), minlength=len(known)).tolist(), strict=True)))
        lengths.append(np.load(block / "lengths.npy"))
    order = sorted(found, key=str.encode)
    encoded = [term.encode() for term in order]
    (into / "terms.utf8").write_bytes(b"".join(encoded))
    np.save(into / "terms.npy", _offsets([len(term) for term in encoded]))
    starts = _offsets([found[term] for term in order])
    np.save(into / "starts.npy", starts)
    place_of = {term: place for place, term in enumerate(order)}
    total = int(starts[-1])
    # A file of no numbers cannot be mapped; one that is never read can.
    rows = np.lib.format.open_memmap(into / "rows.npy", "w+", np.uint32, (max(1, total),))
    weights = np.lib.format.open_memmap(into / "weights.npy", "w+", np.float16, (max(1, total),))
    mean = max(1.0, float(np.mean(np.concatenate(lengths)))) if lengths and sum(map(len, lengths)) else 1.0
    free = starts[:-1].astype(np.int64)
    first = 0
    for block, length in zip(blocks, lengths, strict=True):
        term_of = np.load(block / "term_of.npy")
        local = np.array([place_of[term] for term in _terms_of(block)], np.int64)
        sizes = np.bincount(term_of, minlength=len(local))
        # The postings of a term follow one another in the block; in the index they follow those of earlier blocks.
        begins = np.concatenate(([0], np.cumsum(sizes)[:-1])) if len(sizes) else np.zeros(0, np.int64)
        at = (free[local] - begins)[term_of] + np.arange(len(term_of)) if len(term_of) else np.zeros(0, np.int64)
        here = np.load(block / "rows.npy")
        counts = np.load(block / "counts.npy").astype(np.float32)
        rows[at] = here + first
        weights[at] = counts / (counts + _K1 * (1 - _B + _B * length[here].astype(np.float32) / mean))
        free[local] += sizes
        first += len(length)
    rows.flush()
    weights.flush()


class WordIndex:
    """BM25 in the form of Lucene (factor k1 + 1 left out), scaled: 1 would be a passage that is all of the query, without end.

    The sum over the query's terms of what each gives is divided by the sum of the most that each could give; a term that no
    passage has counts there like the rarest, and common words count little (see `weighed`). So a score says which part of the
    query a passage has, weighed by rarity, and scores of different queries compare.

    Args:
        folder: of an index.
        num_passages: rows.

    Raises:
        IntegrityFailed: the files do not fit together.
    """

    def __init__(self, folder: Path, num_passages: int) -> None:
        self._num_passages = num_passages
        self._offsets: NDArray[np.int64] = open_array(folder / "terms.npy", np.int64, 1)
        self._starts: NDArray[np.int64] = open_array(folder / "starts.npy", np.int64, 1)
        self._rows: NDArray[np.uint32] = open_array(folder / "rows.npy", np.uint32, 1)
        self._weights: NDArray[np.float16] = open_array(folder / "weights.npy", np.float16, 1)
        size = (folder / "terms.utf8").stat().st_size
        self._terms: Any = np.memmap(folder / "terms.utf8", np.uint8, "r") if size else np.zeros(0, np.uint8)
        offsets, starts = np.asarray(self._offsets), np.asarray(self._starts)
        fits = (
            len(offsets) == len(starts) >= 1
            and offsets[0] == starts[0] == 0
            and offsets[-1] == size
            and len(self._rows) == len(self._weights) == max(1, starts[-1])
            and bool((np.diff(offsets) > 0).all())
            and bool((np.diff(starts) > 0).all())
            and (not starts[-1] or int(self._rows.max()) < num_passages)
        )
        if not fits:
            raise IntegrityFailed(f"The index of words in {folder} does not fit together.", hint="Build the index again.")
        self._num_terms = len(offsets) - 1
        self._rarest = math.log(1 + (num_passages + 0.5) / 0.5)

    def scores(self, query: str) -> NDArray[np.float32]:
        """The score of every passage, from 0 (no common term) to 1."""
        scores = np.zeros(self._num_passages, np.float32)
        most = 0.0
        for idf, postings in self._counted(query).values():
            most += idf
            if postings is not None:
                begin, end = postings
                # Rows of one term are all different, so that plain indexing adds each.
                scores[self._rows[begin:end]] += self._weights[begin:end] * np.float32(idf)
        if most > 0:
            scores /= most
        return scores

    def score_without(self, query: str, row: int, whole: Sequence[str], rest: Sequence[str]) -> float:
        """The score that the passage of a row would have if some of its text were not there.

        Args:
            whole, rest: the passage's terms, and those that are left of them.
        """
        had, left = Counter(whole), Counter(rest)
        score = most = 0.0
        for term, (idf, postings) in self._counted(query).items():
            most += idf
            if postings is not None and left[term]:
                begin, end = postings
                weight = float(self._weights[begin + np.searchsorted(self._rows[begin:end], row)])
                # Of how many a term gives half of its most is told by what the whole gives; the length counts in a part of it.
                half = had[term] * (1 - weight) / weight
                half = _K1 * (1 - _B) + (half - _K1 * (1 - _B)) * len(rest) / len(whole)
                score += idf * left[term] / (left[term] + half)
        return score / most if most > 0 else 0.0

    def shares(self, query: str) -> dict[str, float]:
        """The terms of a query with the part of it that each is, weighed by rarity; the parts add up to 1."""
        counted = self._counted(query)
        most = sum(idf for idf, _ in counted.values())
        return {term: idf / most for term, (idf, _) in counted.items()} if most > 0 else {}

    def _counted(self, query: str) -> dict[str, tuple[float, tuple[int, int] | None]]:
        """The terms of a query: the most that each can give, and where its postings lie."""
        found = {}
        for term, count in weighed(query).items():
            postings = self.postings(term)
            having = 0 if postings is None else postings[1] - postings[0]
            rarity = self._rarest if postings is None else math.log(1 + (self._num_passages - having + 0.5) / (having + 0.5))
            found[term] = (count * rarity, postings)
        return found

    def rows(self, term: str) -> NDArray[np.uint32] | None:
        """Rows of the passages that have a term; None where none has it."""
        postings = self.postings(term)
        return None if postings is None else np.asarray(self._rows[postings[0] : postings[1]])

    def with_all(self, wanted: Sequence[str]) -> NDArray[np.uint32]:
        """Rows of the passages that have every one of some terms; all rows where there are none to have."""
        places = []
        for term in set(wanted):
            postings = self.postings(term)
            if postings is None:
                return np.zeros(0, np.uint32)
            places.append(postings)
        if not places:
            return np.arange(self._num_passages, dtype=np.uint32)
        places.sort(key=lambda place: place[1] - place[0])
        found: NDArray[np.uint32] = np.asarray(self._rows[places[0][0] : places[0][1]])
        for begin, end in places[1:]:
            found = np.intersect1d(found, self._rows[begin:end], assume_unique=True)
        return found

    def postings(self, term: str) -> tuple[int, int] | None:
        """Where the postings of a term begin and end; None where no passage has it."""
        wanted = term.encode("utf-8", "surrogatepass")
        place = bisect_left(range(self._num_terms), wanted, key=self._term)
        if place == self._num_terms or self._term(place) != wanted:
            return None
        return int(self._starts[place]), int(self._starts[place + 1])

    def _term(self, place: int) -> bytes:
        return bytes(self._terms[self._offsets[place] : self._offsets[place + 1]])


def open_array(file: Path, kind: type[Any], num_axes: int) -> Any:
    """A file of numbers, mapped; never a pickle.

    Raises:
        IntegrityFailed: it is missing, no such file, or of another kind.
    """
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityFailed(f"{file.name} of the index cannot be read: {error}", hint="Build the index again.") from error
    if found.dtype != kind or found.ndim != num_axes:
        raise IntegrityFailed(f"{file.name} of the index holds other numbers than it must.", hint="Build the index again.")
    return found


def _offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    found = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(np.array(sizes, np.int64), out=found[1:])
    return found


def _terms_of(block: Path) -> list[str]:
    text = (block / "terms.txt").read_bytes().decode()
    return text.split("\n") if text else []
