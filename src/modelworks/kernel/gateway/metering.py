"""Counting: what each request used, recorded before its last byte leaves, whether it ended well, badly or was given up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final, Protocol

import structlog
from starlette.types import Scope

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.access import Demand, Rate
from modelworks.kernel.access.schemas import Principal, Reservation, UsageRecord
from modelworks.kernel.base import telemetry
from modelworks.kernel.gateway.errors import REQUEST_ID
from modelworks.kernel.gateway.middleware import BODY_BYTES, HEADERS, STARTED
from modelworks.kernel.serving import Route, Turn

log = structlog.get_logger(__name__)

#: In the ASGI scope of a request that nobody sits and waits for: it is answered when no other waits.
BACKGROUND: Final = "modelworks.background"
#: The status recorded when the caller went away before the answer was complete.
CLIENT_GONE = 499
#: What an answer without a limit is taken to need where the model does not say how long its context is.
_UNKNOWN_CONTEXT = 4096
#: Longer than any answer: a limit above it says no more, and is no number that every database holds.
_MOST_TOKENS: Final = 1 << 32
#: The status recorded when the server was stopped before the answer was complete.
STOPPING = 503
#: What engines here count none of: they read and write text, put no price on filling a cache, and run ahead on no prediction.
_READ: Final = {"audio_tokens": 0, "image_tokens": 0, "cache_write_tokens": 0}
_WRITTEN: Final = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}


class Recorder(Protocol):
    """Writes usage records; the access room's `UsageRecorder`."""

    async def record(self, record: UsageRecord) -> None:
        """Return once the record is committed."""
        ...


class Accounts(Protocol):
    """Prices and budgets; the access room's `Admission`."""

    async def meet(self, demand: Demand) -> tuple[Rate | None, Reservation | None]:
        """The price of a request, and what it must reserve."""
        ...

    async def reserve(self, reservation: Reservation) -> None:
        """Return once it is reserved; raise where a budget or a limit refuses."""
        ...


class Tally:
    """Tokens of one request, as its engine counts them.

    While an answer is under way the tokens seen so far count (`token_ids`), so that an answer given up in the middle is
    metered; the engine's final figure replaces them.
    """

    __slots__ = ("_final", "_seen", "cached_tokens", "prompt_tokens", "rate", "reasoning_tokens")

    def __init__(self, rate: Rate | None = None) -> None:
        #: What the tokens cost, where that is known.
        self.rate = rate
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self._seen = 0
        self._final: int | None = None

    @property
    def completion_tokens(self) -> int:
        return self._seen if self._final is None else self._final

    def add(self, chunk: dict[str, Any]) -> None:
        """Account for one `GenerationChunk` in its JSON form."""
        ids = chunk.get("token_ids")
        if ids:
            self._seen += len(ids)
        usage = chunk.get("usage")
        if usage:
            self.prompt_tokens = usage.get("prompt_tokens") or self.prompt_tokens
            self.cached_tokens = usage.get("cached_tokens") or self.cached_tokens
            self.reasoning_tokens = usage.get("reasoning_tokens") or self.reasoning_tokens
            completed = usage.get("completion_tokens")
            if completed:
                self._final = completed

    def see(self, num_tokens: int) -> None:
        """Count tokens of an answer whose engine has not given a figure yet."""
        self._seen += num_tokens

    def take_openai(self, usage: dict[str, Any]) -> None:
        """Take over the usage object of an upstream server."""
        self.prompt_tokens = _whole(usage.get("prompt_tokens"))
        self._final = _whole(usage.get("completion_tokens"))
        self.cached_tokens = _whole((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        self.reasoning_tokens = _whole((usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))

    @property
    def cost(self) -> int:
        """Micro-units of the platform's currency; 0 without a price."""
        if self.rate is None:
            return 0
        return self.rate.cost(self.prompt_tokens, self.cached_tokens, self.completion_tokens)

    def as_openai(self) -> dict[str, Any]:
        """OpenAI's usage object, with `cost` (whole units of the platform's currency) where there is a price."""
        found: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {**_READ, "cached_tokens": self.cached_tokens, "text_tokens": self.prompt_tokens},
            "completion_tokens_details": {
                **_WRITTEN,
                "reasoning_tokens": self.reasoning_tokens,
                "text_tokens": self.completion_tokens,
            },
        }
        if self.rate is not None:
            found["cost"] = self.cost / 1_000_000
        return found


def total(tallies: list[Tally]) -> Tally:
    """The sum over the prompts of one request."""
    if len(tallies) == 1:
        return tallies[0]
    found = Tally(tallies[0].rate if tallies else None)
    for tally in tallies:
        found.prompt_tokens += tally.prompt_tokens
        found.cached_tokens += tally.cached_tokens
        found.reasoning_tokens += tally.reasoning_tokens
        found.see(tally.completion_tokens)
    return found


def _id_of_caller(scope: Scope) -> str | None:
    for name, value in scope.get("headers", ()):
        if name == b"x-request-id":
            return str(value.decode("latin-1"))
    return None


def _likely_tokens(num_bytes: int) -> int:
    """Three bytes are about a token in most languages."""
    return -(-num_bytes // 3)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


class Meter:
    """Gathers the usage record of one request and writes it exactly once."""

    __slots__ = (
        "_accounts",
        "_first_token_at",
        "_principal",
        "_rate",
        "_recorder",
        "_reservation",
        "_scope",
        "_started",
        "_written",
        "answers",
        "asked_tokens",
        "endpoint",
        "model",
        "prompt_bytes",
        "prompts",
        "request_id",
        "route",
        "split_by",
        "streamed",
        "tallies",
    )

    def __init__(
        self, recorder: Recorder, principal: Principal, scope: Scope, endpoint: str, accounts: Accounts | None = None
    ) -> None:
        self._recorder = recorder
        self._accounts = accounts
        self._scope = scope
        self._rate: Rate | None = None
        self._reservation: Reservation | None = None
        self._principal = principal
        self._started: float = scope.get(STARTED) or time.perf_counter()
        self._first_token_at: float | None = None
        self._written = False
        self.request_id: str = scope.get(REQUEST_ID) or ""
        #: Requests that say the same here are answered by the same side of a canary: the user whom they name, else the id that
        #: the caller gave them, else one of their own.
        self.split_by: str = _id_of_caller(scope) or self.request_id
        self.endpoint = endpoint
        #: As the caller wrote it; empty while the body has not been understood.
        self.model = ""
        self.route: Route | None = None
        self.streamed = False
        self.tallies = [Tally()]
        #: The most tokens that the caller let the answer have, over all its choices; 0 where it set no limit.
        self.asked_tokens = 0
        #: Answers that a model writes for this request, and the prompts that they are to; 0 where it writes none.
        self.answers = 0
        self.prompts = 0
        #: How long the prompt is where the request's body does not hold all of it.
        self.prompt_bytes = 0

    async def admit(self, context_tokens: int | None) -> None:
        """Reserve the most that the request can use, before anything is sent; later calls do nothing.

        Args:
            context_tokens: the most that one prompt and its answer can have, where the model says it.

        Raises:
            QuotaExceeded, RateLimited: a budget or a limit refuses. The answer's headers tell of limits in both cases.
        """
        accounts, self._accounts = self._accounts, None
        if accounts is None:
            return
        body_bytes = self._body_bytes
        # No token is shorter than a byte; what a template adds is less than what JSON does.
        prompt = body_bytes
        asked = asked_for = min(max(0, self.asked_tokens), _MOST_TOKENS)
        if self.answers:
            if context_tokens is not None:
                prompt = min(prompt, context_tokens * self.prompts)
            asked = asked or self.answers * (context_tokens or _UNKNOWN_CONTEXT)
        self._rate, reservation = await accounts.meet(
            Demand(
                project_id=self._principal.project_id,
                key_id=self._principal.key_id,
                model=self.model,
                endpoint=self.endpoint,
                request_id=self.request_id,
                prompt_tokens=prompt,
                completion_tokens=asked,
                likely_tokens=_likely_tokens(body_bytes) + asked_for,
            )
        )
        for tally in self.tallies:
            tally.rate = self._rate
        if reservation is not None:
            await self._reserve(accounts, reservation)

    @property
    def _body_bytes(self) -> int:
        seen: int = self._scope.get(BODY_BYTES, 0)
        return max(seen, self.prompt_bytes)

    def turn(self) -> Turn:
        """Who asks, and about how much: for the queue of a deployment that is full."""
        return Turn(
            project_id=self._principal.project_id,
            caller=self._principal.key_id,
            cost=1 + _likely_tokens(self._body_bytes),
            background=bool(self._scope.get(BACKGROUND)),
        )

    @property
    def num_completion_tokens(self) -> int:
        """Tokens of the answers so far."""
        return sum(tally.completion_tokens for tally in self.tallies)

    async def _reserve(self, accounts: Accounts, reservation: Reservation) -> None:
        reserving = asyncio.ensure_future(accounts.reserve(reservation))
        try:
            await asyncio.shield(reserving)
        except asyncio.CancelledError:
            # It may be granted all the same: then this request's record gives it back.
            with contextlib.suppress(ModelworksError):
                await reserving
                self._reservation = reservation
            raise
        finally:
            self._add_headers(reservation.headers)
        self._reservation = reservation

    def _add_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        if headers:
            self._scope.setdefault(HEADERS, []).extend(headers)

    def tallies_of(self, number: int) -> list[Tally]:
        """Start to count each of several prompts apart."""
        self.tallies = [Tally(self._rate) for _ in range(number)]
        return self.tallies

    def answering(self) -> None:
        """Mark the first output."""
        if self._first_token_at is None:
            self._first_token_at = time.perf_counter()

    def answering_if(self, chunks: list[dict[str, Any]]) -> None:
        """Mark the first output once one of the chunks holds a token; what precedes it only counts the prompt."""
        if self._first_token_at is None and any(chunk.get("token_ids") or chunk.get("text") for chunk in chunks):
            self._first_token_at = time.perf_counter()

    def leave(self) -> None:
        """Write nothing: what this request began has a record of its own."""
        self._written = True

    async def record(self, status: int, error: ModelworksError | None = None, *, aborted: bool = False) -> None:
        """Write the record and wait until it is committed. Later calls do nothing.

        Raises:
            StorageFull, Unavailable: the record of a good answer cannot be written. That of a failed one is then only missed in
                the log: the caller has an error already.
        """
        if self._written:
            return
        self._written = True
        used = total(self.tallies)
        if self._rate is not None:
            self._add_headers([(b"x-modelworks-cost", b"%d.%06d" % divmod(used.cost, 1_000_000))])
        if self.route is not None:
            for kind in ("prompt", "completion", "cached", "reasoning"):
                if number := getattr(used, f"{kind}_tokens"):
                    telemetry.TOKENS.labels(self.route.name, kind).inc(number)
        if telemetry.is_tracing():
            # Names of OpenTelemetry's conventions for generative models.
            telemetry.annotate(
                gen_ai__request__model=self.model[:256],
                gen_ai__usage__input_tokens=used.prompt_tokens,
                gen_ai__usage__output_tokens=used.completion_tokens,
                modelworks__aborted=aborted,
            )
        if aborted:
            telemetry.ABORTED_TOKENS_SAVED.inc(max(0, self.asked_tokens - used.completion_tokens))
        try:
            await self._recorder.record(self._row(status, error, used, aborted=aborted))
        except ModelworksError as failure:
            if error is None and not aborted:
                raise
            log.warning("usage of a failed request is not recorded", request_id=self.request_id, reason=failure.message)

    def _row(self, status: int, error: ModelworksError | None, used: Tally, *, aborted: bool) -> UsageRecord:
        route, first = self.route, self._first_token_at
        rate, held = self._rate, self._reservation
        row = UsageRecord(
            project_id=self._principal.project_id,
            key_id=self._principal.key_id,
            endpoint=self.endpoint,
            # A name that is no name (a fault of the caller's) must not fill the table.
            model=self.model[:256],
            request_id=self.request_id,
            status=status,
            deployment_id=None if route is None else route.deployment_id,
            version_id=None if route is None else route.version_id,
            error_code=None if error is None else error.error_code,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            cached_tokens=used.cached_tokens,
            reasoning_tokens=used.reasoning_tokens,
            duration_ms=(time.perf_counter() - self._started) * 1000,
            time_to_first_token_ms=None if first is None else (first - self._started) * 1000,
            streamed=self.streamed,
            aborted=aborted,
            cost=used.cost,
            price_id=None if rate is None else rate.id,
        )
        if held is not None:
            row.id, row.claims = held.id, held.claims
        return row
