"""Conversations as rows of ids: what is trained is what is served, and nothing else is learnt from."""

import os
from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.tokenizer import chat_template, train_tokenizer
from modelworks.capabilities.text.training.rows import Row, conversation_rows, pack, within
from modelworks.contract.errors import InvalidData
from modelworks.contract.generation import GenerationInput
from modelworks.testing.tiny_data import sentences

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
#: Like templates of reasoning models: what an answer was preceded by is shown in the last turn only.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.last %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def format_with(template: str = chat_template("Be kind.")) -> PromptFormat:
    tokenizer = train_tokenizer(sentences(60), 400, "", 128)
    tokenizer.chat_template = template
    return PromptFormat(tokenizer, None, "", stop_ids=(0, 2), vocab_size=448)


FORMAT = format_with()


def turns(*said: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text, **(more if role == "assistant" else {})} for role, text in said]


TWO = turns(("user", "Rain?"), ("assistant", "No <|im_end|> 雨."), ("user", "Snow?"), ("assistant", "Yes."))


def learnt(row: Row) -> str:
    return str(FORMAT.tokenizer.decode([token for token, weight in zip(row.ids, row.weights, strict=True) if weight]))


def test_a_row_holds_the_ids_that_serving_reads_and_those_that_it_should_write() -> None:
    (row,) = conversation_rows(FORMAT, TWO, None, [0, 1, 0, 1], "f, line 1")
    for asked in (1, 3):
        served = FORMAT.encoder.encode(GenerationInput.model_validate({"messages": TWO[:asked]}))
        assert list(row.ids[: len(served)]) == served
        assert row.weights[len(served)] == 1
        assert row.weights[len(served) - 1] == 0
    assert learnt(row) == "No <|im_end|> 雨.<|im_end|>Yes.<|im_end|>"
    # The mention in the answer is text; only the template ends turns.
    assert row.ids.count(2) == 5
    assert row.ids[-1] == 2


def test_weights_are_those_of_the_messages() -> None:
    (row,) = conversation_rows(FORMAT, TWO, None, [1, 0, 1, 0.5], "f, line 1")
    assert learnt(row) == "Yes.<|im_end|>"
    assert set(row.weights) == {0, 0.5}
    assert conversation_rows(FORMAT, TWO, None, [0, 0, 0, 0], "f, line 1") == []
    (row,) = conversation_rows(FORMAT, TWO, None, [0, 1, 0, 0], "f, line 1")
    assert row.ids[-1] == 2
    assert "Snow" not in FORMAT.tokenizer.decode(row.ids)


def test_a_template_that_forgets_gets_a_row_for_each_answer() -> None:
    forgetful = format_with(FORGETFUL)
    talk = turns(("user", "Rain?"), ("assistant", "No."), ("user", "Snow?"), ("assistant", "Yes."), reasoning_content="Hm.")
    rows = conversation_rows(forgetful, talk, None, [0, 1, 0, 1], "f, line 1")
    assert [learnt(row) for row in rows] == ["<think>Hm.</think>No.<|im_end|>", "<think>Hm.</think>Yes.<|im_end|>"]
    for row, asked in zip(rows, (1, 3), strict=True):
        served = forgetful.encoder.encode(GenerationInput.model_validate({"messages": talk[:asked]}))
        assert list(row.ids[: len(served)]) == served


@pytest.mark.parametrize("name", ["qwen2.5-hf", "minimind"])
def test_templates_of_real_models_with_tools_are_trained_as_they_are_served(name: str) -> None:
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared")
    folder = shared / "assets" / "tokenizer" / name
    if not folder.is_dir():
        pytest.skip(f"the shared tokenizer {name} is not on this machine (MODELWORKS_SHARED names its folder)")
    real = PromptFormat.of(folder).for_training()
    tools = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {}}}}]
    call = {"id": "1", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Oslo"}'}}
    talk = [
        *turns(("user", "Rain in Oslo?")),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"mm": 3}', "tool_call_id": "1"},
        *turns(("assistant", "3 mm."), ("user", "谢谢"), ("assistant", "不客气")),
    ]
    (row,) = conversation_rows(real, talk, tools, [0, 1, 0, 1, 0, 1], "f, line 1")
    for asked in (1, 3, 5):
        served = real.encoder.encode(GenerationInput.model_validate({"messages": talk[:asked], "tools": tools}))
        assert list(row.ids[: len(served)]) == served
    written = real.tokenizer.decode([token for token, weight in zip(row.ids, row.weights, strict=True) if weight])
    end = real.tokenizer.decode(list(real.stop_ids))
    call_text = '<tool_call>\n{"name": "rain", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert written.strip() == f"{call_text}{end}3 mm.{end}不客气{end}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}>>{% endif %}", "in another way"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "no id at which an engine stops"),
    ],
)
def test_what_a_template_cannot_say_is_named_with_file_and_line(template: str, said: str) -> None:
    with pytest.raises(InvalidData, match=rf"^f, line 3: .*{said}"):
        conversation_rows(format_with(template), TWO, None, [0, 1, 0, 1], "f, line 3")


def test_long_rows_are_left_out_and_counted() -> None:
    rows = [("f, line 1", Row((1, 2), (0, 1))), ("f, line 2", Row((1, 2, 3), (0, 0, 1)))]
    assert within(iter(rows), 3) == ([row for _, row in rows], 0)
    assert within(iter(rows), 2) == ([rows[0][1]], 1)
    with pytest.raises(InvalidData, match="longer than 1 tokens; the longest, f, line 2, has 3"):
        within(iter(rows), 1)
    with pytest.raises(InvalidData, match="no answer to learn from"):
        within(iter(()), 8)


def test_rows_fill_bins_in_a_fixed_order() -> None:
    rows = [Row((0,) * size, (1,) * size) for size in (5, 4, 6, 3, 2)]
    assert pack(rows, 9, range(5)) == [[0, 1], [2, 3], [4]]
    assert pack(rows, 9, [4, 3, 2, 1, 0]) == [[4, 3, 1], [2], [0]]
    many = [Row((0,) * 6, (1,) * 6)] * 200
    assert sorted(index for filled in pack(many, 9, range(200)) for index in filled) == list(range(200))
