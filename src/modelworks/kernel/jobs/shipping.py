"""The remote worker's line to the server: fetches its spec, ships its journal and its log, hears of a cancellation."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import httpx

from modelworks.contract.errors import Unavailable
from modelworks.kernel.jobs.folder import AttemptFolder
from modelworks.kernel.jobs.journal import JournalEntry, JournalTail
from modelworks.kernel.jobs.schemas import IngestReply, LaunchSpec

#: Environment of a remote worker.
URL, RUN, ATTEMPT, TOKEN = "MODELWORKS_RUN_URL", "MODELWORKS_RUN_ID", "MODELWORKS_RUN_ATTEMPT", "MODELWORKS_RUN_TOKEN"

#: Exit code of a worker whose place another attempt has taken.
EXIT_STALE = 76

_BATCH = 500
_LOG_CHUNK = 1 << 20
_PAUSE_S = 0.5
_MAX_PAUSE_S = 10.0
#: How long a finished worker holds its place on the cluster for a server that is away.
_PATIENCE_S = 6 * 3600.0


class ServerLine:
    """HTTP to `/internal/runs/{id}`, with the attempt's own token. Retries while the server is away."""

    def __init__(
        self, url: str, run_id: str, attempt: int, token: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/internal/runs/{run_id}",
            params={"attempt": str(attempt)},
            headers={"Authorization": f"Bearer {token}"},
            timeout=30.0,
        )

    @classmethod
    def from_environment(cls, environ: dict[str, str]) -> ServerLine:
        """The line that the executor described; the token is taken out of the environment."""
        return cls(environ[URL], environ[RUN], int(environ[ATTEMPT]), environ.pop(TOKEN))

    def fetch_spec(self, patience_s: float = 300.0) -> LaunchSpec:
        """The attempt's spec; raises Unavailable when the server stays away, ends the process when it is not wanted."""
        deadline = time.monotonic() + patience_s
        pause = _PAUSE_S
        while True:
            response = self._try("GET", "/spec")
            if response is not None:
                return LaunchSpec.model_validate_json(response.content)
            if time.monotonic() > deadline:
                raise Unavailable("The server of this run cannot be reached.", hint="Check MODELWORKS_PUBLIC_URL.")
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def post_entries(self, entries: list[JournalEntry]) -> IngestReply | None:
        """Ship entries; None while the server is away."""
        body = {"entries": [entry.model_dump(mode="json") for entry in entries]}
        response = self._try("POST", "/journal", json=body)
        return None if response is None else IngestReply.model_validate_json(response.content)

    def post_log(self, offset: int, data: bytes) -> int | None:
        """Ship a piece of the log; returns how much of it the server has, None while the server is away."""
        response = self._try("POST", "/log", params={"offset": str(offset)}, content=data)
        return None if response is None else int(response.json()["num_bytes"])

    def _try(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response | None:
        try:
            response = self._http.request(
                method, path, json=json, params={"attempt": str(self.attempt), **(params or {})}, content=content
            )
        except httpx.TransportError:
            return None
        if response.status_code in (401, 403, 404, 409):
            _give_up(f"The server refuses this attempt ({response.status_code}).")
        return response if response.is_success else None


def _give_up(reason: str) -> NoReturn:
    """Another attempt has taken this one's place, or the run is gone: whatever is done here is in vain."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(EXIT_STALE)


class Shipper:
    """A thread that ships what the journal and the log gain, at least every `heartbeat_s`: that is the sign of life."""

    def __init__(self, line: ServerLine, folder: AttemptFolder, heartbeat_s: float) -> None:
        self._line = line
        self._tail = JournalTail(folder.journal)
        self._log = folder.log
        self._heartbeat_s = heartbeat_s
        self._pending: list[JournalEntry] = []
        self._log_offset = 0
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._shipped_seq = 0
        self.cancelled = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def wake(self, _entry: JournalEntry | None = None) -> None:
        """Something was written."""
        self._wake.set()

    def drain(self, last_seq: int) -> None:
        """Wait until the server has every entry up to `last_seq` and the log, though it be away for hours; then stop."""
        deadline = time.monotonic() + _PATIENCE_S
        with self._idle:
            while self._shipped_seq < last_seq and time.monotonic() < deadline:
                self._wake.set()
                self._idle.wait(1.0)
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=60)

    def _loop(self) -> None:
        pause = _PAUSE_S
        while not self._stop.is_set():
            self._wake.wait(self._heartbeat_s)
            self._wake.clear()
            if self._ship():
                pause = _PAUSE_S
                # Entries come in bursts; a short wait makes one request of them.
                self._stop.wait(_PAUSE_S if not self._pending else 0)
            else:
                self._stop.wait(pause)
                pause = min(2 * pause, _MAX_PAUSE_S)
                self._wake.set()
        self._ship_log()

    def _ship(self) -> bool:
        if len(self._pending) < _BATCH:
            self._pending += self._tail.read()
        reply = self._line.post_entries(self._pending[:_BATCH])
        if reply is None:
            return False
        if reply.stale:
            _give_up("Another attempt has taken the place of this one.")
        self._pending = [entry for entry in self._pending if entry.seq > reply.journal_seq]
        if reply.cancel:
            self.cancelled.set()
        with self._idle:
            self._shipped_seq = reply.journal_seq
            self._idle.notify_all()
        if self._pending:
            self._wake.set()
        return self._ship_log()

    def _ship_log(self) -> bool:
        while True:
            try:
                with self._log.open("rb") as stream:
                    stream.seek(self._log_offset)
                    data = stream.read(_LOG_CHUNK)
            except FileNotFoundError:
                return True
            if not data:
                return True
            taken = self._line.post_log(self._log_offset, data)
            if taken is None:
                return False
            self._log_offset = taken
