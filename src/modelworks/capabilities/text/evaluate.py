"""Measure a language model on held-out text: loss, perplexity and bits per byte, every token counted once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.data import Document, read_documents
from modelworks.capabilities.text.engines.opening import Checkpoint
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.tokenizer import END_OF_TEXT, encode_plain, load_tokenizer
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run

#: Target value that a loss passes over.
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Window:
    """A row of ids; the loss counts for its targets from `first_counted` on, the ids before being context."""

    ids: list[int]
    first_counted: int


def evaluate(run: Run, params: EvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the data set of role "test".

    Every token of every document is predicted exactly once, with at least `window - stride` tokens before it where the document
    has them (Press et al. 2021, "sliding window"). The first token is predicted from the model's end-of-text token; for a
    model without one, it is not counted.

    Returns:
        `loss`: mean negative log-likelihood per token, in nats. `perplexity`: its exponential. `bits_per_byte`: the whole
        negative log-likelihood in bits over the UTF-8 bytes of the text, which compares models with different tokenizers.

    Raises:
        InvalidData: the data set holds no text, or the checkpoint is damaged.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    local = run.model("model")
    checkpoint = Checkpoint.of(local)
    tokenizer = load_tokenizer(local.path)
    documents = list(islice(read_documents(run.dataset("test").path), params.max_documents))
    model = load_model(local.path, torch.float32)
    # A window's last id is only a target, so a window may be one longer than the context.
    window = min(params.window or checkpoint.context_length, checkpoint.context_length)
    stride = min(params.stride or max(1, window // 2), window)
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for done, document in enumerate(documents):
        run.raise_if_cancelled()
        windows = _windows(_ids(tokenizer, document), window, stride)
        while batch := list(islice(windows, params.batch_size)):
            batch_nats, batch_tokens = _measure(model, batch)
            nats += batch_nats
            num_tokens += batch_tokens
        num_bytes += len(document.text.encode("utf-8"))
        run.progress(done + 1, len(documents), "documents")
    if num_tokens == 0:
        raise InvalidData("The data set has no token that can be predicted.", hint="Give it longer documents.")
    loss = nats / num_tokens
    # Beyond this the exponential is no finite number, and says nothing more anyway.
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": nats / math.log(2) / num_bytes}


def _ids(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """The document's ids after one id that stands for "a text begins"."""
    (ids,) = encode_plain(tokenizer, [document.text])
    known = tokenizer.get_vocab()
    start = known.get(END_OF_TEXT, tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)
    return ids if start is None else [int(start), *ids]


def _windows(ids: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Windows of at most `window` inputs whose counted targets tile `ids[1:]` exactly."""
    counted = 1  # the next target to count, as an index into ids
    while counted < len(ids):
        # The first window has no context to keep, and counts all of its targets.
        fresh = window if counted == 1 else stride
        end = min(counted + fresh, len(ids))
        start = max(0, end - 1 - window)
        yield Window(list(ids[start:end]), first_counted=counted - start)
        counted = end


def _measure(model: Any, batch: Sequence[Window]) -> tuple[float, int]:
    """Summed negative log-likelihood in nats, and the number of targets it counts."""
    longest = max(len(window.ids) for window in batch) - 1
    inputs_bt = torch.zeros((len(batch), longest), dtype=torch.int64)
    targets_bt = torch.full((len(batch), longest), _IGNORED, dtype=torch.int64)
    for row, window in enumerate(batch):
        ids = torch.tensor(window.ids)
        # What stands to the right of a row's end cannot influence what stands before it.
        inputs_bt[row, : ids.numel() - 1] = ids[:-1]
        targets_bt[row, window.first_counted - 1 : ids.numel() - 1] = ids[window.first_counted :]
    with torch.inference_mode():
        logits_btv = model(input_ids=inputs_bt, use_cache=False).logits.float()
        nats = functional.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten(), ignore_index=_IGNORED, reduction="sum")
    return float(nats), int((targets_bt != _IGNORED).sum())
