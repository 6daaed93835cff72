"""`space:NAME` as a model: a chat that is answered from a data space, in OpenAI's form, whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import UnsupportedParameter
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.dataspace import DataspaceService, Space
from modelworks.kernel.dataspace.answers import AnswerNote, CitedPassage
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.generation.language import wants_usage
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.schemas import ChatRequest, ModelObject
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.spaces import tabling
from modelworks.kernel.gateway.spaces.answering import Asked, Outcome, SpaceAnswer
from modelworks.kernel.gateway.spaces.citing import Citation
from modelworks.kernel.gateway.spaces.cleaning import SpaceCleaning
from modelworks.kernel.gateway.spaces.learning import SpaceLearning
from modelworks.kernel.gateway.spaces.search import PREFIX, SEARCH_TASK, SpaceSearch
from modelworks.kernel.gateway.spaces.tables import SpaceTables
from modelworks.kernel.gateway.stream import DONE, Outlet

#: Spaces of one page of the list of models.
_PAGE: Final = 100


class SpaceCall:
    """One request to /v1/chat/completions whose model is a space; see `ChatCall`.

    Raises (on construction):
        InvalidRequest: as `Asked.of`.
    """

    def __init__(self, search: SpaceSearch, principal: Principal, meter: Meter, body: Mapping[str, Any]) -> None:
        self.stream = bool(body.get("stream"))
        self._include_usage = wants_usage(dict(body))
        self._meter = meter
        self._created = search.gateway.now_s()
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise from_validation(error) from error
        self._principal = principal
        self._spaces = search.spaces
        self._answer = SpaceAnswer(search, principal, meter, Asked.of(body, request))
        self._id = new_id("chatcmpl")

    async def whole(self) -> bytes:
        """The answer in one piece; raises as `SpaceAnswer.tell`."""

        async def pass_over(_text: str) -> None:
            return None

        outcome = await self._answer.tell(pass_over)
        self._note(outcome)
        message = {
            "role": "assistant",
            "content": outcome.told.text,
            "refusal": None,
            "annotations": [_nested(each) for each in outcome.citations],
            "grounding": outcome.grounding(),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return orjson.dumps({**self._head("chat.completion"), "choices": [choice], "usage": outcome.usage()})

    async def stream_to(self, out: Outlet) -> bytes:
        """The answer in pieces, its citations after the text; returns the last event."""
        out.comment = b": keep-alive\n\n"
        greeted = False

        async def say(text: str) -> None:
            nonlocal greeted
            greeting = b"" if greeted else self._event({"role": "assistant", "content": "", "refusal": None})
            greeted = True
            await out.send(greeting + self._event({"content": text}))

        outcome = await self._answer.tell(say)
        self._note(outcome)
        annotations = [_nested(each) for each in outcome.citations]
        last = self._event({"annotations": annotations, "grounding": outcome.grounding()}) + self._event({}, finish="stop")
        return last + self._usage_event(outcome) + DONE

    async def num_prompt_tokens(self) -> int:
        """Always refused: what the model reads is known when the space has been searched.

        Raises:
            UnsupportedParameter: always.
        """
        raise UnsupportedParameter(
            "model: what a data space has its model read is not known before the search.",
            hint="Count for the language model itself.",
            param="model",
        )

    def _note(self, outcome: Outcome) -> None:
        """Have it noted what the answer rests on; nobody waits for that."""
        self._spaces.answers.note(note_of(self._id, outcome, self._principal, self._meter))

    def _head(self, kind: str) -> dict[str, Any]:
        route = self._meter.route
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._meter.model,
            # What answers depend on beside the request: the version of the index.
            "system_fingerprint": None if route is None else route.version_id,
        }

    def _event(self, delta: Mapping[str, Any], *, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def _usage_event(self, outcome: Outcome) -> bytes:
        if not self._include_usage:
            return b""
        body = {**self._head("chat.completion.chunk"), "choices": [], "usage": outcome.usage()}
        return b"data: " + orjson.dumps(body) + b"\n\n"


def note_of(answer_id: str, outcome: Outcome, principal: Principal, meter: Meter) -> AnswerNote:
    """What an answer rests on, as it is noted under its id."""
    space, route = outcome.space, meter.route
    cited = {each.found.passage.id: each.found for each in outcome.citations}
    by_model = outcome.status == "answered" or (outcome.table is not None and outcome.table.by != "rules")
    return AnswerNote(
        id=answer_id,
        space_id=space.id,
        project_id=principal.project_id,
        key_id=principal.key_id,
        user_id=principal.user_id,
        request_id=meter.request_id,
        status=outcome.status,
        index_version_id=space.index_version_id if route is None else route.version_id,
        model=space.settings.language_model if by_model else None,
        model_version_id=outcome.model_version_id if by_model else None,
        keep_days=space.settings.answering.keep_days,
        computed=None if outcome.table is None else tabling.noted(outcome.table),
        passages=tuple(
            CitedPassage(passage_id, found.document.id, found.document.digest, found.document.version)
            for passage_id, found in cited.items()
        ),
    )


def _nested(citation: Citation) -> dict[str, Any]:
    """An annotation as chats have them: its content lies in a field of its type's name."""
    flat = citation.annotation()
    kind = flat.pop("type")
    return {"type": kind, kind: flat}


@dataclass(frozen=True, slots=True)
class SpaceDoor:
    """The data spaces behind `GatewayService.spaces`.

    `learning` and `cleaning` where there is what moves their builds, `tables` where tables are asked.
    """

    spaces: DataspaceService
    learning: SpaceLearning | None = None
    cleaning: SpaceCleaning | None = None
    tables: SpaceTables | None = None

    def search(self, gateway: GatewayService) -> SpaceSearch:
        """Searches on behalf of a gateway."""
        return SpaceSearch(gateway, self.spaces, self.tables)

    def is_space(self, model: str) -> bool:
        """Whether a model's name is that of a space."""
        return model.startswith(PREFIX)

    def call(self, gateway: GatewayService, principal: Principal, meter: Meter, body: Mapping[str, Any]) -> SpaceCall:
        """One chat with a space."""
        return SpaceCall(self.search(gateway), principal, meter, body)

    async def models(self, principal: Principal) -> Sequence[ModelObject]:
        """The spaces that the caller may ask, as models."""

        def read() -> list[ModelObject]:
            found: list[ModelObject] = []
            after: str | None = None
            with self.spaces.db.reading() as session:
                while True:
                    page = self.spaces.list(session, principal.project_id, after=after, limit=_PAGE, order="asc")
                    found += [as_model(space) for space in page.data if _may_use(principal, space)]
                    if not page.has_more:
                        return found
                    after = page.last_id

        return await run_in_threadpool(read)

    async def model(self, gateway: GatewayService, principal: Principal, name: str) -> ModelObject:
        """One space as a model under the name that the caller used; raises NotFound, PermissionDenied."""
        space = await self.search(gateway).opened(principal, name.removeprefix(PREFIX))
        return as_model(space).model_copy(update={"id": name})


def as_model(space: Space) -> ModelObject:
    """OpenAI's model object of a space."""
    return ModelObject(
        id=PREFIX + space.name,
        created=int(space.created_at.timestamp()),
        owned_by="modelworks",
        root=space.settings.language_model,
        task=SEARCH_TASK if space.settings.language_model is None else "text-generation",
        state="ready" if space.index_version_id is not None and space.state != "expired" else "stopped",
    )


def _may_use(principal: Principal, space: Space) -> bool:
    return principal.may_use(PREFIX + space.name) or principal.may_use(PREFIX + space.id)
