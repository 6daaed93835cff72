"""Queries out of sentences: questions by leaving something out, and key words."""

from __future__ import annotations

import random
import re

#: Chinese characters that hold phrases together: between them stand the words that are searched for.
_PARTICLES = "的了是在和与及或也就都而且之其这那此为以于对从到被把将会可能要由等并但若如有上下中个您你我他它们不一"
_PHRASES = re.compile(rf"[^\W{_PARTICLES}\d_a-zA-Z]{{2,6}}|[A-Za-z][\w+#.-]*\w")
_ZH_CLAUSES = re.compile(r"[，；：、。！？,;:!?（）()“”\"]+")
_ZH_YEAR = re.compile(r"\d{2,4} ?年")
_NUMBER = re.compile(r"\d[\d.,]*")
_ZH_WORDS = ("什么", "什么", "哪些", "哪个", "什么样的", "谁", "哪里")
_ZH_FRAMES = ("{}是什么？", "为什么{}？", "如何{}？", "怎么{}", "{}吗？", "{}")
_EN_FRAMES = ("what {}?", "which {}?", "how {}?", "how does {}?", "where {}?", "who {}?", "why {}?", "what is {}?", "{}")
#: So often another word is left out of a question.
_LOST = 0.2


def phrases(text: str) -> list[str]:
    """What could be searched for: English words, runs of Chinese characters between particles."""
    return _PHRASES.findall(text.lower())


def keywords(text: str, rare: dict[str, float], draw: random.Random) -> str | None:
    """Two to five phrases of a text in their order, drawn among its rarest; None where it has too few.

    Args:
        rare: the logarithm of how many passages there are for each that holds the phrase.
    """
    known = sorted({each for each in phrases(text) if each in rare}, key=lambda each: (-rare[each], each))
    count = draw.randint(2, 5)
    if len(known) < count:
        return None
    taken = draw.sample(known[: 2 * count], count)
    taken.sort(key=text.lower().find)
    return " ".join(taken)


def question(sentence: str, language: str, draw: random.Random) -> str | None:
    """A question to which the sentence is an answer, or nearly one; None where it is too short for that."""
    return _chinese(sentence, draw) if language == "zh" else _english(sentence, draw)


def _chinese(sentence: str, draw: random.Random) -> str | None:
    clauses = [each.strip() for each in _ZH_CLAUSES.split(sentence) if len(each.strip()) > 2]
    if not clauses:
        return None
    start = draw.randrange(len(clauses))
    asked = "".join(clauses[start : start + draw.choice((1, 1, 2))])[:40]
    if len(asked) < 6:
        return None
    if (year := _ZH_YEAR.search(asked)) is not None:
        return asked[: year.start()] + draw.choice(("哪一年", "什么时候", "哪年")) + asked[year.end() :] + "？"
    if (number := _NUMBER.search(asked)) is not None and draw.random() < 0.5:
        return asked[: number.start()] + draw.choice(("多少", "几")) + asked[number.end() :] + "？"
    spans = [match.span() for match in _PHRASES.finditer(asked) if match.end() - match.start() < len(asked) / 2]
    if not spans:
        return None
    begin, end = draw.choice(spans)
    if draw.random() < 0.6:
        return asked[:begin] + draw.choice(_ZH_WORDS) + asked[end:] + "？"
    return draw.choice(_ZH_FRAMES).format(asked[:begin] + asked[end:])


def _english(sentence: str, draw: random.Random) -> str | None:
    words = re.findall(r"[\w'’.+#-]*\w", sentence)
    if len(words) < 5:
        return None
    start = draw.randrange(max(1, len(words) - 8))
    asked = words[start : start + draw.randint(5, 14)]
    number = next((place for place, word in enumerate(asked) if _NUMBER.fullmatch(word)), None)
    if number is not None and draw.random() < 0.5:
        asked[number : number + 1] = []
        frame = draw.choice(("how many {}?", "what year {}?", "when {}?", "how much {}?"))
    else:
        size = draw.randint(1, 2)
        place = draw.randrange(len(asked) - size)
        asked[place : place + size] = []
        frame = draw.choice(_EN_FRAMES)
    kept = [word for word in asked if draw.random() > _LOST]
    return frame.format(" ".join(kept or asked)).lower()
