"""What an answer may be in each way that models write calls: every text that a grammar allows is read as its parts."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from modelworks.capabilities.text.form.constraint import GrammarDesk
from modelworks.capabilities.text.form.dialect import dialect_of
from modelworks.capabilities.text.form.parts import Part, PartReader
from modelworks.capabilities.text.form.plan import Plan, Thinking, plan_of
from modelworks.capabilities.text.incremental import Vocabulary, text_builder
from modelworks.capabilities.text.tokenizer import TURN_END, train_tokenizer
from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import AnswerForm, GenerationInput, Message
from modelworks.testing.tiny_data import sentences

#: What tells each template's dialect, and the tokens that such a model has for it.
TEMPLATES = {
    "hermes": ("{{ tools }} <tool_call> {{ messages }}", ()),
    "hermes-tokens": ("{{ tools }} <tool_call> {{ messages }}", ("<tool_call>", "</tool_call>", "<think>", "</think>")),
    "mistral": ('{{ "[TOOL_CALLS][" }}', ("[TOOL_CALLS]",)),
    "mistral-spaced": ('{{ "[TOOL_CALLS] [" }}', ("[TOOL_CALLS]",)),
    "mistral-named": ("[TOOL_CALLS] [ARGS]", ("[TOOL_CALLS]", "[ARGS]")),
    "llama": ('{"name": function name, "parameters": dictionary} Environment: ipython', ()),
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"enum": [1, 2]}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]


class Desk:
    """A vocabulary with one template's tokens."""

    def __init__(self, name: str) -> None:
        template, tokens = TEMPLATES[name]
        texts = [" ".join(sentences(20, seed=1)), '{"name": "weather", "arguments": {"city": ""}} <tool_call></tool_call>' * 4]
        self.tokenizer = train_tokenizer(texts, 380, "", 128)
        self.tokenizer.add_tokens([AddedToken(text, special="[" in text, normalized=False) for text in tokens])
        self.dialect = dialect_of(template)
        self.desk = GrammarDesk(self.tokenizer, len(self.tokenizer))
        self.end = int(self.tokenizer.convert_tokens_to_ids(TURN_END))

    def plan(self, thinking: Thinking = "none", **request: Any) -> Plan:
        given = GenerationInput(messages=[Message(role="user", content="?")], **{"tools": TOOLS, **request})
        return plan_of(given, self.dialect, thinking)

    def walk(self, plan: Plan, seed: int, most: int = 400) -> tuple[list[int], bool]:
        """Tokens drawn by chance among those allowed, and whether the answer is whole."""
        known = self.tokenizer.get_added_vocab()
        vocabulary = self.desk.vocabulary({self.end})
        special = {text: known[text] for text in plan.markers if text in known and vocabulary.is_special_token(known[text])}
        follower = self.desk.follower(plan.grammar(special), {self.end}, "tools")
        chance, ids = random.Random(seed), []
        leading = {self.tokenizer.encode(text, add_special_tokens=False)[0] for text in ('"', "}", "<", "{", *plan.markers)}
        # Chance alone rarely spells a marker.
        aims = [self.tokenizer.encode(text, add_special_tokens=False) for text in plan.markers if "/tool" not in text]
        meant: list[int] = []
        for _ in range(most):
            options = [int(token) for token in np.flatnonzero(follower.allowed(len(self.tokenizer)))]
            liked = [token for token in options if token in leading]
            if not meant and aims and chance.random() < 0.2:
                meant = list(chance.choice(aims))
            if meant and meant[0] in options:
                token = meant.pop(0)
            else:
                meant = []
                token = chance.choice(liked if liked and chance.random() < 0.5 else options)
            if token == self.end or (self.end in options and chance.random() < 0.2):
                return ids, True
            ids.append(token)
            if follower.take(token):
                return ids, True
        return ids, False


@dataclass
class Answer:
    """Parts put together."""

    thought: str = ""
    text: str = ""
    calls: list[list[str]] = field(default_factory=list)

    def take(self, parts: list[Part]) -> None:
        for part in parts:
            if part.kind == "thought":
                self.thought += part.text
            elif part.kind == "text":
                self.text += part.text
            elif part.kind == "name":
                assert part.call == len(self.calls)
                self.calls.append([part.text, ""])
            else:
                self.calls[part.call][1] += part.text


def read(desk: Desk, plan: Plan, ids: list[int]) -> Answer:
    known = desk.tokenizer.get_added_vocab()
    builder = text_builder(Vocabulary(desk.tokenizer), [known[text] for text in plan.markers if text in known])
    reader, answer = PartReader(plan), Answer()
    for token in ids:
        answer.take(reader.push(builder.push(token)))
    answer.take(reader.push(builder.finish()))
    answer.take(reader.finish())
    assert reader.num_calls == len(answer.calls)
    return answer


@pytest.fixture(scope="module", params=list(TEMPLATES))
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(request.param)


def check_calls(answer: Answer) -> None:
    for name, arguments in answer.calls:
        assert name in ("weather", "now")
        given = json.loads(arguments)
        assert set(given) <= ({"city", "days"} if name == "weather" else set())
        assert name == "now" or len(given["city"]) <= 6


def test_a_required_call_is_a_call_and_nothing_else(desk: Desk) -> None:
    plan = desk.plan(tool_choice="required")
    numbers = set()
    for seed in range(8):
        ids, is_whole = desk.walk(plan, seed)
        answer = read(desk, plan, ids)
        assert is_whole
        assert answer.calls
        assert not answer.text
        check_calls(answer)
        numbers.add(len(answer.calls))
    assert desk.dialect is not None
    assert (max(numbers) > 1) == (desk.dialect.between is not None)


def test_a_free_answer_is_text_or_calls_or_one_after_the_other(desk: Desk) -> None:
    plan = desk.plan()
    kinds: set[str | bool] = set()
    for seed in range(16):
        ids, is_whole = desk.walk(plan, seed, 150)
        answer = read(desk, plan, ids)
        if is_whole:
            check_calls(answer)
        kinds |= {bool(answer.text.strip()) and "text", bool(answer.calls) and "calls"}
        if desk.dialect is not None and desk.dialect.opens:
            assert desk.dialect.opens not in answer.text
    assert {"text", "calls"} <= kinds


def test_one_call_where_several_are_not_wanted(desk: Desk) -> None:
    plan = desk.plan(tool_choice="required", parallel_tool_calls=False, callable_tools=["now"])
    for seed in range(4):
        ids, is_whole = desk.walk(plan, seed)
        assert is_whole
        assert read(desk, plan, ids).calls == [["now", "{}"]]


@pytest.mark.parametrize("thinking", ["open", "possible"])
def test_thoughts_come_first_and_stay_apart(desk: Desk, thinking: Thinking) -> None:
    plan = desk.plan(thinking, tool_choice="required", callable_tools=["now"], parallel_tool_calls=False)
    num_thoughts = 0
    for seed in range(14):
        ids, is_whole = desk.walk(plan, seed, 250)
        if is_whole:
            answer = read(desk, plan, ids)
            assert (answer.calls, answer.text) == ([["now", "{}"]], "")
            assert "</think>" not in answer.thought
            num_thoughts += bool(answer.thought)
    assert num_thoughts
    form = desk.plan(thinking, tools=None, answer_form=AnswerForm(json_schema={"enum": ["a", "b"]}))
    for seed in range(6):
        ids, is_whole = desk.walk(form, seed, 250)
        if is_whole:
            assert read(desk, form, ids).text in ('"a"', '"b"')


def test_json_or_calls_where_both_are_asked_for() -> None:
    for name in ("hermes", "mistral"):
        desk = Desk(name)
        plan = desk.plan(answer_form=AnswerForm(json_schema={"enum": ["yes"]}))
        found = set()
        for seed in range(16):
            ids, is_whole = desk.walk(plan, seed)
            answer = read(desk, plan, ids)
            assert is_whole
            check_calls(answer)
            found.add((answer.text, bool(answer.calls)))
        assert found == {('"yes"', False), ("", True)}
    with pytest.raises(UnsupportedParameter) as caught:
        Desk("llama").plan(answer_form=AnswerForm(json_schema={}))
    assert caught.value.param == "response_format"


def test_the_parts_do_not_depend_on_how_the_text_is_cut() -> None:
    hermes = Desk("hermes")
    text = (
        "\n<think>\nShall I? 1 < 2.\n</think>\n\nLet me  see. \n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "}\\"{"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )
    plan = hermes.plan("possible")
    expected = Answer("Shall I? 1 < 2.", "Let me  see.", [["weather", '{"city": "}\\"{"}'], ["now", "{}"]])
    for size in range(1, len(text) + 1):
        reader, answer = PartReader(plan), Answer()
        for start in range(0, len(text), size):
            answer.take(reader.push(text[start : start + size]))
        answer.take(reader.finish())
        assert answer == expected
    # Cut anywhere, what is there is told: nothing is given out that is taken back later.
    for end in range(len(text)):
        reader, answer = PartReader(plan), Answer()
        answer.take(reader.push(text[:end]))
        answer.take(reader.finish())
        assert (expected.thought + "\n</think>").startswith(answer.thought)
        assert [name for name, _ in answer.calls] == ["weather", "now"][: len(answer.calls)]


def test_tools_that_cannot_be_kept_are_refused_with_their_place() -> None:
    desk = Desk("hermes")

    def tool(**function: Any) -> list[dict[str, Any]]:
        return [TOOLS[1], {"type": "function", "function": {"name": "f", **function}}]

    for tools, place in [
        (tool(parameters={"type": "object", "properties": {"x": {"not": {}}}}), "parameters.properties.x.not"),
        (tool(parameters={"type": "dict"}), "parameters.type"),
        (tool(parameters={"properties": {"x": {"format": "iban"}}}, strict=True), "parameters.properties.x.format"),
        (tool(name="a b"), "name"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            desk.plan(tools=tools)
        assert caught.value.param == f"tools.1.function.{place}"
    with pytest.raises(UnsupportedParameter, match="not known here"):
        plan_of(GenerationInput(messages=[Message(role="user", content="?")], tools=TOOLS), None, "none")
