"""Passages that are almost the same as an earlier one.

MinHash with one permutation (Li, Owen, Zhang 2012), its empty bins filled from the next filled one (Shrivastava, Li 2014),
candidates by bands (Leskovec, Rajaraman, Ullman, ch. 3), each of which is then compared by the Jaccard similarity of the sets
of shingles. Hashes are BLAKE2b: the same data give the same result in every process.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from modelworks.contract.passages import Passage

_CJK = "\u2e80-\u2fdf\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_PIECE = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]")
_NUM_BINS, _ROWS = 64, 4
_WORD_SHINGLE, _CHARACTER_SHINGLE = 3, 5
#: Text made from one template shares bands with thousands, which would make the search quadratic.
_MAX_CANDIDATES, _MAX_BUCKET = 100, 200


def pieces(text: str) -> list[str]:
    """Words in small letters and single CJK characters; signs and spaces are left out."""
    return _PIECE.findall(text.lower())


def shingles(text: str) -> frozenset[int]:
    """What two passages are compared by: 3 words, or 5 characters where most is Chinese."""
    found = pieces(text)
    num_cjk = sum(1 for each in found if _IS_CJK.match(each))
    length = _CHARACTER_SHINGLE if num_cjk * 2 > len(found) else _WORD_SHINGLE
    if len(found) <= length:
        return frozenset((_hashed(found),)) if found else frozenset()
    return frozenset(_hashed(found[start : start + length]) for start in range(len(found) - length + 1))


def exact_key(passage: Passage) -> bytes:
    """What makes two passages of one document the same: kind, place and text to the letter, white space aside.

    The same sentence under another heading, or on another sheet, says it of something else.
    """
    sheet = (passage.place.cells or "").rpartition("!")[0]
    parts = (passage.kind, sheet, *passage.place.headings, "", " ".join(passage.text.split()))
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def num_copies(passages: Iterable[Passage]) -> int:
    """How many passages of one document are the same as an earlier one."""
    return sum(count - 1 for count in Counter(map(exact_key, passages)).values())


class NearCopies:
    """Passages seen so far, searchable by similarity."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._sets: list[array[int]] = []
        self._names: list[str] = []
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(_NUM_BINS // _ROWS)]

    def find_or_add(self, text: str, name: str) -> tuple[str, float] | None:
        """Name and similarity of an earlier passage at or above the limit; where there is none, this one is added."""
        found = shingles(text)
        if not found:
            return None
        bins = _signature(found)
        keys = [hash(tuple(bins[start : start + _ROWS])) for start in range(0, _NUM_BINS, _ROWS)]
        candidates: dict[int, None] = {}
        for band, key in zip(self._bands, keys, strict=True):
            candidates.update(dict.fromkeys(band.get(key, ())))
        best: tuple[str, float] | None = None
        for number in list(candidates)[:_MAX_CANDIDATES]:
            other = self._sets[number]
            common = sum(1 for value in other if value in found)
            similarity = common / (len(found) + len(other) - common)
            if similarity >= self._similarity and (best is None or similarity > best[1]):
                best = self._names[number], similarity
        if best is not None:
            return best
        self._names.append(name)
        self._sets.append(array("Q", found))
        for band, key in zip(self._bands, keys, strict=True):
            bucket = band.setdefault(key, [])
            if len(bucket) < _MAX_BUCKET:
                bucket.append(len(self._sets) - 1)
        return None


def _hashed(found: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(found).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _signature(values: frozenset[int]) -> list[int]:
    bins: list[int | None] = [None] * _NUM_BINS
    for value in values:
        place, rest = value % _NUM_BINS, value // _NUM_BINS
        held = bins[place]
        if held is None or rest < held:
            bins[place] = rest
    filled: list[int] = []
    for place in range(_NUM_BINS):
        steps = next(step for step in range(_NUM_BINS) if bins[(place + step) % _NUM_BINS] is not None)
        # How far it was fetched from belongs to it: two sets agree on a bin only where they fill it from the same place.
        filled.append((bins[(place + steps) % _NUM_BINS] or 0) + (steps << 64))
    return filled
