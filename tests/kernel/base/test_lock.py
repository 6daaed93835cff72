"""One server per database: the second is told who holds it; death frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from modelworks.contract.errors import Conflict, Unavailable
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.lock import ServerLock
from modelworks.kernel.base.settings import Settings


def settings_of(home: Path) -> Settings:
    made = Settings(home=home)
    made.prepare_home()
    return made


def test_the_second_server_is_told_who_was_first(settings: Settings, empty_database: Database) -> None:
    first = ServerLock(settings, empty_database)
    first.acquire()
    with pytest.raises(Conflict, match=f"process {os.getpid()} on ") as caught:
        ServerLock(settings, empty_database).acquire()
    assert caught.value.error_code == "server_running"
    assert caught.value.hint is not None
    first.release()
    second = ServerLock(settings, empty_database)
    second.acquire()
    second.release()
    second.release()


def test_another_home_with_the_same_database_is_refused(settings: Settings, empty_database: Database, tmp_path: Path) -> None:
    first = ServerLock(settings, empty_database)
    first.acquire()
    twin = Database(empty_database.url)
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        ServerLock(settings_of(tmp_path / "other"), twin).acquire()
    twin.dispose()
    first.release()


def test_the_same_home_with_another_database_is_refused(settings: Settings, empty_database: Database, tmp_path: Path) -> None:
    first = ServerLock(settings, empty_database)
    first.acquire()
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(Conflict):
        ServerLock(settings, other).acquire()
    first.release()
    # What the refused one had taken before it was refused is free again.
    again = ServerLock(settings, other)
    again.acquire()
    again.release()
    other.dispose()


def test_apart_they_run_side_by_side(settings: Settings, empty_database: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    locks = [ServerLock(settings, empty_database), ServerLock(settings_of(tmp_path / "other"), other)]
    for lock in locks:
        lock.acquire()
    for lock in locks:
        lock.release()
    other.dispose()


def test_kill_9_frees_it(settings: Settings, empty_database: Database) -> None:
    code = textwrap.dedent(
        """
        import subprocess, sys, time
        from pathlib import Path
        from modelworks.kernel.base.database import Database
        from modelworks.kernel.base.lock import ServerLock
        from modelworks.kernel.base.settings import Settings
        lock = ServerLock(Settings(home=Path(sys.argv[1])), Database(sys.argv[2]))
        lock.acquire()
        # A job that outlives the server must not keep its lock.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    arguments = [sys.executable, "-c", code, str(settings.home), empty_database.url]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    lock = ServerLock(settings, empty_database)
    try:
        with pytest.raises(Conflict, match=f"process {process.pid} on "):
            lock.acquire()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    try:
        for attempt in range(100):  # PostgreSQL needs a moment to notice
            try:
                lock.acquire()
                break
            except Conflict:
                assert attempt < 99
                subprocess.run(["sleep", "0.05"], check=True)
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_lost_with_its_connection_is_taken_again(settings: Settings, empty_database: Database, tmp_path: Path) -> None:
    lock = ServerLock(settings, empty_database)
    lock.acquire()
    lock.renew()
    if empty_database.is_sqlite:
        return  # a file's lock ends with the process only
    _end_lock_connection(empty_database)
    lock.renew()
    with pytest.raises(Conflict):
        ServerLock(settings_of(tmp_path / "other"), empty_database).acquire()
    # Lost once more, and this time somebody else is quicker.
    _end_lock_connection(empty_database)
    usurper = ServerLock(settings_of(tmp_path / "usurper"), empty_database)
    usurper.acquire()
    with pytest.raises(Conflict):
        lock.renew()
    usurper.release()
    lock.release()


def _end_lock_connection(database: Database) -> None:
    query = (
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted"
        " AND l.objid::bigint = hashtext(current_schema())::bigint & 4294967295"
    )
    with database.reading() as session:
        session.execute(text(query))
    deadline = time.monotonic() + 10
    held = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND objid::bigint = hashtext(current_schema())::bigint & 4294967295"
    )
    while True:
        with database.reading() as session:
            if session.scalar(text(held)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_database_that_is_not_there_is_told_with_its_address_and_without_its_password(settings: Settings) -> None:
    db = Database("postgresql+psycopg://somebody:hidden-word@127.0.0.1:1/modelworks")
    lock = ServerLock(settings, db)
    with pytest.raises(Unavailable) as refused:
        lock.acquire()
    assert refused.value.error_code == "database_unreachable"
    assert "somebody:***@127.0.0.1:1/modelworks" in refused.value.message
    assert "hidden-word" not in refused.value.message
    assert "MODELWORKS_DATABASE_URL" in (refused.value.hint or "")
    db.dispose()
    # The home folder is free again.
    other = ServerLock(settings, Database(f"sqlite:///{settings.home / 'x.db'}"))
    other.acquire()
    other.release()
