"""How near an answer comes to the given one, from 0 to 1."""

from __future__ import annotations

import json
import re
from collections import Counter

#: The longest n-grams of chrF, and how much more recall counts than precision.
_CHRF_ORDER, _CHRF_BETA = 6, 2.0
#: The longest common subsequence takes time with the product of the lengths.
_MAX_ROUGE_WORDS = 2000
#: A word, or one character of a script that is written without spaces.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def scores(answer: str, reference: str) -> dict[str, float]:
    """Every score of an answer; `json_valid` only where the reference is a JSON object or array."""
    found = {
        "exact_match": float(answer.strip() == reference.strip()),
        "chrf": chrf(answer, reference),
        "rouge_l": rouge_l(answer, reference),
    }
    if is_json(reference):
        found["json_valid"] = float(is_json(answer))
    return found


def chrf(answer: str, reference: str) -> float:
    """Character n-gram F-score of one answer (Popović 2015, chrF2: n up to 6, beta 2, spaces left out)."""
    ours, theirs = "".join(answer.split()), "".join(reference.split())
    precision = recall = 0.0
    order = 0
    for length in range(1, _CHRF_ORDER + 1):
        mine, other = _grams(ours, length), _grams(theirs, length)
        if not mine or not other:
            continue
        order += 1
        matches = (mine & other).total()
        precision += matches / mine.total()
        recall += matches / other.total()
    if precision + recall == 0:
        return 0.0
    precision, recall = precision / order, recall / order
    return (1 + _CHRF_BETA**2) * precision * recall / (_CHRF_BETA**2 * precision + recall)


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), of characters in Chinese and Japanese; 2,000 words at most."""
    ours, theirs = words(answer.lower())[:_MAX_ROUGE_WORDS], words(reference.lower())[:_MAX_ROUGE_WORDS]
    if not ours or not theirs:
        return float(ours == theirs)
    before = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for place, other in enumerate(theirs):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return 2 * before[-1] / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """Its words; of Chinese and Japanese its characters."""
    return _WORDS.findall(text)


def is_json(text: str) -> bool:
    """Whether the whole text is a JSON object or array."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _grams(text: str, length: int) -> Counter[str]:
    return Counter(text[start : start + length] for start in range(len(text) - length + 1))
