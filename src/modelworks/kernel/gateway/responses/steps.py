"""Responses in the background: asked by the server itself, told to whoever listens, kept when they are over.

Of several processes of a server the first one works on all of them; what was asked of the others it finds in the database.
A response that waits is answered by the next server after a restart.
One that was under way when the server was killed is failed with that reason, as what killed it may have been the answer itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import select, update
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import InvalidRequest, ModelworksError, Unavailable
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.polling import PollingTask
from modelworks.kernel.gateway.errors import REQUEST_ID, bug
from modelworks.kernel.gateway.metering import CLIENT_GONE, STOPPING
from modelworks.kernel.gateway.responses.calls import ResponseCall, head
from modelworks.kernel.gateway.responses.events import Composer, Event, as_error
from modelworks.kernel.gateway.responses.service import OPEN, ResponseService
from modelworks.kernel.gateway.responses.wire import ResponseCreate
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.store import ResponseRow

log = structlog.get_logger(__name__)

ENDPOINT: Final = "/v1/responses"
_POLL_S: Final = 5.0
_EXPIRE_EVERY: Final = timedelta(minutes=10)
#: Responses that are worked on at the same time; the others wait.
_MAX_RESPONSES: Final = 16
#: Events of responses that are over are kept for so many of them, for callers whose connection broke.
_KEPT_TAPES: Final = 32
#: Announced where a response in the background is asked for, taken back or deleted.
_TOPIC: Final = "response.changed"


class Tape:
    """The events of one response, which any number of callers may read from any place."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_over = False
        self._news = asyncio.Event()

    def add(self, events: list[Event]) -> None:
        """Put events at the end."""
        self.events.extend(events)
        self._announce()

    def end(self) -> None:
        """Nothing follows."""
        self.is_over = True
        self._announce()

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(self, after: int) -> AsyncIterator[list[Event]]:
        """The events whose number is greater than `after`, as they come."""
        at = 0
        while True:
            news = self._news
            found = [event for event in self.events[at:] if event["sequence_number"] > after]
            at = len(self.events)
            if found:
                yield found
            elif self.is_over:
                return
            else:
                await news.wait()


class ResponseSteps:
    """One task for each response under way; lives in the event loop of a server's first process.

    Args:
        principal_of: what the holder of a key may do now; raises AuthenticationFailed. Nobody's request stands behind the work.
        events: where processes tell each other that there is something to do; without it there is one process.
    """

    def __init__(
        self,
        responses: ResponseService,
        gateway: GatewayService,
        principal_of: Callable[[str], Principal],
        events: Events | None = None,
    ) -> None:
        self._principal_of = principal_of
        self._responses = responses
        self._gateway = gateway
        self._db = responses.db
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tapes: dict[str, Tape] = {}
        #: Those whose answer is there and is being written down: nobody's wish stops them any more.
        self._finishing: set[str] = set()
        self._watch = PollingTask(self._look, name="responses in the background", poll_s=_POLL_S)
        self._events = events or Events()
        self._events.subscribe(_TOPIC, lambda _topic, _payload: self._watch.wake())
        responses.wake = self._wake
        self._has_failed_lost = False
        self._is_started = False
        self._is_resting = False
        self._expired_at = responses.clock.now()

    def start(self) -> None:
        """Begin; call it in the server's event loop."""
        self._has_failed_lost = False
        self._is_started = True
        self._watch.start()

    async def stop(self) -> None:
        """End what is under way; the next start goes on with what waits then."""
        self._is_started = False
        await self._watch.stop(*self._tasks.values())
        self._tasks.clear()

    async def rest(self) -> None:
        """Begin nothing more; returns when what is under way is over. Whoever does not wait so long calls `stop`."""
        self._is_resting = True
        if self._tasks:
            await asyncio.wait([*self._tasks.values()])

    def _wake(self) -> None:
        """Look now, here or in the process that looks."""
        if self._is_started:
            self._watch.wake()
        else:
            self._events.publish(_TOPIC)

    def tape(self, response_id: str) -> Tape:
        """The events of a response that is streamed in the background.

        Raises:
            InvalidRequest: there are none: it was not streamed, it is long over, or another server made it.
        """
        found = self._tapes.get(response_id)
        if found is None:
            raise InvalidRequest(
                f"The response {response_id} has no events to be read.",
                hint="Get it without stream. Events are kept for a while, of responses made with background and stream.",
                param="stream",
                code="not_streamed",
            )
        return found

    def expect(self, response_id: str) -> Tape:
        """A tape for a response that will be worked on."""
        over = [each for each, tape in self._tapes.items() if tape.is_over]
        for each in over[: max(0, len(over) - _KEPT_TAPES + 1)]:
            del self._tapes[each]
        return self._tapes.setdefault(response_id, Tape())

    async def _fail_lost(self) -> None:
        """What a server before this one was killed over."""

        def lost() -> list[str]:
            with self._db.reading() as session:
                return [*session.scalars(select(ResponseRow.id).where(ResponseRow.state == "in_progress"))]

        for response_id in await run_in_threadpool(lost):
            await run_in_threadpool(self._fail, response_id, _stopped())

    async def _look(self) -> None:
        if not self._has_failed_lost:
            await self._fail_lost()
            self._has_failed_lost = True
        # Noted before the database is read: each of these lies there already.
        listened = [each for each, tape in self._tapes.items() if not tape.is_over and each not in self._tasks]
        wanted = await run_in_threadpool(self._open)
        for response_id in listened:
            if response_id not in wanted and response_id not in self._tasks:
                # Taken back before anybody worked on it.
                self._tapes[response_id].end()
        for response_id, task in [*self._tasks.items()]:
            if task.done():
                del self._tasks[response_id]
            elif response_id not in wanted and response_id not in self._finishing:
                task.cancel()
        for response_id in wanted:
            if response_id not in self._tasks and len(self._tasks) < _MAX_RESPONSES and not self._is_resting:
                task = asyncio.create_task(self._guarded(response_id))
                task.add_done_callback(lambda _task: self._watch.wake())
                self._tasks[response_id] = task
        now = self._responses.clock.now()
        if now - self._expired_at >= _EXPIRE_EVERY:
            self._expired_at = now
            await run_in_threadpool(self._responses.expire)

    def _open(self) -> list[str]:
        with self._db.reading() as session:
            return [*session.scalars(select(ResponseRow.id).where(ResponseRow.state.in_(OPEN)).order_by(ResponseRow.id))]

    # -- one response ----------------------------------------------------------------------------------------------------

    async def _guarded(self, response_id: str) -> None:
        row = await run_in_threadpool(self._claim, response_id)
        if row is None or row.asked is None:
            return
        asked = ResponseCreate.model_validate(row.asked)
        tape = self.expect(response_id) if asked.stream else None
        try:
            principal = await run_in_threadpool(self._principal_of, row.key_id)
            principal.require("inference")
            principal.require_model(asked.model)
        except ModelworksError as error:
            # The key has been revoked, or may do less than when it asked.
            composer = Composer(head(asked, response_id=row.id, created_at=row.body["created_at"]))
            found, events = composer.fail(error)
            await run_in_threadpool(self._finish, found, [])
            if tape is not None:
                tape.add(events)
                tape.end()
            return
        meter = self._gateway.meter(principal, {REQUEST_ID: new_id("req")}, ENDPOINT)
        meter.model = asked.model
        meter.streamed = bool(asked.stream)
        call = ResponseCall(
            self._gateway,
            self._responses,
            principal,
            meter,
            asked,
            response_id=row.id,
            created_at=row.body["created_at"],
        )

        async def emit(events: list[Event]) -> None:
            if tape is not None:
                tape.add(events)

        try:
            await emit([*call.composer.begin(queued=True), *call.composer.go_on()])
            try:
                found, events = await call.work(emit, None)
                await meter.record(200)
            except ModelworksError as error:
                await meter.record(error.status, error)
                found, events = call.composer.fail(error)
            except Exception:
                log.exception("a response in the background failed", response_id=response_id)
                known = bug(meter.request_id)
                await meter.record(known.status, known)
                found, events = call.composer.fail(known)
            self._finishing.add(response_id)
            await asyncio.shield(run_in_threadpool(self._finish, found, call.reading.given))
            await emit(events)
        except asyncio.CancelledError:
            # Taken back by its caller, or the server stops; what has been told cannot be told again in other words.
            is_stopping = await asyncio.shield(run_in_threadpool(self._give_back, response_id, tape is not None))
            await meter.record(STOPPING if is_stopping else CLIENT_GONE, aborted=True)
            raise
        finally:
            self._finishing.discard(response_id)
            if tape is not None:
                tape.end()

    def _claim(self, response_id: str) -> ResponseRow | None:
        with self._db.transaction() as session:
            row = session.scalar(select(ResponseRow).where(ResponseRow.id == response_id).with_for_update())
            if row is None or row.state != "queued":
                return None
            row.state = "in_progress"
            row.body = {**row.body, "status": "in_progress"}
            return row

    def _finish(self, response: dict[str, Any], given: list[dict[str, Any]]) -> None:
        with self._db.transaction() as session:
            self._responses.finish(session, response, given)

    def _fail(self, response_id: str, error: ModelworksError) -> None:
        with self._db.transaction() as session:
            row = session.get(ResponseRow, response_id)
            if row is not None:
                failed = {**row.body, "status": "failed", "error": as_error(error), "output": []}
                self._responses.finish(session, failed, [])

    def _give_back(self, response_id: str, was_told: bool) -> bool:
        """Let a response that is still wanted wait for the next server; returns whether it was."""
        if was_told:
            with self._db.reading() as session:
                row = session.get(ResponseRow, response_id)
            if row is None or row.state != "in_progress":
                return False
            self._fail(response_id, _stopped())
            return True
        with self._db.transaction() as session:
            row = session.scalar(select(ResponseRow).where(ResponseRow.id == response_id).with_for_update())
            if row is None or row.state != "in_progress":
                return False
            changed = {"state": "queued", "body": {**row.body, "status": "queued"}}
            session.execute(update(ResponseRow).where(ResponseRow.id == response_id).values(**changed))
            return True


def _stopped() -> ModelworksError:
    return Unavailable("The server was stopped in the middle of this response.", hint="Send the request again.")
