"""The server is killed: its replicas end with it, and the next server brings the deployments back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from tests.kernel.serving.room import PROJECT, Room, alive, wait_until

from modelworks.kernel.base.settings import Settings
from modelworks.kernel.serving.backends.local import LocalBackend

#: A server without HTTP: runs the reconciler and writes down the replicas' processes once both deployments are ready.
_SERVER = """
import asyncio, json, sys, time
from pathlib import Path
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.serving import Reconciler, ReplicaPool
from modelworks.kernel.serving.backends.local import LocalBackend
from modelworks.kernel.storage import BlobStore

settings = Settings(home=Path(sys.argv[1]))
db, events, clock = Database(settings.effective_database_url), Events(), SystemClock()
catalog = CatalogService(db, BlobStore(str(settings.home / "blobs")), clock, events, settings)
pool, local = ReplicaPool(), LocalBackend()
reconciler = Reconciler(db, catalog, clock, events, settings, pool, {"predictor": local, "openai": local, "upstream": local})
reconciler.start()
while sum(model.state == "ready" for model in pool.snapshot("prj_test")) < 2:
    time.sleep(0.05)
pids = json.dumps([process.popen.pid for process in local._processes.values()])
(settings.home / "pids.new").write_text(pids)
(settings.home / "pids.new").rename(settings.home / "pids.json")
time.sleep(600)
"""


async def test_killed_server_leaves_no_orphans_and_deployments_return(
    make_room: Callable[..., Room], settings: Settings
) -> None:
    room = make_room()
    room.register("hello ")
    room.apply(model="greeter")
    room.apply("program", model="greeter", engine="fake-openai")
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(settings.home)], stdout=subprocess.DEVNULL)
    try:
        written = settings.home / "pids.json"
        await asyncio.to_thread(wait_until, written.exists, "both deployments are ready")
        pids = json.loads(written.read_text())
        # The server program is a child of its supervising process.
        pids += [child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)]
        assert len(pids) == 3
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    await asyncio.to_thread(wait_until, lambda: not any(map(alive, pids)), "the replicas end with their server", 10)
    await room.pool.start()
    room.reconciler.start()
    try:
        answer = await room.invoke(text="again")
        assert answer["text"] == "hello again"
        assert answer["pid"] not in pids
        async with room.pool.acquire(PROJECT, "program", 30) as route:
            assert (await room.post(route, "/chat/completions", {"model": "x"}))["model"] == "x"
        assert len(room.get().replicas) == 1
    finally:
        await room.pool.close()


def test_replica_that_outlived_its_server_is_killed(settings: Settings, tmp_path: Path) -> None:
    stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
    created = str(psutil.Process(stray.pid).create_time())
    backend = LocalBackend()
    backend.forget(f"{stray.pid}:1.0")
    assert stray.poll() is None, "a process that only has the same number is left alone"
    backend.forget(f"{stray.pid}:{created}")
    assert stray.wait(10) == -signal.SIGKILL
    backend.forget("999999999:1.0")


async def test_stopping_the_server_ends_its_replicas_and_keeps_the_wishes(make_room: Callable[..., Room]) -> None:
    room = make_room()
    await room.pool.start()
    room.reconciler.start()
    room.register("hello ")
    room.apply(model="greeter")
    pid = (await room.invoke(text=""))["pid"]
    await asyncio.to_thread(room.reconciler.close)
    await room.pool.close()
    assert not alive(pid)
    assert room.get().desired == "running"
