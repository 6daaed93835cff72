"""Measure a model on conversations: how likely it finds the given answers, and what it answers itself."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets import ChatSample, read_chat
from modelworks.capabilities.text.datasets.samples import text_of
from modelworks.capabilities.text.evaluation.calls import Call, calls_in
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.scores import corpus_bleu, scores
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.generation import Message
from modelworks.contract.run import Run


def measure_chats(
    run: Run, folder: Path, params: EvaluateParams, prompt_format: PromptFormat, measure: Measure, writer: Writer
) -> SampleReport:
    """Measure each conversation of a data set.

    The likelihood counts the tokens of the answers whose weight is not 0, each after the ids that serving would give. Of the
    first `max_answers` conversations that end with an answer, the model also writes the last one itself: a text is compared
    with the given one, calls of tools must be the same calls with the same arguments, in any order.

    Raises:
        InvalidData: a sample is no conversation, or the model's template refuses it.
    """
    samples = list(islice(read_chat(folder), params.max_documents))
    report = SampleReport()
    num_written = 0
    pairs: list[tuple[str, str]] = []
    for done, sample in enumerate(samples):
        run.raise_if_cancelled()
        where = f"{sample.source}:{sample.line}"
        nats, num_tokens = 0.0, 0
        for row in conversation_rows(prompt_format, sample.messages, sample.tools, sample.weights, where):
            row_nats, row_tokens = measure(row.ids, [weight > 0 for weight in row.weights])
            nats += row_nats
            num_tokens += row_tokens
        answers = [message for message, weight in zip(sample.messages, sample.weights, strict=True) if weight > 0]
        found: dict[str, float] = {}
        detail: dict[str, str] = {}
        if num_written < params.max_answers and _ends_with_answer(sample):
            num_written += 1
            turns = [Message.model_validate(message) for message in sample.messages[:-1]]
            answer = writer.answer(prompt_format.encoder.render(turns, sample.tools).ids())
            detail = {"answer": answer}
            if calls := sample.messages[-1].get("tool_calls"):
                found = {"tool_accuracy": float(_same_calls(answer, calls))}
            else:
                pairs.append((answer, sample.messages[-1]["content"]))
                found = scores(*pairs[-1])
        report.add(
            where,
            nats=nats,
            num_tokens=num_tokens,
            num_bytes=len(text_of(answers).encode("utf-8")),
            scores=found,
            detail=detail,
        )
        run.progress(done + 1, len(samples), "conversations")
    if pairs:
        report.note(bleu=corpus_bleu(pairs))
    return report


def _ends_with_answer(sample: ChatSample) -> bool:
    last = sample.messages[-1]
    return last["role"] == "assistant" and bool(last.get("content") or last.get("tool_calls")) and len(sample.messages) > 1


def _same_calls(answer: str, calls: list[dict[str, Any]]) -> bool:
    wanted = [Call(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    written = calls_in(answer)
    return sorted(map(_key, written)) == sorted(map(_key, wanted))


def _key(call: Call) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)
