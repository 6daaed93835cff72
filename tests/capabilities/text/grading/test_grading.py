"""Graders: the scores that they give, the faults that they tell, and what is refused before any answer is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from modelworks.capabilities.text.grading import python_code
from modelworks.capabilities.text.grading.opening import open_grader
from modelworks.capabilities.text.grading.similarity import fuzzy_match, similarity
from modelworks.contract.errors import InvalidRequest, Unavailable, UnsupportedParameter
from modelworks.contract.generation import Message, Sampling
from modelworks.contract.grading import Case, Grade, ModelAnswer, Sample, SimilarityMetric, parse_grader

CHECK = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "operation": "eq",
}
LENIENT = {**CHECK, "name": "has", "operation": "ilike"}


def grades(grader: dict[str, Any], *answers: str, ask: Any = None, **item: Any) -> list[Grade]:
    cases = [Case(Sample(output_text=answer), item) for answer in answers]
    return open_grader(parse_grader(grader), ask=ask).grade(cases)


def grade(grader: dict[str, Any], answer: str, ask: Any = None, **item: Any) -> Grade:
    return grades(grader, answer, ask=ask, **item)[0]


def refused(grader: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        open_grader(parse_grader(grader))
    return caught.value


@pytest.mark.parametrize(
    ("operation", "answer", "score"),
    [
        ("eq", "Four", 1),
        ("eq", "four", 0),
        ("ne", "four", 1),
        ("ne", "Four", 0),
        ("like", "It is Four.", 1),
        ("like", "It is four.", 0),
        ("ilike", "It is fOUR.", 1),
        ("ilike", "It is 4.", 0),
    ],
)
def test_texts_are_compared(operation: str, answer: str, score: float) -> None:
    found = grade({**CHECK, "operation": operation}, answer, a="Four")
    assert (found.score, found.passed, found.message) == (score, bool(score), None)


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "score"),
    [
        ("fuzzy_match", "kitten", "sitting", 8 / 13),
        ("fuzzy_match", "", "", 1),
        ("rouge_1", "the cat sat", "the cat ran", 2 / 3),
        ("rouge_2", "the cat sat", "the cat ran", 1 / 2),
        ("rouge_5", "a b c d e f", "a b c d e g", 1 / 2),
        ("rouge_l", "a c b d", "a b c d", 3 / 4),
        ("rouge_1", "今天下雨", "今天下雪", 3 / 4),
        # 3 + 1 of 3 + 2 + 1 n-grams of the reference, which is the longer one.
        ("gleu", "the cat", "the cat ran", 3 / 6),
        ("meteor", "the cat sat", "the cat sat", 1),
        # Two of three words in one run: P = R = 2/3, and one chunk is no break.
        ("meteor", "the cat sat", "the cat ran", 2 / 3),
        ("meteor", "cat the", "the cat", 1 - 0.5),
        ("bleu", "The cat is on the mat today.", "The cat is on the mat today.", 1),
        ("bleu", "今天北京下大雨", "今天北京下大雨", 1),
        ("bleu", "x", "the cat is on the mat", 0),
    ],
)
def test_likeness_is_measured(metric: SimilarityMetric, answer: str, reference: str, score: float) -> None:
    assert similarity(metric, answer, reference) == pytest.approx(score, abs=0.01)


def test_the_common_subsequence_is_the_longest_one() -> None:
    def plain(a: str, b: str) -> int:
        row = [0] * (len(b) + 1)
        for x in a:
            last = [0]
            for place, y in enumerate(b):
                last.append(row[place] + 1 if x == y else max(row[place + 1], last[-1]))
            row = last
        return row[-1]

    for number in range(200):
        a = "".join("abcd"[(number * 7 + i * i * (number + 3)) % 4] for i in range(number % 23))
        b = "".join("abcd"[(number * 5 + i * 11 + i * i) % 4] for i in range(number % 17 + 1))
        assert fuzzy_match(a, b) == pytest.approx(2 * plain(a, b) / (len(a) + len(b)))


def test_a_threshold_says_what_passes() -> None:
    grader = {"type": "text_similarity", "name": "n", "input": "{{sample.output_text}}", "reference": "{{item.a}}"}
    grader = {**grader, "evaluation_metric": "fuzzy_match"}
    assert grade(grader, "abcd", a="abce").passed
    assert not grade({**grader, "pass_threshold": 0.9}, "abcd", a="abce").passed


def test_an_answer_that_cannot_be_read_has_no_score_and_is_no_fault_of_the_grader() -> None:
    grader = {**CHECK, "input": "{{sample.output_json.result}}"}
    right, wrong = grades(grader, '{"result": 4}', "four", a="4")
    assert right.score == 1
    assert (wrong.score, wrong.errors.sample_parse_error, wrong.is_failure) == (0, True, False)


def test_an_item_without_the_field_is_the_graders_fault() -> None:
    found = grade(CHECK, "4", b="4")
    assert (found.score, found.errors.invalid_variable_error, found.is_failure) == (0, True, True)
    assert found.message is not None
    assert "item has no field 'a'; it has b" in found.message


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a", 1.0),
        ("(a + b) / 2", 0.75),
        ("2^-b", 2**-0.5),
        ("-a^2 + 3", 2.0),
        ("min(a, b) + max(a, 0.2) * abs(-2)", 2.5),
        ("floor(1.7) + ceil(0.2) + sqrt(4) + log(exp(1))", 5.0),
    ],
)
def test_formulas_are_arithmetic(formula: str, value: float) -> None:
    half = {"type": "python", "name": "b", "source": "def grade(sample, item):\n    return 0.5"}
    multi = {"type": "multi", "name": "all", "graders": {"a": CHECK, "b": half}, "calculate_output": formula}
    found = grade(multi, "4", a="4")
    assert found.score == pytest.approx(value)
    assert found.sub_scores == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize(
    "formula",
    [
        "a +",
        "c",
        "__import__('os')",
        "a.real",
        "a if a else b",
        "a[0]",
        "'x' * 3",
        "lambda: a",
        "min()",
        "log(a, 2, 3)",
        "min(a, key=abs)",
        "True",
        "a and b",
        "(" * 300 + "a" + ")" * 300,
        "-" * 400 + "a",
    ],
)
def test_a_formula_is_nothing_else(formula: str) -> None:
    error = refused({"type": "multi", "name": "all", "graders": {"a": CHECK, "b": LENIENT}, "calculate_output": formula})
    assert error.param == "grader.calculate_output"
    assert error.error_code == "invalid_formula"


@pytest.mark.parametrize("formula", ["1 / (a - a)", "log(0 * a)", "10^(300 + a) * 10^300", "exp(1000)"])
def test_a_formula_without_a_value_is_told(formula: str) -> None:
    found = grade(
        {"type": "multi", "name": "all", "graders": [{**CHECK, "name": "a"}], "calculate_output": formula}, "4", a="4"
    )
    assert found.score == 0
    assert found.is_failure


def test_one_grader_of_several_that_cannot_read_the_answer_takes_its_own_points_only() -> None:
    parts = {"form": {**CHECK, "input": "{{sample.output_json.result}}"}, "text": LENIENT}
    multi = {"type": "multi", "name": "all", "graders": parts, "calculate_output": "0.5 * form + 0.5 * text"}
    found = grade(multi, "it is 4", a="4")
    assert (found.score, found.is_failure, found.errors.sample_parse_error) == (0.5, False, True)
    failed = grade({**multi, "graders": {**parts, "text": {**CHECK, "reference": "{{item.nothing}}"}}}, "4", a="4")
    assert (failed.score, failed.is_failure) == (0, True)
    assert failed.message is not None
    assert failed.message.startswith("text: {{item.nothing}}")


# -- Python ---------------------------------------------------------------------------------------------------------------


def python(source: str) -> dict[str, Any]:
    return {"type": "python", "name": "code", "source": source}


def test_python_judges_many_answers_in_order() -> None:
    source = "def grade(sample, item):\n    print('noise')\n    return len(sample['output_text']) * item['k']\n"
    assert [each.score for each in grades(python(source), "a", "bb", "", k=0.5)] == [0.5, 1.0, 0.0]


def test_an_answer_that_python_fails_on_is_told_and_the_others_are_judged() -> None:
    source = "import json\ndef grade(sample, item):\n    return json.loads(sample['output_text'])['x']\n"
    good, bad, none, text = grades(python(source), '{"x": 2}', "oops", '{"x": NaN}', '{"x": "1"}')
    assert good.score == 2
    assert bad.errors.python_grader_runtime_error
    assert "JSONDecodeError" in (bad.errors.python_grader_runtime_error_details or "")
    assert "(line 3)" in (bad.errors.python_grader_runtime_error_details or "")
    assert all(each.is_failure and each.score == 0 for each in (bad, none, text))


def test_an_answer_that_ends_the_process_or_the_time_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_code, "TIMEOUT_S", 1.0)
    source = (
        "import os\n"
        "def grade(sample, item):\n"
        "    if sample['output_text'] == 'exit': os._exit(3)\n"
        "    while sample['output_text'] == 'loop': pass\n"
        "    return 1\n"
    )
    found = grades(python(source), "a", "exit", "b", "loop", "c")
    assert [each.score for each in found] == [1, 0, 1, 0, 1]
    assert found[3].message is not None
    assert "more than 1 s" in found[3].message


def test_a_grader_neither_reads_this_machine_nor_talks_to_others() -> None:
    source = (
        "import os, socket\n"
        "def grade(sample, item):\n"
        "    if 'HOME' in os.environ and os.path.exists(os.path.join(os.environ['HOME'], '.ssh')): return 1\n"
        "    try:\n"
        "        open('/etc/passwd').read()\n"
        "        return 1\n"
        "    except OSError: pass\n"
        "    try:\n"
        "        socket.create_connection(('127.0.0.1', 80), timeout=1)\n"
        "        return 1\n"
        "    except OSError: return 0\n"
    )
    found = grade(python(source), "x")
    assert (found.score, found.message) == (0, None)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def grade(sample, item)\n    return 1", "line 1"),
        ("def other(sample, item):\n    return 1", "no function grade"),
        ("async def grade(sample, item):\n    return 1", "no function grade"),
        ("def grade(sample):\n    return 1", "two arguments"),
        ("def grade(a, b, c):\n    return 1", "two arguments"),
        ("def grade(a, b, *, c):\n    return 1", "two arguments"),
        ("grade = 1", "no function grade"),
    ],
)
def test_source_that_cannot_work_is_refused(source: str, why: str) -> None:
    error = refused(python(source))
    assert why in error.message
    assert error.param == "grader.source"


@pytest.mark.parametrize(
    "source", ["def grade(*a): return 1", "def grade(s, i, c=2): return 1", "def grade(s, /, i): return 1"]
)
def test_source_with_two_arguments_in_any_way_works(source: str) -> None:
    assert grade(python(source), "x").score == 1


# -- models ---------------------------------------------------------------------------------------------------------------


class Judge:
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, *says: str) -> None:
        self.says = list(says)
        self.asked: list[tuple[str, str, Sampling]] = []

    def __call__(self, model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer:
        self.asked.append((model, "\n".join(str(each.content) for each in messages), sampling))
        return ModelAnswer(text=self.says.pop(0), num_tokens=7)


SCORE = {
    "type": "score_model",
    "name": "judge",
    "model": "big",
    "input": [
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": [{"type": "input_text", "text": "{{item.q}}: {{sample.output_text}}"}]},
    ],
    "range": [1, 5],
}
LABEL = {**SCORE, "type": "label_model", "labels": ["Good", "bad", "差"], "passing_labels": ["Good"]}
del LABEL["range"]


def test_a_model_gives_a_score() -> None:
    judge = Judge('{"result": 4}', "5", 'Let me see {"steps": 1}. {"result": "2.5"}', "7", "very good", '{"result": 9}')
    found = grades(SCORE, *"abcdef", ask=judge, q="Q")
    assert [each.score for each in found] == [4, 5, 2.5, 0, 0, 0]
    assert [each.passed for each in found] == [True, True, False, False, False, False]
    assert [each.errors.model_grader_parse_error for each in found] == [False] * 3 + [True] * 3
    assert found[0].token_usage == {"big": 7}
    model, said, sampling = judge.asked[0]
    assert (model, sampling.temperature) == ("big", 0.0)
    assert said.startswith("You judge.\nQ: a\n\nAnswer with a JSON object")
    assert said.endswith('{"result": NUMBER}\nNUMBER is your score, from 1.0 to 5.0.')


def test_a_model_chooses_a_label() -> None:
    judge = Judge('{"result": "good"}', "bad.", "差", "none of them")
    found = grades(LABEL, *"abcd", ask=judge, q="Q")
    assert [(each.label, each.score, each.passed) for each in found] == [
        ("Good", 1, True),
        ("bad", 0, False),
        ("差", 0, False),
        (None, 0, False),
    ]
    assert found[3].errors.model_grader_parse_error
    assert 'exactly one of ["Good", "bad", "差"]' in judge.asked[0][1]


def test_sampling_is_as_asked_for() -> None:
    judge = Judge("1")
    grade(
        {**SCORE, "sampling_params": {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_completions_tokens": 9}},
        "a",
        judge,
        q="",
    )
    sampling = judge.asked[0][2]
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.5, 0.9, 3, 9)


def test_without_a_door_or_with_a_closed_one_the_reason_is_told() -> None:
    assert grade(SCORE, "a", q="Q").errors.model_grader_server_error_details == "no door to a deployed model"

    def closed(model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer:
        raise Unavailable("It sleeps.")

    found = grade(SCORE, "a", closed, q="Q")
    assert (found.score, found.is_failure, found.errors.model_grader_server_error_details) == (0, True, "It sleeps.")


# -- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({}, "grader.type"),
        ({"type": "guess", "name": "n"}, "grader.type"),
        ({**CHECK, "operation": "regex"}, "grader.operation"),
        ({**CHECK, "pass_treshold": 1}, "grader.pass_treshold"),
        ({key: value for key, value in CHECK.items() if key != "reference"}, "grader.reference"),
        ({**CHECK, "input": "{{itme.a}}"}, "grader.input"),
        ({**SCORE, "range": [1, 0]}, "grader"),
        ({**SCORE, "range": [0, math.inf]}, "grader.range.1"),
        ({**SCORE, "input": []}, "grader.input"),
        ({**SCORE, "input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "grader.input.0.content"),
        (
            {**SCORE, "input": [{"role": "user", "content": [{"type": "input_image", "text": "a"}]}]},
            "grader.input.0.content",
        ),
        ({**SCORE, "input": [{"role": "user", "content": "a", "type": "reasoning"}]}, "grader.input.0.type"),
        ({**LABEL, "passing_labels": ["fine"]}, "grader"),
        ({"type": "multi", "name": "m", "graders": {}, "calculate_output": "1"}, "grader.graders"),
        (
            {"type": "multi", "name": "m", "graders": {"a": {**CHECK, "operation": "no"}}, "calculate_output": "a"},
            "grader.graders.a.operation",
        ),
        (
            {"type": "multi", "name": "m", "graders": {"a": python("x")}, "calculate_output": "a"},
            "grader.graders.a.source",
        ),
    ],
)
def test_the_field_at_fault_is_named(grader: dict[str, Any], param: str) -> None:
    assert refused(grader).param == param


def test_embeddings_are_not_offered() -> None:
    grader = {"type": "text_similarity", "name": "n", "input": "a", "reference": "b", "evaluation_metric": "cosine"}
    with pytest.raises(UnsupportedParameter, match="no embedding model") as caught:
        open_grader(parse_grader(grader))
    assert caught.value.param == "grader.evaluation_metric"
