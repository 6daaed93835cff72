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
    assert (status, answer["error"]["param"]) == (400, "tools.0.format"), answer
