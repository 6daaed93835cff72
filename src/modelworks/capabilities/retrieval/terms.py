"""What is counted of a text: words, parts of names, and for scripts without spaces characters and neighbouring pairs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

#: Raised when the same text gives other terms than before: an index of another version is not opened.
TERMS_VERSION = 1

#: Scripts that are written without spaces, or whose words take particles: Thai to Khmer, kana, Han with its extensions, Hangul.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_WORD = rf"[^\W{_UNSPACED}]"
#: A run of such a script; or a word with what may join words into a name (`max-age`, `v1.2.3`, `a/b`, `C++`, `1,024`).
_RUNS = re.compile(rf"[{_UNSPACED}]+|{_WORD}+(?:[-.,:/@+#&'’]{_WORD}+)*(?:\+\+|#(?!\w))?")
#: A word, or one character of such a script: what a run of words is counted in.
_UNITS = re.compile(rf"[{_UNSPACED}]|{_WORD}+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_JOINT = re.compile(r"[-.,:/@+#&'’_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
#: `getHTTPAnswer2` → get, HTTP, Answer, 2.
_HUMPS = re.compile(r"[A-Z]+(?=[A-Z][^\W\d_A-Z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")
#: English words that say nothing of what is looked for; questions are full of them.
_COMMON_WORDS = """
a about after again all also am an and any are as at be because been before being below between both but by can could did do
does doing down during each either few for from further had has have having he her here hers him his how i if in into is it its
just many may me might more most much must my no nor not now of off on once one only or other our out over own please same
shall she should so some such than that the their theirs them then there these they this those through to too under until up
upon us very was we were what when where whether which while who whom whose why will with within would you your yours
"""
#: What stands behind an apostrophe: Apple's, don't, we'll.
_CONTRACTED = frozenset({"s", "t", "d", "ll", "re", "ve", "m"})
#: What such a word of a query counts beside the others.
COMMON_WEIGHT = 0.1
#: A longer word is an encoded file or a line of hyphens, not something that is looked for.
_MAX_WORD_CHARS = 64


def terms(text: str) -> list[str]:
    """The terms of a passage or a query, in their order, after NFKC.

    Words in lower case without accents, plurals without their s. A name that holds digits, underscores or joints counts as a
    whole, and each of its parts: `read_file`, read, file. Of Han, kana, Hangul and Thai every character and every two
    neighbours count, so that a word of two characters is found without a dictionary.
    """
    found: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text)):
        if _IS_UNSPACED.match(run):
            found.extend(run)
            found.extend(run[place : place + 2] for place in range(len(run) - 1))
        else:
            found.extend(_of_word(run))
    return found


def weighed(query: str) -> Mapping[str, float]:
    """The terms of a query, and how often each counts.

    A common English word counts a tenth, so that a long question is not answered by passages that share its grammar; in
    capitals it is a name (IT, US, WHO) and counts whole. Where nothing else is asked for, they are all alike.
    """
    found: dict[str, float] = {}
    is_loud = query.isupper()
    for run in _RUNS.findall(unicodedata.normalize("NFKC", query)):
        is_name = run.isupper() and not is_loud and run != "I"
        is_contracted = "'" in run or "’" in run
        for term in terms(run):
            is_common = (term in _COMMON and not is_name) or (term in _CONTRACTED and is_contracted)
            found[term] = found.get(term, 0.0) + (COMMON_WEIGHT if is_common else 1.0)
    return found


def plain(text: str) -> str:
    """A text as phrases are compared: NFKC, lower case, every run of blanks one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def units(text: str) -> list[str]:
    """Words, and characters of scripts without spaces, of a text that is `plain`."""
    return _UNITS.findall(text)


def is_unspaced(text: str) -> bool:
    """Whether a third or more of a text's units are of scripts without spaces: a Chinese question may name English things."""
    found = units(text)
    return 3 * sum(_IS_UNSPACED.match(each) is not None for each in found) >= len(found) > 0


@lru_cache(maxsize=1 << 16)
def _of_word(word: str) -> tuple[str, ...]:
    if word.isascii() and word.isalpha() and (word.islower() or word[1:].islower()):
        return (_singular(word.lower()[:_MAX_WORD_CHARS]),)
    word = _THOUSANDS.sub("", word)
    parts = [part for part in _JOINT.split(word) if part]
    found: list[str] = []
    is_name = any(not part.isalpha() for part in parts) or "_" in word or "." in word or word.endswith(("+", "#"))
    # Whether hyphens join a name or two words is not for an index to say: the whole of words alone is left out.
    if is_name and parts != [word]:
        found.append(_folded(word))
    for part in parts:
        humps = _HUMPS.findall(part) if not part.islower() or not part.isalpha() else []
        if len(humps) > 1:
            found.append(_folded(part))
            found.extend(_singular(_folded(hump)) for hump in humps)
        else:
            found.append(_singular(_folded(part)))
    return tuple(found)


def _folded(word: str) -> str:
    """Lower case without accents, cut where it is no word any more."""
    word = word.lower()[:_MAX_WORD_CHARS]
    if not word.isascii():
        word = "".join(each for each in unicodedata.normalize("NFKD", word) if not unicodedata.combining(each)) or word
    return word


def _singular(word: str) -> str:
    """Harman's s-stemmer (1991): the plural's ending and nothing else, so that names stay what they are."""
    if len(word) < 4 or word[-1] != "s" or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


_COMMON = frozenset(_singular(word) for word in _COMMON_WORDS.split())
