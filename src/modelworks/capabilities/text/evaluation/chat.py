"""Measure a model on conversations: how likely it finds the given answers, and what it answers itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets import ChatSample, PromptSample, read_chat
from modelworks.capabilities.text.datasets.samples import text_of
from modelworks.capabilities.text.evaluation.calls import Call, calls_in
from modelworks.capabilities.text.evaluation.graded import Judge
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.scores import corpus_bleu, scores
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import MeasureParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.errors import InvalidData, ModelworksError
from modelworks.contract.generation import Message
from modelworks.contract.run import Run


def measure_chats(
    run: Run,
    folder: Path,
    params: MeasureParams,
    prompt_format: PromptFormat,
    measure: Measure,
    writer: Writer,
    judge: Judge | None = None,
) -> SampleReport:
    """Measure each conversation of a data set.

    The likelihood counts the tokens of the answers whose weight is not 0, each after the ids that serving would give. Of the
    first `max_answers` conversations that end with an answer, the model also writes the last one itself: a text is compared
    with the given one, calls of tools must be the same calls with the same arguments, in any order. A judge judges each
    answer, and with one there may be prompts without a given answer among the conversations.

    Raises:
        InvalidData: a sample is no conversation, or the model's template refuses it; and as `Judge.read` and `Judge.finish`.
    """
    samples: list[tuple[ChatSample | PromptSample, Mapping[str, Any]]]
    if judge is None:
        samples = [(sample, {}) for sample in islice(read_chat(folder), params.max_documents)]
    else:
        samples = list(judge.read(folder, params.max_documents))
    report = SampleReport()
    num_written = 0
    pairs: list[tuple[str, str]] = []
    for done, (sample, item) in enumerate(samples):
        run.raise_if_cancelled()
        where = f"{sample.source}:{sample.line}"
        found: dict[str, float] = {}
        detail: dict[str, str] = {}
        if num_written < params.max_answers and _is_to_be_answered(sample):
            num_written += 1
            answer = writer.answer(_prompt_ids(prompt_format, sample, where))
            detail = {"answer": answer}
            if judge is not None:
                judge.note(where, answer, item)
            if isinstance(sample, PromptSample):
                report.add_scores(where, {}, detail)
            elif calls := sample.messages[-1].get("tool_calls"):
                found = {"tool_accuracy": float(_same_calls(answer, calls))}
            else:
                pairs.append((answer, sample.messages[-1]["content"]))
                found = scores(*pairs[-1])
        if isinstance(sample, ChatSample):
            _add_likelihood(report, sample, where, prompt_format, measure, found, detail)
        run.progress(done + 1, len(samples), "conversations")
    if pairs:
        report.note(bleu=corpus_bleu(pairs))
    if judge is not None:
        judge.finish(report)
    return report


def _prompt_ids(prompt_format: PromptFormat, sample: ChatSample | PromptSample, where: str) -> list[int]:
    messages = sample.messages if isinstance(sample, PromptSample) else sample.messages[:-1]
    try:
        turns = [Message.model_validate(message) for message in messages]
        return prompt_format.encoder.render(turns, sample.tools).ids()
    except (ModelworksError, ValueError) as error:
        said = error.message if isinstance(error, ModelworksError) else str(error)
        raise InvalidData(
            f"{where}: {said.rstrip('.')}.", hint="Correct the sample, or use a model with another template."
        ) from error


def _add_likelihood(
    report: SampleReport,
    sample: ChatSample,
    where: str,
    prompt_format: PromptFormat,
    measure: Measure,
    found: Mapping[str, float],
    detail: Mapping[str, str],
) -> None:
    nats, num_tokens = 0.0, 0
    for row in conversation_rows(prompt_format, sample.messages, sample.tools, sample.weights, where):
        row_nats, row_tokens = measure(row.ids, [weight > 0 for weight in row.weights])
        nats += row_nats
        num_tokens += row_tokens
    answers = [message for message, weight in zip(sample.messages, sample.weights, strict=True) if weight > 0]
    report.add(
        where,
        nats=nats,
        num_tokens=num_tokens,
        num_bytes=len(text_of(answers).encode("utf-8")),
        scores=found,
        detail=detail,
    )


def _is_to_be_answered(sample: ChatSample | PromptSample) -> bool:
    if isinstance(sample, PromptSample):
        return True
    last = sample.messages[-1]
    return last["role"] == "assistant" and bool(last.get("content") or last.get("tool_calls")) and len(sample.messages) > 1


def _same_calls(answer: str, calls: list[dict[str, Any]]) -> bool:
    wanted = [Call(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    written = calls_in(answer)
    return sorted(map(_key, written)) == sorted(map(_key, wanted))


def _key(call: Call) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)
