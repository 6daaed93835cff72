"""Everything that is wrong with a data set, and what a training on it would cost."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from modelworks.capabilities.text.datasets.files import list_files, read_records
from modelworks.capabilities.text.datasets.forms import understand
from modelworks.capabilities.text.datasets.params import ValidateParams
from modelworks.capabilities.text.datasets.samples import (
    ChatSample,
    Fault,
    PreferenceSample,
    PromptSample,
    Sample,
    TextSample,
    digest_of,
    kind_of,
    messages_of,
    text_of,
)
from modelworks.contract.data import DataFault, DataReport, OnProgress, SizeStatistics, ignore_progress
from modelworks.contract.errors import InvalidData, MissingExtra

Counting = Callable[[str], int]

#: What a template puts around one message, about.
_TOKENS_PER_MESSAGE = 4
_MAX_REMEMBERED = 2_000_000
_TOKENIZER_FILE = "tokenizer.json"


def validate(
    folder: Path, params: ValidateParams, *, model: Path | None = None, on_progress: OnProgress = ignore_progress
) -> DataReport:
    """Check a data set; see `contract.data.DataValidator`.

    Raises:
        InvalidData: there is no such folder or file.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    if not folder.exists():
        raise InvalidData(f"There is no file or folder {folder.name!r}.", hint="Check the path.")
    count, notes = _counting(model)
    return _Validation(params, count or estimate_tokens, is_estimate=count is None, notes=notes).run(folder, on_progress)


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: one in 1.5 Chinese, Japanese or Korean characters, one in 4 others.

    These are rules of thumb for vocabularies of 100,000 and more; a small vocabulary needs up to twice as many.
    """
    if text.isascii():
        return -(-len(text) // 4)
    wide = sum(1 for character in text if "\u2e80" <= character <= "\uffef" or character >= "\U00020000")
    return round(wide / 1.5 + (len(text) - wide) / 4 + 0.5)


class _Validation:
    """One pass over a data set. Memory is bounded: listed faults, one number per sample, and digests up to a number."""

    def __init__(self, params: ValidateParams, count: Counting, *, is_estimate: bool, notes: list[str]) -> None:
        self._params = params
        self._count = count
        self._is_estimate = is_estimate
        self._notes = notes
        self._faults: list[DataFault] = []
        self._codes: Counter[str] = Counter()
        self._severities: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._sizes = array("Q")
        self._learnt = 0
        self._seen: dict[bytes, tuple[str, int]] = {}
        self._is_complete = True

    def run(self, folder: Path, on_progress: OnProgress) -> DataReport:
        files = list_files(folder)
        num_bytes = sum(file.stat().st_size for file, _ in files)
        done, started = 0, time.monotonic()
        for file, name in files:
            on_progress(done, num_bytes)
            for number, record in enumerate(read_records(file, name)):
                if isinstance(record, Fault):
                    self._note(record)
                else:
                    sample, faults = understand(record)
                    for fault in faults:
                        self._note(fault)
                    if sample is not None:
                        self._take(sample)
                if number % 1000 == 999:
                    on_progress(done, num_bytes)
                    self._check_limits(started)
                if not self._is_complete:
                    break
            if not self._is_complete:
                break
            done += file.stat().st_size
        on_progress(done, num_bytes)
        if not self._kinds and not self._severities["error"]:
            self._note(
                Fault(folder.name, None, None, "no_samples", "There is nothing to learn from.", "Add files with samples.")
            )
        if len(self._kinds) > 1:
            kinds = ", ".join(sorted(self._kinds))
            self._notes.append(f"The data set holds samples of several kinds ({kinds}); a training reads one kind.")
        return self._report(len(files), num_bytes)

    def _check_limits(self, started: float) -> None:
        if time.monotonic() - started > self._params.max_seconds:
            self._notes.append(f"The check was ended after {self._params.max_seconds:g} s; what follows was not read.")
            self._is_complete = False

    def _note(self, fault: Fault) -> None:
        self._codes[fault.code] += 1
        self._severities[fault.severity] += 1
        if len(self._faults) < self._params.max_faults:
            self._faults.append(
                DataFault(
                    file=fault.file,
                    line=fault.line,
                    field=fault.field,
                    code=fault.code,
                    severity=fault.severity,
                    message=fault.message[:500],
                    hint=fault.hint,
                )
            )

    def _take(self, sample: Sample) -> None:
        self._kinds[kind_of(sample)] += 1
        total, learnt = self._measure(sample)
        self._sizes.append(total)
        self._learnt += learnt
        limit = self._params.context_length
        if limit is not None and total > limit and not isinstance(sample, TextSample):
            self._warn(
                sample,
                "too_long",
                f"The sample has {'about ' if self._is_estimate else ''}{total:,} tokens, more than {limit:,}.",
                "Shorten it; a training cuts it off or leaves it out.",
            )
        digest = digest_of(sample)[:12]
        if digest in self._seen:
            file, line = self._seen[digest]
            self._warn(
                sample, "duplicate", f"The same sample is at {file}, line {line}.", "`modelworks data clean` takes copies out."
            )
        elif len(self._seen) < _MAX_REMEMBERED:
            self._seen[digest] = (sample.source, sample.line)
            if len(self._seen) == _MAX_REMEMBERED:
                self._notes.append(f"Copies were looked for among the first {_MAX_REMEMBERED:,} samples only.")
        if len(self._sizes) >= self._params.max_samples:
            self._notes.append(f"The check was ended after {len(self._sizes):,} samples.")
            self._is_complete = False

    def _warn(self, sample: Sample, code: str, message: str, hint: str) -> None:
        self._note(Fault(sample.source, sample.line, None, code, message, hint, "warning"))

    def _measure(self, sample: Sample) -> tuple[int, int]:
        """Tokens in all, and those that are learnt from: of a pair both answers, and its prompt is read twice."""
        if isinstance(sample, TextSample):
            total = self._count(sample.text)
            return total, total
        if isinstance(sample, ChatSample):
            sizes = [self._count(text_of([message])) + _TOKENS_PER_MESSAGE for message in messages_of(sample)]
            learnt = sum(size for size, weight in zip(sizes, sample.weights, strict=True) if weight)
            return sum(sizes), learnt
        if isinstance(sample, PromptSample):
            return sum(self._count(text_of([message])) + _TOKENS_PER_MESSAGE for message in sample.messages), 0
        return self._measure_pair(sample)

    def _measure_pair(self, sample: PreferenceSample) -> tuple[int, int]:
        def size(part: list[dict[str, object]]) -> int:
            return self._count(text_of(part)) + _TOKENS_PER_MESSAGE * len(part)

        learnt = size(sample.chosen) + size(sample.rejected)
        return 2 * size(sample.messages) + learnt, learnt

    def _report(self, num_files: int, num_bytes: int) -> DataReport:
        sizes = sorted(self._sizes)
        total = sum(sizes)
        statistics = SizeStatistics(total=total, learnt=self._learnt, is_estimate=self._is_estimate)
        if sizes:
            statistics.shortest, statistics.longest = sizes[0], sizes[-1]
            statistics.median = sizes[len(sizes) // 2]
            statistics.p95 = sizes[min(len(sizes) - 1, len(sizes) * 95 // 100)]
        return DataReport(
            num_files=num_files,
            num_bytes=num_bytes,
            samples=dict(sorted(self._kinds.items())),
            num_errors=self._severities["error"],
            num_warnings=self._severities["warning"],
            faults_by_code=dict(self._codes.most_common()),
            faults=self._faults,
            size=statistics,
            epochs=self._params.epochs,
            cost=total * self._params.epochs,
            is_complete=self._is_complete,
            notes=self._notes,
        )


def _counting(model: Path | None) -> tuple[Counting | None, list[str]]:
    """Counts with the model's own tokenizer, or None and the reason why it has to be estimated."""
    if model is None:
        return None, ["Tokens are estimated from characters; name a model to have them counted."]
    file = model / _TOKENIZER_FILE
    if not file.is_file():
        return None, [f"Tokens are estimated from characters: the model has no {_TOKENIZER_FILE}."]
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra.of("tokenizers", "text") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
        raise InvalidData(f"The model's {_TOKENIZER_FILE} cannot be read: {error}.", hint="Import the model again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)), []
