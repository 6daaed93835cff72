"""Make chat turns out of documents, so that a model trained from plain text has seen the form of a conversation.

Nothing is invented: the question is a heading or a definition's name put into a fixed sentence, the answer is the passage
that stands under it. A model learns from this where turns begin and end, and that an answer belongs to a question; it does not
learn to be helpful.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelworks.capabilities.text.data import Document

_MARKDOWN_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_UNDERLINED_HEADING = re.compile(r"^(\S.{0,80})\n([=\-~^\"'*+#])\2{2,}[ \t]*$", re.MULTILINE)
_DOCSTRING = re.compile(
    r'^[ \t]*(?:async[ \t]+def|def|class)[ \t]+(\w+)[^\n]*\n[ \t]+[rR]?"""(.+?)"""', re.MULTILINE | re.DOTALL
)
_CJK = re.compile(r"[\u4e00-\u9fff]")
_MIN_ANSWER_CHARS = 40
_MAX_ANSWER_CHARS = 1200


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and the passage that answers it."""

    question: str
    answer: str


def turns(document: Document) -> Iterator[Turn]:
    """The turns that a document's headings and docstrings give; none where it has neither."""
    for match in _DOCSTRING.finditer(document.text):
        answer = _trim(match[2])
        if answer:
            yield Turn(f"What does {match[1]} do?", answer)
    headings = sorted(
        [*_MARKDOWN_HEADING.finditer(document.text), *_UNDERLINED_HEADING.finditer(document.text)],
        key=lambda match: match.start(),
    )
    for position, match in enumerate(headings):
        end = headings[position + 1].start() if position + 1 < len(headings) else len(document.text)
        answer = _trim(document.text[match.end() : end])
        if answer:
            yield Turn(_ask(match[1].strip()), answer)


def _ask(heading: str) -> str:
    return f"请介绍“{heading}”。" if _CJK.search(heading) else f"Tell me about {heading}."


def _trim(passage: str) -> str:
    """The passage's first paragraphs, cut at the end of one; empty where there is too little."""
    lines = [line.strip() for line in passage.strip().splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    if len(text) > _MAX_ANSWER_CHARS:
        cut = text.rfind("\n\n", 0, _MAX_ANSWER_CHARS)
        text = text[: cut if cut >= _MIN_ANSWER_CHARS else _MAX_ANSWER_CHARS].rstrip()
    return text if len(text) >= _MIN_ANSWER_CHARS else ""
