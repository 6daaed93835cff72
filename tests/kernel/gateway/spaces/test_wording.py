"""Sentences and what they can be recognised by, in both languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.gateway.spaces.wording import as_number, is_negated, language_of, sentences, stem, terms


def texts(text: str) -> list[str]:
    return [span.text for span in sentences(text)]


def test_a_sentence_ends_where_a_reader_would_end_it() -> None:
    text = (
        "Dr. Smith paid 1,234.50 dollars (U.S.) on 5.1.2020. It was late!  See no. 5 at https://a.example/c?d=1. [1] Next one"
    )
    assert texts(text) == [
        "Dr. Smith paid 1,234.50 dollars (U.S.) on 5.1.2020.",
        "It was late!",
        "See no. 5 at https://a.example/c?d=1. [1]",
        "Next one",
    ]
    assert texts("保修期为24个月。退货须在7天内办理！请联系客服[1]。\n- 第二条") == [
        "保修期为24个月。",
        "退货须在7天内办理！",
        "请联系客服[1]。",
        "- 第二条",
    ]


@given(st.text(alphabet="ab 中文.。!？\n[1]\"'", max_size=60))
def test_sentences_are_pieces_of_the_text_in_order_and_lose_only_space(text: str) -> None:
    spans = sentences(text)
    at = 0
    for span in spans:
        assert text[span.start : span.end] == span.text
        assert not text[at : span.start].strip()
        at = span.end
    assert not text[at:].strip()


def test_numbers_have_one_form_and_units_and_marks_are_none() -> None:
    found = terms("It weighs 1,500.0 kg and 80GB, in 2020-01-05, １２％ of all [3].")
    assert found.numbers == {"1500", "80", "2020", "1", "5", "12"}
    assert as_number("1.2.3") is None
    assert terms("第24条，共3章").numbers == {"24", "3"}


def test_names_are_what_is_written_with_a_capital_inside_of_a_sentence_or_holds_a_figure() -> None:
    found = terms("Yesterday the printer X200 of ACME was sold to Jane Miller.")
    assert found.names == {"x200", stem("acme"), stem("jane"), "miller"}
    assert found.names <= found.words


def test_what_questions_ask_with_is_no_content() -> None:
    assert terms("What is it, and how many of them are there?").are_empty
    assert terms("请问什么是它？").are_empty
    assert terms("保修期是多久？").words == {"保修", "修期"}


@pytest.mark.parametrize(("one", "other"), [("cities", "city"), ("stopped", "stopping"), ("prices", "price"), ("boxes", "box")])
def test_forms_of_a_word_are_one(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_language_and_denial() -> None:
    assert (language_of("保修期 24 months"), language_of("The 保修 period of the printer")) == ("zh", "en")
    assert is_negated("It is not possible.")
    assert is_negated("退货不可超过7天")
    assert not is_negated("Nothing is refused.")
