"""Source code with its middle at the end, and the template with tools."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from modelworks.capabilities.text.data import Document
from modelworks.capabilities.text.fill_in_middle import (
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    FIM_TOKENS,
    GapMarks,
    gaps,
    is_code,
)
from modelworks.capabilities.text.packing import write_tokens
from modelworks.capabilities.text.prompt import PromptEncoder
from modelworks.capabilities.text.tokenizer import encode_plain, train_tokenizer
from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import GenerationInput
from modelworks.testing.tiny_data import sentences

CODE = "".join(f"def f{number}(x):\n    y = x + {number}\n    return y * {number}\n\n\n" for number in range(40))
DOCUMENT = Document("lib/code.py", CODE)
TOKENIZER = train_tokenizer([CODE, *sentences(50)], 500, "", 128, more_tokens=FIM_TOKENS, tools=True)


def test_pieces_put_together_are_the_document() -> None:
    found = list(gaps(DOCUMENT, 64, random.Random(1)))
    assert "".join(gap.prefix + gap.middle + gap.suffix for gap in found) == CODE
    assert len(found) > 10
    assert all(gap.middle for gap in found)
    assert any(gap.prefix.endswith("\n") for gap in found)
    assert any(gap.prefix and not gap.prefix.endswith("\n") for gap in found)


def test_a_gap_is_asked_for_as_it_was_trained() -> None:
    encoder = PromptEncoder(TOKENIZER, len(TOKENIZER))
    before, behind = "def f(x):\n    ", "\n    return y  # <|fim_middle|>"
    ids = encoder.encode(GenerationInput(prompt=before, suffix=behind))
    prefix, suffix = encode_plain(TOKENIZER, [before, behind])
    marks = [TOKENIZER.convert_tokens_to_ids(token) for token in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
    assert ids == [marks[0], *prefix, marks[1], *suffix, marks[2]]
    assert encoder.encode(GenerationInput(prompt_ids=prefix, suffix=behind)) == ids
    assert encoder.encode(GenerationInput(prompt="", suffix=behind)) == [marks[0], marks[1], *suffix, marks[2]]
    with pytest.raises(InvalidRequest, match="token id"):
        encoder.encode(GenerationInput(prompt_ids=[10_000], suffix=behind))
    assert encoder.gap_marks is not None
    assert encoder.gap_marks.ids == set(marks)


@pytest.mark.parametrize(
    ("tokens", "order"),
    [
        (("<fim_prefix>", "<fim_middle>", "<fim_suffix>"), ("<fim_prefix>", "A", "<fim_suffix>", "B", "<fim_middle>")),
        (("▁<SUF>", "▁<PRE>", "▁<MID>"), ("▁<PRE>", "A", "▁<SUF>", "B", "▁<MID>")),
        (
            ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            ("<｜fim▁begin｜>", "A", "<｜fim▁hole｜>", "B", "<｜fim▁end｜>"),
        ),
        (("[PREFIX]", "[SUFFIX]"), ("[SUFFIX]", "B", "[PREFIX]", "A")),
        (("<fim_prefix>", "<fim_suffix>"), None),
    ],
)
def test_each_family_is_asked_in_its_own_order(tokens: tuple[str, ...], order: tuple[str, ...] | None) -> None:
    vocabulary = {"A": 0, "B": 1} | {token: number for number, token in enumerate(tokens, start=2)}
    marks = GapMarks.of(vocabulary)
    assert (None if marks is None else marks.around([0], [1])) == (order and [vocabulary[each] for each in order])


def test_a_model_without_such_tokens_refuses() -> None:
    plain = train_tokenizer(sentences(50), 400, "", 128)
    with pytest.raises(UnsupportedParameter) as caught:
        PromptEncoder(plain, 400).encode(GenerationInput(prompt="a", suffix="b"))
    assert caught.value.param == "suffix"


def test_code_is_told_by_its_name() -> None:
    assert is_code(DOCUMENT)
    assert is_code(Document("a.py.gz", "x"))
    assert not is_code(Document("data.jsonl:3", "import x"))


def written(tmp_path: Path, fraction: float) -> list[int]:
    path = tmp_path / f"{fraction}.tokens"
    prose = Document("a.txt", " ".join(sentences(30)))
    number = write_tokens(
        path,
        [DOCUMENT, prose],
        TOKENIZER,
        end_id=0,
        chat_fraction=0.0,
        system_prompt="",
        seed=1,
        fill_in_middle=fraction,
        block_length=64,
    )
    ids = np.fromfile(path, dtype=np.uint32).tolist()
    assert len(ids) == number
    return ids


def test_gaps_are_written_in_the_order_prefix_suffix_middle(tmp_path: Path) -> None:
    prefix, middle, suffix = (TOKENIZER.convert_tokens_to_ids(token) for token in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX))
    ids = written(tmp_path, 1.0)
    starts = [place for place, each in enumerate(ids) if each == prefix]
    assert len(starts) > 10
    for start in starts:
        rest = ids[start:]
        assert rest.index(suffix) < rest.index(middle) < rest.index(0)
    plain = written(tmp_path, 0.0)
    assert not {prefix, middle, suffix} & set(plain)


def test_the_template_writes_tools_calls_and_what_they_answered() -> None:
    function = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    text = TOKENIZER.apply_chat_template(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "2"},
        ],
        tools=[{"type": "function", "function": function}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        '<|im_start|>system\nBe brief.\n\nTools, called as <tool_call>{"name", "arguments"}</tool_call>:\n'
        '{"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}<|im_end|>\n'
        "<|im_start|>user\n1+1<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_tools_the_template_with_a_place_for_them_writes_what_the_plain_one_does() -> None:
    plain = train_tokenizer(sentences(20), 400, "Be brief.", 128)
    other = train_tokenizer(sentences(20), 400, "Be brief.", 128, tools=True)
    for system in ([], [{"role": "system", "content": "Say yes."}]):
        chat = [*system, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
        assert other.apply_chat_template(chat, tokenize=False) == plain.apply_chat_template(chat, tokenize=False)
