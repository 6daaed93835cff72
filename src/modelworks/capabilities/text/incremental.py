"""From token ids to text while they arrive: no character is split, and nothing of a stop string gets out."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

_REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + offset): byte for offset, byte in enumerate(others)}


_BYTES = _byte_alphabet()


class Vocabulary:
    """What each token id stands for: the bytes it adds to a text, and whether it is hidden from the reader."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._added = dict(tokenizer.added_tokens_decoder)
        self.hidden = frozenset(token_id for token_id, token in self._added.items() if token.special)
        self.size = len(tokenizer)
        #: Whether each token is a row of bytes whatever stands before it.
        self.is_byte_level = '"ByteLevel"' in _decoder_of(tokenizer)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of a row of tokens, without hidden ones."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes, possibly a part of a character, that a token stands for in the middle of a text."""
        added = self._added.get(token_id)
        if added is not None:
            return str(added.content).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return b""
        if self.is_byte_level:
            return bytes(_BYTES[character] for character in piece if character in _BYTES)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes.fromhex(piece[3:5])
        return str(piece).replace("\u2581", " ").encode()


class TextBuilder(Protocol):
    """Accumulates tokens; gives out text as soon as it can no longer change."""

    def push(self, token_id: int) -> str: ...

    def finish(self) -> str:
        """What was still held back: an incomplete character comes out as U+FFFD."""
        ...


def text_builder(vocabulary: Vocabulary, shown: Collection[int] = ()) -> TextBuilder:
    """The cheapest builder that is exact for this tokenizer.

    Args:
        shown: ids of special tokens that are to be seen all the same, for whoever tells an answer's parts apart by them.
    """
    return _ByteBuilder(vocabulary, shown) if vocabulary.is_byte_level else _WindowBuilder(vocabulary, shown)


class _ByteBuilder:
    """For byte-level tokenizers, whose tokens are bytes: an incremental UTF-8 decoder."""

    def __init__(self, vocabulary: Vocabulary, shown: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._hidden = vocabulary.hidden.difference(shown)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if token_id in self._hidden:
            return ""
        return self._decoder.decode(self._vocabulary.token_bytes(token_id))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowBuilder:
    """For other tokenizers, where a token's text depends on its neighbours: decode a short window twice and compare."""

    def __init__(self, vocabulary: Vocabulary, shown: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._shown = vocabulary.hidden.intersection(shown)
        self._window: list[int] = []
        self._num_read = 0

    def push(self, token_id: int) -> str:
        if token_id in self._shown:
            before, self._window, self._num_read = self.finish(), [], 0
            return before + self._vocabulary.token_bytes(token_id).decode()
        self._window.append(token_id)
        before = self._vocabulary.text_of(self._window[: self._num_read])
        after = self._vocabulary.text_of(self._window)
        if len(after) <= len(before) or after.endswith(_REPLACEMENT):
            return ""
        # What was read last stays as context: the next token's text may depend on it.
        self._window = self._window[self._num_read :] if self._num_read else self._window
        fresh = after[len(before) :]
        self._num_read = len(self._window)
        return fresh

    def finish(self) -> str:
        before = self._vocabulary.text_of(self._window[: self._num_read])
        after = self._vocabulary.text_of(self._window)
        self._num_read = len(self._window)
        return after[len(before) :]


class StopFilter:
    """Lets text through up to the first stop string, holding back what may turn out to be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        #: The stop string that was met.
        self.met: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self.met is not None

    def push(self, text: str) -> str:
        """Text that may be shown now; after a stop string was met, always empty."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(position, stop) for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if found:
            position, self.met = min(found)
            shown, self._held = self._held[:position], ""
            return shown
        keep = max(overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """The text still held back, once it is clear that no stop string follows."""
        held, self._held = self._held, ""
        return "" if self.stopped else held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _decoder_of(tokenizer: Any) -> str:
    """The tokenizer's decoder as JSON."""
    return str(tokenizer.backend_tokenizer.decoder.__getstate__().decode()) if tokenizer.backend_tokenizer.decoder else ""
