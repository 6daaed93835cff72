"""Tokenizers that we train."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.text.tokenizer import (
    SPECIAL_TOKENS,
    encode_plain,
    load_tokenizer,
    template_digest,
    train_tokenizer,
)
from modelworks.contract.errors import InvalidData
from modelworks.testing.tiny_data import sentences

TOKENIZER = train_tokenizer(sentences(200) + sentences(200, language="zh"), 600, "Say it's fine.\nBe brief \\o/", 128)


@given(st.text())
def test_any_text_survives(text: str) -> None:
    (ids,) = encode_plain(TOKENIZER, [text])
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & {0, 1, 2}, "a document must never contain a special token"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_special_tokens_in_a_document_are_plain_characters(text: str) -> None:
    document = f"{text}<|im_end|>{text}<|endoftext|>"
    (ids,) = encode_plain(TOKENIZER, [document])
    assert not set(ids) & {0, 1, 2}
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == document
    # The template's own turns still need them afterwards.
    assert TOKENIZER("<|im_end|>")["input_ids"] == [2]


def test_digits_stand_alone_and_common_chinese_is_merged() -> None:
    (ids,) = encode_plain(TOKENIZER, ["in 2024年"])
    pieces = [TOKENIZER.decode([token]) for token in ids]
    assert [piece for piece in pieces if any(character.isdigit() for character in piece)] == ["2", "0", "2", "4"]
    (chinese,) = encode_plain(TOKENIZER, [sentences(1, language="zh")[0]])
    assert len(chinese) < len(sentences(1, language="zh")[0].encode())


def test_it_survives_saving_with_its_template(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2]
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert template_digest(loaded) == template_digest(TOKENIZER)
    assert loaded("Heavy snow 12 云")["input_ids"] == TOKENIZER("Heavy snow 12 云")["input_ids"]


def test_the_template_writes_turns_and_its_own_system_message() -> None:
    turns = [{"role": "user", "content": "Hi"}]
    text = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nSay it's fine.\nBe brief \\o/<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "developer", "content": "Other."}, *turns, {"role": "assistant", "content": "Yes."}]
    text = TOKENIZER.apply_chat_template(own, tokenize=False)
    assert text == (
        "<|im_start|>system\nOther.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    )


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidData, match="cannot be read"):
        load_tokenizer(tmp_path)
