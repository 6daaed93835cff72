"""The form of regulated verse, as far as today's readings show it: length of lines, tones, rhyme.

A line is what stands between two stops; a poem of the Tang has lines of five or of seven characters. Within a line the second
and the fourth character (and the fourth and the sixth) are of different tone classes, level (first and second tone) or oblique
(Wang Li, Hanyu shilü xue, 1958); the lines that end a couplet rhyme. Tones and finals are those of Mandarin, by pypinyin (MIT):
characters that had the entering tone are read otherwise today, so that real poems fall short of the rules, too, and are
measured beside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: What a final without its medial is, where the spelling hides it.
_FINALS = {"ueng": "eng", "uen": "en", "un": "en", "in": "en", "ün": "en", "ing": "eng", "iou": "ou", "uei": "ei"}


def lines_of(verse: str) -> list[str]:
    return [each for each in re.split(r"[，。？！；、\s]", verse) if each]


def lengths(opening: str, verse: str) -> float:
    """Part of the lines that are as long as those of the opening; 0 for no line."""
    wanted = len(lines_of(opening)[-1])
    found = lines_of(verse)
    return sum(len(each) == wanted for each in found) / len(found) if found else 0.0


def tones(verse: str) -> tuple[int, int]:
    """How many pairs of places that differ in a rule differ, of how many; in lines of five or seven characters."""
    kept = asked = 0
    for line in lines_of(verse):
        places = {5: ((1, 3),), 7: ((1, 3), (3, 5))}.get(len(line), ())
        classes = [_is_level(each) for each in line]
        for first, second in places:
            if classes[first] is not None and classes[second] is not None:
                asked += 1
                kept += classes[first] != classes[second]
    return kept, asked


def rhymes(opening: str, verse: str) -> bool | None:
    """Whether the lines that end a couplet share a final; None where there are not two of them."""
    ends = [each[-1] for each in lines_of(opening + verse)][1::2]
    return len({_final(each) for each in ends}) == 1 if len(ends) > 1 else None


def summary(poems: Sequence[tuple[str, str]]) -> dict[str, list[Any]]:
    """Of (opening, rest): for each measure its values, a poem each."""
    found: dict[str, list[Any]] = {
        "lines as long as the opening's": [],
        "tones differ where they should": [],
        "couplets rhyme": [],
    }
    for opening, verse in poems:
        found["lines as long as the opening's"].append(lengths(opening, verse))
        kept, asked = tones(verse)
        if asked:
            found["tones differ where they should"].append(kept / asked)
        if (rhyming := rhymes(opening, verse)) is not None:
            found["couplets rhyme"].append(float(rhyming))
    return found


def _is_level(character: str) -> bool | None:
    from pypinyin import Style, pinyin

    reading = pinyin(character, style=Style.TONE3, neutral_tone_with_five=True)[0][0]
    return reading[-1] in "12" if reading[-1] in "1234" else None


def _final(character: str) -> str:
    """The final without its medial: guang and zhang rhyme."""
    from pypinyin import Style, pinyin

    final = pinyin(character, style=Style.FINALS, strict=True)[0][0]
    found = re.sub(r"^[iuüv](?=[aeo])", "", final)
    return _FINALS.get(final, found)
