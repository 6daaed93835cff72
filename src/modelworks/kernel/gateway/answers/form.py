"""What all answers share, and how a route says which it gives."""

from __future__ import annotations

from typing import Any, Final, Generic, Literal, TypeVar

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


#: Under which status FastAPI is told of the events of a stream, so that their schemas get names; see `document.complete`.
EVENTS: Final = "2XX"


def gives_events(model: Any, event: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `model`, or with a stream of events where `stream` is true."""
    said = "The answer; a stream of server-sent events where `stream` is true. Each event's data is a "
    return {
        200: {"model": model, "description": f"{said}`{event.__name__}`.", "content": {"text/event-stream": {"schema": {}}}},
        EVENTS: {"model": event, "description": "An event."},
    }
