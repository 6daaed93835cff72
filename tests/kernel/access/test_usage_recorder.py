"""What record() confirmed is in the database, whatever happens next."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from modelworks.contract.errors import Unavailable
from modelworks.kernel.access import AccessService, UsageRecord, UsageRecorder
from modelworks.kernel.access.store import UsageRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events


def usage(**changes: Any) -> UsageRecord:
    fields: dict[str, Any] = {
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "/v1/chat/completions",
        "model": "chat",
        "request_id": "req_1",
        "status": 200,
        "prompt_tokens": 10,
        "completion_tokens": 3,
    }
    return UsageRecord(**{**fields, **changes})


@pytest.fixture
def recorder(database: Database) -> Iterator[UsageRecorder]:
    recorder = UsageRecorder(database)
    yield recorder
    recorder.close()


@pytest.fixture
def access(database: Database) -> AccessService:
    return AccessService(database, FixedClock(), Events())


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(UsageRow)) or 0


async def test_what_is_recorded_is_there(recorder: UsageRecorder, access: AccessService) -> None:
    record = usage(time_to_first_token_ms=12.5, duration_ms=80.25, streamed=True, aborted=True, version_id="mdl_1")
    await recorder.record(record)
    with access.db.reading() as session:
        (found,), has_more = access.list_usage(session, "prj_1")
    assert not has_more
    assert found.id == record.id
    assert found.created_at == record.created_at
    assert (found.time_to_first_token_ms, found.duration_ms, found.streamed, found.aborted) == (12.5, 80.25, True, True)
    assert (found.version_id, found.deployment_id, found.error_code) == ("mdl_1", None, None)


async def test_many_records_share_few_commits(recorder: UsageRecorder, database: Database) -> None:
    commits: list[object] = []
    event.listen(database.engine, "commit", commits.append)
    await asyncio.gather(*(recorder.record(usage()) for _ in range(300)))
    assert count(database) == 300
    assert len(commits) < 30


async def test_records_from_threads_and_loops_at_once(recorder: UsageRecorder, database: Database) -> None:
    threads = [threading.Thread(target=lambda: [recorder.record_sync(usage()) for _ in range(5)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(recorder.record(usage()) for _ in range(20)))
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert count(database) == 50


async def test_a_cancelled_caller_is_recorded_all_the_same(recorder: UsageRecorder, database: Database) -> None:
    task = asyncio.create_task(recorder.record(usage()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await recorder.record(usage())  # the confirmation of the cancelled one must not disturb the writer
    assert count(database) == 2


async def test_one_bad_record_does_not_take_the_others_with_it(recorder: UsageRecorder, database: Database) -> None:
    good = [usage() for _ in range(5)]
    twin = usage(id=good[0].id)
    outcomes = await asyncio.gather(*(recorder.record(record) for record in [*good, twin]), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 5
    assert count(database) == 5


async def test_any_model_name_that_a_client_sends_can_be_recorded(recorder: UsageRecorder, access: AccessService) -> None:
    for name in ("a\x00b", "\ud800", "模型" * 5000, "x" * 100_000):
        await recorder.record(usage(model=name))
    with access.db.reading() as session:
        found, _ = access.list_usage(session, "prj_1")
    assert sorted(len(item.model) for item in found) == [1, 2, 256, 256]


async def test_a_failing_database_is_told_to_the_caller(recorder: UsageRecorder, database: Database) -> None:
    with database.transaction() as session:
        session.execute(UsageRow.__table__.delete())
        session.connection().exec_driver_sql("ALTER TABLE usage_requests RENAME TO elsewhere")
    with pytest.raises(Exception, match="usage_requests"):
        await recorder.record(usage())
    with database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE elsewhere RENAME TO usage_requests")
    await recorder.record(usage())
    assert count(database) == 1


def test_close_commits_what_waits_and_refuses_more(database: Database) -> None:
    recorder = UsageRecorder(database, linger_s=0.05)
    threads = [threading.Thread(target=recorder.record_sync, args=(usage(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(recorder._writer._waiting) < 4 and any(thread.is_alive() for thread in threads):
        pass
    recorder.close()
    assert count(database) == 4
    for thread in threads:
        thread.join()
    with pytest.raises(Unavailable):
        recorder.record_sync(usage())


def test_flush_waits_for_every_row(database: Database, recorder: UsageRecorder) -> None:
    async def record() -> None:
        tasks = [asyncio.create_task(recorder.record(usage())) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.to_thread(recorder.flush)
        assert count(database) == 10
        await asyncio.gather(*tasks)

    asyncio.run(record())


def test_kill_9_loses_nothing_that_was_confirmed(database: Database) -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        from modelworks.kernel.access import UsageRecord, UsageRecorder
        from modelworks.kernel.base.database import Database

        async def main(url):
            recorder = UsageRecorder(Database(url))
            async def client(name):
                for number in range(100000):
                    record = UsageRecord(project_id="prj_1", key_id="k", endpoint="/x", model=name, request_id="", status=200)
                    await recorder.record(record)
                    print(record.id, flush=True)
            await asyncio.gather(*(client(f"m{i}") for i in range(4)))

        asyncio.run(main(sys.argv[1]))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, database.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    confirmed = [process.stdout.readline().strip() for _ in range(60)]
    os.kill(process.pid, signal.SIGKILL)
    confirmed += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    assert all(confirmed)
    with database.reading() as session:
        kept = set(session.scalars(select(UsageRow.id)))
    assert set(confirmed) <= kept


async def test_sums_by_model_key_and_day(recorder: UsageRecorder, access: AccessService) -> None:
    day = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
    await asyncio.gather(
        recorder.record(usage(created_at=day, model="a", cached_tokens=4, reasoning_tokens=1)),
        recorder.record(usage(created_at=day + timedelta(seconds=2), model="a", status=503, error_code="unavailable")),
        recorder.record(usage(created_at=day + timedelta(seconds=3), model="b", key_id="key_2", aborted=True)),
        recorder.record(usage(created_at=day, project_id="prj_2")),
    )
    with access.db.reading() as session:
        by_model = access.usage_summary(session, "prj_1")
        by_key = access.usage_summary(session, "prj_1", group_by="key")
        by_day = access.usage_summary(session, "prj_1", group_by="day")
        later = access.usage_summary(session, "prj_1", since=day + timedelta(seconds=2), until=day + timedelta(seconds=3))
        nobody = access.usage_summary(session, "prj_3")
    assert [(group.key, group.num_requests, group.num_errors, group.num_aborted) for group in by_model.data] == [
        ("a", 2, 1, 0),
        ("b", 1, 0, 1),
    ]
    assert (by_model.data[0].prompt_tokens, by_model.data[0].cached_tokens, by_model.data[0].reasoning_tokens) == (20, 4, 1)
    assert (by_model.total.num_requests, by_model.total.prompt_tokens, by_model.total.completion_tokens) == (3, 30, 9)
    assert [(group.key, group.num_requests) for group in by_key.data] == [("key_1", 2), ("key_2", 1)]
    assert [(group.key, group.num_requests) for group in by_day.data] == [("2026-03-01", 1), ("2026-03-02", 2)]
    assert [(group.key, group.num_requests) for group in later.data] == [("a", 1)]
    assert (nobody.data, nobody.total.num_requests) == ([], 0)
