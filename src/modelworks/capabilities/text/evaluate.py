"""Measure a language model on held-out data, sample by sample: text, conversations, preferences, choices, code and calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.data import Document, read_documents
from modelworks.capabilities.text.datasets.forms import read_samples
from modelworks.capabilities.text.datasets.samples import Fault, kind_of
from modelworks.capabilities.text.engines.opening import Checkpoint
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.evaluation.chat import measure_chats
from modelworks.capabilities.text.evaluation.choice import measure_questions, read_pairs, read_questions
from modelworks.capabilities.text.evaluation.code import measure_problems
from modelworks.capabilities.text.evaluation.graded import Judge
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.records import files_of, read_lines
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.tools import measure_requests
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import EvaluateParams, MeasureParams, TestForm
from modelworks.capabilities.text.tokenizer import END_OF_TEXT, encode_plain
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.run import Run

#: Fields that only a conversation's record has, in the forms that are read.
_CHAT_FIELDS = frozenset({"messages", "conversations", "instruction"})
#: Longest answer in tokens, where it is not given.
_ANSWER_TOKENS = {"chat": 128, "tools": 256, "code": 512}
_WRITTEN = {"code": measure_problems, "tools": measure_requests}


def evaluate(run: Run, params: EvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the data set of role "test", and save one result per sample.

    Running text: every token of every document is predicted exactly once, with at least `window - stride` tokens before it
    where the document has them (Press et al. 2021, "sliding window"). The first token is predicted from the model's end-of-text
    token; for a model without one, it is not counted. For conversations, multiple choice and
    preferences, programming problems and calls of functions see `evaluation.chat`, `choice`, `code` and `tools`; there, the
    tokens of the given answers are what counts.

    Returns:
        `loss`: mean negative log-likelihood per token, in nats. `perplexity`: its exponential. `bits_per_byte`: the whole
        negative log-likelihood in bits over the UTF-8 bytes of the text, which compares models with different tokenizers.
        Conversations, where answers are written: `exact_match`, `chrf`, `rouge_l`, `sentence_bleu`, and `json_valid` where a
        given answer is JSON; each a mean from 0 to 1; `bleu` over all of them. Multiple choice and preferences: `accuracy`.
        Programming problems: `pass_at_1`, `pass_at_10`, `pass_at_100`. Requests that functions answer, and conversations that
        end with calls: `tool_accuracy`.

    Raises:
        InvalidData: the data set holds nothing to measure or a fault, or the checkpoint is damaged.
        IntegrityFailed: the model's template, tokenizer or end ids are not those it was trained with.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    local = run.model("model")
    folder = run.dataset("test").path
    judge = _judge_of(run, folder, params)
    checkpoint = Checkpoint.of(local)
    model = load_model(local.path, torch.float32)
    report = measured(run, folder, params, checkpoint, served_format(local), model, judge)
    metrics = report.metrics()
    report.save(run)
    return metrics


def _judge_of(run: Run, folder: Path, params: EvaluateParams) -> Judge | None:
    if params.grader is None:
        return None
    form = form_of(folder) if params.form == "auto" else params.form
    if form != "chat":
        raise InvalidRequest(
            f"A grader judges answers to conversations and prompts, and the test data are of the form {form!r}.",
            hint='Give records like {"messages": […], "reference_answer": …}, or leave the grader out.',
            param="params.grader",
        )
    return Judge.of(run, params.grader)


def measured(
    run: Run,
    folder: Path,
    params: MeasureParams,
    checkpoint: Checkpoint,
    prompt_format: PromptFormat,
    model: Any,
    judge: Judge | None = None,
) -> SampleReport:
    """What a loaded model makes of each sample of a data set; see `evaluate`.

    Raises:
        InvalidData: the data set holds a fault.
    """
    form = form_of(folder) if params.form == "auto" else params.form
    # A window's last id is only a target, so a window may be one longer than the context.
    window = min(params.window or checkpoint.context_length, checkpoint.context_length)
    stride = min(params.stride or max(1, window // 2), window)
    measure = Measure(model, window, stride, params.batch_size)
    if form == "text":
        return _measure_documents(run, folder, params, prompt_format.tokenizer, measure)
    prompt_format = prompt_format.for_training()
    if form in _ANSWER_TOKENS:
        longest = params.max_answer_tokens or _ANSWER_TOKENS[form]
        writer = Writer(model, prompt_format, checkpoint.context_length, longest)
        if form == "chat":
            return measure_chats(run, folder, params, prompt_format, measure, writer, judge)
        return _WRITTEN[form](run, folder, params, prompt_format, measure, writer)
    questions = read_questions(folder) if form == "choice" else read_pairs(folder)
    return measure_questions(run, questions, params, prompt_format, measure)


def form_of(folder: Path) -> TestForm:
    """What kind of test data a data set holds, by its first record: a form that only tests have, else one of a training's."""
    for _, file in files_of(folder):
        try:
            line = next((line for _, line in read_lines(file)), "")
            record = json.loads(line)
        except (ValueError, RecursionError, InvalidData):
            continue
        form = _form_of(record) if isinstance(record, dict) else None
        if form is not None:
            return form
    first = next(iter(read_samples(folder)), None)
    kind = "text" if first is None or isinstance(first, Fault) else kind_of(first)
    # A prompt without an answer is read as a conversation, which says what it lacks.
    return "chat" if kind == "prompt" else kind


def _form_of(record: dict[str, object]) -> TestForm | None:
    """The form that a record's fields tell; None where they are those of other forms too."""
    fields = record.keys()
    if "choices" in fields:
        return "choice"
    if {"prompt", "test", "entry_point"} <= fields or {"buggy", "json_testcases"} <= fields:
        return "code"
    if {"question", "function"} <= fields:
        return "tools"
    return "chat" if _CHAT_FIELDS & fields else None


def _measure_documents(
    run: Run, folder: Path, params: MeasureParams, tokenizer: PreTrainedTokenizerFast, measure: Measure
) -> SampleReport:
    documents = list(islice(read_documents(folder), params.max_documents))
    report = SampleReport()
    for done, document in enumerate(documents):
        run.raise_if_cancelled()
        nats, num_tokens = measure(_ids(tokenizer, document))
        report.add(document.name, nats=nats, num_tokens=num_tokens, num_bytes=len(document.text.encode("utf-8")))
        run.progress(done + 1, len(documents), "documents")
    return report


def _ids(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """The document's ids after one id that stands for "a text begins"."""
    (ids,) = encode_plain(tokenizer, [document.text])
    known = tokenizer.get_vocab()
    start = known.get(END_OF_TEXT, tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)
    return ids if start is None else [int(start), *ids]
