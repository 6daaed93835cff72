"""`/embed` and `/share`: a published space, asked by strangers from the pages that may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from modelworks.contract.errors import AuthenticationFailed, InvalidRequest, ModelworksError, NotFound, PayloadTooLarge
from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.base.changes import AUTHOR
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.dataspace import DataspaceService, Published
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.middleware import HEADERS
from modelworks.kernel.gateway.publishing import documents, origins, pages
from modelworks.kernel.gateway.publishing.asking import FeedbackBody, PublishedCall, QuestionBody, unsealed
from modelworks.kernel.gateway.publishing.rates import Rates, address_of
from modelworks.kernel.gateway.publishing.tickets import SESSION_LIFE, Tickets
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.spaces.search import PREFIX, SpaceSearch
from modelworks.kernel.gateway.stream import StreamedAnswer
from modelworks.kernel.storage import BlobStore, LinkSigner

#: In a minute, from one address: sessions that are begun, documents that are opened, answers that are commented on.
BEGUN, OPENED, SAID = 60, 60, 30
#: Of bodies: strangers send no more, so no more is held for them.
_MAX_TOKEN_BYTES, _MAX_BODY_BYTES = 200, 2_000_000
_TEXT: Final[dict[str, Any]] = {"schema": {"type": "string"}}
_HTML: Final[dict[int | str, dict[str, Any]]] = {200: {"description": "The page.", "content": {"text/html": _TEXT}}}
_CODE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": {"text/javascript": _TEXT, "text/css": _TEXT}}
}
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": 'Events `{"text"}` as the answer is told, then `{"answer"}` with its citations.',
        "content": {"text/event-stream": _TEXT},
    }
}
_BYTES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bytes.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in documents.MEDIA_TYPES},
    }
}
_PUBLICATION: Final = in_path("publication")
_DOCUMENT: Final = {"parameters": [*_PUBLICATION["parameters"], *in_path("document_id")["parameters"]]}
_Body = TypeVar("_Body", bound=BaseModel)
_Found = TypeVar("_Found")


class EmbedSession(BaseModel):
    """What a page may do for some minutes: ask one published space."""

    object: str = "embed.session"
    token: str
    expires_in: int
    #: Of the page that it was given to; it is worth nothing elsewhere.
    origin: str
    title: str | None
    greeting: str | None
    language: str


class FeedbackTaken(BaseModel):
    """That it was noted."""

    object: str = "embed.feedback"
    rating: str


@dataclass(frozen=True, slots=True)
class Publishing:
    """What publishing needs of the platform beside the gateway.

    Args:
        signer: of sessions, answers and links to documents.
        public_url: where readers reach this server.
    """

    spaces: DataspaceService
    blobs: BlobStore
    signer: LinkSigner
    clock: Clock
    public_url: str | None = None

    def reading(self, read: Callable[[Session], _Found]) -> _Found:
        """What `read` finds in the database."""
        with self.spaces.db.reading() as session:
            return read(session)


def router(gateway: GatewayService, publishing: Publishing, search: SpaceSearch) -> APIRouter:
    """All routes of published spaces. None takes a key of the platform, nor a cookie."""
    routes = APIRouter(route_class=PlainRoute, tags=["Published spaces"])
    door = _Door(publishing)
    _pages(routes, door)
    _asking(routes, gateway, door, search)
    _documents(routes, door)
    return routes


class _Door:
    """Who asks, from where, and how often."""

    def __init__(self, publishing: Publishing) -> None:
        self.publishing = publishing
        self.tickets = Tickets(publishing.signer, publishing.clock)
        self.rates = Rates(publishing.clock)

    async def live(self, publication: str) -> Published:
        """A publication that answers now; raises NotFound."""
        publications = self.publishing.spaces.publications
        return await run_in_threadpool(self.publishing.reading, lambda session: publications.live(session, publication))

    async def begin(self, request: Request) -> EmbedSession:
        """Exchange a publishable token for a session that is bound to the page's origin.

        Raises:
            NotFound: nothing is published there. PermissionDenied: not for pages of that origin.
            InvalidRequest, PayloadTooLarge: the body is no token. AuthenticationFailed: the token is another one's.
            RateLimited: too many were begun from this address.
        """
        self.rates.take((f"begin {address_of(request.client)}", BEGUN))
        published = await self.live(request.path_params["publication"])
        origin = origins.page_origin(request)
        if origin is None or not self._may_ask(published, origin, request):
            raise origins.refused(origin)
        if origin in published.settings.origins:
            # From here on the page may read the answer, also a refusal.
            allowed = [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
            request.scope.setdefault(HEADERS, []).extend(allowed)
        token = (await _body(request, _MAX_TOKEN_BYTES)).decode("utf-8", "replace").strip()
        if not token:
            raise InvalidRequest(
                "The body must be the publication's token, and nothing else.",
                hint="Copy the snippet that `modelworks space publish` printed.",
                code="invalid_value",
            )
        publications = self.publishing.spaces.publications
        await run_in_threadpool(self.publishing.reading, lambda session: publications.with_token(session, published.id, token))
        settings = published.settings
        return EmbedSession(
            token=self.tickets.issue("EMBED-SESSION", [published.id, origin], SESSION_LIFE),
            expires_in=int(SESSION_LIFE.total_seconds()),
            origin=origin,
            title=settings.title,
            greeting=settings.greeting,
            language=settings.language,
        )

    async def enter(self, request: Request) -> tuple[Published, str]:
        """The publication of a session, and the origin that it was given to; for the chat's own page alone.

        Raises:
            PermissionDenied: another page asks, or the session's page may not ask any more.
            AuthenticationFailed: no session, one that is over, or one of another publication. NotFound: as `live`.
        """
        here = origins.page_origin(request)
        if here is None or not origins.is_own(here, request, self.publishing.public_url):
            raise origins.refused(here)
        parts = self.tickets.read("EMBED-SESSION", _bearer(request))
        if len(parts) != 2 or parts[0] != request.path_params["publication"]:
            raise AuthenticationFailed(
                "The session is another publication's.",
                hint="Begin one: POST /embed/{publication}/session.",
                code="session_ended",
            )
        published = await self.live(parts[0])
        if not self._may_ask(published, parts[1], request):
            raise origins.refused(parts[1])
        AUTHOR.set(published.principal.author)
        return published, parts[1]

    def _may_ask(self, published: Published, origin: str, request: Request) -> bool:
        settings = published.settings
        if origin in settings.origins:
            return True
        return settings.share and origins.is_own(origin, request, self.publishing.public_url)


def _pages(routes: APIRouter, door: _Door) -> None:
    @routes.get("/embed/assets/{name}", summary="What the chat's page loads", responses=_CODE, openapi_extra=in_path("name"))
    async def embed_asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in pages.ASSETS:
            raise NotFound(f"There is no {name[:80]!r} here.")
        return pages.asset(name)

    @routes.get(
        "/embed/{publication}.js",
        summary="The script that adds the chat to a page",
        responses=_CODE,
        openapi_extra=_PUBLICATION,
    )
    async def embed_script(request: Request) -> Response:
        return pages.script()

    @routes.get(
        "/embed/{publication}/frame",
        summary="The chat, in a frame of the pages that may hold it",
        responses=_HTML,
        openapi_extra=_PUBLICATION,
    )
    async def embed_frame(request: Request) -> Response:
        published = await door.live(request.path_params["publication"])
        return pages.chat("frame", assets="../assets", ancestors=published.settings.origins)

    @routes.get(
        "/share/{publication}",
        summary="The chat as a page of its own, where that is allowed",
        responses=_HTML,
        openapi_extra=_PUBLICATION,
    )
    async def share_page(request: Request) -> Response:
        published = await door.live(request.path_params["publication"])
        if not published.settings.share:
            raise NotFound("Nothing is published here, or not any more.", code="publication_not_found")
        return pages.chat("share", assets="../embed/assets")


def _asking(routes: APIRouter, gateway: GatewayService, door: _Door, search: SpaceSearch) -> None:
    @routes.post(
        "/embed/{publication}/session",
        summary="Exchange a publishable token for a session of some minutes",
        description="The body is the token, as text. The page's origin must be one that the publication names.",
        responses={200: {"model": EmbedSession}},
        openapi_extra={**_PUBLICATION, "requestBody": {"required": True, "content": {"text/plain": _TEXT}}},
    )
    async def begin_session(request: Request) -> Response:
        begun = await door.begin(request)
        return JSONResponse(begun.model_dump(), headers={"cache-control": "no-store"})

    @routes.post(
        "/embed/{publication}/ask",
        summary="Ask a published space",
        description="For the chat's own page, with the session as bearer token.",
        responses=_EVENTS,
        openapi_extra={**_PUBLICATION, **described(inline_schema(QuestionBody))},
    )
    async def ask_published(request: Request) -> Response:
        published, origin = await door.enter(request)
        settings, address = published.settings, address_of(request.client)
        door.rates.take(
            (f"ask {published.id} {address}", settings.requests_per_minute_per_address),
            (f"ask {published.id}", settings.requests_per_minute),
        )
        raw = await _body(request, _MAX_BODY_BYTES)
        # A scope of its own: what budgets leave is no stranger's business, and would stand in the answer's headers.
        meter = gateway.meter(published.principal, {**request.scope, HEADERS: []}, "/embed/ask")
        meter.model = PREFIX + published.space
        try:
            body = _form(raw, QuestionBody)
            if body.parent != origin:
                raise origins.refused(body.parent[:300])
            call = PublishedCall(search, published, meter, body.messages, origin, door.tickets)
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise
        return StreamedAnswer(call.stream_to, meter, "sse", gateway.keep_alive_s)

    @routes.post(
        "/embed/{publication}/feedback",
        summary="Say whether an answer was good, and how it should have been",
        responses={200: {"model": FeedbackTaken}},
        openapi_extra={**_PUBLICATION, **described(inline_schema(FeedbackBody))},
    )
    async def give_feedback(request: Request) -> Response:
        published, _ = await door.enter(request)
        door.rates.take((f"say {published.id} {address_of(request.client)}", SAID))
        body = _form(await _body(request, _MAX_BODY_BYTES), FeedbackBody)
        told = unsealed(door.tickets, published, body)

        def put() -> None:
            with door.publishing.spaces.db.transaction() as session:
                door.publishing.spaces.feedback.put(session, published, told, body.rating, body.correction)

        await run_in_threadpool(put)
        return JSONResponse(FeedbackTaken(rating=body.rating).model_dump())


def _documents(routes: APIRouter, door: _Door) -> None:
    @routes.get(
        "/embed/{publication}/documents/{document_id}",
        summary="Open a document that an answer cites",
        description="By the link that the answer gives, which ends after some hours.",
        responses=_BYTES,
        openapi_extra=_DOCUMENT,
    )
    async def open_document(request: Request) -> Response:
        publication, document_id = request.path_params["publication"], request.path_params["document_id"]
        query = request.query_params
        path = f"/embed/{publication}/documents/{document_id}"
        door.tickets.check_link(path, query.get("expires"), query.get("signature"))
        door.rates.take((f"open {publication} {address_of(request.client)}", OPENED))
        published = await door.live(publication)

        def read(session: Session) -> Any:
            rooms = door.publishing.spaces.documents
            return rooms.records(session, published.principal, published.space_id, [document_id]).get(document_id)

        document = await run_in_threadpool(door.publishing.reading, read)
        if document is None:
            raise NotFound("The document is not there any more.", code="document_not_found")
        chunks = door.publishing.blobs.iter(document.digest)
        if document.media_type == TABLE_ROWS:
            shown = await run_in_threadpool(documents.card, chunks)
            return Response(shown, headers=documents.headers(document, len(shown)))
        return StreamingResponse(chunks, headers=documents.headers(document))


def _bearer(request: Request) -> str:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else ""


async def _body(request: Request, most: int) -> bytes:
    held = bytearray()
    async for piece in request.stream():
        held += piece
        if len(held) > most:
            raise PayloadTooLarge(f"The body is larger than {most} bytes.", hint="Send less.")
    return bytes(held)


def _form(raw: bytes, form: type[_Body]) -> _Body:
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from error
