"""Drawing tokens from logits."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.text.engines.base import Decoding, Step
from modelworks.capabilities.text.engines.sampling import Sampler

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32)) + 3.0


def draws(number: int, prompt: tuple[int, ...] = (), **options: object) -> list[int | None]:
    sampler = Sampler(list(prompt), Decoding(max_tokens=10**9, **options))  # type: ignore[arg-type]
    return [sampler.draw(LOGITS).token_id for _ in range(number)]


def test_frequencies_follow_the_distribution_and_the_temperature() -> None:
    plain = Counter(draws(8000, seed=1))
    assert [plain[token] / 8000 for token in range(4)] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.02)
    sharp = Counter(draws(8000, seed=1, temperature=0.5))
    squares = np.array([0.5, 0.25, 0.15, 0.1]) ** 2
    assert [sharp[token] / 8000 for token in range(4)] == pytest.approx(list(squares / squares.sum()), abs=0.02)


def test_top_k_and_top_p_keep_the_smallest_sufficient_set() -> None:
    assert set(draws(500, top_k=2)) == {0, 1}
    assert set(draws(500, top_k=1)) == {0}
    assert set(draws(500, top_p=0.5)) == {0}
    assert set(draws(500, top_p=0.51)) == {0, 1}
    assert set(draws(500, top_p=0.9)) == {0, 1, 2}


@given(st.integers(-(2**63), 2**63))
def test_a_seed_decides_every_draw(seed: int) -> None:
    assert draws(20, seed=seed) == draws(20, seed=seed)


def test_other_seeds_give_other_draws() -> None:
    assert draws(20, seed=1) != draws(20, seed=2)


def test_greedy_penalties_and_bias() -> None:
    assert draws(3, temperature=0) == [0, 0, 0]
    assert draws(3, temperature=0, logit_bias={3: 100}) == [3, 3, 3]
    assert draws(3, temperature=0, logit_bias={0: -100}) == [1, 1, 1]
    assert draws(4, temperature=0, presence_penalty=2.0) == [0, 1, 2, 3]
    # Frequency counts every repetition: 0 loses 0.7 at each use, and is worth 1 again after the first.
    assert draws(3, temperature=0, frequency_penalty=0.5) == [0, 0, 1]
    # Repetition looks at the prompt too; the other two do not.
    assert draws(1, prompt=(0,), temperature=0, repetition_penalty=2.0) == [1]
    assert draws(1, prompt=(0,), temperature=0, presence_penalty=2.0) == [0]


def test_logprobs_are_those_of_the_unmodified_distribution() -> None:
    options = Decoding(max_tokens=2, temperature=0, logprobs=True, top_logprobs=3, logit_bias={1: 9}, presence_penalty=1)
    step = Sampler([], options).draw(LOGITS)
    assert step.token_id == 1
    assert step.logprob == pytest.approx(np.log(0.25), abs=1e-6)
    assert [token for token, _ in step.top] == [0, 1, 2]
    assert [np.exp(logprob) for _, logprob in step.top] == pytest.approx([0.5, 0.25, 0.15], abs=1e-6)
    every = Sampler([], Decoding(max_tokens=2, logprobs=True, top_logprobs=20)).draw(LOGITS).top
    assert [token for token, _ in every] == [0, 1, 2, 3]


def test_the_end_is_said_at_a_stop_id_and_at_the_last_token() -> None:
    sampler = Sampler([], Decoding(max_tokens=2, temperature=0))
    assert [sampler.draw(LOGITS) for _ in range(2)] == [Step(0), Step(0, finish="length")]
    assert Sampler([], Decoding(max_tokens=2, temperature=0, stop_ids=frozenset({0}))).draw(LOGITS) == Step(None, finish="stop")
