"""Measure a model on conversations: how likely it finds the given answers, and what it answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets import ChatSample, read_chat
from modelworks.capabilities.text.datasets.samples import text_of
from modelworks.capabilities.text.engines.transformers_model import TransformersDecoder
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.scores import scores
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.generation import Message
from modelworks.contract.run import Run


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes answers greedily: at each place the likeliest token, as serving does at temperature 0."""

    model: Any
    prompt_format: PromptFormat
    context_length: int
    max_tokens: int

    def answer(self, prompt_ids: Sequence[int]) -> str:
        """The model's answer; empty where the prompt fills the context."""
        room = min(self.max_tokens, self.context_length - len(prompt_ids))
        decoder = TransformersDecoder(self.model)
        state, written = decoder.new_state(), list[int]()
        fresh = list(prompt_ids)
        while len(written) < room:
            token = int(decoder.read(state, fresh, len(prompt_ids) + len(written) - len(fresh)).argmax())
            if token in self.prompt_format.stop_ids:
                break
            written.append(token)
            fresh = [token]
        return str(self.prompt_format.tokenizer.decode(written, skip_special_tokens=True))


def measure_chats(
    run: Run, folder: Path, params: EvaluateParams, prompt_format: PromptFormat, measure: Measure, writer: Writer
) -> SampleReport:
    """Measure each conversation of a data set.

    The likelihood counts the tokens of the answers whose weight is not 0, each after the ids that serving would give. Of the
    first `max_answers` conversations that end with a text, the model also writes the last answer itself.

    Raises:
        InvalidData: a sample is no conversation, or the model's template refuses it.
    """
    samples = list(islice(read_chat(folder), params.max_documents))
    report = SampleReport()
    num_written = 0
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
        if num_written < params.max_answers and _ends_with_text(sample):
            num_written += 1
            turns = [Message.model_validate(message) for message in sample.messages[:-1]]
            answer = writer.answer(prompt_format.encoder.render(turns, sample.tools).ids())
            found, detail = scores(answer, sample.messages[-1]["content"]), {"answer": answer}
        report.add(
            where,
            nats=nats,
            num_tokens=num_tokens,
            num_bytes=len(text_of(answers).encode("utf-8")),
            scores=found,
            detail=detail,
        )
        run.progress(done + 1, len(samples), "conversations")
    return report


def _ends_with_text(sample: ChatSample) -> bool:
    last = sample.messages[-1]
    return last["role"] == "assistant" and bool(last.get("content")) and not last.get("tool_calls") and len(sample.messages) > 1
