"""The thread that writes what waits in one go."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from modelworks.kernel.base import batching
from modelworks.kernel.base.batching import BatchWriter


class Book:
    """Writes when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.taken = threading.Event()

    def write(self, batch: Sequence[int]) -> None:
        self.taken.set()
        assert self.free.wait(30)
        self.batches.append([*batch])


def test_what_gathers_while_it_writes_is_one_batch_in_its_order_and_no_larger_than_said() -> None:
    book = Book()
    writer = BatchWriter(book.write, name="book", most=3)
    assert writer.submit(0)
    assert book.taken.wait(30)
    assert all(writer.submit(number) for number in range(1, 6))
    book.free.set()
    writer.flush()
    assert book.batches == [[0], [1, 2, 3], [4, 5]]
    writer.close()


def test_it_rests_after_several_at_once_until_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_REST_S", 60.0)
    written: list[list[int]] = []
    begun, held = threading.Event(), threading.Event()

    def write(batch: Sequence[int]) -> None:
        begun.set()
        assert held.wait(30)
        time.sleep(0.05)
        written.append([*batch])

    writer = BatchWriter(write, name="book", most=10, busy_share=0.001)
    assert writer.submit(0)
    assert begun.wait(30)
    assert writer.submit(1)
    assert writer.submit(2)
    held.set()
    while len(written) < 2:  # nothing rests after one alone: that would be 50 seconds
        time.sleep(0.001)
    assert writer.submit(3)
    time.sleep(0.2)
    assert writer.submit(4)
    assert len(written) == 2
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 10
    assert written == [[0], [1, 2], [3, 4]]


def test_there_is_room_for_so_many_and_none_once_it_closes() -> None:
    book = Book()
    writer = BatchWriter(book.write, name="book", most=10)
    assert writer.submit(0)
    assert book.taken.wait(30)
    assert [writer.submit(number, room=2) for number in range(1, 5)] == [True, True, False, False]
    book.free.set()
    writer.close()
    assert book.batches == [[0], [1, 2]]
    assert not writer.submit(5)


def test_it_tends_at_once_and_again_and_leaves_after_the_last_item() -> None:
    told: list[str] = []
    tended = threading.Condition()

    def tend() -> None:
        with tended:
            told.append("tend")
            tended.notify_all()

    writer = BatchWriter[int](
        lambda batch: told.append(f"write {batch}"),
        name="book",
        most=10,
        tend=tend,
        tend_every_s=0.001,
        leave=lambda: told.append("leave"),
    )
    writer.start()
    with tended:
        assert tended.wait_for(lambda: told.count("tend") >= 3, timeout=30)
    assert writer.submit(1)
    writer.close()
    assert told[0] == "tend"
    assert told[-1] == "leave"
    assert told.count("write [1]") == 1


def test_without_an_item_it_has_no_thread() -> None:
    before = threading.active_count()
    writer = BatchWriter(Book().write, name="book", most=1)
    writer.flush()
    writer.close()
    assert threading.active_count() == before
