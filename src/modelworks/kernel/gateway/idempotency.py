"""`Idempotency-Key`: a POST that is sent twice is done once, and the second caller gets the first one's answer.

One layer around every route, in the form of draft-ietf-httpapi-idempotency-key-header: a request takes its key in the database
before it is handled, so that this holds with several servers, and keeps its answer there for a day. Only success is kept: what
failed has made nothing and may be tried again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from sqlalchemy import delete, select, update
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelworks.contract.errors import Conflict, InvalidRequest, ModelworksError, Unavailable
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database, insert_into
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.errors import error_response
from modelworks.kernel.gateway.service import GatewayService, secret_of
from modelworks.kernel.gateway.store import IdempotencyRow

KEPT: Final = timedelta(hours=24)
#: A request that is under way for longer is taken for dead, and its key is free again.
UNDER_WAY: Final = timedelta(minutes=10)
#: A larger answer is not kept; what is created is described in far less.
_MAX_ANSWER_BYTES: Final = 1 << 20
_PREFIXES: Final = ("/v1/", "/api/")
#: Questions to models create nothing, and what was said is not kept for them. Some clients send a key with everything.
_QUESTIONS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/messages",
    "/v1/responses/input_tokens",
)
_IN_PROGRESS: Final = "idempotency_in_progress"
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_BOUNDARY: Final = re.compile(rb'boundary="?([^";]{1,70})', re.IGNORECASE)
#: Fields of answers that are shown once and never stored.
_SECRETS: Final = ("secret", "token", "password")
_STREAMS: Final = (b"text/event-stream", b"application/x-ndjson")


class BodyDigest:
    """SHA-256 of a body as it arrives. The boundary of a form is left out: clients choose another one for every attempt."""

    def __init__(self, seed: bytes, boundary: bytes | None) -> None:
        self._hash = hashlib.sha256(len(seed).to_bytes(8) + seed)
        self._boundary = boundary
        self._rest = b""

    def update(self, data: bytes, *, last: bool) -> None:
        """Take the next piece; with `last` nothing follows."""
        if self._boundary is None:
            self._hash.update(data)
            return
        *parts, tail = (self._rest + data).split(self._boundary)
        for part in parts:
            self._hash.update(part)
            self._hash.update(b"\x00boundary\x00")
        # The start of a boundary may lie at the end of a piece.
        kept = 0 if last else min(len(self._boundary) - 1, len(tail))
        self._hash.update(tail[: len(tail) - kept])
        self._rest = tail[len(tail) - kept :]

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class Idempotency:
    """The layer; see the module.

    Args:
        app: what is wrapped; it checks the caller's rights itself.
        gateway: knows callers by their keys.
    """

    def __init__(self, app: ASGIApp, gateway: GatewayService) -> None:
        self._app = app
        self._gateway = gateway
        self._keys = KeyStore(gateway.db, gateway.clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = headers.get(b"idempotency-key")
        path: str = scope["path"]
        if key is None or not path.startswith(_PREFIXES) or path.startswith(_QUESTIONS):
            await self._app(scope, receive, send)
            return
        principal = await self._caller(scope)
        if principal is None:
            # Refused by the route, in its own words.
            await self._app(scope, receive, send)
            return
        try:
            if not _KEY.fullmatch(key):
                raise InvalidRequest(
                    "The header Idempotency-Key must have 1 to 255 printable ASCII characters.",
                    hint="Use a UUID.",
                    param="Idempotency-Key",
                )
            exchange = _Exchange(self._keys, principal, key.decode(), path, _digest(scope, headers, principal), receive)
            done = await run_in_threadpool(exchange.claim)
            if done is None:
                await exchange.run(self._app, scope, send)
                return
            await exchange.replay(done, send)
        except ModelworksError as error:
            # The connection is closed, as an unread rest of the body would be taken for the next request.
            response = error_response(error, headers={"connection": "close"})
            if error.error_code == _IN_PROGRESS:
                response.headers["x-should-retry"] = "true"
            await response(scope, receive, send)

    async def _caller(self, scope: Scope) -> Principal | None:
        secret = secret_of(scope)
        if secret is None:
            return None
        try:
            found = self._gateway.access.cached(secret)
            if found is None:
                found = await run_in_threadpool(self._gateway.access.authenticate, secret)
            found.require_address(scope.get("client"))
        except ModelworksError:
            return None
        return found


def _digest(scope: Scope, headers: dict[bytes, bytes], principal: Principal) -> BodyDigest:
    # Another key of the project gets the answer only where it may do the same.
    rights = [sorted(principal.scopes), principal.model_allow]
    seed = orjson.dumps([scope["path"], scope["query_string"].decode("latin-1"), rights])
    form = headers.get(b"content-type", b"")
    found = _BOUNDARY.search(form) if form.lower().startswith(b"multipart/") else None
    return BodyDigest(seed, None if found is None else found[1])


class _Exchange:
    """One request with a key."""

    def __init__(self, keys: KeyStore, principal: Principal, key: str, path: str, digest: BodyDigest, receive: Receive) -> None:
        self._keys = keys
        self._project_id = principal.project_id
        self._key = key
        self._path = path
        self._digest = digest
        self._receive_body = receive
        self._read_to_end = False
        self._claim = new_id("req")
        self._start: Message | None = None
        self._body = bytearray()
        self._kept = True

    def claim(self) -> IdempotencyRow | None:
        """None where the request is to be done, else the one that had the key first.

        Raises:
            Conflict: `idempotency_mismatch`; `idempotency_in_progress`, which may be tried again.
        """
        found = self._keys.claim(self._project_id, self._key, self._claim, self._path)
        if found is not None and found.request != self._path[:1024]:
            raise self._mismatch(f"It was used for POST {found.request}.")
        if found is not None and found.status is None:
            raise Conflict(
                "The request with this Idempotency-Key is still under way.",
                hint="Send it again in a second.",
                code=_IN_PROGRESS,
                retry_after_s=1.0,
            )
        return found

    def _mismatch(self, what: str) -> Conflict:
        return Conflict(
            f"This Idempotency-Key belongs to another request. {what}",
            hint="Use a new key for a new request.",
            param="Idempotency-Key",
            code="idempotency_mismatch",
        )

    async def _receive(self) -> Message:
        message = await self._receive_body()
        if message["type"] == "http.request":
            last = not message.get("more_body", False)
            self._digest.update(message.get("body", b""), last=last)
            self._read_to_end = self._read_to_end or last
        return message

    async def _drain(self) -> bool:
        while not self._read_to_end:
            if (await self._receive())["type"] == "http.disconnect":
                return False
        return True

    async def replay(self, done: IdempotencyRow, send: Send) -> None:
        """Give the kept answer, if the body is the same."""
        if not await self._drain():
            return
        if self._digest.hexdigest() != done.digest:
            raise self._mismatch("The body, the query or what the API key may do differs.")
        if done.body is None:
            raise Conflict(
                "This request has been done; its answer holds a secret, which is shown only once.",
                hint="Use a new Idempotency-Key to make another one.",
                code="idempotency_secret",
            )
        headers = [(str(name).encode("latin-1"), str(value).encode("latin-1")) for name, value in done.headers]
        headers.append((b"idempotent-replayed", b"true"))
        await send({"type": "http.response.start", "status": done.status, "headers": headers})
        await send({"type": "http.response.body", "body": done.body, "more_body": False})

    async def run(self, app: ASGIApp, scope: Scope, send: Send) -> None:
        """Do it, and keep the answer before its last byte is sent."""
        settled = False

        async def outgoing(message: Message) -> None:
            nonlocal settled
            if message["type"] == "http.response.start":
                self._start = message
                self._kept = _worth_keeping(message["status"], message["headers"])
            elif message["type"] == "http.response.body":
                if self._kept:
                    self._body += message.get("body", b"")
                    self._kept = len(self._body) <= _MAX_ANSWER_BYTES
                if not message.get("more_body", False):
                    settled = True
                    await self._settle()
            await send(message)

        try:
            await app(scope, self._receive, outgoing)
        finally:
            if not settled:
                await run_in_threadpool(self._keys.release, self._project_id, self._key, self._claim)

    async def _settle(self) -> None:
        start = self._start
        if start is None or not self._kept or not await self._drain():
            await run_in_threadpool(self._keys.release, self._project_id, self._key, self._claim)
            return
        body = bytes(self._body)
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in start["headers"]]
        kept = None if _holds_secret(body) else body
        await run_in_threadpool(
            self._keys.keep,
            self._project_id,
            self._key,
            self._claim,
            digest=self._digest.hexdigest(),
            status=start["status"],
            headers=headers,
            body=kept,
        )


def _worth_keeping(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    if not 200 <= status < 300:
        return False
    return not any(name == b"set-cookie" or (name == b"content-type" and value.startswith(_STREAMS)) for name, value in headers)


def _holds_secret(body: bytes) -> bool:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and any(isinstance(found.get(name), str) for name in _SECRETS)


class KeyStore:
    """The keys that projects have used in the last day."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def claim(self, project_id: str, key: str, claim: str, request: str) -> IdempotencyRow | None:
        """Take a key; None where that worked, else the request that has it.

        Raises:
            Unavailable: the key is taken and given back by others all the time.
        """
        now = self._clock.now()
        row: dict[str, Any] = {
            "project_id": project_id,
            "key": key,
            "claim": claim,
            "request": request[:1024],
            "digest": None,
            "status": None,
            "headers": [],
            "body": None,
            "expires_at": now + UNDER_WAY,
        }
        for _ in range(3):
            with self._db.transaction() as session:
                session.execute(delete(IdempotencyRow).where(IdempotencyRow.expires_at <= now))
                # Asked for the row itself: not every driver tells how many rows an insert has made.
                insert = insert_into(IdempotencyRow, session.get_bind().dialect.name)
                made = insert.values(row).on_conflict_do_nothing().returning(IdempotencyRow.claim)
                if session.scalar(made) is not None:
                    return None
                found = session.scalar(
                    select(IdempotencyRow).where(IdempotencyRow.project_id == project_id, IdempotencyRow.key == key)
                )
            if found is not None:
                return found
        raise Unavailable("This Idempotency-Key is in use.", hint="Try again shortly.", retry_after_s=1.0)

    def keep(self, project_id: str, key: str, claim: str, **answer: Any) -> None:
        """Keep the answer of the request that took the key with `claim`."""
        expires_at: datetime = self._clock.now() + KEPT
        with self._db.transaction() as session:
            session.execute(
                update(IdempotencyRow).where(*_mine(project_id, key, claim)).values(**answer, expires_at=expires_at)
            )

    def release(self, project_id: str, key: str, claim: str) -> None:
        """Give the key back: nothing was done that is worth keeping."""
        with self._db.transaction() as session:
            session.execute(delete(IdempotencyRow).where(*_mine(project_id, key, claim)))


def _mine(project_id: str, key: str, claim: str) -> tuple[Any, ...]:
    return (IdempotencyRow.project_id == project_id, IdempotencyRow.key == key, IdempotencyRow.claim == claim)
