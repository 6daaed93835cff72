"""Turn documents into one long row of token ids on disk, and read training blocks out of it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.chat_examples import Turn, turns
from modelworks.capabilities.text.data import Document
from modelworks.capabilities.text.fill_in_middle import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, gaps, is_code
from modelworks.capabilities.text.tokenizer import encode_plain
from modelworks.contract.errors import InvalidData

_BATCH = 256


class Blocks:
    """Training blocks over a file of token ids.

    Which blocks make up a step follows from the seed and the step's number alone, so that a resumed run continues exactly where
    it stopped, without a stored position.
    """

    def __init__(self, path: Path, num_tokens: int, block_length: int, batch_size: int, seed: int) -> None:
        self._tokens = np.memmap(path, dtype=np.uint32, mode="r", shape=(num_tokens,))
        self.num_tokens = num_tokens
        self.block_length = min(block_length, num_tokens - 1)
        self.batch_size = batch_size
        self._seed = seed
        # One token more than the block, the target of its last position.
        self._num_blocks = max(1, (num_tokens - 1) // self.block_length)
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._offset = 0

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step, each (batch, block) int64; `step` counts from 0."""
        return _shifted([self.block(step * self.batch_size + row) for row in range(self.batch_size)])

    def block(self, position: int) -> npt.NDArray[np.uint32]:
        """The ids of one block and of the token after it; `position` counts from 0 over all passes."""
        epoch, index = divmod(position, self._num_blocks)
        if epoch != self._epoch:
            # Each pass is cut at other places and read in another order.
            generator = np.random.default_rng([self._seed, epoch])
            slack = (self.num_tokens - 1) - self._num_blocks * self.block_length
            self._offset = int(generator.integers(0, slack + 1))
            self._order = generator.permutation(self._num_blocks)
            self._epoch = epoch
        start = self._offset + int(self._order[index]) * self.block_length
        return self._tokens[start : start + self.block_length + 1]


class ReplayedBlocks:
    """Blocks of new text with blocks of old text spread evenly among them, so that a model does not forget what it knew.

    Method: replay in continued pre-training (Ibrahim et al. 2024). As with `Blocks`, a step's number and the seed say it all.

    Args:
        fresh: the text that is learnt.
        replayed: text of the kind that was learnt before; blocks of the same length.
        fraction: the part of all blocks that is replayed, from 0 to 1.
    """

    def __init__(self, fresh: Blocks, replayed: Blocks, fraction: float) -> None:
        if fresh.block_length != replayed.block_length:
            raise ValueError(f"blocks of {fresh.block_length} and of {replayed.block_length} tokens do not mix")
        self._fresh = fresh
        self._replayed = replayed
        self._fraction = fraction

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step, each (batch, block) int64; `step` counts from 0."""
        first = step * self._fresh.batch_size
        rows = [self._row(position) for position in range(first, first + self._fresh.batch_size)]
        return _shifted(rows)

    def _row(self, position: int) -> npt.NDArray[np.uint32]:
        before = math.floor(position * self._fraction)
        if math.floor((position + 1) * self._fraction) > before:
            return self._replayed.block(before)
        return self._fresh.block(position - before)


def _shifted(rows: Sequence[npt.NDArray[np.uint32]]) -> tuple[torch.Tensor, torch.Tensor]:
    block = torch.from_numpy(np.stack(rows).astype(np.int64))
    return block[:, :-1].contiguous(), block[:, 1:].contiguous()


def write_tokens(
    path: Path,
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    *,
    end_id: int,
    chat_fraction: float,
    system_prompt: str,
    seed: int,
    fill_in_middle: float = 0.0,
    block_length: int = 512,
) -> int:
    """Write the documents to `path` as uint32 token ids, each followed by `end_id`, chat turns spread among them.

    Args:
        chat_fraction: the part of all tokens that chat turns may take; less where the documents give fewer turns.
        fill_in_middle: the part of the source code that is written with its middle at the end; the tokenizer has `FIM_TOKENS`.
        block_length: tokens into which such a piece of code should fit.

    Returns:
        The number of tokens written.

    Raises:
        InvalidData: there are fewer than two tokens.
    """
    chooser = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = list(documents)
    chooser.shuffle(order)
    pool = [turn for document in order for turn in turns(document)] if chat_fraction > 0 and tokenizer.chat_template else []
    chooser.shuffle(pool)
    conversations = iter(pool)
    num_tokens = num_chat = 0
    with path.open("wb") as file:
        for batch in _batches(order):
            whole: list[Document] = []
            for document in batch:
                if fill_in_middle and is_code(document) and chooser.random() < fill_in_middle:
                    for ids in _gap_ids(tokenizer, document, block_length, chooser):
                        num_tokens += _append(file, [*ids, end_id])
                else:
                    whole.append(document)
            for ids in encode_plain(tokenizer, [document.text for document in whole]):
                num_tokens += _append(file, [*ids, end_id])
                while num_chat < chat_fraction * (num_tokens + num_chat):
                    turn = next(conversations, None)
                    if turn is None:
                        break
                    num_chat += _append(file, [*_chat_ids(tokenizer, turn, system_prompt), end_id])
    total = num_tokens + num_chat
    if total < 2:
        raise InvalidData("The documents give fewer than two tokens.", hint="Add more text.")
    return total


def _append(file: object, ids: list[int]) -> int:
    np.asarray(ids, dtype=np.uint32).tofile(file)  # type: ignore[arg-type]
    return len(ids)


def _gap_ids(
    tokenizer: PreTrainedTokenizerFast, document: Document, block_length: int, chooser: random.Random
) -> Iterator[list[int]]:
    """Ids of a document's pieces, each with its middle moved to the end."""
    before, gap, after = (int(tokenizer.convert_tokens_to_ids(token)) for token in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX))
    for found in gaps(document, block_length, chooser):
        prefix, suffix, middle = encode_plain(tokenizer, [found.prefix, found.suffix, found.middle])
        yield [before, *prefix, after, *suffix, gap, *middle]


def _chat_ids(tokenizer: PreTrainedTokenizerFast, turn: Turn, system_prompt: str) -> list[int]:
    """Ids of a conversation as the model's own template writes it."""
    messages = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": turn.question},
        {"role": "assistant", "content": turn.answer},
    ]
    text = tokenizer.apply_chat_template(messages if system_prompt else messages[1:], tokenize=False)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
