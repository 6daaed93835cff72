"""Take out of a data set what does harm: unusable samples, copies, near copies, and test data; then divide it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO

from modelworks.capabilities.text.datasets.copies import NearCopies, TestContent, tokens_of
from modelworks.capabilities.text.datasets.files import list_files, read_records
from modelworks.capabilities.text.datasets.forms import read_samples, understand
from modelworks.capabilities.text.datasets.params import CleanParams
from modelworks.capabilities.text.datasets.samples import (
    Fault,
    Sample,
    TextSample,
    digest_of,
    kind_of,
    messages_of,
    record_of,
    text_of,
    words_of,
)
from modelworks.contract.data import CleanReport, OnProgress, Removed, ignore_progress
from modelworks.contract.errors import InvalidData

_EXCERPT_CHARS = 160
TRAIN, VALIDATION = "train", "validation"


def clean(
    folder: Path,
    params: CleanParams,
    *,
    test: Path | None = None,
    into: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> CleanReport:
    """Clean a data set; see `contract.data.DataCleaner`. The first of several copies stays.

    Parts are written as `into/<part>/data.jsonl`, in the order of the samples and in OpenAI's forms.

    Raises:
        InvalidData: there is no such folder or file, or the test data hold nothing to compare with.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    for each in (folder, test):
        if each is not None and not each.exists():
            raise InvalidData(f"There is no file or folder {each.name!r}.", hint="Check the path.")
    content = None if test is None else content_of_tests(test, params)
    with ExitStack() as stack:
        return _Cleaning(params, content, into, stack).run(folder, on_progress)


def side_of(sample: Sample, validation_fraction: float) -> str:
    """The part that a sample belongs to, by a hash of its text or of what is asked in it.

    Two answers to the same question always land on the same side, whatever else is in the data set.
    """
    if isinstance(sample, TextSample):
        basis = sample.text
    else:
        basis = next((message["content"] for message in messages_of(sample) if message["role"] == "user"), "")
    digest = digest_of(TextSample(" ".join(tokens_of(basis)) or basis, "", 0))
    return VALIDATION if int.from_bytes(digest[:8], "big") / 2**64 < validation_fraction else TRAIN


class _Cleaning:
    def __init__(self, params: CleanParams, test: TestContent | None, into: Path | None, stack: ExitStack) -> None:
        self._params = params
        self._test = test
        self._into = into
        self._stack = stack
        self._outputs: dict[str, IO[str]] = {}
        self._kept: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()
        self._preview: list[Removed] = []
        self._exact: dict[bytes, str] = {}
        self._near = NearCopies(params.similarity)
        self._places: list[str] = []
        self._kinds: set[str] = set()

    def run(self, folder: Path, on_progress: OnProgress) -> CleanReport:
        files = list_files(folder)
        total = sum(file.stat().st_size for file, _ in files)
        done = 0
        for file, name in files:
            on_progress(done, total)
            for number, record in enumerate(read_records(file, name)):
                if isinstance(record, Fault):
                    self._refuse([record])
                else:
                    sample, faults = understand(record)
                    if sample is None:
                        self._refuse([fault for fault in faults if fault.severity == "error"])
                    else:
                        self._take(sample)
                if number % 1000 == 999:
                    on_progress(done, total)
            done += file.stat().st_size
        on_progress(done, total)
        num_kept, num_removed = sum(self._kept.values()), sum(self._removed.values())
        notes = []
        if len(self._kinds) > 1:
            kinds = ", ".join(sorted(self._kinds))
            notes.append(f"The data set holds samples of several kinds ({kinds}); a training reads one kind.")
        if self._params.validation_fraction and num_kept and len(self._kept) < 2:
            notes.append("There are too few samples to hold a part of them out.")
        return CleanReport(
            num_read=num_kept + num_removed,
            kept=dict(sorted(self._kept.items())),
            removed=dict(sorted(self._removed.items())),
            preview=self._preview,
            notes=notes,
        )

    def _refuse(self, faults: list[Fault]) -> None:
        """Count one unusable record; a mark at the beginning of a file is none."""
        errors = [fault for fault in faults if fault.severity == "error"]
        if not errors:
            return
        first = errors[0]
        more = f" ({len(errors) - 1} more faults)" if len(errors) > 1 else ""
        detail = f"{first.message}{more}" if first.field is None else f'Field "{first.field}": {first.message}{more}'
        self._drop(first.file, first.line or 0, "fault", detail, "")

    def _take(self, sample: Sample) -> None:
        words = words_of(sample)
        if not words.strip():
            self._drop(sample.source, sample.line, "fault", "The sample is empty.", "")
            return
        place = f"{sample.source}:{sample.line}"
        digest = digest_of(sample)[:16]
        if digest in self._exact:
            self._drop(
                sample.source, sample.line, "duplicate", "An exact copy.", words, like=self._exact[digest], similarity=1.0
            )
            return
        self._exact[digest] = place
        leaked = None if self._test is None else self._test.find(said(sample))
        if leaked is not None:
            name, share = leaked
            detail = f"It contains {share:.0%} of the pieces of a test sample."
            self._drop(sample.source, sample.line, "contamination", detail, words, like=name, similarity=share)
            return
        if self._params.near_duplicates:
            before = len(self._near)
            match = self._near.find_or_add(words)
            if match is not None:
                detail = f"{match.similarity:.0%} of its shingles are those of an earlier sample."
                like = self._places[match.number]
                self._drop(sample.source, sample.line, "near_duplicate", detail, words, like=like, similarity=match.similarity)
                return
            if len(self._near) > before:
                self._places.append(place)
        self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        part = side_of(sample, self._params.validation_fraction) if self._params.validation_fraction else TRAIN
        self._kept[part] += 1
        self._kinds.add(kind_of(sample))
        if self._into is None:
            return
        if part not in self._outputs:
            (self._into / part).mkdir(parents=True, exist_ok=True)
            self._outputs[part] = self._stack.enter_context((self._into / part / "data.jsonl").open("w", encoding="utf-8"))
        self._outputs[part].write(json.dumps(record_of(sample), ensure_ascii=False) + "\n")

    def _drop(
        self,
        file: str,
        line: int,
        reason: str,
        detail: str,
        words: str,
        *,
        like: str | None = None,
        similarity: float | None = None,
    ) -> None:
        self._removed[reason] += 1
        if len(self._preview) < self._params.max_preview:
            excerpt = " ".join(words[: 4 * _EXCERPT_CHARS].split())[:_EXCERPT_CHARS]
            self._preview.append(
                Removed(
                    file=file,
                    line=line,
                    reason=reason,
                    detail=detail,
                    like=like,
                    similarity=None if similarity is None else round(similarity, 4),
                    excerpt=excerpt,
                )
            )


def said(sample: Sample) -> list[str]:
    """The texts of a sample that can give something away: all but the system's, which many samples share."""
    if isinstance(sample, TextSample):
        return [sample.text]
    spoken = [message for message in messages_of(sample) if message["role"] not in ("system", "developer")]
    return [text_of(spoken), *(text_of([message]) for message in spoken)]


def content_of_tests(test: Path, params: CleanParams, most: int | None = None) -> TestContent:
    """What the samples of a test set say, the first `most` of them.

    Raises:
        InvalidData: there is no usable one.
    """
    content = TestContent(params.contamination_ngram, params.contamination_share)
    found = False
    for sample in islice(usable(test), most):
        found = True
        place = f"{sample.source}:{sample.line}"
        texts = said(sample)
        content.add(texts[0], place)
        for text in texts[1:]:
            # A short message ("Thank you.") is in many conversations and gives nothing away.
            if len(tokens_of(text)) >= params.contamination_ngram:
                content.add(text, place)
    if not found:
        raise InvalidData(f"The test data {test.name!r} hold no sample to compare with.", hint="Validate them first.")
    return content


def usable(folder: Path) -> Iterator[Sample]:
    """The samples of a data set that have no error."""
    for item in read_samples(folder):
        if not isinstance(item, Fault):
            yield item
