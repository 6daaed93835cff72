"""The job: passages in, two data sets of chats out, one to learn from and one of other documents to be measured on."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from modelworks.capabilities.document.language import weight
from modelworks.capabilities.document.samples.corrections import agreed, drafts_of, read_said
from modelworks.capabilities.document.samples.form import Shown, asked, cited
from modelworks.capabilities.document.samples.makers import Draft, Read, drafts
from modelworks.capabilities.document.samples.schemas import SampleOutput, SampleRequest
from modelworks.capabilities.document.samples.splitting import held_out, shard_of
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
    "previous" and "previous_test" is taken over for passages that did not change. The data set of role "corrections" holds what
    readers said (see `corrections`): accepted corrections are learned, and nothing that they found wrong is.

    With shards, further data sets hold the samples of one each (part "shard-N"). They are a function of the shard's documents
    alone: no sample shows a passage of another one, and none changes where only other shards do.

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
    learnt = [each for each in documents if each.document.id not in out]
    test = [each for each in documents if each.document.id in out]
    parts = [[each for each in learnt if shard_of(each.document.id, request.shards) == at] for at in range(request.shards)]
    dropped: Counter[str] = Counter()
    said = read_said(run.dataset("corrections").path) if run.has_input("corrections") else []
    dropped["correction_apart"] = sum(each.correction is not None for each in said)
    previous = _previous(run)
    teacher = None
    if "teacher" in request.makers and run.has_input("teacher"):
        teacher = Teacher(run, request, _written(previous))
    taught = [] if teacher is None else _taught(teacher, request, [*parts, test], run.seed)
    made: list[dict[str, list[dict[str, Any]]]] = []
    for at, reads in enumerate([*parts, test]):
        is_test = at == request.shards
        found = [*drafts(reads, request.makers)]
        if taught:
            found += taught[at]
        if "correction" in request.makers:
            # What a correction rests on must all be here: nothing of a document gets into another shard.
            found += drafts_of(said, {each.document.id: each for each in reads}, dropped)
            found = agreed(found, said, dropped)
        run.raise_if_cancelled()
        seed = f"{run.seed}:test" if is_test else f"{run.seed}:train" if len(parts) == 1 else f"{run.seed}:{at}/{len(parts)}"
        bench = _Bench(request, reads, documents if is_test else reads, seed)
        most_samples = request.max_test_samples if is_test else request.max_samples // len(parts)
        made.append(bench.samples(found, most_samples))
    if teacher is not None:
        dropped += teacher.dropped
    *shards, held = made
    train = {name: lines for shard in shards for name, lines in shard.items()}
    num_train, num_test = _number(train), _number(held)
    for number, least, what, reads in (
        (num_train, _LEAST_SAMPLES, "learn from", learnt),
        (num_test, _LEAST_TEST_SAMPLES, "measure on", test),
    ):
        if number < least:
            raise InvalidData(
                f"{number} samples to {what} came of {len(reads)} documents; it takes {least}.",
                hint="Add documents with whole sentences under headings, or give a teacher.",
                code="too_few_samples",
            )
    makers = Counter(each["origin"]["maker"] for side in (train, held) for lines in side.values() for each in lines)
    fresh = [_fresh(shard, previous) for shard in shards] if request.fresh and previous else []
    known: dict[str, Any] = {"form": "samples", "makers": dict(sorted(makers.items()))}
    known |= {"prompt": request.form.model_dump(mode="json")}
    if data.licence is not None:
        known["licence"] = data.licence
    saves: list[tuple[str | None, Mapping[str, Sequence[Mapping[str, Any]]]]] = [(None, train)]
    if len(shards) > 1:
        saves += [(f"shard-{number}", shard) for number, shard in enumerate(shards, 1)]
    for number, lines in enumerate(fresh, 1):
        saves.append(("new" if len(shards) == 1 else f"shard-{number}-new", lines))
    saves.append(("test", held))
    for part, saved in saves:
        if not _number(saved):
            continue
        folder = run.workdir / (part or "train")
        _write(folder, saved)
        of = test if part == "test" else learnt if part is None else saved
        told = {"num_samples": _number(saved), "num_documents": len(of)}
        run.save(folder, kind="dataset", metadata={**known, **told, **({} if part is None else {"part": part})})
    return SampleOutput(
        num_documents=len(learnt),
        num_test_documents=len(test),
        num_samples=num_train,
        num_test_samples=num_test,
        makers=dict(sorted(makers.items())),
        dropped={reason: number for reason, number in sorted(dropped.items()) if number},
        shards=[_number(shard) for shard in shards] if len(shards) > 1 else [],
        fresh=[_number(lines) for lines in fresh],
    )


def _taught(teacher: Teacher, request: SampleRequest, sides: Sequence[Sequence[Read]], seed: int) -> list[list[Draft]]:
    """What the teacher asks about each shard, and last about the held-out documents."""
    found = [[passage for read in reads for passage in read.passages] for reads in sides]
    if request.shards > 1:
        # Which passages a shard's teacher is asked about is the shard's own matter, whatever the others hold.
        of_test = max(1, round(request.max_questions * request.test_share))
        of_shard = max(1, (request.max_questions - of_test) // request.shards)
        most = [*[of_shard] * request.shards, of_test]
        ordered = [sorted(passages, key=lambda each: _place(each, seed)) for passages in found]
        return [[*teacher.drafts(passages, number)] for passages, number in zip(ordered, most, strict=True)]
    order = [passage for passages in found for passage in passages]
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    sides_of = {passage.document_id: side for side, passages in enumerate(found) for passage in passages}
    taught: list[list[Draft]] = [[] for _ in found]
    for draft in teacher.drafts(order, request.max_questions):
        taught[sides_of[draft.passage.document_id]].append(draft)
    return taught


def _place(passage: Passage, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{key_of(passage)}".encode()).hexdigest()


def _number(lines: Mapping[str, Sequence[Any]]) -> int:
    return sum(map(len, lines.values()))


def _previous(run: Run) -> list[dict[str, Any]]:
    """Where the samples of the time before come from."""
    found: list[dict[str, Any]] = []
    for role in ("previous", "previous_test"):
        if run.has_input(role):
            for file in sorted(run.dataset(role).path.glob("*.jsonl")):
                found += [json.loads(line)["origin"] for line in file.read_text("utf-8").splitlines()]
    return found


def _written(previous: Sequence[Mapping[str, Any]]) -> dict[str, Written]:
    """What a teacher wrote the time before, by passage."""
    return {
        origin["key"]: {"question": origin["question"], "answer": origin["answer"]}
        for origin in previous
        if origin["maker"] == "teacher"
    }


def _fresh(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], previous: Sequence[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """Samples of documents that were not there the time before, or said something else, and corrections that are new."""
    documents = {(origin["document_id"], origin["digest"]) for origin in previous}
    corrected = {(origin["question"], origin["answer"]) for origin in previous if origin["maker"] == "correction"}

    def is_new(origin: Mapping[str, Any]) -> bool:
        if origin["maker"] == "correction":
            return (origin["question"], origin["answer"]) not in corrected
        return (origin["document_id"], origin["digest"]) not in documents

    return {name: [each for each in of_document if is_new(each["origin"])] for name, of_document in lines.items()}


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
        # What people took the trouble to write goes first.
        for each in by_document.values():
            written = [draft for draft in each if draft.maker == "correction"]
            chosen += [draft for draft in written for _ in range(self._request.correction_repeats)]
            each[:] = [draft for draft in each if draft.maker != "correction"]
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
                "documents": sorted({document.id, *draft.documents, *(each.document_id for each in passages)}),
                "key": key_of(draft.passage),
                "question": draft.question,
                "answer": " ".join(draft.answer),
            },
        }
