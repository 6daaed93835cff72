"""The routes of runs on a real server."""

from __future__ import annotations

import threading
import time

import uvicorn
from fastapi import FastAPI, Request
from tests.kernel.jobs.rooms import PATIENCE_S, PROJECT, Rooms

from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.errors import install
from modelworks.kernel.jobs.routes import router


async def _principal(request: Request) -> Principal:
    """The project and the scopes are taken from the request: keys are another room's business."""
    scopes = request.headers.get("x-scopes", "read write").split()
    project = request.headers.get("x-project", PROJECT)
    is_platform = "x-platform" in request.headers
    return Principal(key_id="key_test", project_id=project, scopes=frozenset(scopes), is_platform=is_platform)


class Server:
    """A server on a free port that can be stopped and started again on it."""

    def __init__(self, rooms: Rooms) -> None:
        self.app = FastAPI()
        install(self.app)
        self.app.include_router(router(rooms.jobs, _principal, keep_alive_s=0.4))
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=self.port, log_config=None))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(PATIENCE_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
