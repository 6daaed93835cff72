"""Scripts, languages by script, sentences and lengths, of Chinese and of what has spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Han, kana, bopomofo, hangul and full-width forms: written without spaces, and each character says much.
CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u30ff\u3105-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)
_CJK = re.compile(f"[{CJK}]")
#: Beside these a line break is no space: their scripts have none.
_UNSPACED = re.compile(f"[{CJK}\u3001-\u3020\uff01-\uff60\u2018-\u201d\u2026\u2014]")
_KANA = re.compile("[\u3041-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[A-Za-z\u00c0-\u024f']+")
_ENGLISH = frozenset(
    [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "a",
        "for",
        "on",
        "that",
        "with",
        "as",
        "are",
        "be",
        "this",
        "by",
        "from",
        "or",
        "an",
        "it",
        "at",
        "not",
        "was",
        "have",
        "you",
        "can",
        "which",
    ]
)

_END = re.compile(
    "(?<=[。！？；…])[”’」』）】)\"']*"
    "|(?<=[.!?])[\"'”’)\\]]*(?=\\s+[\"'“‘(\\[]?[A-Z0-9\u00c0-\u00de\u0400-\u042f\u4e00-\u9fff])"
    "|(?<=\n)"
)
#: An ending that ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|Nos|Fig|Figs|Eq|Sec|Inc|Ltd|Co|Corp|vs|cf|al|approx|e\.g|i\.e|U\.S|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)"
    r"|\b[A-Z])\.$"
)
_CLAUSE = re.compile("(?<=[，、；：])|(?<=[,;:])(?=\\s)|(?<=\\s)")


def weight(text: str, ratio: float) -> float:
    """How long a text counts: a character of Chinese as `ratio` letters."""
    return len(text) + (ratio - 1.0) * len(_CJK.findall(text)) if ratio != 1.0 else float(len(text))


def language(text: str) -> str | None:
    """zh, ja, ko or en by script and the commonest words; "und" for others; None where there are too few letters."""
    sample = text[:20_000]
    letters = len(_LETTER.findall(sample))
    if letters < 2:
        return None
    cjk, hangul = len(_CJK.findall(sample)), len(_HANGUL.findall(sample))
    if hangul > 0.2 * letters:
        return "ko"
    if cjk > 0.2 * letters:
        return "ja" if len(_KANA.findall(sample)) > 0.1 * cjk else "zh"
    if len(_LATIN.findall(sample)) < 0.7 * letters:
        return "und"
    words = [word.lower() for word in _WORD.findall(sample)]
    share = sum(word in _ENGLISH for word in words) / max(1, len(words))
    return "en" if share > 0.08 or (len(words) < 12 and sample.isascii()) else "und"


def joined(before: str, after: str) -> str:
    """Two lines of one paragraph as one: with a space, but none between Chinese characters."""
    if not before or not after:
        return before + after
    if before[-1].isspace() or after[0].isspace():
        return before.rstrip() + " " + after.lstrip()
    if _UNSPACED.match(before[-1]) and _UNSPACED.match(after[0]):
        return before + after
    return f"{before} {after}"


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text with everything between them, in order; together they are the text."""
    start = 0
    for found in _END.finditer(text):
        end = found.end()
        if (
            end <= start
            or end >= len(text)
            or (text[end - 1] != "\n" and _ABBREVIATION.search(text[max(start, end - 8) : end]))
        ):
            continue
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def pieces(text: str, limit: float, ratio: float) -> Iterator[str]:
    """A text in pieces not longer than a limit: of whole sentences, else of clauses, words, and last of characters."""
    piece = ""
    for sentence in sentences(text):
        for part in (sentence,) if weight(sentence, ratio) <= limit else _broken(sentence, limit, ratio):
            if piece and weight(piece, ratio) + weight(part.rstrip(), ratio) > limit:
                yield piece.strip()
                piece = ""
            piece += part
    if piece.strip():
        yield piece.strip()


def _broken(sentence: str, limit: float, ratio: float) -> Iterator[str]:
    held = ""
    for clause in _CLAUSE.split(sentence):
        if held and weight(held, ratio) + weight(clause, ratio) > limit:
            yield held
            held = ""
        held += clause
        while weight(held, ratio) > limit:
            size = max(1, int(limit * len(held) / weight(held, ratio)))
            yield held[:size]
            held = held[size:]
    if held:
        yield held
