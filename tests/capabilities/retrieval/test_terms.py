"""What is counted of a text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.retrieval.terms import plain, terms, units, weighed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Ｒivers, 2026!", ["the", "river", "2026"]),
        ("北京API天", ["北", "京", "北京", "api", "天"]),
        ("read_file", ["read_file", "read", "file"]),
        ("getHTTPAnswer2", ["gethttpanswer2", "get", "http", "answer", "2"]),
        ("MW-1042", ["mw-1042", "mw", "1042"]),
        ("state-of-the-art", ["state", "of", "the", "art"]),
        ("v1.2.3", ["v1.2.3", "v1", "v", "1", "2", "3"]),
        ("C++ and C#.", ["c++", "c", "and", "c#", "c"]),
        ("1,024 of 1024", ["1024", "of", "1024"]),
        ("Cafés", ["cafe"]),
        ("policies classes status", ["policy", "classe", "status"]),
        ("한국", ["한", "국", "한국"]),
        ("!!! … —", []),
    ],
)
def test_terms_of_words_names_and_characters(text: str, wanted: list[str]) -> None:
    assert terms(text) == wanted


@given(st.text(max_size=200))
def test_terms_are_never_empty_have_no_blanks_and_need_no_form(text: str) -> None:
    found = terms(text)
    assert all(term and not any(each.isspace() for each in term) for term in found)
    assert terms(unicodedata.normalize("NFKC", text)) == found


@given(st.lists(st.text("abcdefgh水泵压力入口", min_size=1, max_size=8), min_size=1, max_size=8), st.data())
def test_a_piece_of_a_text_between_blanks_has_terms_that_the_text_has(words: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first + 1, len(words)))
    assert set(terms(" ".join(words[first:last]))) <= set(terms(" ".join(words)))


@given(
    st.text("水泵压力入口年假", min_size=2, max_size=2), st.text("abc，。水泵", max_size=6), st.text("abc，。水泵", max_size=6)
)
def test_two_characters_are_found_wherever_they_stand(word: str, before: str, after: str) -> None:
    assert word in terms(before + word + after)


def test_phrases_are_compared_by_their_units() -> None:
    assert units(plain("The  INLET-pressure，入口压力")) == ["the", "inlet", "pressure", "入", "口", "压", "力"]


@pytest.mark.parametrize(
    ("query", "whole"),
    [
        ("What is the pressure of the pump?", {"pressure", "pump"}),
        ("How does Apple's revenue compare?", {"apple", "revenue", "compare"}),
        ("who pays the IT costs in the US", {"pay", "it", "cost", "us"}),
        ("WHO PAYS FOR IT", {"pay"}),
        ("vitamin D and plan S", {"vitamin", "d", "plan", "s"}),
        ("年假怎么申请", {"年", "假", "怎", "么", "申", "请", "年假", "假怎", "怎么", "么申", "申请"}),
    ],
)
def test_common_words_of_a_query_count_little_and_names_in_capitals_whole(query: str, whole: set[str]) -> None:
    found = weighed(query)
    assert {term for term, weight in found.items() if weight >= 1} == whole
    assert all(0 < weight < 0.5 for term, weight in found.items() if term not in whole)


def test_what_a_query_says_twice_counts_twice() -> None:
    assert weighed("pump, pump and valve")["pump"] == 2 * weighed("pump, pump and valve")["valve"] == 2
