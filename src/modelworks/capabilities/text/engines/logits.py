"""An engine over anything that gives logits: each choice has its own state, and the choices take turns.

Because no two choices share a computation, an answer never depends on what else is being answered.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelworks.capabilities.text.engines.base import Decoding, Emit, Scored, Step
from modelworks.capabilities.text.engines.sampling import Sampler, score
from modelworks.contract.errors import ModelworksError, Unavailable

_log = logging.getLogger(__name__)
#: Prompt tokens computed between two looks at cancellations and at the other choices.
_PREFILL_CHUNK = 256


class LogitsDecoder(Protocol):
    """A model with a cache of what it has read, one cache per choice. Called from one thread."""

    def new_state(self) -> Any:
        """An empty cache."""
        ...

    def read(self, state: Any, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """Append tokens, of which the first stands at `position`; returns the logits (vocabulary) after the last one."""
        ...

    def read_all(self, state: Any, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """As `read`, but returns the logits after each of the tokens: (tokens, vocabulary)."""
        ...


class _Choice:
    """A choice under way."""

    def __init__(
        self, prompt_ids: list[int], decoding: Decoding, emit: Emit, wake: threading.Condition, read_ids: list[int]
    ) -> None:
        self.decoding = decoding
        self.prompt_ids = prompt_ids
        self.unread = deque(read_ids)
        #: Of the prompt, as far as it was read and where that is asked for; the first token follows nothing.
        self.scored = [Scored(prompt_ids[0], None)] if decoding.prompt_logprobs and prompt_ids else []
        self.position = 0
        self.sampler = Sampler(prompt_ids, decoding)
        self.emit = emit
        self.state: Any = None
        self.cancelled = False
        self._wake = wake

    def cancel(self) -> None:
        with self._wake:
            self.cancelled = True
            self._wake.notify()


class LogitsEngine:
    """Runs a `LogitsDecoder` in a thread, at most `max_batch` choices at a time, the rest waiting in order.

    Args:
        name: the engine's name in messages.
        decoder: the model.
        max_batch: choices that may hold a cache at the same time.
    """

    def __init__(self, name: str, decoder: LogitsDecoder, max_batch: int) -> None:
        self._name = name
        self._decoder = decoder
        self._max_batch = max_batch
        self._wake = threading.Condition()
        self._waiting: deque[_Choice] = deque()
        self._running: list[_Choice] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"{name}-decoder", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def num_running(self) -> int:
        with self._wake:
            return len(self._running) + len(self._waiting)

    def start(self, prompt_ids: list[int], decoding: Decoding, emit: Emit, read_ids: list[int] | None = None) -> _Choice:
        """Begin a choice; `read_ids` is the prompt as the decoder wants it, where that differs."""
        choice = _Choice(prompt_ids, decoding, emit, self._wake, prompt_ids if read_ids is None else read_ids)
        with self._wake:
            if self._closed:
                raise Unavailable("The replica is shutting down.", hint="Try again.")
            self._waiting.append(choice)
            self._wake.notify()
        return choice

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._forget_cancelled()
                while not (self._closed or self._running or self._waiting):
                    self._wake.wait()
                    self._forget_cancelled()
                if self._closed:
                    left = [*self._running, *self._waiting]
                    self._running.clear()
                    self._waiting.clear()
                    break
                while self._waiting and len(self._running) < self._max_batch:
                    self._running.append(self._waiting.popleft())
                turn = list(self._running)
            for choice in turn:
                if not choice.cancelled and not self._advance(choice):
                    with self._wake:
                        self._running.remove(choice)
        for choice in left:
            choice.emit(Unavailable("The replica is shutting down.", hint="Try again."))

    def _forget_cancelled(self) -> None:
        self._running = [choice for choice in self._running if not choice.cancelled]
        self._waiting = deque(choice for choice in self._waiting if not choice.cancelled)

    def _score(self, choice: _Choice, chunk: list[int]) -> npt.NDArray[np.float32]:
        """Read a piece of the prompt and note how likely the tokens after each of its own are; returns the last logits."""
        logits_tv = self._decoder.read_all(choice.state, chunk, choice.position)
        following = choice.prompt_ids[choice.position + 1 : choice.position + 1 + len(chunk)]
        choice.scored += score(logits_tv[: len(following)], following, choice.decoding)
        last: npt.NDArray[np.float32] = logits_tv[-1]
        return last

    def _advance(self, choice: _Choice) -> bool:
        """Read one piece of the prompt or the last token; False when the choice is over."""
        try:
            if choice.state is None:
                choice.state = self._decoder.new_state()
            chunk = [choice.unread.popleft() for _ in range(min(_PREFILL_CHUNK, len(choice.unread)))]
            if choice.decoding.prompt_logprobs and choice.position < len(choice.prompt_ids):
                logits = self._score(choice, chunk)
            else:
                logits = self._decoder.read(choice.state, chunk, choice.position)
            choice.position += len(chunk)
            if choice.unread:
                return True
            if choice.scored:
                choice.emit(Step(None, scored=tuple(choice.scored)))
                choice.scored.clear()
            steps: list[Step | ModelworksError]
            steps = [choice.sampler.draw(logits) if choice.decoding.max_tokens else Step(None, finish="length")]
            if _goes_on(steps[-1]):
                steps += choice.sampler.forced()
        except Exception as error:
            _log.exception("engine %s failed on a choice", self._name)
            steps = [error if isinstance(error, ModelworksError) else Unavailable("The engine failed on this request.")]
        for step in steps:
            choice.emit(step)
            if isinstance(step, Step) and step.token_id is not None:
                choice.unread.append(step.token_id)
        return _goes_on(steps[-1])


def _goes_on(step: Step | ModelworksError) -> bool:
    return isinstance(step, Step) and step.finish is None and step.token_id is not None
