"""The thread that looks again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower, PollingTask, PollingThread

NEVER_S = 600.0


class Looks:
    """Counts looks; the test waits for the next."""

    def __init__(self) -> None:
        self.num = 0
        self._looked = threading.Condition()

    def look(self) -> None:
        with self._looked:
            self.num += 1
            self._looked.notify_all()

    def wait_for(self, num: int) -> None:
        with self._looked:
            assert self._looked.wait_for(lambda: self.num >= num, timeout=30), f"{self.num} looks instead of {num}"


@contextmanager
def polling(
    events: Events, tick: Callable[[], bool], *, busy_s: float = NEVER_S, idle_s: float = NEVER_S
) -> Iterator[PollingThread]:
    """A thread that is looking, until the end of the block."""
    thread = PollingThread(tick, name="watch", events=events, topic="run.changed", busy_s=busy_s, idle_s=idle_s, rest_s=0.001)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@pytest.mark.parametrize("is_busy", [True, False])
def test_it_comes_back_soon_only_while_there_is_something_to_do(events: Events, is_busy: bool) -> None:
    looks = Looks()

    def tick() -> bool:
        looks.look()
        return is_busy

    with polling(events, tick, busy_s=0.001 if is_busy else NEVER_S, idle_s=NEVER_S if is_busy else 0.001):
        looks.wait_for(3)


def test_an_announcement_and_a_call_bring_the_next_look_forward(events: Events) -> None:
    looks = Looks()

    def tick() -> bool:
        looks.look()
        return False

    with polling(events, tick) as thread:
        looks.wait_for(1)
        events.publish("run.changed", run_id="run_1")
        looks.wait_for(2)
        thread.wake()
        looks.wait_for(3)


def test_what_changes_during_a_look_is_looked_at_again(events: Events) -> None:
    looks = Looks()

    def tick() -> bool:
        looks.look()
        if looks.num == 1:
            events.publish("run.changed", run_id="run_1")
        return False

    with polling(events, tick):
        looks.wait_for(2)


def test_a_failing_look_is_repeated(events: Events) -> None:
    looks = Looks()

    def tick() -> bool:
        looks.look()
        raise RuntimeError("the database is away")

    with polling(events, tick, busy_s=0.001):
        looks.wait_for(3)


def test_stopping_ends_the_thread_and_its_subscription(events: Events) -> None:
    looks = Looks()

    def tick() -> bool:
        looks.look()
        return False

    with polling(events, tick):
        looks.wait_for(1)
    assert "watch" not in {each.name for each in threading.enumerate()}
    events.publish("run.changed", run_id="run_1")
    assert looks.num == 1


class TestPollingTask:
    """The same in the event loop."""

    async def test_it_looks_at_once_when_woken_from_a_thread_and_in_time(self) -> None:
        looked = asyncio.Semaphore(0)

        async def look() -> None:
            looked.release()

        seldom = PollingTask(look, name="watch", poll_s=NEVER_S)
        seldom.wake()
        seldom.start()
        async with asyncio.timeout(30):
            await looked.acquire()
            await asyncio.to_thread(seldom.wake)
            await looked.acquire()
        await seldom.stop()
        often = PollingTask(look, name="watch", poll_s=0.001)
        often.start()
        async with asyncio.timeout(30):
            for _ in range(3):
                await looked.acquire()
        await often.stop()

    async def test_what_changes_during_a_look_is_looked_at_again_and_a_failing_one_repeated(self) -> None:
        looks = asyncio.Semaphore(0)
        num = 0

        async def look() -> None:
            nonlocal num
            num += 1
            looks.release()
            if num == 1:
                task.wake()
                await asyncio.sleep(0)
                raise RuntimeError("the database is away")

        task = PollingTask(look, name="watch", poll_s=NEVER_S)
        task.start()
        async with asyncio.timeout(30):
            await looks.acquire()
            await looks.acquire()
        await task.stop()

    async def test_stopping_ends_it_and_what_it_began_and_it_can_begin_again(self) -> None:
        looks = asyncio.Semaphore(0)

        async def look() -> None:
            looks.release()

        task = PollingTask(look, name="watch", poll_s=NEVER_S)
        begun = asyncio.create_task(asyncio.sleep(NEVER_S))
        for _ in range(2):
            task.start()
            async with asyncio.timeout(30):
                await looks.acquire()
            await task.stop(begun)
            assert begun.cancelled()
        task.wake()
        await asyncio.sleep(0.01)
        assert looks.locked(), "it looks although it was stopped"


class Waiting(Follower):
    """Follows one run."""

    def __init__(self, events: Events) -> None:
        super().__init__(
            events, name="waiting", topic="space.changed", busy_s=NEVER_S, idle_s=NEVER_S, awaited={"run.changed": "run_id"}
        )
        self.looks = Looks()

    def tick(self) -> bool:
        self._awaited = frozenset({"run_1"})
        self.looks.look()
        return False


def test_what_is_waited_for_brings_the_next_look_forward_and_nothing_else_does(events: Events) -> None:
    waiting = Waiting(events)
    waiting.start()
    try:
        waiting.looks.wait_for(1)
        events.publish("run.changed", run_id="run_1")
        waiting.looks.wait_for(2)
        for topic, payload in (("run.changed", {"run_id": "run_2"}), ("run.changed", {}), ("other", {"run_id": "run_1"})):
            events.publish(topic, **payload)
        events.publish("space.changed")
        waiting.looks.wait_for(3)
    finally:
        waiting.stop()
    assert waiting.looks.num == 3
    assert not any(events._handlers.values()), "a follower that has ended hears nothing more"
