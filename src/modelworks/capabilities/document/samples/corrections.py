"""What readers said of answers, made samples: a correction that a person has accepted, tied to the passage that it stands on.

The data set of role "corrections" has lines in JSON, in any number of files: `question`, `answer` (that was given),
`correction` (None: the answer is wrong, and nobody said how it should be) and `origin.documents`, which the answer cites.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelworks.capabilities.document.language import sentences
from modelworks.capabilities.document.samples.makers import Draft, Read, tongue_of
from modelworks.capabilities.document.samples.support import share
from modelworks.contract.errors import InvalidData

#: Of a correction's words, that the passage must have: readers may know what no document says.
_LEAST_SHARED: Final = 0.4
_CITATION: Final = re.compile(r"\s*\[\d+\]")


@dataclass(frozen=True, slots=True)
class Said:
    """One answer and what somebody said of it."""

    question: str
    answer: str
    correction: str | None
    documents: tuple[str, ...]


def read_said(folder: Path) -> list[Said]:
    """Everything that was said; raises InvalidData where a line is damaged."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            try:
                told = json.loads(line)
                documents = tuple(map(str, told["origin"]["documents"]))
                found.append(Said(told["question"], told["answer"], told.get("correction"), documents))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InvalidData(
                    f"{file.name}, line {number} is no correction.",
                    hint="A line has question, answer, correction and origin.documents.",
                ) from None
    return found


def drafts_of(said: Iterable[Said], reads: Mapping[str, Read], dropped: Counter[str]) -> Iterator[Draft]:
    """A draft for each correction whose documents are all among `reads`, about the passage that holds most of its words.

    Args:
        dropped: what is not taken, by reason; `correction_apart` holds those that no shard was found for so far.
    """
    for each in said:
        if each.correction is None or not each.documents or not set(each.documents) <= set(reads):
            continue
        dropped["correction_apart"] -= 1
        passages = [passage for document_id in each.documents for passage in reads[document_id].passages]
        best = max(passages, key=lambda passage: (share(each.correction or "", passage.text), -passage.ordinal))
        tongue = tongue_of(each.question) or tongue_of(best.text)
        if tongue is None or share(each.correction, best.text) < _LEAST_SHARED:
            dropped["correction_unsupported"] += 1
            continue
        answer = tuple(part.strip() for part in sentences(_plain(each.correction)) if part.strip())
        yield Draft("correction", each.question, answer, best, tongue, tuple(sorted(each.documents)))


def agreed(found: Sequence[Draft], said: Iterable[Said], dropped: Counter[str]) -> list[Draft]:
    """The drafts without those that readers found wrong, and without other answers to a question that was corrected."""
    wrong = {(_norm(each.question), _norm(each.answer)) for each in said}
    corrected = {_norm(each.question) for each in found if each.maker == "correction"}
    kept = []
    for draft in found:
        question = _norm(draft.question)
        is_wrong = (question, _norm(" ".join(draft.answer))) in wrong or question in corrected
        if draft.maker != "correction" and is_wrong:
            dropped["disagreed"] += 1
        else:
            kept.append(draft)
    return kept


def _plain(text: str) -> str:
    return _CITATION.sub("", text).strip()


def _norm(text: str) -> str:
    return re.sub(r"\W+", " ", _plain(text)).strip().casefold()
