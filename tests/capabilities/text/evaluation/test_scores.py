"""Scores of answers, against the figures of the libraries that everybody compares with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.text.evaluation.scores import chrf, is_json, rouge_l, scores


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # sacrebleu 2.5, CHRF().sentence_score(answer, [reference]).score / 100
        ("The cat sat on the mat.", "A cat is on the mat.", 0.5652510327349417),
        ("春天的河流很长。", "春天的河很长", 0.4048963103321227),
        ("42", "The answer is 42", 0.14396887159533073),
        ("", "something", 0.0),
    ],
)
def test_chrf_is_that_of_sacrebleu(answer: str, reference: str, expected: float) -> None:
    assert chrf(answer, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat on the mat", "a cat is on the mat", 2 / 3),
        ("THE MAT!", "the mat", 1.0),
        ("春天的河", "春天的大河", 8 / 9),
        ("rain", "snow", 0.0),
        ("", "snow", 0.0),
    ],
)
def test_rouge_l_counts_the_longest_common_subsequence(answer: str, reference: str, expected: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(expected)


@given(st.text(max_size=60), st.text(max_size=60))
def test_scores_lie_between_0_and_1_and_equal_texts_have_the_highest(answer: str, reference: str) -> None:
    found = scores(answer, reference)
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    if answer.split():
        same = scores(answer, answer)
        assert same["exact_match"] == same["chrf"] == pytest.approx(1.0)
        assert same["rouge_l"] == 1.0


def test_json_is_asked_for_where_the_given_answer_is_json() -> None:
    assert scores('{"a": 1}', '{"a": 2}')["json_valid"] == 1.0
    assert scores("{'a': 1}", '{"a": 2}')["json_valid"] == 0.0
    assert "json_valid" not in scores("{}", "42")
    assert not is_json("[" * 100_000)


def test_exact_match_overlooks_space_around_and_nothing_else() -> None:
    assert scores(" 42\n", "42")["exact_match"] == 1.0
    assert scores("42.", "42")["exact_match"] == 0.0
