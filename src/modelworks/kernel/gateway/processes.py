"""Further processes that answer requests beside the first one of a server, on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from modelworks.contract.errors import Conflict, InvalidRequest
from modelworks.kernel.base.settings import Settings

log = structlog.get_logger(__name__)

#: Pauses before a process that ended is started again.
_AGAIN_S: Final = (0.1, 1.0, 5.0)
#: One that lived for so long begins with the shortest pause again.
_STABLE_S: Final = 30.0

Attend = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class GatewayProcesses:
    """Starts them, starts them again when they end, and stops them; for the first process's event loop.

    Args:
        command: what starts one; the numbers of the descriptors of its listener and its end of the socket pair are added.
        env: further variables of theirs.
        listeners: one for each.
        attend: talks to one over the other end, until that is closed.
        line_bytes: of the longest line that is read from it.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        listeners: Sequence[socket.socket],
        attend: Attend,
        line_bytes: int,
    ) -> None:
        self._command = tuple(command)
        self._env = env
        self._listeners = [*listeners]
        self._attend = attend
        self._line_bytes = line_bytes
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: set[asyncio.subprocess.Process] = set()
        self._is_stopping = False

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._keep(listener)) for listener in self._listeners]

    async def stop(self) -> None:
        """Have them finish what they answer; returns when they have ended."""
        self._is_stopping = True
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        # Ours as well: otherwise the system would go on handing connections to a listener that nobody serves.
        for listener in self._listeners:
            listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def kill(self) -> None:
        """End them now."""
        for process in [*self._processes]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _keep(self, listener: socket.socket) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._is_stopping:
            began = loop.time()
            try:
                code = await self._run(listener)
            except OSError as error:
                code = error.errno or 1
            if self._is_stopping:
                return
            failures = 0 if loop.time() - began > _STABLE_S else failures + 1
            pause_s = _AGAIN_S[min(failures, len(_AGAIN_S) - 1)]
            log.warning("a gateway process ended and is started again", code=code, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _run(self, listener: socket.socket) -> int:
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs):
            descriptors = (listener.fileno(), theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *map(str, descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=descriptors,
                # Ctrl-C is for the first process, which tells them.
                start_new_session=True,
                env={**os.environ, **self._env},
            )
        self._processes.add(process)
        if self._is_stopping:
            process.terminate()
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=self._line_bytes)
            await self._attend(reader, writer)
            return await process.wait()
        finally:
            self._processes.discard(process)


def listeners(host: str, port: int, number: int) -> list[socket.socket]:
    """So many listeners on one port, among which the system shares new connections (SO_REUSEPORT).

    Raises:
        OSError: the port is taken, also where it is taken by such listeners of another server.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without the option this fails wherever somebody listens.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    found: list[socket.socket] = []
    try:
        for _ in range(number):
            made = socket.socket(family, socket.SOCK_STREAM)
            found.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((host, port))
            port = made.getsockname()[1]
            made.set_inheritable(False)
    except OSError:
        for made in found:
            made.close()
        raise
    return found


def command_of(home: str, host: str, port: int, inner_url: str) -> list[str]:
    """What starts a gateway process; see `server.answer_beside`."""
    return [sys.executable, "-m", "modelworks.server", home, host, str(port), inner_url]


def listen(settings: Settings) -> list[socket.socket]:
    """Take the port before anything else is touched: one listener for each process.

    Raises:
        Conflict: another program has the port. InvalidRequest: the address cannot be used.
    """
    try:
        if settings.gateways > 1:
            return listeners(settings.host, settings.port, settings.gateways)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Port {settings.port} on {settings.host} is taken by another program.",
                hint="Stop it, or choose another port with --port or MODELWORKS_PORT (0 finds a free one).",
                code="port_taken",
            ) from error
        raise InvalidRequest(
            f"The server cannot listen on {settings.host}:{settings.port}: {os.strerror(error.errno or 0)}.",
            hint="Choose another address with --host or MODELWORKS_HOST.",
            code="cannot_listen",
        ) from error
    # Children must not hold the port when the server is killed.
    listener.set_inheritable(False)
    return [listener]


def url_of(listener: socket.socket) -> str:
    """Where a listener of this machine is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
