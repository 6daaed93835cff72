"""Answers that must have a form, by each engine."""

import asyncio
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.capabilities.text.conftest import NO_END, ask

from modelworks.capabilities.text.serve import Generator
from modelworks.contract.errors import InvalidRequest

CHAT = [{"role": "user", "content": "Hi"}]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["glad", "sad", "雨"]},
        "id": {"type": "string", "pattern": "^[A-C]{2}-\\d{1,2}$"},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "maxItems": 1},
    },
    "required": ["name", "age", "mood", "id", "pets"],
    "$defs": {"pet": {"type": "object", "properties": {"legs": {"type": "integer", "enum": [2, 4]}}, "required": ["legs"]}},
}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"json_schema": schema, "place": "response_format.json_schema.schema"}


async def test_every_whole_answer_validates(generator: Generator) -> None:
    answer = await ask(generator, messages=CHAT, answer_form=form(PERSON), n=6, seed=3, temperature=1.5)
    whole = [reply for reply in answer.replies.values() if reply.finish_reason == "stop"]
    assert len(whole) >= 4
    for reply in whole:
        Draft202012Validator(PERSON).validate(json.loads(reply.text))
    assert len({reply.text for reply in whole}) > 1
    assert answer.usage.completion_tokens == sum(len(reply.token_ids) for reply in answer.replies.values())


async def test_an_answer_that_is_cut_says_so(generator: Generator) -> None:
    reply = (await ask(generator, messages=CHAT, answer_form=form(PERSON), max_tokens=5, temperature=0)).only
    assert reply.finish_reason == "length"
    assert reply.text.startswith('{"name')
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(reply.text)


async def test_an_answer_ends_with_its_last_token(generator: Generator) -> None:
    """No end token is waited for where nothing else could follow, and the length that is just enough is enough."""
    request: dict[str, Any] = {"messages": CHAT, "answer_form": form({"const": "yes"}), "temperature": 0}
    reply = (await ask(generator, **request)).only
    assert (reply.text, reply.finish_reason) == ('"yes"', "stop")
    again = (await ask(generator, **request, max_tokens=len(reply.token_ids))).only
    assert (again.text, again.finish_reason) == ('"yes"', "stop")


async def test_constrained_and_free_answers_at_the_same_time(generator: Generator) -> None:
    free: dict[str, Any] = {"messages": CHAT, "temperature": 0, "max_tokens": 20}
    bound: dict[str, Any] = {"messages": CHAT, "answer_form": form(PERSON), "seed": 5}
    alone = [(await ask(generator, **request)).only.text for request in (free, bound)]
    together = await asyncio.gather(*(ask(generator, **request) for request in (free, bound) * 3))
    assert [answer.only.text for answer in together] == alone * 3


async def test_bias_and_penalties_cannot_break_the_form(generator: Generator) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 6, "maxItems": 6}
    biased = dict.fromkeys(range(3, 60), 100.0)
    request: dict[str, Any] = {"answer_form": form(schema), "frequency_penalty": 2, "logit_bias": biased, "max_tokens": 60}
    reply = (await ask(generator, messages=CHAT, **request)).only
    Draft202012Validator(schema).validate(json.loads(reply.text))
    assert reply.finish_reason == "stop"


async def test_a_schema_that_cannot_be_kept_gets_no_answer(generator: Generator) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(generator, messages=CHAT, answer_form=form({"type": "object", "properties": {"x": {"not": {}}}}))
    assert caught.value.param == "response_format.json_schema.schema.properties.x.not"


async def test_log_probabilities_are_those_of_the_model(generator: Generator) -> None:
    """Of the distribution before the form: a token that the form forced is unlikely all the same."""
    reply = (await ask(generator, messages=CHAT, answer_form=form({"const": "yes"}), logprobs=True, temperature=0)).only
    assert [entry.token_id for entry in reply.logprobs] == reply.token_ids
    assert all(entry.logprob is not None and entry.logprob < -1 for entry in reply.logprobs[:1])


async def test_calls_and_thoughts_by_each_engine(speaking: Generator) -> None:
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"properties": {"zone": {"enum": ["utc", "雨"]}}}}}]
    request: dict[str, Any] = {"messages": CHAT, "tools": tools, "tool_choice": "required", "seed": 2, "max_tokens": 60}
    reply = (await ask(speaking, **request, parallel_tool_calls=False)).only
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert [name for name, _ in reply.calls] == ["now"]
    assert json.loads(reply.calls[0][1]).keys() <= {"zone"}
    cut = (await ask(speaking, **{**request, "max_tokens": len(reply.token_ids) // 2}, parallel_tool_calls=False)).only
    assert cut.finish_reason == "length"
    # The prompt opened the thoughts: they go on until the model ends them, which this one never does by itself.
    opened = await ask(speaking, messages=CHAT, template_args={"think": True}, logit_bias=NO_END, max_tokens=8)
    assert (opened.only.text, opened.usage.reasoning_tokens) == ("", opened.usage.completion_tokens)
    assert opened.only.reasoning


async def test_a_stop_string_is_no_concern_of_calls(speaking: Generator) -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    reply = (
        await ask(speaking, messages=CHAT, tools=tools, tool_choice="required", parallel_tool_calls=False, stop=["now"])
    ).only
    assert (reply.calls, reply.finish_reason) == ([["now", "{}"]], "tool_calls")


async def test_what_must_follow_is_read_and_not_asked_for(transformers: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced tokens are counted and shown like others, end at the limit like others, and cost one pass together."""
    decoder = transformers._engine._decoder  # type: ignore[attr-defined]
    read, passes = decoder.read, []

    def counted(state: Any, token_ids: list[int], position: int) -> Any:
        passes.append(len(token_ids))
        return read(state, token_ids, position)

    monkeypatch.setattr(decoder, "read", counted)
    request: dict[str, Any] = {"messages": CHAT, "answer_form": form({"const": {"name": "the river", "list": [True, None]}})}
    answer = await ask(transformers, **request)
    reply = answer.only
    assert json.loads(reply.text) == {"name": "the river", "list": [True, None]}
    assert answer.usage.completion_tokens == len(reply.token_ids)
    assert len(passes) < len(reply.token_ids) / 2
    cut = (await ask(transformers, **request, max_tokens=len(reply.token_ids) - 2)).only
    assert (cut.finish_reason, cut.token_ids) == ("length", reply.token_ids[:-2])
    passes.clear()
    scored = (await ask(transformers, **request, logprobs=True)).only
    assert len(scored.logprobs) == len(scored.token_ids) == len(passes)
    assert scored.text == reply.text
