"""Questions about quarterly reports, asked of a data space as a user would: what is cited, what is quoted, what is refused.

    python benchmarks/filings.py [--shared ../shared] [--each]

The 74 questions on Apple's and NVIDIA's 10-Qs that are in the shared data (of 195 in docugami's set), each with the reports
that its answer stands in. Reports that differ by their quarter alone are the hard part: the words of a question are in all.
One space holds all eight, without a language model. Its answer is held against the reference:

- report: the share of citations that are in a report the question is about (precision), of questions with one such (recall);
- figures: the share of the reference answer's figures (no years, no dates) that stand in the answer; in what a search finds;
- refused: questions about one company asked of a space that holds the other's reports alone, which must not be answered.

Beside it: pypdf's text in pieces of 1,000 characters, plain BM25, the best sentence of the first piece; it never refuses. It
needs pypdf installed. Intervals are 95 %, by bootstrap over questions.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
from answers import Collection, Item, Words, interval, plainest
from private_server import PrivateServer

COMPANIES = ("AAPL", "NVDA")
_PIECE_CHARS = 1000
#: Amounts, shares and counts; years, days of the month and quarters say when, not what.
_FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")
_WHEN = re.compile(
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december)\s+\d{1,2}|\b(?:19|20)\d\d\b|\bq[1-4]\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    text: str
    #: The reports that it is about.
    names: frozenset[str]
    kind: str
    figures: frozenset[str]


@dataclass
class Outcome:
    cited: int = 0
    cited_right: int = 0
    figures: float | None = None
    found: float | None = None
    refused: bool = False


def figures(text: str) -> frozenset[str]:
    """The figures of a text, `$1,234.0` and `1234` alike."""
    plain = _WHEN.sub(" ", re.sub(r"SOURCE.*", " ", text))
    return frozenset(each.group().replace(",", "").rstrip(".") for each in _FIGURE.finditer(plain))


def read(folder: Path) -> list[Question]:
    """The questions, each with the names of the files that its pattern names."""
    names = [path.name for path in sorted((folder / "docs").glob("*.pdf"))]
    found = []
    with (folder / "qna_dev.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            about = {name for name in names if fnmatch.fnmatch(name.removesuffix(".pdf"), row["Source Docs"].strip())}
            kind = "one report" if row["Question Type"].startswith("Single") else "several reports"
            found.append(Question(row["Question"], frozenset(about), kind, figures(row["Answer"])))
    return found


def share(wanted: frozenset[str], text: str) -> float | None:
    """The share of the figures that stand in a text; None where there are none."""
    return len(wanted & figures(text)) / len(wanted) if wanted else None


class Space:
    """A space of these files, made and asked through the API."""

    def __init__(self, server: PrivateServer, name: str, files: Iterable[Path]) -> None:
        self._name = name
        self._ours = server.client()
        self._openai = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)
        self._ours.spaces.create(name)
        for file in files:
            self._ours.spaces.put(name, file)
        state = self._ours.spaces.wait(name)
        if state["state"] != "ready":
            raise SystemExit(f"the space {name} is {state['state']}: {state.get('error')}")

    def ask(self, question: Question) -> Outcome:
        asked = self._openai.chat.completions.create(
            model=f"space:{self._name}", messages=[{"role": "user", "content": question.text}]
        )
        message = asked.choices[0].message
        names = [each["file_citation"]["filename"] for each in message.to_dict().get("annotations", [])]  # type: ignore[attr-defined, index]
        hits = self._ours.spaces.search(self._name, question.text, limit=10)
        told = "\n".join(part["text"] for hit in hits for part in hit["content"])
        return Outcome(
            len(names),
            sum(name in question.names for name in names),
            share(question.figures, message.content or ""),
            share(question.figures, told),
            refused=not names,
        )


class Plain:
    """pypdf, pieces of equal length, BM25."""

    def __init__(self, files: Iterable[Path]) -> None:
        import pypdf

        logging.disable()
        pieces, names = [], []
        for file in files:
            text = "\n".join(page.extract_text() for page in pypdf.PdfReader(file).pages)
            for start in range(0, len(text), _PIECE_CHARS):
                pieces.append(text[start : start + _PIECE_CHARS])
                names.append(file.name)
        self._collection = Collection("en", pieces, names, [])
        self._words = Words(self._collection)

    def ask(self, question: Question) -> Outcome:
        told = plainest(self._collection, self._words, Item(question.text, (), 0, ""), None)
        pieces = self._collection.passages
        found = "\n".join(pieces[at] for at in self._words.best(question.text, None, 10))
        right = sum(self._collection.articles[at] in question.names for at, _ in told)
        quoted = share(question.figures, " ".join(text for _, text in told))
        return Outcome(len(told), right, quoted, share(question.figures, found), refused=not told)


def precision(found: Sequence[Outcome]) -> float:
    return sum(each.cited_right for each in found) / max(1, sum(each.cited for each in found))


def recall(found: Sequence[Outcome]) -> float:
    return sum(each.cited_right > 0 for each in found) / len(found)


def mean(value: Callable[[Outcome], float | None]) -> Callable[[Sequence[Outcome]], float]:
    def of(found: Sequence[Outcome]) -> float:
        values = [each for each in map(value, found) if each is not None]
        return sum(values) / max(1, len(values))

    return of


def report(name: str, kind: str, found: Sequence[Outcome], other: Sequence[Outcome]) -> None:
    cells = [interval(found, figure) for figure in (precision, recall)]
    cells += [interval(found, mean(lambda each: each.figures)), interval(found, mean(lambda each: each.found))]
    cells += [interval(found, mean(lambda each: float(each.refused)))]
    cells += [interval(other, mean(lambda each: float(each.refused))) if other else "-"]
    print(f"| {name} | {kind} ({len(found)}) | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--each", action="store_true", help="a line for each question")
    given = parser.parse_args()
    folder = given.shared / "data" / "04-docqa" / "sec-10q"
    if not folder.is_dir():
        raise SystemExit(f"There is no folder {folder}. Give the shared data with --shared.")
    files, asked = sorted((folder / "docs").glob("*.pdf")), read(folder)
    of = {company: [path for path in files if company in path.name] for company in COMPANIES}
    other = {COMPANIES[0]: COMPANIES[1], COMPANIES[1]: COMPANIES[0]}
    alone = [
        (question, company)
        for question in asked
        for company in COMPANIES
        if question.names and all(company in each for each in question.names)
    ]
    plain = Plain(files)
    with PrivateServer(shown=False) as server:
        spaces = {company: Space(server, company.lower(), of[company]) for company in COMPANIES}
        everything = Space(server, "reports", files)
        ours = [everything.ask(question) for question in asked]
        refused = [spaces[other[company]].ask(question) for question, company in alone]
    theirs = [plain.ask(question) for question in asked]
    if given.each:
        for question, one, peer in zip(asked, ours, theirs, strict=True):
            print(f"{question.text[:110]:110} {sorted(question.names)} ours {one} plain {peer}")
    columns = (
        "citations in the right report",
        "questions with one",
        "figures told",
        "found",
        "refused",
        "of the other company's",
    )
    print(f"| way | questions | {' | '.join(columns)} |")
    print("|---|---" + "|---" * len(columns) + "|")
    for name, found, gone in (("ours", ours, refused), ("pypdf + BM25", theirs, [])):
        report(name, "all", found, gone)
        for kind in ("one report", "several reports"):
            report(name, kind, [each for question, each in zip(asked, found, strict=True) if question.kind == kind], [])


if __name__ == "__main__":
    main()
