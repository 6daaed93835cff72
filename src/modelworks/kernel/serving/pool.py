"""Routing of requests to replicas: in memory, in the server's event loop, with no database access per request.

The reconciler publishes a table of what is deployed; `acquire` picks the replica with the fewest requests in flight, waits
while a deployment is loading and says why at once when it has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver

from modelworks.contract.errors import ModelNotFound, Unavailable
from modelworks.kernel.serving.schemas import DeployedModel, Route

#: A replica that refused a connection is passed over for so long; the reconciler finds out what happened meanwhile.
SUSPECT_S = 2.0
#: How long a request that would be refused waits for a table that is up to date.
_CATCH_UP_S = 2.0


@dataclass(slots=True, eq=False)
class Slot:
    """One replica that answers. The object lives as long as the replica's process, so that its count survives publishing."""

    replica_id: str
    route: Route
    in_flight: int = 0
    suspect_until: float = 0.0
    #: The replica's own slot, where this one stands for an adapter on it.
    parent: Slot | None = None

    @property
    def load(self) -> int:
        """Requests that the replica is answering, with whichever adapter."""
        return self.in_flight if self.parent is None else self.parent.in_flight

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1
        if self.parent is not None:
            self.parent.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if self.parent is not None:
            self.parent.in_flight -= 1


@dataclass(frozen=True, slots=True)
class Target:
    """One deployment of the published table."""

    model: DeployedModel
    slots: tuple[Slot, ...]
    #: For kind static: the route without a replica.
    static: Route | None = None
    #: Other references of exactly the version that answers: `name@v3`, `name@alias`, the version's id.
    references: frozenset[str] = frozenset()
    #: The replicas of a candidate, and which share of the requests they answer.
    canary: tuple[Slot, ...] = ()
    share: float = 0.0


#: (project id, deployment name) → deployment.
Table = Mapping[tuple[str, str], Target]


@dataclass(slots=True)
class _Snapshot:
    table: Table = field(default_factory=dict)
    by_reference: dict[tuple[str, str], Target] = field(default_factory=dict)


class Acquisition:
    """`async with pool.acquire(…) as route`: counts the request in and out of its replica."""

    __slots__ = ("_model_name", "_pool", "_project_id", "_slot", "_split_by", "_wait_s")

    def __init__(self, pool: ReplicaPool, project_id: str, model_name: str, wait_s: float | None, split_by: str | None) -> None:
        self._split_by = split_by
        self._pool = pool
        self._project_id = project_id
        self._model_name = model_name
        self._wait_s = wait_s
        self._slot: Slot | None = None

    async def __aenter__(self) -> Route:
        chosen = self._pool.choose(self._project_id, self._model_name, self._split_by)
        if chosen is None:
            chosen = await self._pool.wait(self._project_id, self._model_name, self._wait_s)
        if isinstance(chosen, Route):
            return chosen
        chosen.enter()
        self._slot = chosen
        return chosen.route

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        slot = self._slot
        if slot is None:
            return
        self._slot = None
        slot.leave()
        if isinstance(error, aiohttp.ClientConnectionError):
            slot.suspect_until = time.monotonic() + SUSPECT_S
            self._pool.wake_reconciler()


class ReplicaPool:
    """One per server.

    Args:
        max_queue: requests that may wait for one deployment while it loads; more are refused with 503.
        load_wait_s: how long a request waits unless `acquire` says otherwise.
        resolver: DNS for upstream servers (the guarded one); None is aiohttp's own.
    """

    def __init__(self, *, max_queue: int = 256, load_wait_s: float = 600.0, resolver: AbstractResolver | None = None) -> None:
        self._max_queue = max_queue
        self._load_wait_s = load_wait_s
        self._resolver = resolver
        self._snapshot = _Snapshot()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._waiting: dict[str, int] = {}
        self._http: aiohttp.ClientSession | None = None
        self._on_wake: Callable[[], object] | None = None
        self._on_unknown: Callable[[str, str], Awaitable[bool]] | None = None
        self._expected = 0
        self._covered = 0

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

    def wake_reconciler(self) -> None:
        """Ask for a fresh look: a replica did not answer."""
        if self._on_wake is not None:
            self._on_wake()

    def expect(self, change: int) -> None:
        """A change was announced (thread-safe): nobody is refused by a table that does not cover it yet."""
        self._expected = change

    def publish(self, table: Table, covers: int = 0) -> None:
        """Replace the table (thread-safe). Slots of replicas that stay must be the same objects.

        Args:
            covers: the last change that had been announced when the wishes were read for this table.
        """
        by_reference: dict[tuple[str, str], Target] = {}
        for (project_id, _), target in table.items():
            for reference in target.references:
                # Where several deployments serve the same version, one that can answer is preferred.
                other = by_reference.get((project_id, reference))
                if other is None or not other.slots:
                    by_reference[project_id, reference] = target
        self._snapshot = _Snapshot(table, by_reference)
        self._covered = covers
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()

    # --- read by the gateway ----------------------------------------------------------------------------------------

    def snapshot(self, project_id: str) -> list[DeployedModel]:
        """What is deployed in the project, by name."""
        found = [target.model for (project, _), target in self._snapshot.table.items() if project == project_id]
        return sorted(found, key=lambda model: model.name)

    def peek(self, project_id: str, model_name: str) -> DeployedModel | None:
        """The deployment that would answer, without waiting; None when the name is not known (yet)."""
        target = self._find(project_id, model_name)
        return None if target is None else target.model

    def acquire(
        self, project_id: str, model_name: str, wait_s: float | None = None, split_by: str | None = None
    ) -> Acquisition:
        """A replica for one request; hold the block open until the answer is complete.

        Args:
            project_id: the caller's project; other projects' deployments do not exist for it.
            model_name: a deployment's name, or `name@alias`, `name@v3` or a version id that some deployment serves.
            wait_s: how long to wait while it loads; the pool's own figure where None.
            split_by: where a canary shares the requests, those with the same text here are answered by the same side.

        Raises (on entry):
            ModelNotFound: no deployment has that name; the hint names near ones.
            Unavailable: it has failed (with the reason), is stopped, is still loading after `wait_s`, or too many wait.
        """
        return Acquisition(self, project_id, model_name, wait_s, split_by)

    def _find(self, project_id: str, model_name: str) -> Target | None:
        key = (project_id, model_name)
        snapshot = self._snapshot
        return snapshot.table.get(key) or snapshot.by_reference.get(key)

    def choose(self, project_id: str, model_name: str, split_by: str | None = None) -> Slot | Route | None:
        """The least busy ready replica, or None when there is none at this moment.

        A canary that is not ready leaves its share to the deployment itself.
        """
        target = self._find(project_id, model_name)
        if target is None:
            return None
        if target.static is not None:
            return target.static
        if target.canary and falls_to_canary(target.model.deployment_id, split_by or secrets.token_hex(8), target.share):
            slot = _least_busy(target.canary)
            if slot is not None:
                return slot
        return _least_busy(target.slots)

    async def wait(self, project_id: str, model_name: str, wait_s: float | None) -> Slot | Route:
        """The slow path of `acquire`: not known yet, loading, or failed."""
        if self._covered < self._expected:
            await self._catch_up()
        target = self._find(project_id, model_name)
        if target is None and self._on_unknown is not None and await self._on_unknown(project_id, model_name):
            await self._catch_up()
            target = self._find(project_id, model_name)
        if target is None:
            raise self._not_found(project_id, model_name)
        deadline = time.monotonic() + (self._load_wait_s if wait_s is None else wait_s)
        deployment_id = target.model.deployment_id
        if self._waiting.get(deployment_id, 0) >= self._max_queue:
            raise Unavailable(
                f"The model {model_name!r} is loading and {self._max_queue} requests already wait for it.",
                hint="Try again shortly.",
                code="model_overloaded",
                retry_after_s=5,
            )
        self._waiting[deployment_id] = self._waiting.get(deployment_id, 0) + 1
        try:
            while True:
                changed = self._changed
                current = self._find(project_id, model_name)
                if current is None:
                    raise self._not_found(project_id, model_name)
                chosen = self.choose(project_id, model_name)
                if chosen is not None:
                    return chosen
                _raise_if_down(current.model)
                remaining = deadline - time.monotonic()
                if remaining <= 0 or changed is None or self._loop is None:
                    raise Unavailable(
                        f"The model {model_name!r} is still loading.",
                        hint="Try again shortly; GET /api/deployments shows its state.",
                        code="model_loading",
                        retry_after_s=5,
                    )
                # A suspect replica becomes eligible by time alone, so wait no longer than that when there is one.
                nap = min(remaining, 0.25) if current.slots else remaining
                try:
                    await asyncio.wait_for(changed.wait(), nap)
                except TimeoutError:
                    continue
        finally:
            left = self._waiting[deployment_id] - 1
            if left:
                self._waiting[deployment_id] = left
            else:
                del self._waiting[deployment_id]

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


def falls_to_canary(deployment_id: str, split_by: str, share: float) -> bool:
    """Whether a request is among the share: by a hash, so that it is so again, and stays so when the share grows."""
    digest = hashlib.sha256(f"{deployment_id}\0{split_by}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _least_busy(slots: Sequence[Slot]) -> Slot | None:
    if len(slots) == 1:
        slot = slots[0]
        if slot.suspect_until == 0.0 or slot.suspect_until < time.monotonic():
            return slot
        return None
    best: Slot | None = None
    now = time.monotonic()
    for slot in slots:
        if slot.suspect_until > now:
            continue
        if best is None or slot.load < best.load:
            best = slot
    return best


def _raise_if_down(model: DeployedModel) -> None:
    if model.state == "failed":
        raise Unavailable(
            f"The deployment {model.name!r} has failed: {model.last_error or 'no reason was given'}",
            hint="GET /api/deployments shows its replicas; it is tried again from time to time.",
            code="deployment_failed",
            retry_after_s=60,
        )
    if model.state == "stopped":
        raise Unavailable(f"The deployment {model.name!r} is stopped.", hint="Start it again with `modelworks deploy`.")
