"""Text from tokens as they arrive."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.text.incremental import StopFilter, Vocabulary, text_builder
from modelworks.capabilities.text.tokenizer import load_tokenizer, train_tokenizer
from modelworks.contract import LocalModel
from modelworks.testing.tiny_data import sentences

TOKENIZER = train_tokenizer(sentences(100) + sentences(100, language="zh"), 400, "", 128)
VOCABULARY = Vocabulary(TOKENIZER)


def streamed(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    builder = text_builder(vocabulary)
    return [*(builder.push(token) for token in ids), builder.finish()]


@given(st.lists(st.integers(0, VOCABULARY.size - 1), max_size=40))
def test_pieces_join_to_the_whole_for_any_tokens(ids: list[int]) -> None:
    assert "".join(streamed(VOCABULARY, ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.text(alphabet="aé世界😀 \n"))
def test_characters_are_never_split(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = streamed(VOCABULARY, ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert b"".join(VOCABULARY.token_bytes(token) for token in ids) == text.encode()


def test_half_a_character_at_the_end_shows_as_a_replacement() -> None:
    ids = TOKENIZER("龘", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert streamed(VOCABULARY, ids[:-1])[-1] == "\ufffd"


def test_special_tokens_are_not_shown() -> None:
    assert "".join(streamed(VOCABULARY, [*TOKENIZER("a")["input_ids"], 2, *TOKENIZER("b")["input_ids"]])) == "ab"


@pytest.mark.parametrize("text", ["Once upon a time, there was", "  two  spaces", "naïve 世界 😀!"])
def test_tokenizers_that_are_not_byte_level_stream_the_same(stories: LocalModel, text: str) -> None:
    tokenizer = load_tokenizer(Path(stories.path))
    vocabulary = Vocabulary(tokenizer)
    assert not vocabulary.is_byte_level
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = streamed(vocabulary, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text(alphabet="ab", max_size=30), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3), st.data())
def test_nothing_of_a_stop_string_gets_out_however_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    stop_filter, shown, rest = StopFilter(stops), "", text
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        shown += stop_filter.push(rest[:cut])
        rest = rest[cut:]
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        assert text.startswith(shown)
        assert not ends or len(shown) <= min(ends)
    shown += stop_filter.finish()
    if not found:
        assert shown == text
        assert not stop_filter.stopped
    else:
        assert stop_filter.stopped
        assert not any(stop in shown for stop in stops)


def test_the_first_stop_string_cuts_and_a_beginning_of_one_is_given_back() -> None:
    stop_filter = StopFilter(["END"])
    assert [stop_filter.push(piece) for piece in ("one E", "N", "ough E", "ND more")] == ["one ", "", "ENough ", ""]
    assert stop_filter.finish() == ""
    assert stop_filter.stopped
    assert stop_filter.met == "END"
    held = StopFilter(["END"])
    assert held.push("so EN") == "so "
    assert held.finish() == "EN"
    assert held.met is None
