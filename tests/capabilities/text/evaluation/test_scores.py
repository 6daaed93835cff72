"""Scores of answers, against the figures of the libraries that everybody compares with."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.capabilities.text.evaluation.scores import chrf, corpus_bleu, is_json, rouge_l, scores, sentence_bleu


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
def test_chrf_is_that_of_popovic(answer: str, reference: str, expected: float) -> None:
    assert chrf(answer, reference) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_a_set_is_counted_over_all_of_it() -> None:
    """By hand: 5 of 6 and 4 of 4 words, 3 of 5 and 3 of 3 pairs, 1 of 4 and 2 of 2 triples, 0 of 3 and 1 of 1 quadruples."""
    pairs = [("the cat sat on the mat", "the cat is on the mat"), ("a small green frog", "a small green frog")]
    precisions = (9 / 10) * (6 / 8) * (3 / 6) * (1 / 4)
    assert corpus_bleu(pairs) == pytest.approx(precisions**0.25)
    assert corpus_bleu([("", "the mat")]) == 0.0
    # Shorter than its reference: the brevity penalty.
    assert corpus_bleu([("a small green frog", "a small green frog today")]) == pytest.approx(math.exp(1 - 5 / 4))


def test_bleu_of_chinese_is_counted_in_characters() -> None:
    assert sentence_bleu("春天的河流很长", "春天的河很长") > 0.4
    assert sentence_bleu("春天的河很长", "春天的河很长") == pytest.approx(1.0)
    assert corpus_bleu([("春天的河流很长", "春天的河很长"), ("a cat", "a cat")]) > 0.4
    assert sentence_bleu("frog", "frog") == pytest.approx(1.0), "no quadruples are asked of one word"


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


@settings(max_examples=40)
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
