"""Queries with the passages that answer them, made of documents that nobody ever asked about.

A document in Markdown's manner is cut at its headings, and each section into passages. Every kind of pair stands for a way to
search:

- `heading`: what stands above a passage; in reference manuals the name of a page, function or option.
- `question`: a sentence of the passage as a question, a part of it replaced by a question word (after Lewis et al. 2019,
  Unsupervised Question Answering by Cloze Translation), some other words left out.
- `cloze`: a sentence, taken out of the passage (after Lee et al. 2019, the inverse cloze task).
- `keywords`: a few words of the passage that are rare elsewhere.
- `parallel`: the heading in one language, the passage in the other, of documents that are translations of each other.

What is made of a passage follows from the seed and the passage alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.contract.errors import InvalidRequest
from modelworks.recipe.queries import keywords, phrases, question
from modelworks.recipe.recipe import Pairs, Recipe
from modelworks.recipe.sections import Section, is_chinese, passages, sections, sentences

#: A heading that stands above more passages than this says nothing about any of them, unless with its document's title.
_MOST_SHARED = 3
#: What a manual page calls the section to which its name and summary lead.
_DESCRIPTIONS = frozenset({"DESCRIPTION", "描述", "说明"})
_SHORTEST_QUERY = 2
_LONGEST_QUERY = {"zh": 80, "en": 240}
#: Part of the clozes whose sentence is taken out; where it stays, words are learnt rather than meaning.
_TAKEN_OUT = 0.7


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document."""

    source: str
    document: str
    language: str
    #: Which section of its document, and which part of that.
    section: int
    part: int
    headings: tuple[str, ...]
    text: str


def build(recipe: Recipe, pairs: Pairs, corpus: Path, target: Path) -> dict[str, Any]:
    """Write `train/data.jsonl`, `held-out/LANGUAGE/data.jsonl` and `manifest.json` into `target`, and return the manifest.

    Records are `{"query", "positive", "kind", "source", "document", "language"}`. Held-out pairs are those of the documents
    that `corpus.build` held out.

    Args:
        corpus: what `corpus.build` wrote.

    Raises:
        InvalidRequest: the documents give no pairs.
    """
    counts: dict[str, dict[str, int]] = {}
    digest = hashlib.sha256()
    twins = {source.name: source.translation_of for source in recipe.source if source.translation_of is not None}
    learnt = [corpus / "train" / "data.jsonl"]
    parts = {"train": learnt} | {
        f"held-out/{file.parent.name}": [file] for file in sorted((corpus / "held-out").glob("*/data.jsonl"))
    }
    for part, files in parts.items():
        folder = target / part
        folder.mkdir(parents=True)
        with (folder / "data.jsonl").open("w", encoding="utf-8") as out:
            for record in _chosen(_pairs(pairs, _documents(files), twins), pairs, limited=part == "train"):
                line = json.dumps(record, ensure_ascii=False)
                out.write(line + "\n")
                digest.update(line.encode())
                count = counts.setdefault(record["kind"], {})
                key = record["language"] if part == "train" else "held_out"
                count[key] = count.get(key, 0) + 1
    if not any(set(count) - {"held_out"} for count in counts.values()):
        raise InvalidRequest("The documents of this recipe give no pairs.", hint="Raise the scale, or lower min_chars.")
    manifest = {"digest": "sha256:" + digest.hexdigest(), "kinds": counts}
    (target / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return manifest


def _documents(files: Iterable[Path]) -> Iterator[dict[str, str]]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _pairs(pairs: Pairs, documents: Iterable[dict[str, str]], twins: dict[str, str]) -> Iterator[dict[str, str]]:
    """All pairs, a passage's together, in the order of the documents."""
    found = list(_passages(pairs, documents))
    shared = Counter(passage.headings[-1] for passage in found if passage.headings and passage.part == 0)
    frequency = Counter(phrase for passage in found for phrase in set(phrases(passage.text)))
    rare = {phrase: math.log(len(found) / count) for phrase, count in frequency.items()}
    seen: set[tuple[str, str]] = set()
    for passage in found:
        draw = random.Random(f"{pairs.seed}:{passage.text}")  # noqa: S311 - reproducible, not secret
        for kind, query, text in _asked(passage, pairs, draw, shared, rare):
            query = " ".join(query.split())[: _LONGEST_QUERY[passage.language]]
            if len(query) < _SHORTEST_QUERY or len(text) < pairs.min_chars or (query, text) in seen:
                continue
            seen.add((query, text))
            yield _record(kind, query, text, passage)
    if "parallel" in pairs.kinds:
        yield from _parallel(found, twins)


def _passages(pairs: Pairs, documents: Iterable[dict[str, str]]) -> Iterator[Passage]:
    for document in documents:
        for number, section in enumerate(sections(document["text"])):
            language = "zh" if is_chinese(section.text) else "en"
            if language != document["language"] and document["language"] == "zh":
                continue  # what the translators left as it was
            draw = random.Random(f"{pairs.seed}:{section.text}")  # noqa: S311 - reproducible, not secret
            longest, shortest = (
                (pairs.max_chars, pairs.min_chars) if language == "zh" else (3 * pairs.max_chars, pairs.min_chars)
            )
            for part, text in enumerate(passages(section.text, shortest, longest, draw)):
                yield Passage(document["source"], document["document"], language, number, part, _headings(section), text)


def _headings(section: Section) -> tuple[str, ...]:
    return tuple(each for each in section.headings if each)


def _asked(
    passage: Passage, pairs: Pairs, draw: random.Random, shared: Counter[str], rare: dict[str, float]
) -> Iterator[tuple[str, str, str]]:
    """(kind, query, passage) of everything that is asked about a passage."""
    if "heading" in pairs.kinds and passage.headings and passage.part == 0:
        last = passage.headings[-1]
        if shared[last] <= _MOST_SHARED:
            yield "heading", last, passage.text
        elif len(passage.headings) > 1 and passage.headings[0] != last:
            title = passage.headings[0]
            yield "heading", title if last in _DESCRIPTIONS else f"{title} {last}", passage.text
    said = sentences(passage.text)
    for _ in range(pairs.questions if "question" in pairs.kinds else 0):
        if (asked := question(draw.choice(said), passage.language, draw)) is not None:
            yield "question", asked, passage.text
    if "cloze" in pairs.kinds and len(said) > 2:
        place = draw.randrange(len(said))
        rest = said[:place] + said[place + 1 :] if draw.random() < _TAKEN_OUT else said
        yield "cloze", said[place], ("" if passage.language == "zh" else " ").join(rest)
    asks = "keywords" in pairs.kinds and draw.random() < pairs.keywords
    if asks and (words := keywords(passage.text, rare, draw)) is not None:
        yield "keywords", words, passage.text


def _parallel(found: list[Passage], twins: dict[str, str]) -> Iterator[dict[str, str]]:
    """The heading of a section with the passage of its translation, both ways.

    Documents belong together by their names without the languages in them; they must have as many sections.
    """
    first = {(each.source, _neutral(each.document), each.section): each for each in found if each.part == 0 and each.headings}
    last = Counter[tuple[str, str]]()
    for source, document, section in first:
        last[source, document] = max(last[source, document], section)
    for (source, document, section), passage in first.items():
        other = twins.get(source)
        twin = first.get((other, document, section)) if other is not None else None
        if other is None or twin is None or last[source, document] != last[other, document]:
            continue
        yield _record("parallel", passage.headings[-1], twin.text, twin)
        yield _record("parallel", twin.headings[-1], passage.text, passage)


def _neutral(name: str) -> str:
    """A document's name without what tells its language: `ch01.zh-cn.html` and `ch01.en.html` are one document."""
    return re.sub(r"(?<![a-z])(?i:zh(?:[-_]cn)?|en(?:[-_]us)?)(?![a-z])|(?<=/)C(?=/)", "", name)


def _record(kind: str, query: str, text: str, passage: Passage) -> dict[str, str]:
    return {
        "query": query,
        "positive": text,
        "kind": kind,
        "source": passage.source,
        "document": passage.document,
        "language": passage.language,
    }


def _chosen(found: Iterable[dict[str, str]], pairs: Pairs, *, limited: bool) -> Iterator[dict[str, str]]:
    """At most `limit` pairs of each language, chosen by a hash of the query, in their order."""
    everything = list(found)
    if not limited or pairs.limit is None:
        yield from everything
        return
    taken: set[int] = set()
    for language in ("zh", "en"):
        numbers = [number for number, record in enumerate(everything) if record["language"] == language]
        numbers.sort(key=lambda number: _position(everything[number]))
        taken.update(numbers[: pairs.limit])
    yield from (record for number, record in enumerate(everything) if number in taken)


def _position(record: dict[str, str]) -> bytes:
    return hashlib.blake2b(f"{record['query']}\0{record['positive']}".encode(), digest_size=8).digest()
