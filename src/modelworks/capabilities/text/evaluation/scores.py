"""How near an answer comes to the given one, from 0 to 1."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

#: The longest common subsequence takes time with the product of the lengths.
_MAX_ROUGE_WORDS = 2000
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
#: A word, or one character of a script that is written without spaces.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def scores(answer: str, reference: str) -> dict[str, float]:
    """Every score of an answer; `json_valid` only where the reference is a JSON object or array."""
    found = {
        "exact_match": float(answer.strip() == reference.strip()),
        "chrf": chrf(answer, reference),
        "rouge_l": rouge_l(answer, reference),
        "sentence_bleu": sentence_bleu(answer, reference),
    }
    if is_json(reference):
        found["json_valid"] = float(is_json(answer))
    return found


def chrf(answer: str, reference: str) -> float:
    """Character n-gram F-score of one answer (Popović 2015, chrF2), sacrebleu's."""
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


def sentence_bleu(answer: str, reference: str) -> float:
    """BLEU of one answer by sacrebleu, with orders above the answer's length left out and exponential smoothing."""
    return min(1.0, float(_bleu(bool(_CJK.search(reference))).sentence_score(answer, [reference]).score) / 100)


def corpus_bleu(pairs: Sequence[tuple[str, str]]) -> float:
    """BLEU of answers and their references as one text (Papineni et al. 2002; sacrebleu: Post 2018).

    Cut into words as WMT does (13a), into characters too (zh) where a reference has Chinese or Japanese.
    """
    answers, references = [answer for answer, _ in pairs], [reference for _, reference in pairs]
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="zh" if any(map(_CJK.search, references)) else "13a")
    return min(1.0, float(metric.corpus_score(answers, [references]).score) / 100)


@cache
def _bleu(has_cjk: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True, tokenize="zh" if has_cjk else "13a")


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


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
