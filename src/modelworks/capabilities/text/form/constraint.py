"""A grammar followed token by token, with llguidance: at each step, which tokens can still lead to an answer of the form.

Method: an Earley parser over lexemes found by derivatives of regular expressions, walked along a trie of the vocabulary
(https://github.com/guidance-ai/llguidance).
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerFast

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter


class GrammarFollower:
    """A `Constraint` of one choice.

    Args:
        matcher: at its beginning, or where another one stands.
        place: where the caller wrote what the grammar is made from.
    """

    def __init__(self, matcher: Any, place: str) -> None:
        self._matcher = matcher
        self._place = place

    def fork(self) -> GrammarFollower:
        """Another one at the same point, which goes its own way."""
        return GrammarFollower(self._matcher.deep_copy(), self._place)

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """See `Constraint.allowed`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        found = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(np.bool_)
        if found.size < vocab_size:
            found = np.pad(found, (0, vocab_size - found.size))
        if self._matcher.is_error() or not found.any():
            raise self._failed()
        return found

    def take(self, token_id: int) -> bool:
        """See `Constraint.take`."""
        if not self._matcher.consume_token(token_id):
            raise self._failed()
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """See `Constraint.forced`: only where the text is cut into tokens as the tokenizer itself would."""
        return [int(token) for token in self._matcher.compute_ff_tokens()]

    def _failed(self) -> InvalidRequest:
        said = " ".join(self._matcher.get_error().split())[:200] or "no token of the vocabulary goes on"
        return InvalidRequest(
            f"{self._place}: the answer's form cannot be followed any further: {said}.",
            hint="Make the form simpler.",
            param=self._place,
            code="form_not_followed",
        )


class GrammarDesk:
    """Makes followers for one model's vocabulary.

    Args:
        tokenizer: the model's.
        vocab_size: ids that the model gives scores to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, len(tokenizer))
        self._lock = threading.Lock()
        self._opened: dict[frozenset[int], Any] = {}

    def vocabulary(self, stop_ids: Collection[int]) -> Any:
        """Llguidance's view of the vocabulary, made at its first use: a large one takes a second.

        Args:
            stop_ids: the ids that end an answer.

        Raises:
            UnsupportedParameter: the tokenizer's kind is one whose tokens are no bytes.
        """
        key = frozenset(stop_ids)
        with self._lock:
            if key not in self._opened:
                backend = self._tokenizer.backend_tokenizer.to_str()
                try:
                    self._opened[key] = LLTokenizer(backend, n_vocab=self._vocab_size, eos_token=sorted(key) or None)
                except ValueError as error:
                    raise UnsupportedParameter(
                        f"This model's tokenizer cannot be held to a form: {' '.join(str(error).split())[:200]}",
                        hint="Ask for the form in the prompt, or use another model.",
                    ) from error
            return self._opened[key]

    def follower(self, grammar: str, stop_ids: Collection[int], place: str) -> GrammarFollower:
        """One at the beginning of a grammar.

        Raises:
            InvalidRequest: the grammar is too large, or the vocabulary cannot write its first character.
            UnsupportedParameter: see `vocabulary`.
        """
        matcher = LLMatcher(self.vocabulary(stop_ids), grammar, log_level=0)
        follower = GrammarFollower(matcher, place)
        follower.fork().allowed(self._vocab_size)
        return follower
