"""Samples that are almost the same as an earlier one, and samples that give test data away.

Near copies: MinHash over shingles with one permutation (Li, Owen, Zhang 2012), empty bins filled by optimal densification
(Shrivastava 2017), candidates by locality-sensitive hashing in bands (Leskovec, Rajaraman, Ullman, ch. 3), then each candidate
is compared by the Jaccard similarity of the bottom-k sketches, which are the whole sets where these are small. Contamination:
the share of a test sample's n-grams that a sample contains (Chowdhery et al. 2022, 70 % of 8-grams).

Hashes are BLAKE2b, so that the same data give the same result in every process.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest

_CJK = "\u2e80-\u2fdf\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
#: A Chinese, Japanese or Korean character is a piece of its own; others go on to the next space, sign or such a character.
_PIECE = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")
_CJK_PIECE = re.compile(f"[{_CJK}]")
_NUM_BINS = 128
_ROWS = 4
_EMPTY = -1
_SKETCH_SIZE = 2048
#: Shingles: enough words that an accident is unlikely, few enough that a changed word leaves most of them.
_WORD_SHINGLE = 3
_CHARACTER_SHINGLE = 5


def tokens_of(text: str) -> list[str]:
    """Words in lower case and single CJK characters, signs and spaces left out."""
    return _PIECE.findall(text.lower())


def _hash(pieces: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(pieces).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def ngrams(tokens: Sequence[str], length: int) -> set[int]:
    """Hashes of every run of so many tokens; of all tokens together where there are fewer."""
    if len(tokens) <= length:
        return {_hash(tokens)} if tokens else set()
    return {_hash(tokens[start : start + length]) for start in range(len(tokens) - length + 1)}


def shingles_of(text: str) -> set[int]:
    """The shingles by which two samples are compared: 3 words, or 5 characters of Chinese."""
    tokens = tokens_of(text)
    num_characters = sum(1 for piece in tokens if _CJK_PIECE.match(piece))
    return ngrams(tokens, _CHARACTER_SHINGLE if num_characters * 2 > len(tokens) else _WORD_SHINGLE)


def jaccard(left: Sequence[int], right: Sequence[int]) -> float:
    """Similarity of two sets from their sketches, each the sorted smallest hashes: exact where a sketch is the whole set."""
    union = nsmallest(_SKETCH_SIZE, set(left) | set(right))
    common = set(left) & set(right)
    return sum(1 for value in union if value in common) / len(union) if union else 1.0


def signature(shingles: Iterable[int]) -> list[int]:
    """One hash per bin: the smallest that fell into it, or another bin's where none did."""
    bins = [_EMPTY] * _NUM_BINS
    for value in shingles:
        place = value % _NUM_BINS
        rest = value // _NUM_BINS
        if bins[place] == _EMPTY or rest < bins[place]:
            bins[place] = rest
    filled = list(bins)
    for place, value in enumerate(bins):
        attempt = 0
        donor = place
        while value == _EMPTY:
            # The donors of a bin are the same for every set, so that equal sets stay equal and similar ones similar.
            attempt += 1
            donor = _mixed(place, attempt) % _NUM_BINS
            value = bins[donor]
        filled[place] = value
    return filled


def _mixed(place: int, attempt: int) -> int:
    """A well-mixed number for a bin and an attempt (the finaliser of SplitMix64)."""
    value = (place * 0x9E3779B97F4A7C15 + attempt * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier sample, by the number under which it was added, and how alike it is."""

    number: int
    similarity: float


class NearCopies:
    """Samples seen so far, searchable by similarity. Keeps at most 16 KiB and 32 bands per sample."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._sketches: list[array[int]] = []
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(_NUM_BINS // _ROWS)]

    def find_or_add(self, text: str) -> Match | None:
        """The most similar earlier sample at or above the limit; where there is none, the text is added."""
        shingles = shingles_of(text)
        if not shingles:
            return None
        sketch = array("Q", nsmallest(_SKETCH_SIZE, shingles))
        bins = signature(shingles)
        keys = [hash(tuple(bins[start : start + _ROWS])) for start in range(0, _NUM_BINS, _ROWS)]
        candidates = Counter(number for band, key in zip(self._bands, keys, strict=True) for number in band.get(key, ()))
        best: Match | None = None
        for number, _ in candidates.most_common(_MAX_CANDIDATES):
            similarity = jaccard(sketch, self._sketches[number])
            if similarity >= self._similarity and (best is None or similarity > best.similarity):
                best = Match(number, similarity)
        if best is not None:
            return best
        number = len(self._sketches)
        self._sketches.append(sketch)
        for band, key in zip(self._bands, keys, strict=True):
            bucket = band.setdefault(key, [])
            if len(bucket) < _MAX_BUCKET:
                bucket.append(number)
        return None

    def __len__(self) -> int:
        return len(self._sketches)


#: Text made from one template shares bands with thousands, which would make the search quadratic. The most alike come first.
_MAX_CANDIDATES = 200
_MAX_BUCKET = 500
#: An n-gram in more test texts than these belongs to their template and tells none of them from the others.
_MAX_SHARED = 50


class TestContent:
    """The n-grams of a test set: which test sample another text gives away."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, length: int, share: float) -> None:
        self._length = length
        self._share = share
        self._of: dict[int, list[int]] = {}
        self._sizes: list[int] = []
        self._names: list[str] = []
        self._is_settled = False

    def add(self, text: str, name: str) -> None:
        """One text that must not be known: a whole test sample, or its question."""
        found = ngrams(tokens_of(text), self._length)
        if not found:
            return
        number = len(self._names)
        self._names.append(name)
        self._sizes.append(len(found))
        for value in found:
            self._of.setdefault(value, []).append(number)

    def find(self, texts: Sequence[str]) -> tuple[str, float] | None:
        """The name of the test sample of which the texts contain the largest share of n-grams at or above the limit."""
        if not self._is_settled:
            self._settle()
        hits: Counter[int] = Counter()
        pieces: set[int] = set()
        for text in texts:
            pieces |= ngrams(tokens_of(text), self._length)
        for value in pieces:
            hits.update(self._of.get(value, ()))
        if not hits:
            return None
        number = max(hits, key=lambda each: (hits[each] / self._sizes[each], self._sizes[each], -each))
        share = hits[number] / self._sizes[number]
        return (self._names[number], share) if share >= self._share else None

    def _settle(self) -> None:
        """Leave out what most test texts share, but for the first of those that consist of nothing else."""
        self._is_settled = True
        common = {value for value, numbers in self._of.items() if len(numbers) > _MAX_SHARED}
        if not common:
            return
        own = Counter(number for value, numbers in self._of.items() if value not in common for number in numbers)
        for value in common:
            self._of[value] = [number for number in self._of[value] if not own[number]][:_MAX_SHARED]
        self._sizes = [own[number] or size for number, size in enumerate(self._sizes)]
