"""Text for the benchmarks that train on real data, from the folder that `MODELWORKS_SHARED` or `../shared` names.

General text (news, web pages, an encyclopaedia, a book, poems) and medical text (consultations, questions and answers), each in
Chinese and English; and from the medical texts a task. Part of it states no licence: nothing trained on it is given away.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

#: Licences of what is read; the platform shows the most restrictive one of a model's ancestry.
GENERAL_LICENCE, MEDICAL_LICENCE = "other: news without a stated licence", "other: consultations without a stated licence"


def folder() -> Path:
    """Where the data lie.

    Raises:
        SystemExit: they are not there.
    """
    given = os.environ.get("MODELWORKS_SHARED")
    found = (Path(given) if given else Path(__file__).resolve().parents[2] / "shared") / "data"
    if not found.is_dir():
        raise SystemExit(f"There are no data in {found}; set MODELWORKS_SHARED to the folder that holds data/.")
    return found


def write(target: Path, records: Iterable[Record]) -> Path:
    """Write records as JSON lines into a new folder, and return the folder."""
    target.mkdir(parents=True)
    with (target / "data.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return target


def general(news_bytes: int) -> list[Record]:
    """`{"text": …}` in Chinese and English, mixed; `news_bytes` of it are Chinese news, all the rest is about 3.5 MB."""
    data = folder() / "07-text" / "pretrain"
    found = [*_news(data, news_bytes), *_english(data), *_poems(data, 1500)]
    random.Random(0).shuffle(found)
    return [{"text": text} for text in found]


def _news(data: Path, num_bytes: int) -> Iterator[str]:
    with lzma.open(data / "zh_news_parts1-2.txt.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = line.partition("正文：")[2].strip() or line.strip()
            if not text:
                continue
            num_bytes -= len(text.encode())
            if num_bytes < 0:
                return
            yield text


def _english(data: Path) -> Iterator[str]:
    for line in _unpacked(data / "c4_demo.jsonl.gz").splitlines():
        yield json.loads(line)["text"]
    yield from (line for line in _unpacked(data / "wiki_demo.txt.gz").splitlines() if line.strip())
    yield from _pieces((data / "en_republic_clean.txt").read_text("utf-8"), 3000)


def _poems(data: Path, number: int) -> Iterator[str]:
    for line in _unpacked(data / "song_ci_15k.jsonl.gz").splitlines()[:number]:
        poem = json.loads(line)
        yield f"{poem['title']} {poem['author']}\n{poem['text']}"


def _pieces(text: str, num_chars: int) -> Iterator[str]:
    """Paragraphs of a book, put together to about so many characters."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece += paragraph.strip() + "\n\n"
        if len(piece) >= num_chars:
            yield piece.strip()
            piece = ""
    if piece.strip():
        yield piece.strip()


def _unpacked(file: Path) -> str:
    return gzip.decompress(file.read_bytes()).decode("utf-8")


def medical() -> tuple[list[Record], list[Record]]:
    """Consultations (Chinese) and questions with answers (English): (those for text, those for the task), three to two.

    Cut by document: what one person asked, or all that is said about one disease, lies in one part.
    """
    data = folder() / "06-medical"
    chinese = [json.loads(line) for line in _unpacked(data / "zh_consult_dept_dev.jsonl.gz").splitlines()]
    english = [json.loads(line) for line in _unpacked(data / "medquad_3000.jsonl.gz").splitlines()]
    chooser = random.Random(0)
    chooser.shuffle(chinese)
    topics = sorted({record["focus"] for record in english})
    chooser.shuffle(topics)
    for_text = set(topics[: len(topics) * 3 // 5])
    cut = len(chinese) * 3 // 5
    return (
        [*chinese[:cut], *(record for record in english if record["focus"] in for_text)],
        [*chinese[cut:], *(record for record in english if record["focus"] not in for_text)],
    )


def medical_text(records: Iterable[Record]) -> list[Record]:
    """`{"text": …}`: what was asked and what was answered. The department is left out: it is what the task asks for."""
    found = []
    for record in records:
        if "department" in record:
            found.append({"text": f"{record['title']}\n{record['ask']}\n{record['answer']}"})
        else:
            found.append({"text": f"{record['question']}\n{record['answer']}"})
    random.Random(1).shuffle(found)
    return found


def medical_task(records: Iterable[Record]) -> list[Record]:
    """Conversations: which department a patient belongs to (Chinese), what an answer is about (English)."""
    found = []
    for record in records:
        if "department" in record:
            asked, answer = f"{record['title']}\n{record['ask']}\n应该挂哪个科？", record["department"]
        else:
            # The beginning of the answer; the question would name what is asked for.
            asked, answer = f"{record['answer'][:300]}\nWhat is this text about?", record["qtype"]
        found.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
    random.Random(2).shuffle(found)
    return found
