"""What all answers share, and how a route says which it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Thing = TypeVar("Thing")


class Answer(BaseModel):
    """An object of an answer. Servers elsewhere may put more into theirs, which is passed on."""

    model_config = ConfigDict(strict=True)


class Page(Answer, Generic[Thing]):
    """A page of a list; `last_id` is the `after` of the next one."""

    object: Literal["list"]
    data: list[Thing]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


def gives(model: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `model`."""
    return {status: {"model": model, "description": "The answer."}}


def gives_events(model: Any, events: Sequence[type[BaseModel]] = ()) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `model`, or with a stream of events where `stream` is true."""
    said = "The answer; a stream of server-sent events where `stream` is true."
    if events:
        said += f" Each event's data is a {' or a '.join(f'`{each.__name__}`' for each in events)}."
    return {200: {"model": model, "description": said, "content": {"text/event-stream": {"schema": {}}}}}
