"""Values of the wrong kind, deep in a request: the caller's fault, told with its place, never the server's."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.gateway.conftest import Stage

WRONG: list[Any] = [["text"], {"type": "text"}, {"": None}, [], 1, True]


@pytest.mark.parametrize("kind", WRONG, ids=str)
async def test_an_item_whose_type_is_no_text_is_refused(stage: Stage, kind: Any) -> None:
    item = {"type": kind, "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    for path, body, place in (
        ("/v1/conversations", {"items": [item]}, "items.0"),
        ("/v1/responses", {"model": "tiny", "input": [item]}, "input.0"),
    ):
        status, answer, _ = await stage.post(path, body)
        assert (status, answer["error"]["param"]) == (400, place), answer


@pytest.mark.parametrize("form", [["text"], "text", 1, {"type": ["text"]}, {"type": "grammar"}], ids=str)
async def test_a_custom_tool_with_a_form_that_is_none_is_refused(stage: Stage, form: Any) -> None:
    tool = {"type": "custom", "name": "say", "format": form}
    status, answer, _ = await stage.post("/v1/responses", {"model": "tiny", "input": "Hi", "tools": [tool]})
    where = "tools.0.format.type" if form == {"type": ["text"]} else "tools.0.format"
    assert (status, answer["error"]["param"]) == (400, where), answer


ITEMS: list[tuple[dict[str, Any], str]] = [
    ({"type": "function_call", "call_id": "c", "name": "act", "arguments": "{}", "namespace": "n", "async": True}, ""),
    ({"type": "function_call", "call_id": "c", "name": "act", "arguments": "{}", "caller": {"type": "direct"}}, ""),
    ({"type": "function_call_output", "call_id": "c", "output": "1", "name": "act", "namespace": "n"}, ""),
    ({"role": "assistant", "content": "a", "phase": "commentary"}, ""),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}], "encrypted_content": "xyz"}, ""),
    ({"role": "user", "content": [{"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}]}, ""),
    ({"type": "function_call", "call_id": "c", "name": "act", "arguments": "{}", "async": "yes"}, "async"),
    ({"type": "function_call", "call_id": "c", "name": "act", "arguments": "{}", "caller": {"type": 1}}, "caller.type"),
    ({"type": "reasoning", "summary": [{"type": "text", "text": "a"}]}, "summary.0.type"),
    ({"type": "reasoning", "summary": [], "encrypted_content": 1}, "encrypted_content"),
    ({"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}", "output": 1}, "output"),
    ({"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}", "error": {"type": "none"}}, "error.type"),
    ({"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": 1}]}, "tools.0.name"),
    ({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}, "content.0.file_id"),
]


async def test_what_an_item_says_to_its_caller_is_kept_and_shown_again(stage: Stage) -> None:
    for item, wrong in ITEMS:
        status, answer, _ = await stage.post("/v1/conversations", {"items": [item]})
        if wrong:
            assert (status, answer["error"]["param"]) == (400, f"items.0.{wrong}"), answer
            continue
        shown = await stage.client.conversations.items.list(answer["id"])
        kept = shown.data[0].to_dict()
        given = {**item, "content": kept["content"]} if isinstance(item.get("content"), str) else item
        assert {name: kept.get(name) for name in given} == given


CITED: dict[str, Any] = {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 3}
ENTRY: dict[str, Any] = {"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}


BESIDE: list[tuple[str, Any, str]] = [
    ("annotations", [CITED], ""),
    ("logprobs", [ENTRY], ""),
    ("annotations", [{**CITED, "index": "3"}], "annotations.0.index"),
    ("annotations", [{**CITED, "type": "none"}], "annotations.0.type"),
    ("logprobs", [{**ENTRY, "logprob": "low"}], "logprobs.0.logprob"),
]


async def test_what_stood_beside_an_earlier_text_is_kept(stage: Stage) -> None:
    for field, value, wrong in BESIDE:
        part = {"type": "output_text", "text": "a", field: value}
        status, answer, _ = await stage.post("/v1/conversations", {"items": [{"role": "assistant", "content": [part]}]})
        if wrong:
            assert (status, answer["error"]["param"]) == (400, f"items.0.content.0.{wrong}"), answer
            continue
        shown = await stage.client.conversations.items.list(answer["id"])
        assert shown.data[0].to_dict()["content"][0][field] == value  # type: ignore[index]


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"defer_loading": True}, "tools.0.defer_loading"),
    ({"async": True}, "tools.0.async"),
    ({"allowed_callers": ["programmatic"]}, "tools.0.allowed_callers"),
    ({"allowed_callers": ["nobody"]}, "tools.0.allowed_callers.0"),
    ({"description": 1}, "tools.0.description"),
    ({"output_schema": "text"}, "tools.0.output_schema"),
]


async def test_a_tool_that_asks_for_what_is_not_done_is_refused(stage: Stage) -> None:
    tool = {"type": "function", "name": "act", "parameters": {"type": "object"}, "strict": False}
    asked = {"model": "tiny", "input": "Hi"}
    for more, place in FIELDS:
        status, answer, _ = await stage.post("/v1/responses", {**asked, "tools": [{**tool, **more}]})
        assert (status, answer["error"]["param"]) == (400, place), answer
    taken = {**tool, "defer_loading": False, "output_schema": {}}
    status, answer, _ = await stage.post("/v1/responses", {**asked, "tools": [taken]})
    assert (status, answer["tools"][0]["output_schema"]) == (200, {}), answer
    status, answer, _ = await stage.post("/v1/responses", {**asked, "tool_choice": {"type": "mcp", "server_label": 1}})
    assert (status, answer["error"]["param"]) == (400, "tool_choice.server_label"), answer


async def test_a_response_shows_what_it_was_asked_for_and_the_tier_that_did_the_work(stage: Stage) -> None:
    cache = {"mode": "implicit", "ttl": "30m", "comparison_response_id": "resp_0"}
    asked = {"model": "tiny", "input": "Hi", "prompt_cache_options": cache, "prompt_cache_retention": "24h"}
    thinking = {"effort": "low", "context": "auto", "mode": "standard"}
    _, answer, _ = await stage.post("/v1/responses", {**asked, "reasoning": thinking, "service_tier": "priority"})
    assert (answer["prompt_cache_options"], answer["prompt_cache_retention"]) == (cache, "24h")
    assert answer["prompt_cache_diagnostics"] == {"type": "unavailable"}
    assert answer["reasoning"] == {"summary": None, **thinking}
    assert answer["service_tier"] == "default"


async def test_a_page_of_items_names_only_what_can_be_included(stage: Stage) -> None:
    made = await stage.client.conversations.create(items=[{"role": "user", "content": "Hi", "type": "message"}])
    page = await stage.client.conversations.items.list(made.id, include=["message.output_text.logprobs"])
    assert len(page.data) == 1
    async with stage.http.get(
        f"{stage.url}/v1/conversations/{made.id}/items?include=none", headers={"authorization": f"Bearer {stage.secret}"}
    ) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "include.0")


async def test_what_a_model_cannot_read_of_an_output_is_named_as_the_output(stage: Stage) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "act", "arguments": "{}"}
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    given = [call, {"type": "function_call_output", "call_id": "c", "output": [image]}]
    status, answer, _ = await stage.post("/v1/responses", {"model": "tiny", "input": given})
    assert (status, answer["error"]["param"]) == (400, "input.1.output.0"), answer
