"""Samples for training: what validation has passed. The first error stops, with its file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from modelworks.capabilities.text.datasets.files import list_files, read_records
from modelworks.capabilities.text.datasets.forms import read_samples, understand
from modelworks.capabilities.text.datasets.samples import ChatSample, Fault, PreferenceSample, PromptSample, Sample, kind_of
from modelworks.contract.errors import InvalidData

S = TypeVar("S", ChatSample, PreferenceSample, PromptSample)

_WANTED: dict[type[Sample], str] = {
    ChatSample: "conversations",
    PreferenceSample: "pairs of a chosen and a rejected answer",
    PromptSample: "prompts with what their answers are judged by",
}


def read_chat(folder: Path) -> Iterator[ChatSample]:
    """The conversations of a data set (a folder, searched in depth, or one file).

    Raises:
        InvalidData: the first error, a sample that is no conversation, or none at all.
    """
    return _only(folder, ChatSample)


def read_preferences(folder: Path) -> Iterator[PreferenceSample]:
    """The preference pairs of a data set (a folder, searched in depth, or one file).

    Raises:
        InvalidData: the first error, a sample that is no pair, or none at all.
    """
    return _only(folder, PreferenceSample)


def read_prompts(folder: Path) -> Iterator[PromptSample]:
    """The prompts of a data set (a folder, searched in depth, or one file): the last message is what is to be answered.

    Raises:
        InvalidData: the first error, a sample that is no prompt, or none at all.
    """
    return _only(folder, PromptSample)


def read_answerable(folder: Path) -> Iterator[tuple[ChatSample | PromptSample, dict[str, Any]]]:
    """Conversations and prompts of a data set, in any mixture, each with its record as it stands in the file.

    Raises:
        InvalidData: the first error, a sample of another kind, or none at all.
    """
    found = False
    for file, name in list_files(folder):
        for record in read_records(file, name):
            sample, faults = (None, [record]) if isinstance(record, Fault) else understand(record, prompts=True)
            for fault in faults:
                if fault.severity == "error":
                    raise _faulty(fault, iter(()))
            if isinstance(sample, ChatSample | PromptSample) and not isinstance(record, Fault):
                found = True
                yield sample, record.value
            elif sample is not None:
                raise _unwanted(sample, ChatSample)
    if not found:
        raise InvalidData(
            "The data set holds no conversations or prompts.", hint="`modelworks data validate` says what is in it."
        )


def _only(folder: Path, kind: type[S]) -> Iterator[S]:
    found = False
    items = read_samples(folder, prompts=kind is PromptSample)
    for item in items:
        if isinstance(item, Fault):
            if item.severity == "error":
                raise _faulty(item, items)
        elif isinstance(item, kind):
            found = True
            yield item
        else:
            raise _unwanted(item, kind)
    if not found:
        raise InvalidData(
            f"The data set holds no {_WANTED[kind]}.",
            hint="`modelworks data validate` says what is in it.",
        )


def _faulty(first: Fault, rest: Iterator[Sample | Fault]) -> InvalidData:
    """The first error, and how many there are after it: whoever mends one wants to know whether that was all."""
    others = sum(1 for item in rest if isinstance(item, Fault) and item.severity == "error")
    more = "" if not others else " One more error follows." if others == 1 else f" {others:,} more errors follow."
    return InvalidData(
        f"{first.place}: {first.message}{more}", hint=f"{first.hint} `modelworks data validate` lists every fault."
    )


def _unwanted(sample: Sample, kind: type[S]) -> InvalidData:
    return InvalidData(
        f"{sample.source}, line {sample.line}: a sample of kind {kind_of(sample)!r} among {_WANTED[kind]}.",
        hint="Give a grader, which judges answers to prompts, or keep samples of different kinds in different data sets."
        if kind is ChatSample and isinstance(sample, PromptSample)
        else "Keep samples of different kinds in different data sets.",
    )
