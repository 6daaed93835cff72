"""Routing of requests to replicas: in memory, in the server's event loop, with no database access per request.

The reconciler publishes a table of what is deployed; `acquire` picks the replica with the fewest requests in flight, waits
in a bounded queue while a deployment is loading or full, and says why at once when it has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver

from modelworks.contract.errors import ModelNotFound, Unavailable
from modelworks.kernel.serving.queue import Turn
from modelworks.kernel.serving.schemas import DeployedModel, Route
from modelworks.kernel.serving.target import Slot, Table, Target, best_of
from modelworks.kernel.serving.waiting import WaitingRoom

#: A replica that refused a connection is passed over for so long; the reconciler finds out what happened meanwhile.
SUSPECT_S = 2.0
#: How long a request that would be refused waits for a table that is up to date.
_CATCH_UP_S = 2.0


@dataclass(slots=True)
class _Snapshot:
    table: Table = field(default_factory=dict)
    by_reference: dict[tuple[str, str], Target] = field(default_factory=dict)
    #: Deployment id → the queue, besides its own, that a free place of its replicas serves.
    lines: dict[str, str] = field(default_factory=dict)


class Acquisition:
    """`async with pool.acquire(…) as route`: counts the request in and out of its replica."""

    __slots__ = ("_model_name", "_pool", "_project_id", "_slot", "_split_by", "_turn", "_wait_s")

    def __init__(
        self,
        pool: ReplicaPool,
        project_id: str,
        model_name: str,
        wait_s: float | None,
        split_by: str | None,
        turn: Turn,
    ) -> None:
        self._split_by = split_by
        self._pool = pool
        self._project_id = project_id
        self._model_name = model_name
        self._wait_s = wait_s
        self._turn = turn
        self._slot: Slot | None = None

    async def __aenter__(self) -> Route:
        chosen = self._pool.choose(self._project_id, self._model_name, self._split_by, self._turn)
        if chosen is None:
            chosen = await self._pool.wait(self._project_id, self._model_name, self._wait_s, self._split_by, self._turn)
        if isinstance(chosen, Route):
            return chosen
        self._slot = chosen
        return chosen.route

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        slot = self._slot
        if slot is None:
            return
        self._slot = None
        if isinstance(error, aiohttp.ClientConnectionError):
            slot.suspect_until = time.monotonic() + SUSPECT_S
            self._pool.wake_reconciler()
        self._pool.leave(slot, self._turn)


class ReplicaPool:
    """One per server.

    Args:
        max_queue: requests that may wait for one deployment while it loads or is full; more are refused with 503.
        load_wait_s: how long a request waits while nothing answers, unless `acquire` says otherwise; one of the background
            also waits so long for a free place.
        queue_wait_s: how long a request waits for a free place.
        resolver: DNS for upstream servers (the guarded one); None is aiohttp's own.
    """

    def __init__(
        self,
        *,
        max_queue: int = 256,
        load_wait_s: float = 600.0,
        queue_wait_s: float = 60.0,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._room = WaitingRoom(
            self._find, self._not_found, max_queue=max_queue, load_wait_s=load_wait_s, queue_wait_s=queue_wait_s
        )
        self._resolver = resolver
        self._snapshot = _Snapshot()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._http: aiohttp.ClientSession | None = None
        self._on_wake: Callable[[], object] | None = None
        self._on_unknown: Callable[[str, str], Awaitable[bool]] | None = None
        self._expected = 0
        self._covered = 0
        self._on_table: Callable[[Table, int], None] | None = None
        self._on_expect: Callable[[int], None] | None = None
        self._confirm: Callable[[], Awaitable[None]] | None = None

    # --- life cycle -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind to the running event loop and open the HTTP client."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        # No limit on connections: admission is decided per replica, and a stream holds its connection for minutes.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10.0, resolver=self._resolver)
        self._http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the HTTP client; requests that wait are refused."""
        self._loop = None
        if self._http is not None:
            await self._http.close()
            self._http = None
        if self._changed is not None:
            self._changed.set()
        self._room.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """The shared client for replicas and upstream servers. Send requests with `allow_redirects=False`."""
        if self._http is None:
            raise Unavailable("The server is starting or stopping.", retry_after_s=1)
        return self._http

    # --- written by the reconciler, from its thread -----------------------------------------------------------------

    def on_wake(self, wake: Callable[[], object]) -> None:
        """Register what makes the reconciler look again at once."""
        self._on_wake = wake

    def on_unknown(self, deploy: Callable[[str, str], Awaitable[bool]]) -> None:
        """Register what deploys a model that is asked for the first time: given project and name, it says whether it did."""
        self._on_unknown = deploy

    def share(self, on_table: Callable[[Table, int], None], on_expect: Callable[[int], None]) -> None:
        """Register who hears of every table and every announced change, in the thread that brings it."""
        self._on_table, self._on_expect = on_table, on_expect

    def confirm_with(self, confirm: Callable[[], Awaitable[None]]) -> None:
        """Register what is asked before a name is unknown: after it, every change until then has been announced here."""
        self._confirm = confirm

    def wake_reconciler(self) -> None:
        """Ask for a fresh look: a replica did not answer."""
        if self._on_wake is not None:
            self._on_wake()

    def expect(self, change: int) -> None:
        """A change was announced (thread-safe): nobody is refused by a table that does not cover it yet."""
        self._expected = change
        if self._on_expect is not None:
            self._on_expect(change)

    def publish(self, table: Table, covers: int = 0) -> None:
        """Replace the table (thread-safe). Slots of replicas that stay must be the same objects.

        Args:
            covers: the last change that had been announced when the wishes were read for this table.
        """
        by_reference: dict[tuple[str, str], Target] = {}
        lines: dict[str, str] = {}
        for (project_id, _), target in table.items():
            if target.queue is not None:
                lines[target.model.deployment_id] = target.queue
            for reference in target.references:
                # Where several deployments serve the same version, one that can answer is preferred.
                other = by_reference.get((project_id, reference))
                if other is None or not other.slots:
                    by_reference[project_id, reference] = target
        self._snapshot = _Snapshot(table, by_reference, lines)
        self._covered = covers
        if self._on_table is not None:
            self._on_table(table, covers)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()
        self._room.look_over()

    # --- read by the gateway ----------------------------------------------------------------------------------------

    def snapshot(self, project_id: str) -> list[DeployedModel]:
        """What is deployed in the project, by name."""
        found = [target.model for (project, _), target in self._snapshot.table.items() if project == project_id]
        return sorted(found, key=lambda model: model.name)

    def peek(self, project_id: str, model_name: str) -> DeployedModel | None:
        """The deployment that would answer, without waiting; None when the name is not known (yet)."""
        target = self._find(project_id, model_name)
        return None if target is None else target.model

    def waiting(self) -> dict[str, int]:
        """How many requests wait, by the name of the model that they ask."""
        return self._room.counts()

    def acquire(
        self,
        project_id: str,
        model_name: str,
        wait_s: float | None = None,
        split_by: str | None = None,
        turn: Turn | None = None,
    ) -> Acquisition:
        """A replica for one request; hold the block open until the answer is complete.

        Args:
            project_id: the caller's project; other projects' deployments do not exist for it.
            model_name: a deployment's name, or `name@alias`, `name@v3` or a version id that some deployment serves.
            wait_s: how long to wait while it loads; the pool's own figure where None.
            split_by: where a canary shares the requests, those with the same text here are answered by the same side.
            turn: who asks, for the order in which those are served that wait for a free place.

        Raises (on entry):
            ModelNotFound: no deployment has that name; the hint names near ones.
            Unavailable: it has failed (with the reason), is stopped, is still loading after `wait_s` (`model_loading`), or it
                is full and too many wait, or no place became free in time (`model_overloaded`).
        """
        return Acquisition(self, project_id, model_name, wait_s, split_by, turn or Turn(project_id))

    def _find(self, project_id: str, model_name: str) -> Target | None:
        key = (project_id, model_name)
        snapshot = self._snapshot
        return snapshot.table.get(key) or snapshot.by_reference.get(key)

    def choose(self, project_id: str, model_name: str, split_by: str | None, turn: Turn) -> Slot | Route | None:
        """The least busy ready replica, which has counted the request in; None where it must wait, or nothing is known."""
        target = self._find(project_id, model_name)
        if target is None or (target.line in self._room and not turn.beyond):
            return None
        chosen = best_of(target, split_by)
        if isinstance(chosen, Slot):
            if chosen.is_full and not turn.beyond:
                return None
            chosen.enter()
        return chosen

    def leave(self, slot: Slot, turn: Turn) -> None:
        """Count a request out of its replica; the next one that waits gets its place."""
        slot.leave()
        own = slot.route.deployment_id
        self._room.place_free(own, turn)
        shared = self._snapshot.lines.get(own)
        if shared is not None:
            self._room.place_free(shared, turn)

    async def wait(
        self, project_id: str, model_name: str, wait_s: float | None, split_by: str | None, turn: Turn
    ) -> Slot | Route:
        """The slow path of `acquire`: not known yet, loading, full, or failed. A slot has counted the request in."""
        if self._covered < self._expected:
            await self._catch_up()
        target = self._find(project_id, model_name)
        if target is None:
            target = await self._look_again(project_id, model_name)
        if target is None and self._on_unknown is not None and await self._on_unknown(project_id, model_name):
            await self._catch_up()
            target = self._find(project_id, model_name) or await self._look_again(project_id, model_name)
        if target is None:
            raise self._not_found(project_id, model_name)
        chosen = self.choose(project_id, model_name, split_by, turn)
        if chosen is not None:
            return chosen
        return await self._room.wait(project_id, model_name, target, wait_s, split_by, turn)

    async def _look_again(self, project_id: str, model_name: str) -> Target | None:
        """Another process may have heard of it a moment ago."""
        if self._confirm is None:
            return None
        await self._confirm()
        await self._catch_up()
        return self._find(project_id, model_name)

    async def _catch_up(self) -> None:
        """Wait for a table that knows of every announced change: what was deployed a moment ago may not be published yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                while (changed := self._changed) is not None and self._covered < self._expected:
                    await changed.wait()

    def _not_found(self, project_id: str, model_name: str) -> ModelNotFound:
        names = [model.name for model in self.snapshot(project_id)]
        near = get_close_matches(model_name, names, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(repr(name) for name in near)}?"
        elif names:
            shown = ", ".join(repr(name) for name in names[:5])
            hint = f"Deployed are: {shown}{' and others' if len(names) > 5 else ''}."
        else:
            hint = "Nothing is deployed yet: deploy a model with `modelworks deploy` or POST /api/deployments."
        return ModelNotFound(f"The model {model_name!r} does not exist or you have no access to it.", hint=hint, param="model")
