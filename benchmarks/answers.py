"""Answers of data spaces without a language model: what is quoted, what is cited, and what is refused.

    python benchmarks/answers.py --shared ../shared            # figures on the halves that nothing was chosen on
    python benchmarks/answers.py --shared ../shared --tune     # the choice of the refusal's bar, on the other halves

Collections: the trial part of CMRC 2018, and XQuAD in both languages. A question is answerable where its passage is in the
collection; it is put once more with every passage of its article taken out, and must then be refused. Passages are found by the
platform's own index, by words alone. Beside it: the best sentence, by shared words, of the first passage that plain BM25 finds,
which never refuses. F1 and exact match as SQuAD counts them (characters in Chinese, as CMRC does); "held" is the share of
answers that hold a right answer as it stands. Citations: precision is the share of citations whose passage is the right one,
recall the share of answerable questions with such a citation. Intervals are 95 %, by bootstrap over questions.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage, SearchInput
from modelworks.kernel.gateway.spaces import question as questions
from modelworks.kernel.gateway.spaces.checking import Source, verdict
from modelworks.kernel.gateway.spaces.extracting import LEAST_COVERAGE, coverage, is_answerable, quotations
from modelworks.kernel.gateway.spaces.wording import sentences, terms

_RESAMPLES = 1000
_DEPTH = 6


@dataclass(frozen=True)
class Item:
    question: str
    answers: tuple[str, ...]
    passage: int
    article: str


@dataclass
class Collection:
    language: str
    passages: list[str]
    articles: list[str]
    items: list[Item]


def read(place: Path, language: str) -> Collection:
    """A file in SQuAD's form."""
    found = Collection(language, [], [], [])
    for article in json.loads(place.read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            # CMRC has an article for each passage; the titles of some are the same.
            title = article.get("title") or paragraph.get("id") or str(len(found.passages))
            found.passages.append(paragraph["context"])
            found.articles.append(title)
            for each in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in each["answers"] if answer["text"]))
                if answers:
                    found.items.append(Item(each["question"], answers, len(found.passages) - 1, title))
    return found


class Index:
    """The platform's own index, by words alone: a document for each article, a passage for each of its paragraphs."""

    def __init__(self, collection: Collection, folder: Path) -> None:
        from modelworks.capabilities.retrieval.schemas import BuildParams
        from modelworks.capabilities.retrieval.serve import PassageIndex
        from modelworks.capabilities.retrieval.train import build_index
        from modelworks.contract.run import LocalModel
        from modelworks.testing import FakeRun

        self._documents = {article: f"a{number}" for number, article in enumerate(dict.fromkeys(collection.articles))}
        self._places: dict[str, int] = {}
        by_document: dict[str, list[Passage]] = {}
        for at, (text, article) in enumerate(zip(collection.passages, collection.articles, strict=True)):
            document = self._documents[article]
            rows = by_document.setdefault(document, [])
            rows.append(Passage(id=f"{document}:{len(rows)}", document_id=document, ordinal=len(rows), text=text))
            self._places[rows[-1].id] = at
        data = folder / "passages-set"
        (data / PASSAGES_FOLDER).mkdir(parents=True)
        parsed = [
            ParsedDocument(
                id=document, name=document, digest="sha256:" + "0" * 64, parser="1", state="parsed", num_passages=len(rows)
            )
            for document, rows in by_document.items()
        ]
        (data / DOCUMENTS_FILE).write_text("".join(each.model_dump_json() + "\n" for each in parsed), "utf-8")
        for document, rows in by_document.items():
            lines = "".join(each.model_dump_json() + "\n" for each in rows)
            (data / PASSAGES_FOLDER / f"{document}.jsonl").write_text(lines, "utf-8")
        run = FakeRun(folder / "run", datasets={"passages": data})
        build_index(run, BuildParams())
        model = LocalModel(
            ref="index@v1",
            version_id="mdl_1",
            path=run.saved[0].path,
            digest="sha256:" + "0" * 64,
            metadata=dict(run.saved[0].metadata),
        )
        self._index = PassageIndex(model, None)

    def best(self, text: str, without: str | None, limit: int = _DEPTH) -> list[int]:
        """The places of the passages for a text, in none of that article."""
        gone = [] if without is None else [self._documents[without]]
        found = self._index.predict(SearchInput(queries=[text], limit=limit, without=gone)).hits[0]
        return [self._places[hit.passage.id] for hit in found]


class Words:
    """Plain BM25 (k1 1.2, b 0.75) over the words that the checks see: pairs of characters in Chinese."""

    def __init__(self, collection: Collection) -> None:
        self._articles = collection.articles
        counts = []
        for text in collection.passages:
            count: Counter[str] = Counter()
            for span in sentences(text):
                held = terms(span.text)
                count.update(held.words | held.numbers)
            counts.append(count)
        mean = sum(sum(count.values()) for count in counts) / len(counts)
        spread = Counter(word for count in counts for word in count)
        self._by_word: dict[str, list[tuple[int, float]]] = {}
        for at, count in enumerate(counts):
            length = 0.25 + 0.75 * sum(count.values()) / mean
            for word, num in count.items():
                rarity = math.log(1 + (len(counts) - spread[word] + 0.5) / (spread[word] + 0.5))
                self._by_word.setdefault(word, []).append((at, rarity * num * 2.2 / (num + 1.2 * length)))

    def best(self, text: str, without: str | None, limit: int = _DEPTH) -> list[int]:
        """As `Index.best`."""
        asked = terms(text)
        scores: Counter[int] = Counter()
        for word in asked.words | asked.numbers:
            for at, score in self._by_word.get(word, ()):
                if self._articles[at] != without:
                    scores[at] += score
        return [at for at, _ in scores.most_common(limit)]


def plain(text: str, language: str) -> list[str]:
    """The tokens that SQuAD (or CMRC) compares."""
    text = text.lower()
    if language == "zh":
        return re.findall(r"[a-z0-9]+|[^\W_]", text)
    text = "".join(char for char in text if char not in string.punctuation)
    return [word for word in text.split() if word not in ("a", "an", "the")]


def f1(found: str, answer: str, language: str) -> float:
    one, other = plain(found, language), plain(answer, language)
    same = sum((Counter(one) & Counter(other)).values())
    return 2 * same / (len(one) + len(other)) if same else 0.0


@dataclass
class Outcome:
    em: float = 0.0
    f1: float = 0.0
    held: float = 0.0
    refused: float = 0.0
    cited: int = 0
    cited_right: int = 0


def judged(item: Item, language: str, quoted: Sequence[tuple[int, str]]) -> Outcome:
    if not quoted:
        return Outcome(refused=1.0)
    text = " ".join(piece for _, piece in quoted)
    best = Outcome(cited=len(quoted))
    best.cited_right = sum(1 for at, _ in quoted if at == item.passage)
    for answer in item.answers:
        best.em = max(best.em, float(plain(text, language) == plain(answer, language)))
        best.f1 = max(best.f1, f1(text, answer, language))
        best.held = max(best.held, float("".join(plain(answer, language)) in "".join(plain(text, language))))
    return best


def ours(collection: Collection, index: Index, item: Item, without: str | None) -> list[tuple[int, str]]:
    asked = questions.read([{"role": "user", "content": item.question}])
    places = index.best(asked.query, without)
    sources = [Source(collection.passages[at]) for at in places]
    if not is_answerable(asked.query, sources):
        return []
    return [(places[each.passage], each.text) for each in quotations(asked.query, sources)]


def plainest(collection: Collection, words: Words, item: Item, without: str | None) -> list[tuple[int, str]]:
    """The sentence of the first passage that shares the most words."""
    places = words.best(item.question, without, 1)
    if not places:
        return []
    asked = terms(item.question)
    wanted = asked.words | asked.numbers
    held = [(span.text, terms(span.text)) for span in sentences(collection.passages[places[0]])]
    return [(places[0], max(held, key=lambda each: len(wanted & (each[1].words | each[1].numbers)))[0])]


def interval(values: Sequence[Any], figure: Callable[[Sequence[Any]], float]) -> str:
    chance = random.Random(0)
    resampled = sorted(figure(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    low, high = resampled[int(0.025 * _RESAMPLES)], resampled[int(0.975 * _RESAMPLES) - 1]
    return f"{figure(values):.3f} [{low:.3f}, {high:.3f}]"


def mean(name: str) -> Callable[[Sequence[Outcome]], float]:
    return lambda found: sum(getattr(each, name) for each in found) / len(found)


def precision(found: Sequence[Outcome]) -> float:
    return sum(each.cited_right for each in found) / max(1, sum(each.cited for each in found))


def recall(found: Sequence[Outcome]) -> float:
    return sum(each.cited_right > 0 for each in found) / len(found)


def half(item: Item) -> bool:
    """Whether an article belongs to the half that things are chosen on."""
    return hashlib.sha256(item.article.encode()).digest()[0] % 2 == 0


def collections(shared: Path) -> Iterator[tuple[str, Collection]]:
    folder = shared / "data" / "04-docqa"
    yield "cmrc", read(folder / "cmrc2018" / "cmrc2018_trial.json", "zh")
    yield "xquad-zh", read(folder / "xquad" / "xquad.zh.dev.json", "zh")
    yield "xquad-en", read(folder / "xquad" / "xquad.en.dev.json", "en")


def tune(shared: Path, folder: Path) -> None:
    """For every bar: answerable questions that are answered, unanswerable ones that are refused; the best sum is chosen."""
    sums: dict[str, Counter[float]] = {}
    for name, collection in collections(shared):
        index = Index(collection, folder / name)
        chosen = [item for item in collection.items if half(item)]
        reach: dict[bool, list[float]] = {True: [], False: []}
        for item in chosen:
            for is_there, without in ((True, None), (False, item.article)):
                asked = terms(item.question)
                places = index.best(item.question, without)
                best = max((coverage(asked, Source(collection.passages[at])) for at in places), default=0.0)
                reach[is_there].append(best)
        for bar in [each / 20 for each in range(4, 20)]:
            answered = sum(best >= bar for best in reach[True]) / len(chosen)
            refused = sum(best < bar for best in reach[False]) / len(chosen)
            sums.setdefault(collection.language, Counter())[bar] += answered + refused
            print(f"{name} bar {bar:.2f}: answered {answered:.3f}, refused {refused:.3f}, sum {answered + refused:.3f}")
    for language, found in sums.items():
        print(f"{language}: best bar {max(found, key=lambda bar: found[bar]):.2f}, in use {LEAST_COVERAGE[language]}")


def report(shared: Path, folder: Path) -> None:
    print("| collection | answers | EM | F1 | held | citations: precision | recall | refused, answerable | unanswerable |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, collection in collections(shared):
        chosen = [item for item in collection.items if not half(item)]
        ways: dict[str, Callable[[Item, str | None], list[tuple[int, str]]]] = {
            "ours": partial(ours, collection, Index(collection, folder / name)),
            "first passage": partial(plainest, collection, Words(collection)),
        }
        for way, answer in ways.items():
            there = [judged(item, collection.language, answer(item, None)) for item in chosen]
            gone = [judged(item, collection.language, answer(item, item.article)) for item in chosen]
            cells = [interval(there, mean(each)) for each in ("em", "f1", "held")]
            cells += [interval(there, precision), interval(there, recall)]
            cells += [interval(there, mean("refused")), interval(gone, mean("refused"))]
            print(f"| {name} ({len(chosen)}) | {way} | {' | '.join(cells)} |", flush=True)


def checks(shared: Path) -> None:
    """How well unsupported sentences are told from supported ones: a passage's own sentence, and what is made of it."""
    chance = random.Random(1)
    for name, collection in collections(shared):
        stands: dict[str, list[bool]] = {}
        for item in [each for each in collection.items if not half(each)]:
            passage = collection.passages[item.passage]
            source = Source(passage)
            own = next((s.text for s in sentences(passage) if any(answer in s.text for answer in item.answers)), None)
            if own is None:
                continue
            other = chance.randrange(len(collection.passages))
            stands.setdefault("its own sentence", []).append(verdict(own, source).stands)
            shorter = _without_words(own, collection.language, chance)
            stands.setdefault("a quarter of its words left out", []).append(verdict(shorter, source).stands)
            if collection.articles[other] != item.article:
                stands.setdefault("in another article", []).append(verdict(own, Source(collection.passages[other])).stands)
            if figure := re.search(r"\d+", own):
                changed = own[: figure.start()] + str(int(figure.group()) + 7) + own[figure.end() :]
                stands.setdefault("a figure changed", []).append(verdict(changed, source).stands)
            if collection.language == "en" and (verb := re.search(r"\b(was|is|were|are|has|had|can)\b", own)):
                changed = f"{own[: verb.end()]} not{own[verb.end() :]}"
                stands.setdefault("denied", []).append(verdict(changed, source).stands)
            if collection.language == "zh" and (verb := re.search("是|有|为", own)):
                changed = f"{own[: verb.start()]}不{own[verb.start() :]}"
                stands.setdefault("denied", []).append(verdict(changed, source).stands)
        for kind, found in stands.items():
            print(f"{name}: {kind}: {interval(found, lambda each: sum(each) / len(each))} of {len(found)} stand")


def _without_words(text: str, language: str, chance: random.Random) -> str:
    pieces = list(text) if language == "zh" else text.split()
    kept = [piece for piece in pieces if chance.random() > 0.25]
    return ("" if language == "zh" else " ").join(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--tune", action="store_true", help="choose the refusal's bar on the other halves")
    parser.add_argument("--checks", action="store_true", help="how well sentences that do not stand are found")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.tune:
            tune(asked.shared, Path(folder))
        elif asked.checks:
            checks(asked.shared)
        else:
            report(asked.shared, Path(folder))


if __name__ == "__main__":
    main()
