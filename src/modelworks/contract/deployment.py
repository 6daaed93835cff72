"""A deployed model as a run sees it: something that can be asked, wherever and by whatever engine it is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """What a deployment said to one chat."""

    model_config = ConfigDict(frozen=True)

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    #: stop, length, tool_calls or content_filter.
    finish_reason: str | None = None
    #: The version that answered; None where a server elsewhere did.
    version_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Vectors(BaseModel):
    """What an encoder made of some texts: one vector for each, in their order."""

    model_config = ConfigDict(frozen=True)

    vectors: list[list[float]]
    #: The version that answered; None where a server elsewhere did.
    version_id: str | None = None


@runtime_checkable
class Deployment(Protocol):
    """A deployment that was given to a run. May be asked from several threads at a time."""

    @property
    def name(self) -> str: ...

    def complete(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **sampling: Any
    ) -> Answer:
        """The answer to a chat, in OpenAI's form; `sampling` holds further fields of such a request (temperature, seed).

        Waits while the deployment loads, is busy or its server restarts, and looks meanwhile whether the run is cancelled.

        Raises:
            InvalidRequest: the request is refused, as one that is longer than the model's context.
            Unavailable: it stayed away for too long; the run is tried again from its last checkpoint.
            Cancelled: the user has asked the run to stop.
        """
        ...

    def embed(self, texts: Sequence[str], *, kind: Literal["query", "document"] = "document") -> Vectors:
        """Vectors of texts, in one request; a text longer than the model reads is cut. Waits and raises as `complete`."""
        ...
