"""Draw a token from logits, for engines that hand logits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from modelworks.capabilities.text.engines.base import Decoding, Scored, Step

Floats = npt.NDArray[np.float64]


class Sampler:
    """One choice's generator and history: its draws depend on nothing but its own seed and logits."""

    def __init__(self, prompt_ids: list[int], decoding: Decoding) -> None:
        self._decoding = decoding
        self._random = np.random.Generator(np.random.PCG64(decoding.seed % 2**63))
        self._seen = np.unique(np.asarray(prompt_ids, dtype=np.int64))
        self._counts: Counter[int] = Counter()
        self._num_drawn = 0

    def draw(self, logits_v: npt.NDArray[np.float32]) -> Step:
        """The next step for `logits_v`, the model's raw scores of every token.

        The order is that of the OpenAI-compatible servers in use: penalties and bias on the scores, then temperature, then
        top_k, then top_p. Presence and frequency count generated tokens, repetition the prompt's as well. Tokens that the form
        of the answer does not allow are taken out after penalties and bias, which therefore cannot bring them back.
        """
        decoding = self._decoding
        raw = logits_v.astype(np.float64)
        adjusted = self._adjust(raw)
        if decoding.constraint is not None:
            adjusted[~decoding.constraint.allowed(adjusted.size)] = -np.inf
        token = int(adjusted.argmax()) if decoding.temperature == 0 else self._draw(adjusted / decoding.temperature)
        self._num_drawn += 1
        if token in decoding.stop_ids:
            return Step(
                None, finish="stop", scored=score(logits_v[None], [token], decoding) if decoding.prompt_logprobs else ()
            )
        self._counts[token] += 1
        finish: Literal["stop", "length"] | None = "length" if self._num_drawn >= decoding.max_tokens else None
        if decoding.constraint is not None and decoding.constraint.take(token):
            finish = "stop"
        if not decoding.logprobs:
            return Step(token, finish=finish)
        logprobs = raw - _log_sum_exp(raw)
        return Step(token, float(logprobs[token]), _top(logprobs, decoding.top_logprobs), finish)

    def forced(self) -> list[Step]:
        """Steps of tokens that follow without a choice: the model need not be asked, only to read them.

        None where log-probabilities are wanted, which only the model can give.
        """
        constraint = self._decoding.constraint
        found: list[Step] = []
        if constraint is None or self._decoding.logprobs:
            return found
        for token in constraint.forced():
            self._counts[token] += 1
            self._num_drawn += 1
            finish: Literal["stop", "length"] | None = "length" if self._num_drawn >= self._decoding.max_tokens else None
            if constraint.take(token):
                finish = "stop"
            found.append(Step(token, finish=finish))
            if finish is not None:
                break
        return found

    def _adjust(self, logits: Floats) -> Floats:
        decoding = self._decoding
        adjusted = logits.copy()
        if decoding.repetition_penalty != 1.0:
            seen = np.union1d(self._seen, np.fromiter(self._counts, np.int64, len(self._counts)))
            values = adjusted[seen]
            adjusted[seen] = np.where(values > 0, values / decoding.repetition_penalty, values * decoding.repetition_penalty)
        if decoding.presence_penalty or decoding.frequency_penalty:
            for token, count in self._counts.items():
                adjusted[token] -= decoding.presence_penalty + decoding.frequency_penalty * count
        for token, bias in decoding.logit_bias.items():
            adjusted[token] += bias
        return adjusted

    def _draw(self, scores: Floats) -> int:
        decoding = self._decoding
        if decoding.top_k is not None and decoding.top_k < scores.size:
            kept = np.argpartition(scores, -decoding.top_k)[-decoding.top_k :]
        else:
            kept = np.arange(scores.size)
        # A stable order makes the draw independent of how the kept tokens were found.
        kept = kept[np.lexsort((kept, -scores[kept]))]
        probabilities = np.exp(scores[kept] - scores[kept[0]])
        probabilities /= probabilities.sum()
        cumulative = probabilities.cumsum()
        if decoding.top_p < 1.0:
            # The smallest set that reaches top_p: the token that crosses it is in.
            cumulative = cumulative[: int(np.searchsorted(cumulative, decoding.top_p)) + 1]
        point = self._random.random() * cumulative[-1]
        return int(kept[min(int(np.searchsorted(cumulative, point, side="right")), cumulative.size - 1)])


def score(logits_tv: npt.NDArray[np.float32], token_ids: Sequence[int], decoding: Decoding) -> tuple[Scored, ...]:
    """How likely each token is under the row of logits before it."""
    found = []
    for row, token in zip(logits_tv, token_ids, strict=True):
        raw = row.astype(np.float64)
        logprobs = raw - _log_sum_exp(raw)
        found.append(Scored(token, float(logprobs[token]), _top(logprobs, decoding.top_logprobs)))
    return tuple(found)


def _log_sum_exp(values: Floats) -> float:
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()))


def _top(logprobs: Floats, number: int) -> tuple[tuple[int, float], ...]:
    if number == 0:
        return ()
    number = min(number, logprobs.size)
    found = np.argpartition(logprobs, -number)[-number:]
    ordered = found[np.lexsort((found, -logprobs[found]))]
    return tuple((int(token), float(logprobs[token])) for token in ordered)
