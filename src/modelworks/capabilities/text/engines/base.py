"""What every engine offers: tokens for a row of prompt ids. Text, stop strings and counting are done once, above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from modelworks.contract.errors import ModelworksError


class Constraint(Protocol):
    """What one choice may say next. It remembers what was said, so each choice has its own."""

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """(vocab_size,): which tokens may follow; the end tokens among them where the answer is whole.

        Raises:
            ModelworksError: none may, or the form became too large to follow.
        """
        ...

    def take(self, token_id: int) -> bool:
        """Note a token that was drawn among those allowed; True when nothing but the end can follow it."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must follow, as far as there is no choice; each is to be taken as if it had been drawn."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How the tokens of one choice are drawn; every value is decided, none means "default"."""

    #: 0 only reads the prompt; `prompt_logprobs` must then be set.
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    logprobs: bool = False
    top_logprobs: int = 0
    #: Also say how likely each token of the prompt is, and the end token where one ends the answer; `logprobs` must be set.
    prompt_logprobs: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()
    #: The version id of the adapter that answers; None: the base model.
    adapter: str | None = None
    #: What the answer must be; None: anything.
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A token that is no part of the answer, with its natural log-probability: None for the first of a prompt."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a choice.

    `logprob` is the natural log of the token's probability under the model's own distribution, before penalties, bias,
    temperature, top_k and top_p; None when not asked for. `token_id` is None on a last step without a token of its own
    (the model ended the text: an end token is not part of the answer).
    """

    token_id: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Literal["stop", "length"] | None = None
    #: Where `prompt_logprobs` was asked for: the prompt's tokens, in a step of their own before all others; the end token.
    scored: tuple[Scored, ...] = ()


#: Called from the engine's thread with each step, or with the error that ended the choice.
Emit = Callable[[Step | ModelworksError], None]


class Ticket(Protocol):
    """One choice being generated."""

    def cancel(self) -> None:
        """Stop generating; safe to call from any thread, and when it is over. At most one more step is emitted."""
        ...


class TokenEngine(Protocol):
    """Generates many choices at the same time, in a thread of its own."""

    @property
    def name(self) -> str: ...

    @property
    def num_running(self) -> int:
        """Choices that hold memory in the engine, waiting ones included."""
        ...

    def start(self, prompt_ids: list[int], decoding: Decoding, emit: Emit) -> Ticket:
        """Begin a choice; returns at once.

        Raises:
            UnsupportedParameter: the engine cannot honour something that `decoding` asks for.
        """
        ...

    def close(self) -> None:
        """Stop the thread; choices under way end with `Unavailable`."""
        ...
