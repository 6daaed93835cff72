"""What the processes of one server tell each other: the table of the pool, announcements, and which replicas are busy.

The first process follows runs and makes deployments so; further ones only answer requests. Each of these holds one end of a
socket pair; lines of JSON go both ways. Nothing of it is kept: a process that starts again is told everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from typing import Any, Final

import orjson
import structlog

from modelworks.kernel.base.events import Events
from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.schemas import DeployedModel, Route
from modelworks.kernel.serving.target import Slot, Table, Target

log = structlog.get_logger(__name__)

#: How often a gateway says what its replicas are busy with. A replica rests for longer than that before it is ended.
_BUSY_EVERY_S: Final = 0.1
#: The longest line: a table of a few ten thousand deployments.
LINE_BYTES: Final = 64 << 20
#: How long a gateway waits for the first process to say whether a name is new.
_CONFIRM_S: Final = 5.0

Message = dict[str, Any]


def key_of(slot: Slot) -> str:
    """Names a slot among processes: the same for as long as the replica's process lives."""
    route = slot.route
    return "|".join((slot.replica_id, route.base_url, route.version_id or "", "a" if slot.parent is not None else ""))


def encode(table: Table, covers: int) -> Message:
    """A table as JSON; every slot once, those of adapters after the one of their replica."""
    slots: dict[str, dict[str, Any]] = {}

    def name(slot: Slot) -> str:
        parent = None if slot.parent is None else name(slot.parent)
        key = key_of(slot)
        slots[key] = {"id": slot.replica_id, "route": _route(slot.route), "capacity": slot.capacity, "parent": parent}
        return key

    targets = [
        {
            "key": key,
            "model": asdict(target.model),
            "slots": [name(slot) for slot in target.slots],
            "canary": [name(slot) for slot in target.canary],
            "static": None if target.static is None else _route(target.static),
            "references": sorted(target.references),
            "share": target.share,
            "queue": target.queue,
        }
        for key, target in table.items()
    ]
    return {"table": targets, "slots": slots, "covers": covers}


def _route(route: Route) -> dict[str, Any]:
    return {name: getattr(route, name) for name in Route.__dataclass_fields__} | {"headers": dict(route.headers)}


def decode(message: Message, known: dict[str, Slot]) -> Table:
    """A table from JSON. Slots in `known` stay the same objects, so that their counts survive; new ones are put there."""
    for key, each in message["slots"].items():
        slot = known.get(key)
        if slot is None:
            parent = None if each["parent"] is None else known[each["parent"]]
            slot = known[key] = Slot(each["id"], Route(**each["route"]), parent=parent)
        slot.capacity = each["capacity"]
    table: dict[tuple[str, str], Target] = {}
    for each in message["table"]:
        project_id, name = each["key"]
        table[project_id, name] = Target(
            model=DeployedModel(**each["model"]),
            slots=tuple(known[key] for key in each["slots"]),
            static=None if each["static"] is None else Route(**each["static"]),
            references=frozenset(each["references"]),
            canary=tuple(known[key] for key in each["canary"]),
            share=each["share"],
            queue=each["queue"],
        )
    return table


class _Wire:
    """One end of a socket pair; sending is thread-safe and keeps the order."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()

    def send(self, message: Message | bytes) -> None:
        line = message if isinstance(message, bytes) else orjson.dumps(message, default=str) + b"\n"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._write, line)

    def _write(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    with contextlib.suppress(ConnectionError, asyncio.LimitOverrunError, ValueError):
        while line := await reader.readline():
            yield orjson.loads(line)


class Hub:
    """The first process's side."""

    def __init__(self, pool: ReplicaPool, events: Events) -> None:
        self._pool = pool
        self._events = events
        self._wires: list[_Wire] = []
        self._slots: weakref.WeakValueDictionary[str, Slot] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        self._table = encode({}, 0)
        self._expected = 0
        pool.share(self._on_table, self._on_expect)
        events.tap(self._on_event)

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one gateway until its end of the pair is closed."""
        wire = _Wire(writer)
        with self._lock:
            self._wires.append(wire)
            wire.send({"expect": self._expected})
            wire.send(self._table)
        busy: dict[str, int] = {}
        try:
            async for message in _lines(reader):
                if "event" in message:
                    topic, payload = message["event"]
                    self._events.relay(topic, payload)
                    self._tell({"event": [topic, payload]}, but=wire)
                elif "busy" in message:
                    self._count(busy, message["busy"])
                    busy = message["busy"]
                elif "wake" in message:
                    self._pool.wake_reconciler()
                elif "confirm" in message:
                    # Whoever looks after deployments reads again, and says so before this is answered.
                    self._events.relay("deployment.changed", {})
                    wire.send({"confirmed": message["confirm"]})
        finally:
            self._count(busy, {})
            with self._lock:
                self._wires.remove(wire)
            writer.close()

    def _count(self, before: dict[str, int], now: dict[str, int]) -> None:
        for key in {*before, *now}:
            slot = self._slots.get(key)
            if slot is not None:
                slot.elsewhere += now.get(key, 0) - before.get(key, 0)

    def _tell(self, message: Message, but: _Wire | None = None) -> None:
        line = orjson.dumps(message, default=str) + b"\n"
        with self._lock:
            for wire in self._wires:
                if wire is not but:
                    wire.send(line)

    def _on_table(self, table: Table, covers: int) -> None:
        for slot in _slots_of(table.values()):
            self._slots[key_of(slot)] = slot
        self._table = encode(table, covers)
        self._tell(self._table)

    def _on_expect(self, change: int) -> None:
        self._expected = change
        self._tell({"expect": change})

    def _on_event(self, topic: str, payload: dict[str, Any]) -> None:
        self._tell({"event": [topic, payload]})


class Spoke:
    """A further process's side."""

    def __init__(self, pool: ReplicaPool, events: Events) -> None:
        self._pool = pool
        self._events = events
        self._wire: _Wire | None = None
        self._known: dict[str, Slot] = {}
        self._confirming: dict[int, asyncio.Future[None]] = {}
        self._asked = 0
        events.tap(self._on_event)
        pool.on_wake(lambda: self._send({"wake": True}))
        pool.confirm_with(self._confirm)

    async def attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first_table: Callable[[], object]
    ) -> None:
        """Follow the first process until it ends; `first_table` is called when it has told what is deployed."""
        self._wire = _Wire(writer)
        reporting = asyncio.create_task(self._report())
        begun = False
        try:
            async for message in _lines(reader):
                if "table" in message:
                    self._pool.publish(decode(message, self._known), message["covers"])
                    wanted = message["slots"].keys()
                    self._known = {key: slot for key, slot in self._known.items() if key in wanted or slot.in_flight}
                    if not begun:
                        begun = True
                        first_table()
                elif "expect" in message:
                    self._pool.expect(message["expect"])
                elif "event" in message:
                    self._events.relay(*message["event"])
                elif "confirmed" in message:
                    waiting = self._confirming.pop(message["confirmed"], None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(None)
        finally:
            reporting.cancel()
            writer.close()

    async def _report(self) -> None:
        told: dict[str, int] = {}
        while True:
            busy = {key: slot.in_flight for key, slot in self._known.items() if slot.in_flight}
            if busy != told:
                self._send({"busy": busy})
                told = busy
            await asyncio.sleep(_BUSY_EVERY_S)

    async def _confirm(self) -> None:
        """The pool knows of every change of which the first process knows."""
        self._asked += 1
        number = self._asked
        answered = self._confirming[number] = asyncio.get_running_loop().create_future()
        self._send({"confirm": number})
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONFIRM_S):
                    await answered
        finally:
            self._confirming.pop(number, None)

    def _on_event(self, topic: str, payload: dict[str, Any]) -> None:
        self._send({"event": [topic, payload]})

    def _send(self, message: Message) -> None:
        if self._wire is not None:
            self._wire.send(message)


def _slots_of(targets: Iterable[Target]) -> Iterable[Slot]:
    for target in targets:
        for slot in (*target.slots, *target.canary):
            yield slot
            if slot.parent is not None:
                yield slot.parent
