"""The job: passages in, two data sets of chats out, one to learn from and one of other documents to be measured on."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from modelworks.capabilities.document.language import weight
from modelworks.capabilities.document.samples.form import Shown, asked, cited
from modelworks.capabilities.document.samples.makers import Draft, Read, drafts
from modelworks.capabilities.document.samples.schemas import SampleOutput, SampleRequest
from modelworks.capabilities.document.samples.splitting import held_out
from modelworks.capabilities.document.samples.support import share
from modelworks.capabilities.document.samples.teacher import Teacher, Written, key_of
from modelworks.contract.errors import InvalidData
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage
from modelworks.contract.run import Run

#: Of a question's words, that a passage may have at most so as not to answer it.
_MOST_SHARED: Final = 0.5
_CHINESE_WEIGHT: Final = 2.5
_TRIES: Final = 24
#: Fewer samples than this prove nothing.
_LEAST_SAMPLES, _LEAST_TEST_SAMPLES = 5, 5


def make_samples(run: Run, request: SampleRequest) -> SampleOutput:
    """Make samples of the passages of role "passages", and save those to learn from, then those that are held out.

    A document lies on one side only. Each line is a chat in OpenAI's form, whose field `origin` says which document (with its
    digest), which passages and which maker it comes from; trainings do not read it. There is a file for each document.

    The deployment of role "teacher" writes further questions, where there is one. What it wrote for the data sets of the roles
    "previous" and "previous_test" is taken over for passages that did not change.

    Raises:
        InvalidData: the passages are broken, of fewer than two documents, or too few samples came of them.
        Cancelled: the user has asked to stop.
    """
    data = run.dataset("passages")
    documents = read_passages(data.path, without=frozenset(request.without))
    if len(documents) < 2:
        raise InvalidData(
            f"The passages are of {len(documents)} documents that may be learned from; one is held out whole, so it takes two.",
            hint="Add documents, or name fewer in `without`.",
            code="too_few_documents",
        )
    out = held_out((each.document.id for each in documents), request.test_share, run.seed)
    sides = {
        "train": [each for each in documents if each.document.id not in out],
        "test": [each for each in documents if each.document.id in out],
    }
    found: dict[str, list[Draft]] = {side: [*drafts(reads, request.makers)] for side, reads in sides.items()}
    dropped: Counter[str] = Counter()
    if "teacher" in request.makers and run.has_input("teacher"):
        teacher = Teacher(run, request, _written_before(run))
        passages = [passage for reads in sides.values() for read in reads for passage in read.passages]
        random.Random(run.seed).shuffle(passages)  # noqa: S311 - an order, not a secret
        for draft in teacher.drafts(passages):
            found["test" if draft.passage.document_id in out else "train"].append(draft)
        dropped = teacher.dropped
    run.raise_if_cancelled()
    makers: Counter[str] = Counter()
    counts: dict[str, int] = {}
    for side, most in (("train", request.max_samples), ("test", request.max_test_samples)):
        bench = _Bench(request, sides[side], documents if side == "test" else sides["train"], f"{run.seed}:{side}")
        lines = bench.samples(found[side], most)
        counts[side] = sum(map(len, lines.values()))
        makers.update(sample["origin"]["maker"] for of_document in lines.values() for sample in of_document)
        least = _LEAST_SAMPLES if side == "train" else _LEAST_TEST_SAMPLES
        if counts[side] < least:
            raise InvalidData(
                f"{counts[side]} samples to {'learn from' if side == 'train' else 'measure on'} came of "
                f"{len(sides[side])} documents; it takes {least}.",
                hint="Add documents with whole sentences under headings, or give a teacher.",
                code="too_few_samples",
            )
        _write(run.workdir / side, lines)
    for side in ("train", "test"):
        metadata: dict[str, Any] = {
            "form": "samples",
            "num_samples": counts[side],
            "num_documents": len(sides[side]),
            "makers": dict(sorted(makers.items())),
            "prompt": request.form.model_dump(mode="json"),
        }
        if data.licence is not None:
            metadata["licence"] = data.licence
        if side == "test":
            metadata["part"] = "test"
        run.save(run.workdir / side, kind="dataset", metadata=metadata)
    return SampleOutput(
        num_documents=len(sides["train"]),
        num_test_documents=len(sides["test"]),
        num_samples=counts["train"],
        num_test_samples=counts["test"],
        makers=dict(sorted(makers.items())),
        dropped=dict(sorted(dropped.items())),
    )


def read_passages(folder: Path, *, without: frozenset[str] = frozenset()) -> list[Read]:
    """The documents of a data set of passages that have any, by id, but those named.

    Raises:
        InvalidData: it is none, or damaged.
    """
    listing = folder / DOCUMENTS_FILE
    if not listing.is_file():
        raise InvalidData(
            f"The data set of role 'passages' has no {DOCUMENTS_FILE}.", hint="Give what the task document-parsing has made."
        )
    found: list[Read] = []
    try:
        for line in listing.read_text("utf-8").splitlines():
            document = ParsedDocument.model_validate_json(line)
            file = folder / PASSAGES_FOLDER / f"{document.id}.jsonl"
            if document.id in without or not file.is_file():
                continue
            passages = [Passage.model_validate_json(each) for each in file.read_text("utf-8").splitlines() if each.strip()]
            if passages:
                found.append(Read(document, sorted(passages, key=lambda each: each.ordinal)))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidData(
            f"The passages are damaged: {str(error).splitlines()[0]}", hint="Parse the documents again."
        ) from error
    return sorted(found, key=lambda each: each.document.id)


def _written_before(run: Run) -> dict[str, Written]:
    known: dict[str, Written] = {}
    for role in ("previous", "previous_test"):
        if run.has_input(role):
            for file in sorted(run.dataset(role).path.glob("*.jsonl")):
                for line in file.read_text("utf-8").splitlines():
                    origin = json.loads(line)["origin"]
                    if origin["maker"] == "teacher":
                        known[origin["key"]] = {"question": origin["question"], "answer": origin["answer"]}
    return known


def _write(folder: Path, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    folder.mkdir()
    for document_id, samples in lines.items():
        if samples:
            text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            (folder / f"{document_id}.jsonl").write_text(text, "utf-8")


class _Bench:
    """Puts drafts of one side together with the passages that they are asked about.

    Args:
        own: the documents of this side. around: those whose passages may stand beside the right one.
    """

    def __init__(self, request: SampleRequest, own: Sequence[Read], around: Sequence[Read], seed: str) -> None:
        self._request = request
        self._chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._reads = {each.document.id: each for each in (*own, *around)}
        self._others = [passage for read in around for passage in read.passages]

    def samples(self, found: Iterable[Draft], most: int) -> dict[str, list[dict[str, Any]]]:
        """At most `most` samples by document, documents in turn, refusals among them."""
        by_document: dict[str, list[Draft]] = defaultdict(list)
        for draft in found:
            by_document[draft.passage.document_id].append(draft)
        for each in by_document.values():
            self._chance.shuffle(each)
        num_refusals = int(most * self._request.refusal_share)
        chosen: list[Draft] = []
        for turn in range(self._request.per_document):
            chosen.extend(each[turn] for each in by_document.values() if turn < len(each))
        chosen = chosen[: most - num_refusals]
        lines: dict[str, list[dict[str, Any]]] = {document_id: [] for document_id in sorted(by_document)}
        for draft in chosen:
            if (sample := self._answered(draft)) is not None:
                lines[draft.passage.document_id].append(sample)
        made = sum(map(len, lines.values()))
        share_ = self._request.refusal_share
        wanted = min(num_refusals, round(made * share_ / (1 - share_)))
        for draft in self._chance.sample(chosen, len(chosen)):
            if wanted <= 0:
                break
            if (sample := self._refused(draft)) is not None:
                lines[draft.passage.document_id].append(sample)
                wanted -= 1
        return lines

    def _answered(self, draft: Draft) -> dict[str, Any] | None:
        right = self._shown(draft.passage)
        room = self._request.max_prompt_chars - weight(right.text, _CHINESE_WEIGHT)
        if room < 0:
            right = self._shown(draft.passage, alone=True)
            room = self._request.max_prompt_chars - weight(right.text, _CHINESE_WEIGHT)
        if room < 0:
            return None
        beside = self._beside(draft, room, refused=False)
        at = self._chance.randrange(len(beside) + 1)
        passages = [*beside[:at], draft.passage, *beside[at:]]
        shown = [right if each is draft.passage else self._shown(each) for each in passages]
        return self._sample(draft, passages, shown, cited(draft.answer, at + 1), draft.maker)

    def _refused(self, draft: Draft) -> dict[str, Any] | None:
        beside = self._beside(draft, self._request.max_prompt_chars, refused=True)
        if not beside:
            return None
        shown = [self._shown(each) for each in beside]
        return self._sample(draft, beside, shown, self._request.form.not_found, "refusal")

    def _beside(self, draft: Draft, room: float, *, refused: bool) -> list[Passage]:
        """Passages that do not hold the answer; for a refusal of other documents, and nearly nothing of the question."""
        wanted = self._request.passages - (not refused)
        found: list[Passage] = []
        for _ in range(_TRIES):
            if len(found) >= wanted:
                break
            other = self._chance.choice(self._others)
            text = self._shown(other).text
            is_fit = other.id != draft.passage.id and other not in found and not any(each in text for each in draft.answer)
            if refused:
                is_fit = is_fit and other.document_id != draft.passage.document_id
                is_fit = is_fit and max(share(part, text) for part in (draft.question, *draft.answer)) < _MOST_SHARED
            size = weight(text, _CHINESE_WEIGHT)
            if is_fit and size <= room:
                found.append(other)
                room -= size
        return found

    def _shown(self, passage: Passage, *, alone: bool = False) -> Shown:
        read = self._reads[passage.document_id]
        text = passage.text
        if passage.section is not None and not alone:
            first, last = passage.section
            around = self._request.around
            near = range(max(first, passage.ordinal - around), min(last, passage.ordinal + around) + 1)
            text = "\n".join(each.text for each in read.passages if each.ordinal in near)
        return Shown(read.document.name, passage.place, text)

    def _sample(
        self, draft: Draft, passages: Sequence[Passage], shown: Sequence[Shown], answer: str, maker: str
    ) -> dict[str, Any]:
        document = self._reads[draft.passage.document_id].document
        messages = asked(self._request.form, draft.question, draft.language, shown)
        return {
            "messages": [*messages, {"role": "assistant", "content": answer}],
            "origin": {
                "maker": maker,
                "document_id": document.id,
                "digest": document.digest,
                "passage_id": draft.passage.id,
                # Whatever is shown leaves its trace in what learns from it.
                "shown": [each.id for each in passages],
                "documents": sorted({document.id, *(each.document_id for each in passages)}),
                "key": key_of(draft.passage),
                "question": draft.question,
                "answer": " ".join(draft.answer),
            },
        }
